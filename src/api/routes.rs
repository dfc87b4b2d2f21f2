//! The handlers.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::types::{
    Accepted, AlertPage, AlertQuery, Decision, DecisionAnswer, Decisions, ErrorBody, LabelResult, Labelled,
    NewSubscriber, Pause, Profile, RecordResult, RecordStatus, Subscriber, Subscribers, TestResult,
};
use super::{Backend, BodyKind, Failure, Keys, RequestTimes, auth, body, linger, openapi, stream};
use crate::clock::Stopwatch;
use crate::tally::Tally;

type Service = State<Arc<dyn Backend>>;

/// What one request may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_body: usize,
    pub request_timeout: Duration,
    /// For a body to come in, once its head is there.
    pub body_timeout: Duration,
}

/// All routes. Those under `/v1` need a key once there is one.
pub fn router(backend: Arc<dyn Backend>, keys: Keys, limits: Limits) -> Router {
    let timed = Router::new()
        .route("/v1/transactions", post(transactions))
        .route("/v1/decisions", post(decisions))
        .route("/v1/decisions/{transaction_id}", get(decision))
        .route("/v1/alerts", get(alerts))
        .route("/v1/entities/{kind}/{id}", get(entity))
        .route("/v1/labels", post(labels))
        .route("/v1/subscribers", get(subscribers).post(subscribe))
        .route("/v1/subscribers/{name}", delete(unsubscribe).patch(pause))
        .route("/v1/subscribers/{name}/test", post(test))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, limits.request_timeout));
    let guarded = timed
        .route("/v1/alerts/stream", get(stream::alerts))
        .layer(middleware::from_fn_with_state(Arc::new(keys), auth::check))
        .layer(RequestBodyLimitLayer::new(limits.max_body))
        .layer(middleware::map_request(move |request| async move { body::in_time(request, limits.body_timeout) }))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(middleware::from_fn(linger::read_the_rest));
    let open = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi_json));
    guarded
        .merge(open)
        .fallback(|| async { error(StatusCode::NOT_FOUND, "no such path; see /openapi.json") })
        .method_not_allowed_fallback(|| async { error(StatusCode::METHOD_NOT_ALLOWED, "see /openapi.json") })
        .layer(middleware::map_response(in_one_form))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(backend)
}

/// What the libraries below tell in plain text, or not at all, becomes an error like all others.
async fn in_one_form(response: Response) -> Response {
    let status = response.status();
    let json = |kind: &header::HeaderValue| kind.as_bytes().starts_with(b"application/json");
    let ours = response.headers().get(header::CONTENT_TYPE).is_some_and(json);
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, 4_096).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let message = match (said.trim(), status) {
        (_, StatusCode::PAYLOAD_TOO_LARGE) => "the body is larger than `http.max_body`",
        ("", StatusCode::SERVICE_UNAVAILABLE) => "not answered within `http.request_timeout`",
        ("", status) => status.canonical_reason().unwrap_or("failed"),
        (said, _) => said,
    };
    let mut told = error(status, message);
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    told.headers_mut().extend(parts.headers);
    told
}

/// The parameters of a request.
#[expect(clippy::result_large_err, reason = "the error is the response itself")]
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Response> {
    let wrong = |rejection: QueryRejection| error(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text());
    query.map(|Query(query)| query).map_err(wrong)
}

#[expect(clippy::result_large_err, reason = "the error is the response itself")]
pub(super) fn check_verdict(verdict: Option<&str>) -> Result<(), Response> {
    match verdict.filter(|verdict| !matches!(*verdict, "review" | "block")) {
        Some(odd) => {
            let message = format!("verdict: `{odd}` is not `review` or `block`");
            Err(error(StatusCode::UNPROCESSABLE_ENTITY, message))
        }
        None => Ok(()),
    }
}

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a request's handler panicked");
    error(StatusCode::INTERNAL_SERVER_ERROR, "a bug in Caddis; its log has more")
}

pub(super) fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(ErrorBody { error: message.into() })).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Busy { retry_after } => {
                let mut response = error(StatusCode::TOO_MANY_REQUESTS, "too much is waiting; try again later");
                response.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
                response
            }
            Self::Unavailable { why, retry_after } => {
                let mut response = error(StatusCode::SERVICE_UNAVAILABLE, why);
                response.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
                response
            }
            Self::NotFound(what) => error(StatusCode::NOT_FOUND, what),
            Self::Conflict(what) => error(StatusCode::CONFLICT, what),
            Self::Wrong(what) => error(StatusCode::UNPROCESSABLE_ENTITY, what),
            Self::Internal(what) => error(StatusCode::INTERNAL_SERVER_ERROR, what),
        }
    }
}

