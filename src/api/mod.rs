//! HTTP: `routes` has the handlers, `types` what goes over the wire (never the engine's own types),
//! [`Backend`] what they need of the service, `server` the limits on connections.

mod auth;
mod body;
mod linger;
mod openapi;
mod routes;
mod server;
mod stream;
pub mod types;

use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch};

pub use auth::Keys;
pub use openapi::document;
pub use routes::{Limits, router};
pub use server::{Bound, bind};

use crate::tally::{Reading, Tally};
use crate::telemetry::Snapshot;
use types::{
    AlertPage, AlertQuery, Decision, LabelResult, NewSubscriber, Profile, RecordResult, StreamedAlert, Subscriber,
    TestResult,
};

/// How a body of records is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// One object, or an array of them.
    Json,
    /// One object a line.
    Ndjson,
    /// CSV with a header, columns separated by commas.
    Csv,
}

/// Why a request cannot be served, as its sender is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Too much is waiting; try again after so many seconds.
    Busy {
        retry_after: u32,
    },
    /// Nothing can be taken now, and why; try again after so many seconds.
    Unavailable {
        why: String,
        retry_after: u32,
    },
    NotFound(String),
    Conflict(String),
    Wrong(String),
    Internal(String),
}

/// What the service does for the API.
pub trait Backend: Send + Sync + 'static {
    /// Decides the records of a body; answers once they are as durable as configured. With `explain` the
    /// results hold the decisions with their reasons, otherwise positions and what was wrong.
    fn submit(
        &self,
        body: Vec<u8>,
        kind: BodyKind,
        explain: bool,
    ) -> BoxFuture<'static, Result<Vec<RecordResult>, Failure>>;
    fn label(&self, body: Vec<u8>, kind: BodyKind) -> BoxFuture<'static, Result<Vec<LabelResult>, Failure>>;
    fn decision(&self, transaction_id: &str) -> Option<Decision>;
    fn alerts(&self, query: AlertQuery) -> BoxFuture<'static, Result<AlertPage, Failure>>;
    /// Alerts as they come.
    fn alert_stream(&self) -> broadcast::Receiver<StreamedAlert>;
    /// `id` is one value a field of the entity.
    fn profile(&self, kind: String, id: Vec<String>) -> BoxFuture<'static, Result<Profile, Failure>>;
    fn subscribers(&self) -> BoxFuture<'static, Result<Vec<Subscriber>, Failure>>;
    fn subscribe(&self, new: NewSubscriber) -> BoxFuture<'static, Result<Subscriber, Failure>>;
    fn pause(&self, name: String, paused: bool) -> BoxFuture<'static, Result<(), Failure>>;
    fn unsubscribe(&self, name: String) -> BoxFuture<'static, Result<(), Failure>>;
    fn test(&self, name: String) -> BoxFuture<'static, Result<TestResult, Failure>>;
    /// Why nothing can be taken now, if so.
    fn trouble(&self) -> Option<String>;
    /// Where the time of requests is counted.
    fn times(&self) -> &RequestTimes;
    fn metrics(&self) -> BoxFuture<'static, Snapshot>;
    /// Becomes true when the service stops: open streams end.
    fn stopping(&self) -> watch::Receiver<bool>;
}

/// How long requests took from their arrival at the handler, their body read, until they were answered or
/// given up.
#[derive(Debug)]
pub struct RequestTimes {
    decisions: Tally,
    transactions: Tally,
}

impl Default for RequestTimes {
    fn default() -> Self {
        Self { decisions: Tally::of_times(), transactions: Tally::of_times() }
    }
}

impl RequestTimes {
    /// By path.
    #[must_use]
    pub fn readings(&self) -> Vec<(&'static str, Reading)> {
        vec![("/v1/decisions", self.decisions.reading()), ("/v1/transactions", self.transactions.reading())]
    }
}
