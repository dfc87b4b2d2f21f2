//! What goes over the wire. Field names are the API: changing one is a breaking change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Where a record stands in the order in which everything was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Position {
    pub partition: u32,
    pub offset: u64,
}

/// Why a record is no transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Refusal {
    /// The field as the sender calls it; empty where the record as a whole is at fault.
    pub field: String,
    /// The value found, shortened; long numbers are masked.
    pub value: String,
    pub expected: String,
    /// The same as a sentence.
    pub message: String,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RecordResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    pub status: RecordStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
    /// The decision, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordStatus {
    Accepted,
    /// Decided, but older than the allowed lateness: it changed no window.
    Late,
    /// Its id was decided before; position and decision are the first one's.
    Duplicate,
    /// No transaction; it is in the quarantine.
    Refused,
    /// It could not be taken: rules that look at it alone gave a verdict, and nothing is remembered of it. Only with
    /// `overload = "rules_only"`.
    Degraded,
}

/// What became of a body of records.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Accepted {
    pub accepted: usize,
    pub duplicates: usize,
    pub refused: usize,
    /// One a record, in order.
    pub results: Vec<RecordResult>,
}

/// What was decided for a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Decision {
    pub transaction_id: String,
    /// Missing where `degraded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The verdict of rules that look at the transaction alone, which could not be taken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// RFC 3339, UTC.
    pub event_time: String,
    /// `allow`, `review` or `block`.
    pub verdict: String,
    /// The model's probability of fraud; null where there is no model.
    pub score: Option<f64>,
    /// What raised the score most, the strongest first; for decisions other than `allow`.
    pub reasons: Vec<Reason>,
    /// The rules that matched, in the order of the policy.
    pub rules: Vec<RuleMatch>,
    pub model: Option<ModelVersion>,
    /// Fingerprint of the policy.
    pub policy: String,
}

/// One feature's part in a score.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Reason {
    pub feature: String,
    pub value: Option<f64>,
    /// In an analyst's words.
    pub text: String,
    /// How much it moved the model's output, before calibration.
    pub contribution: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RuleMatch {
    pub name: String,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelVersion {
    pub name: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Decisions {
    /// One a record, in order.
    pub results: Vec<RecordResult>,
}

/// A decision for a single object, results for anything else.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum DecisionAnswer {
    One(Box<Decision>),
    Many(Decisions),
}

/// Which alerts are asked for.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlertQuery {
    /// `review` or `block`.
    pub verdict: Option<String>,
    pub account: Option<String>,
    pub min_score: Option<f64>,
    /// Event times from here on, RFC 3339.
    pub since: Option<String>,
    /// Event times before this, RFC 3339.
    pub until: Option<String>,
    /// Only alerts before this one: the `next` of the page before.
    pub before: Option<i64>,
    /// 1 to 1000, 100 when not given.
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AlertPage {
    /// Newest first; each is what subscribers were sent.
    #[schema(value_type = Vec<Object>)]
    pub alerts: Vec<Box<serde_json::value::RawValue>>,
    /// Give it as `before` for the next page; null on the last.
    pub next: Option<i64>,
}

/// An alert for those who watch the stream.
#[derive(Debug, Clone)]
pub struct StreamedAlert {
    pub number: i64,
    pub verdict: String,
    pub account: String,
    pub score: f64,
    pub body: String,
}

/// What an entity's windows hold now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Profile {
    pub kind: String,
    /// Transactions remembered of it.
    pub transactions: u64,
    /// RFC 3339, UTC.
    pub last_transaction: String,
    /// As the next transaction at the same moment would find them, itself not counted.
    pub features: BTreeMap<String, Option<f64>>,
    /// Features over more transactions than are kept exactly (`exact_events` of the feature set): these are
    /// approximate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approximate: Vec<String>,
}

/// What was found out about a transaction.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LabelResult {
    /// Whether the transaction is still in the windows of features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Labelled {
    pub accepted: usize,
    pub refused: usize,
    pub results: Vec<LabelResult>,
}

/// A subscriber to add.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSubscriber {
    pub name: String,
    pub url: String,
    /// `whsec_` and base64 of 24 to 64 bytes; made for you when not given.
    pub secret: Option<String>,
    /// `review`, `block`; all when empty.
    #[serde(default)]
    pub verdicts: Vec<String>,
    #[serde(default)]
    pub min_score: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Subscriber {
    pub name: String,
    pub url: String,
    /// Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    pub verdicts: Vec<String>,
    pub min_score: f64,
    pub paused: bool,
    /// Set in the configuration file.
    pub configured: bool,
    pub delivered: u64,
    pub failed_attempts: u64,
    pub waiting: u64,
    pub dead: u64,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Subscribers {
    pub subscribers: Vec<Subscriber>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    pub paused: bool,
}

/// What a test message came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TestResult {
    pub delivered: bool,
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// Every error but those of single records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: String,
}