/// Counts the time until it is dropped, so also of a request that was given up: those are the slow ones.
struct Timed {
    backend: Arc<dyn Backend>,
    of: fn(&RequestTimes) -> &Tally,
    arrived: Stopwatch,
}

impl Timed {
    fn start(backend: &Arc<dyn Backend>, of: fn(&RequestTimes) -> &Tally) -> Self {
        Self { backend: Arc::clone(backend), of, arrived: Stopwatch::start() }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        (self.of)(self.backend.times()).add_time(self.arrived.elapsed());
    }
}

/// A body and how it is written.
#[expect(clippy::result_large_err, reason = "the error is the response itself")]
fn body_of(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<(Vec<u8>, BodyKind), Response> {
    let body = body.map_err(|rejection| error(rejection.status(), rejection.body_text()))?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind = match kind.as_str() {
        "application/json" | "text/json" | "application/x-www-form-urlencoded" | "text/plain" => BodyKind::Json,
        "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" => BodyKind::Ndjson,
        "text/csv" => BodyKind::Csv,
        other => {
            let message = format!("`{other}`: send application/json, application/x-ndjson or text/csv");
            return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    };
    Ok((body.into(), kind))
}

/// Takes transactions: one object, an array of them, or NDJSON. Answers once they are durable.
#[utoipa::path(post, path = "/v1/transactions", tag = "transactions",
    request_body(content = String, description = "JSON object, array of objects, application/x-ndjson, or text/csv with a header"),
    responses(
        (status = 200, description = "at least one record was taken", body = Accepted),
        (status = 422, description = "no record was taken", body = Accepted),
        (status = 429, description = "too much is waiting", body = ErrorBody),
        (status = 503, description = "nothing can be taken now, as /readyz says", body = ErrorBody)))]
pub(super) async fn transactions(
    State(backend): Service,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let _timed = Timed::start(&backend, |times| &times.transactions);
    let (body, kind) = body_of(&headers, body)?;
    let results = backend.submit(body, kind, false).await.map_err(IntoResponse::into_response)?;
    let count = |status| results.iter().filter(|result| result.status == status).count();
    let (duplicates, refused) = (count(RecordStatus::Duplicate), count(RecordStatus::Refused));
    let accepted = results.len() - duplicates - refused;
    let status = status_of(&results);
    Ok((status, Json(Accepted { accepted, duplicates, refused, results })).into_response())
}

fn status_of(results: &[RecordResult]) -> StatusCode {
    let all_refused = results.iter().all(|result| result.status == RecordStatus::Refused);
    if all_refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }
}

/// Takes transactions like `/v1/transactions` and answers with their decisions: a single object with a
/// decision, anything else with one result a record.
#[utoipa::path(post, path = "/v1/decisions", tag = "decisions",
    request_body(content = String, description = "JSON object, array of objects, application/x-ndjson, or text/csv with a header"),
    responses(
        (status = 200, description = "the decision of a single object, or one result a record", body = DecisionAnswer),
        (status = 422, description = "no record was taken", body = Decisions),
        (status = 429, description = "too much is waiting", body = ErrorBody),
        (status = 503, description = "nothing can be taken now, as /readyz says", body = ErrorBody)))]
pub(super) async fn decisions(
    State(backend): Service,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let _timed = Timed::start(&backend, |times| &times.decisions);
    let (body, kind) = body_of(&headers, body)?;
    let single = kind == BodyKind::Json && body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let mut results = backend.submit(body, kind, true).await.map_err(IntoResponse::into_response)?;
    if single
        && results.len() == 1
        && let Some(decision) = results.first_mut().and_then(|result| result.decision.take())
    {
        return Ok(Json(DecisionAnswer::One(Box::new(decision))).into_response());
    }
    Ok((status_of(&results), Json(DecisionAnswer::Many(Decisions { results }))).into_response())
}

/// A recent decision.
#[utoipa::path(get, path = "/v1/decisions/{transaction_id}", tag = "decisions",
    params(("transaction_id" = String, Path)),
    responses((status = 200, body = Decision), (status = 404, description = "not decided, or too long ago", body = ErrorBody)))]
pub(super) async fn decision(
    State(backend): Service,
    Path(transaction_id): Path<String>,
) -> Result<Json<Decision>, Response> {
    backend.decision(&transaction_id).map(Json).ok_or_else(|| {
        error(
            StatusCode::NOT_FOUND,
            "no recent decision of this transaction (`engine.recent_decisions` says how many are kept)",
        )
    })
}

/// Alerts, newest first.
#[utoipa::path(get, path = "/v1/alerts", tag = "alerts", params(AlertQuery),
    responses((status = 200, body = AlertPage), (status = 422, body = ErrorBody)))]
