//! Alerts to webhooks: a durable outbox that is a projection of the journal, and deliveries to each
//! subscriber at its own pace, signed after the Standard Webhooks specification.

mod deliver;
mod egress;
mod outbox;
mod schedule;
mod sign;
mod subscriber;

pub use deliver::{Attempt, Deliverer, Probe};
pub use egress::is_public;
pub use outbox::{AlertFilter, DeadLetter, Due, Outbox, OutboxError, Outcome, StoredAlert, SubscriberState};
pub use schedule::{ATTEMPTS, delay_ms};
pub use sign::{SigningKey, sign};
pub use subscriber::{Filter, Subscriber, WrongSubscriber};

use crate::pipeline::service::Candidate;

/// An alert as it is stored and sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// The same for the same decision, however often it is made again.
    pub id: String,
    pub transaction_id: String,
    pub account: String,
    /// Milliseconds since 1970.
    pub event_time: i64,
    pub verdict: String,
    /// NaN where only rules decided.
    pub score: f64,
    /// The body that subscribers receive, JSON.
    pub body: String,
}

/// The id of a decision's alert: a function of where the decision stands in the journal's order and of
/// what decided, so that telling twice is harmless.
#[must_use]
pub fn alert_id(candidate: &Candidate) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"caddis alert 1\0");
    hasher.update(&candidate.position.partition.to_le_bytes());
    hasher.update(&candidate.position.offset.to_le_bytes());
    hasher.update(&candidate.decided_by.to_le_bytes());
    hasher.update(candidate.transaction_id.as_bytes());
    let hash = hasher.finalize().to_hex();
    format!("alert_{}", hash.get(..32).unwrap_or_default())
}
