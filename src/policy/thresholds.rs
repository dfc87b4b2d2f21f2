//! From which scores on transactions are reviewed and blocked.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::mistake::Mistake;
use crate::written::{Fields, Written};

/// Scores from which on a transaction is reviewed or blocked; infinite where none is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    pub review: f64,
    pub block: f64,
}

impl Default for Thresholds {
    /// Nothing is reviewed or blocked by its score.
    fn default() -> Self {
        Self { review: f64::INFINITY, block: f64::INFINITY }
    }
}

/// A review threshold that only a model can turn into a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlertBudget {
    /// Alerts a day that can be looked into.
    pub alerts_a_day: f64,
    /// The score to block from, if the file gives one; otherwise the model's own holds.
    pub block: Option<f64>,
    /// Where in the text it stands, for mistakes that show only with the model.
    pub at: usize,
}

#[derive(Default)]
pub(super) struct RawThresholds {
    review: Option<Spanned<f64>>,
    alert_budget: Option<Spanned<f64>>,
    block: Option<Spanned<f64>>,
}

impl RawThresholds {
    pub const KEYS: [&str; 3] = ["review", "alert_budget", "block"];

    pub fn read<'t>(fields: &mut Fields<'t>, written: &mut Written<'t>) -> Self {
        let mut number = |key: &str| written.take(fields, key);
        Self { review: number("review"), alert_budget: number("alert_budget"), block: number("block") }
    }
}

/// What the file says about scores: thresholds, or a budget that becomes them once there is a model.
pub(super) fn by_score(
    raw: &RawThresholds,
    file: &str,
    text: &str,
    mistakes: &mut Vec<Mistake>,
) -> (Option<Thresholds>, Option<AlertBudget>) {
    let mut threshold = |value: &Option<Spanned<f64>>| {
        let value = value.as_ref()?;
        if !(0.0..=1.0).contains(value.get_ref()) {
            let message = format!("threshold {} is no probability from 0 to 1", value.get_ref());
            mistakes.push(Mistake::at(file, text, value.span().start, message));
        }
        Some(*value.get_ref())
    };
    let (review, block) = (threshold(&raw.review), threshold(&raw.block));
    let Some(budget) = &raw.alert_budget else {
        let block = block.unwrap_or(f64::INFINITY);
        return (Some(Thresholds { review: review.unwrap_or(block), block }), None);
    };
    let (alerts_a_day, at) = (*budget.get_ref(), budget.span().start);
    if !(alerts_a_day > 0.0 && alerts_a_day.is_finite()) {
        let mistake = Mistake::at(file, text, at, format!("alert budget {alerts_a_day} is no number above 0"));
        mistakes.push(mistake.help("alerts a day that can be looked into, such as 50"));
    }
    if review.is_some() {
        let mistake = Mistake::at(file, text, at, "`alert_budget` and `review` both say from which score on to review");
        mistakes.push(mistake.help("give one of them"));
    }
    (None, Some(AlertBudget { alerts_a_day, block, at }))
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use crate::transaction::Schema;

    #[test]
    fn an_alert_budget_takes_the_place_of_review() {
        let parse = |text: &str| Policy::parse(text, "policy.toml", &Schema::default(), &[], 2);
        let policy = parse("[thresholds]\nalert_budget = 50\nblock = 0.9\n").expect("a policy");
        let budget = policy.alert_budget().expect("a budget");
        assert_eq!((budget.alerts_a_day, budget.block, policy.thresholds()), (50.0, Some(0.9), None));
        let prints: std::collections::BTreeSet<String> = [
            "",
            "[thresholds]\nblock = 0.9\n",
            "[thresholds]\nalert_budget = 50\n",
            "[thresholds]\nalert_budget = 51\n",
            "[thresholds]\nalert_budget = 50\nblock = 0.9\n",
        ]
        .map(|text| parse(text).expect("a policy").fingerprint().to_owned())
        .into();
        assert_eq!(prints.len(), 5, "what a policy means is in its fingerprint");
        let elsewhere = parse("# A remark.\n[thresholds]\nalert_budget = 5e1\n").expect("a policy");
        assert!(prints.contains(elsewhere.fingerprint()), "how it is written is not");

        for (text, expected) in [
            ("[thresholds]\nreview = 0.5\nalert_budget = 50\n", "policy.toml:3:16: `alert_budget` and `review` both"),
            ("[thresholds]\nalert_budget = 0\n", "policy.toml:2:16: alert budget 0 is no number above 0"),
            ("[thresholds]\nalert_budget = -1.5\n", "policy.toml:2:16: alert budget -1.5"),
            ("[thresholds]\nalert_budget = nan\n", "policy.toml:2:16: alert budget NaN"),
            ("[thresholds]\nalert_budget = inf\n", "policy.toml:2:16: alert budget inf"),
            ("[thresholds]\nalert_budget = \"many\"\n", "policy.toml:2:16: "),
        ] {
            let said = parse(text).expect_err("a mistake").to_string();
            assert!(said.starts_with(expected), "{said}");
        }
    }
}