pub(super) async fn alerts(
    State(backend): Service,
    wanted: Result<Query<AlertQuery>, QueryRejection>,
) -> Result<Json<AlertPage>, Response> {
    let query = query(wanted)?;
    check_verdict(query.verdict.as_deref())?;
    backend.alerts(query).await.map(Json).map_err(IntoResponse::into_response)
}

/// The live profile of an entity. An entity over several fields has their values joined by commas.
#[utoipa::path(get, path = "/v1/entities/{kind}/{id}", tag = "entities",
    params(("kind" = String, Path, description = "as the feature set calls it: `account`"), ("id" = String, Path)),
    responses((status = 200, body = Profile), (status = 404, body = ErrorBody)))]
pub(super) async fn entity(
    State(backend): Service,
    Path((kind, id)): Path<(String, String)>,
) -> Result<Json<Profile>, Response> {
    let id = id.split(',').map(str::to_owned).collect();
    backend.profile(kind, id).await.map(Json).map_err(IntoResponse::into_response)
}

/// Takes labels: what was found out about transactions. Answers once they are durable.
#[utoipa::path(post, path = "/v1/labels", tag = "labels",
    request_body(content = String, description = "{\"transaction_id\": \"t1\", \"fraud\": true}, an array of such, or NDJSON"),
    responses((status = 200, body = Labelled), (status = 422, description = "no label was taken", body = Labelled),
        (status = 429, description = "too much is waiting", body = ErrorBody),
        (status = 503, description = "nothing can be taken now, as /readyz says", body = ErrorBody)))]
pub(super) async fn labels(
    State(backend): Service,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let (body, kind) = body_of(&headers, body)?;
    let results: Vec<LabelResult> = backend.label(body, kind).await.map_err(IntoResponse::into_response)?;
    let refused = results.iter().filter(|result| result.error.is_some()).count();
    let accepted = results.len() - refused;
    let status = if accepted == 0 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(Labelled { accepted, refused, results })).into_response())
}

/// Who is sent alerts, and how that goes.
#[utoipa::path(get, path = "/v1/subscribers", tag = "subscribers", responses((status = 200, body = Subscribers)))]
pub(super) async fn subscribers(State(backend): Service) -> Result<Json<Subscribers>, Failure> {
    backend.subscribers().await.map(|subscribers| Json(Subscribers { subscribers }))
}

/// Adds a subscriber. The answer is the only one that shows its secret.
#[utoipa::path(post, path = "/v1/subscribers", tag = "subscribers", request_body = NewSubscriber,
    responses((status = 201, body = Subscriber), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn subscribe(
    State(backend): Service,
    new: Result<Json<NewSubscriber>, JsonRejection>,
) -> Result<Response, Response> {
    let Json(new) = new.map_err(|rejection| error(rejection.status(), rejection.body_text()))?;
    let made = backend.subscribe(new).await.map_err(IntoResponse::into_response)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Pauses a subscriber or goes on with it; its alerts wait meanwhile.
#[utoipa::path(patch, path = "/v1/subscribers/{name}", tag = "subscribers", params(("name" = String, Path)),
    request_body = Pause, responses((status = 204), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn pause(
    State(backend): Service,
    Path(name): Path<String>,
    pause: Result<Json<Pause>, JsonRejection>,
) -> Result<StatusCode, Response> {
    let Json(Pause { paused }) = pause.map_err(|rejection| error(rejection.status(), rejection.body_text()))?;
    backend.pause(name, paused).await.map_err(IntoResponse::into_response)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a subscriber and what waits for it.
#[utoipa::path(delete, path = "/v1/subscribers/{name}", tag = "subscribers", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn unsubscribe(State(backend): Service, Path(name): Path<String>) -> Result<StatusCode, Failure> {
    backend.unsubscribe(name).await.map(|()| StatusCode::NO_CONTENT)
}

/// Sends a subscriber a signed test message, once.
#[utoipa::path(post, path = "/v1/subscribers/{name}/test", tag = "subscribers", params(("name" = String, Path)),
    responses((status = 200, body = TestResult), (status = 404, body = ErrorBody)))]
pub(super) async fn test(State(backend): Service, Path(name): Path<String>) -> Result<Json<TestResult>, Failure> {
    backend.test(name).await.map(Json)
}

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether records are taken now; if not, why.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503, body = ErrorBody)))]
pub(super) async fn readyz(State(backend): Service) -> Response {
    match backend.trouble() {
        None => "ready\n".into_response(),
        Some(trouble) => error(StatusCode::SERVICE_UNAVAILABLE, trouble),
    }
}

/// Metrics in OpenMetrics' text format.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(backend): Service) -> Response {
    let text = crate::telemetry::render(backend.metrics().await);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn openapi_json() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}
