//! Decisions and alerts as people read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::data::{BrainRecord, Brains, brain_name};
use crate::alerts::{Alert, alert_id};
use crate::api::types::{Decision, ModelVersion, Position, Reason, RuleMatch};
use crate::engine::Brain;
use crate::pipeline::recent::{Basis, Recent};
use crate::pipeline::service::Candidate;
use crate::policy::Verdict;
use crate::transaction::{Currency, EventTime, TransactionRef, money};

/// Puts decisions into words.
#[derive(Clone)]
pub struct Explainer {
    pub brain: Brain,
    pub decided_by: u64,
    pub brains: Arc<Brains>,
    pub base: Currency,
    /// Reasons given, at most.
    pub reasons: usize,
}

/// RFC 3339 in UTC, to the millisecond.
#[must_use]
pub fn rfc3339(time: EventTime) -> String {
    jiff::Timestamp::from_millisecond(time).map_or_else(|_| time.to_string(), |time| format!("{time:.3}"))
}

#[derive(Serialize)]
struct AlertBody<'a> {
    r#type: &'a str,
    timestamp: &'a str,
    data: AlertData<'a>,
}

#[derive(Serialize)]
struct AlertData<'a> {
    alert_id: &'a str,
    /// The alert in one sentence.
    summary: String,
    transaction_id: &'a str,
    position: Position,
    event_time: &'a str,
    verdict: &'a str,
    score: Option<f64>,
    amount: String,
    currency: &'a str,
    fields: BTreeMap<&'a str, &'a str>,
    reasons: &'a [Reason],
    rules: &'a [RuleMatch],
    model: Option<ModelVersion>,
    policy: &'a str,
}

impl Explainer {
    /// A decision for the API.
    #[must_use]
    pub fn decision(&self, transaction_id: String, recent: &Recent) -> Decision {
        let record = self.record(recent.decided_by);
        Decision {
            transaction_id,
            position: Some(position(recent.position)),
            degraded: false,
            event_time: rfc3339(recent.event_time),
            verdict: recent.decision.verdict.name().to_owned(),
            score: known(recent.decision.score),
            reasons: recent.basis.as_deref().map_or_else(Vec::new, |basis| self.reasons(recent.decided_by, basis)),
            rules: self.rules(recent.decided_by, recent.decision.rules),
            model: record.and_then(model),
            policy: record.map(|record| record.policy.clone()).unwrap_or_default(),
        }
    }

    /// A verdict for the API by what stands in the transaction alone.
    #[must_use]
    pub fn degraded(&self, transaction: TransactionRef<'_>) -> Decision {
        let judgement = self.brain.policy.judge_alone(transaction);
        Decision {
            transaction_id: transaction.id().to_owned(),
            position: None,
            degraded: true,
            event_time: rfc3339(transaction.event_time()),
            verdict: judgement.verdict.name().to_owned(),
            score: None,
            reasons: Vec::new(),
            rules: self.rules(self.decided_by, judgement.rules),
            model: None,
            policy: self.brain.policy.fingerprint().to_owned(),
        }
    }

    /// An alert with everything that it says.
    #[must_use]
    pub fn alert(&self, candidate: &Candidate) -> Alert {
        let id = alert_id(candidate);
        let record = self.record(candidate.decided_by);
        let reasons = self.reasons(candidate.decided_by, &candidate.basis);
        let rules = self.rules(candidate.decided_by, candidate.decision.rules);
        let field =
            |name: &str| candidate.fields.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str());
        let account = field("account").unwrap_or_default().to_owned();
        let amount = money::format_major(candidate.amount, candidate.currency.exponent());
        let verdict = candidate.decision.verdict;
        let event_time = rfc3339(candidate.event_time);
        let data = AlertData {
            alert_id: &id,
            summary: summary(candidate, &account, &amount, &reasons, &rules),
            transaction_id: &candidate.transaction_id,
            position: position(candidate.position),
            event_time: &event_time,
            verdict: verdict.name(),
            score: known(candidate.decision.score),
            amount,
            currency: candidate.currency.code(),
            fields: candidate.fields.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
            reasons: &reasons,
            rules: &rules,
            model: record.and_then(model),
            policy: record.map(|record| record.policy.as_str()).unwrap_or_default(),
        };
        let body = AlertBody { r#type: "transaction.alert", timestamp: &event_time, data };
        Alert {
            transaction_id: candidate.transaction_id.clone(),
            account,
            event_time: candidate.event_time,
            verdict: verdict.name().to_owned(),
            score: candidate.decision.score,
            // Strings, numbers and options: nothing in it can fail to be JSON.
            body: serde_json::to_string(&body).unwrap_or_default(),
            id,
        }
    }

    fn record(&self, decided_by: u64) -> Option<&BrainRecord> {
        self.brains.get(&brain_name(decided_by))
    }

    /// Only the brain in force can be asked why; what another one decided stands without.
    fn reasons(&self, decided_by: u64, basis: &Basis) -> Vec<Reason> {
        let Some(model) = &self.brain.model else { return Vec::new() };
        let features = &basis.features;
        if decided_by != self.decided_by || features.len() != model.width() {
            return Vec::new();
        }
        let set = &self.brain.features;
        // Of what says the same over several windows, the strongest.
        let mut topics = Vec::new();
        let contributions = basis.contributions.get_or_init(|| model.reasons(features, features.len()));
        let strongest = contributions.iter().copied().filter(|(slot, _)| {
            let topic = set.topic(*slot);
            let new = topics.len() < self.reasons && !topics.contains(&topic);
            if new {
                topics.push(topic);
            }
            new
        });
        let reason = |(slot, contribution): (usize, f64)| {
            let value = features.get(slot).copied().unwrap_or(f64::NAN);
            let feature = set.names().get(slot).cloned().unwrap_or_default();
            Reason { feature, value: known(value), text: set.phrase(slot, value, self.base), contribution }
        };
        strongest.map(reason).collect()
    }

    fn rules(&self, decided_by: u64, rules: u128) -> Vec<RuleMatch> {
        if decided_by != self.decided_by {
            return Vec::new();
        }
        let found = self.brain.policy.matched(rules);
        found.map(|rule| RuleMatch { name: rule.name.clone(), description: rule.description.clone() }).collect()
    }
}

fn model(record: &BrainRecord) -> Option<ModelVersion> {
    record.model.clone().map(|(name, version)| ModelVersion { name, version })
}

fn position(position: crate::transaction::Position) -> Position {
    Position { partition: position.partition, offset: position.offset }
}

/// Missing is null in JSON, not NaN.
fn known(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn summary(candidate: &Candidate, account: &str, amount: &str, reasons: &[Reason], rules: &[RuleMatch]) -> String {
    let done = match candidate.decision.verdict {
        Verdict::Block => "Blocked",
        Verdict::Review => "To review",
        Verdict::Allow => "Allowed",
    };
    let mut text = format!("{done}: {amount} {}", candidate.currency.code());
    if !account.is_empty() {
        text.push_str(&format!(" by account {account}"));
    }
    if let Some(score) = known(candidate.decision.score) {
        text.push_str(&format!(", score {score:.3}"));
    }
    let why: Vec<&str> = rules
        .iter()
        .map(|rule| rule.description.as_str())
        .chain(reasons.iter().map(|reason| reason.text.as_str()))
        .take(3)
        .collect();
    if !why.is_empty() {
        text.push_str(": ");
        text.push_str(&why.join("; "));
    }
    text
}
