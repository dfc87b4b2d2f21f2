//! Alerts as server-sent events.
#![expect(unused_qualifications, reason = "utoipa's macro writes them")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio_stream::wrappers::BroadcastStream;
use utoipa::IntoParams;

use super::types::{ErrorBody, StreamedAlert};
use super::{Backend, routes};

/// Which alerts are streamed.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// `review` or `block`.
    verdict: Option<String>,
    account: Option<String>,
    min_score: Option<f64>,
}

impl Wanted {
    fn wants(&self, alert: &StreamedAlert) -> bool {
        self.verdict.as_ref().is_none_or(|verdict| *verdict == alert.verdict)
            && self.account.as_ref().is_none_or(|account| *account == alert.account)
            && self.min_score.is_none_or(|least| alert.score >= least)
    }
}

/// Alerts from now on, each an event named `alert` whose data is what subscribers are sent. A reader that is
/// too slow gets an event `missed` with the number of alerts it has to look up in `GET /v1/alerts`.
#[utoipa::path(get, path = "/v1/alerts/stream", params(Wanted), tag = "alerts",
    responses((status = 200, description = "server-sent events", content_type = "text/event-stream", body = String),
        (status = 422, body = ErrorBody)))]
pub(super) async fn alerts(
    State(backend): State<Arc<dyn Backend>>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Response> {
    let wanted = routes::query(query)?;
    routes::check_verdict(wanted.verdict.as_deref())?;
    let mut stopping = backend.stopping();
    let live = BroadcastStream::new(backend.alert_stream()).filter_map(move |alert| {
        let event = match alert {
            Ok(alert) if wanted.wants(&alert) => {
                Some(Event::default().event("alert").id(alert.number.to_string()).data(alert.body))
            }
            Ok(_) => None,
            Err(tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged(missed)) => {
                Some(Event::default().event("missed").data(missed.to_string()))
            }
        };
        std::future::ready(event.map(Ok))
    });
    // The first event tells that the stream stands: what comes after it is not missed.
    let opened = stream::once(std::future::ready(Ok(Event::default().comment("open"))));
    let ended = Box::pin(async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    });
    let events = Sse::new(opened.chain(live).take_until(ended));
    Ok(events.keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}
