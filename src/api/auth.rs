//! API keys: bearer tokens, compared as SHA-256 in constant time.

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;

use super::routes::error;

/// The keys that open the API; without any it is open to whoever reaches it.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    hash: [u8; 32],
    write: bool,
}

impl Keys {
    /// Adds a key; `write` says whether it may change anything.
    pub fn add(&mut self, key: &str, write: bool) {
        self.0.push(Key { hash: Sha256::digest(key.as_bytes()).into(), write });
    }

    /// Whether the token may do this; `None` for an unknown one. All keys are looked at, always.
    fn allows(&self, token: &str, writes: bool) -> Option<bool> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.hash.ct_eq(&hash)) {
                found = Some(key.write || !writes);
            }
        }
        found
    }
}

/// Lets a request through when its key allows it.
pub(super) async fn check(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response {
    if keys.0.is_empty() {
        return next.run(request).await;
    }
    let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    match token.and_then(|token| keys.allows(token, writes)) {
        Some(true) => next.run(request).await,
        Some(false) => error(StatusCode::FORBIDDEN, "this key may read only"),
        None => {
            let mut response =
                error(StatusCode::UNAUTHORIZED, "a key is needed: send `authorization: Bearer KEY`").into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    #[test]
    fn keys_read_or_write() {
        let mut keys = Keys::default();
        keys.add("reader-key-0123456789", false);
        keys.add("writer-key-0123456789", true);
        assert_eq!(keys.allows("reader-key-0123456789", false), Some(true));
        assert_eq!(keys.allows("reader-key-0123456789", true), Some(false));
        assert_eq!(keys.allows("writer-key-0123456789", true), Some(true));
        assert_eq!(keys.allows("nobody", false), None);
    }
}
