//! The API's own description.

use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::{routes, stream};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Caddis",
        description = "Real-time fraud detection for payment streams. Under /v1 a key is needed once one is configured: `authorization: Bearer KEY`.",
        license(name = "Apache-2.0 OR MIT")
    ),
    modifiers(&BearerKey),
    security((), ("key" = [])),
    paths(
        routes::transactions,
        routes::decisions,
        routes::decision,
        routes::alerts,
        stream::alerts,
        routes::entity,
        routes::labels,
        routes::subscribers,
        routes::subscribe,
        routes::pause,
        routes::unsubscribe,
        routes::test,
        routes::livez,
        routes::readyz,
        routes::metrics,
        routes::openapi_json
    )
)]
struct Document;

struct BearerKey;

impl utoipa::Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
}

/// OpenAPI 3.1, JSON.
#[must_use]
pub fn document() -> String {
    Document::openapi().to_json().unwrap_or_default()
}
