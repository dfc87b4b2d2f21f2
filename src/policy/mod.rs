//! From a score and features to a verdict: thresholds, and rules in CEL.
//!
//! Rules are read in the order of the file. The first that matches and says `allow` or `block` decides;
//! otherwise the verdict is the higher of what the thresholds make of the score and of the `review` rules
//! that match. Every rule that matches is named in the decision, also those that did not decide.

mod compile;
mod expression;
mod thresholds;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::mistake::{Mistake, Mistakes};
use crate::transaction::{Schema, TransactionRef};
use crate::written::{Fields, Written};
pub use compile::Vocabulary;
use expression::Condition;
pub use thresholds::{AlertBudget, Thresholds};
use thresholds::{RawThresholds, by_score};

/// What is to happen with a transaction, the least severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Review,
    Block,
}

impl Verdict {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Review => "review",
            Self::Block => "block",
        }
    }
}

/// What the policy makes of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// The rules that matched: bit *n* is the *n*th of the file.
    pub rules: u128,
}

/// Rules and thresholds, ready to judge.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    thresholds: Option<Thresholds>,
    alert_budget: Option<AlertBudget>,
    fingerprint: String,
    base_scale: f64,
}

#[derive(Debug)]
pub struct Rule {
    pub name: String,
    /// In the analyst's words; the name where the file has none.
    pub description: String,
    pub verdict: Verdict,
    condition: Condition,
}

/// Rules are bits of a `u128`.
pub const MAX_RULES: usize = 128;

struct RawRule {
    name: Spanned<String>,
    when: Spanned<String>,
    verdict: Spanned<String>,
    description: Option<String>,
}

impl RawRule {
    const KEYS: [&str; 4] = ["name", "when", "verdict", "description"];

    /// A rule that lacks something is read as far as it goes, so that the mistakes in it are told as well.
    fn read<'t>(fields: &mut Fields<'t>, written: &mut Written<'t>) -> Self {
        let mut text = |key: &str, instead: &str| {
            written.need(fields, key).unwrap_or_else(|| Spanned::new(0..0, instead.to_owned()))
        };
        let (name, when, verdict) =
            (text("name", "(without a name)"), text("when", "false"), text("verdict", "review"));
        Self { name, when, verdict, description: written.take(fields, "description") }
    }
}

impl Policy {
    /// Reads a policy. `features` are the names of the features by slot; `base_exponent` is how many
    /// decimals the base currency has.
    ///
    /// # Errors
    /// Every mistake in it, with line and column, also inside the rules' text.
    pub fn parse(
        text: &str,
        file: &str,
        schema: &Schema,
        features: &[String],
        base_exponent: u8,
    ) -> Result<Self, Mistakes> {
        let (mut written, mut top) = Written::parse(file, text, &["thresholds", "rules"])?;
        let by_file = written.table(&mut top, "thresholds", &RawThresholds::KEYS);
        let by_file = by_file.map(|mut fields| RawThresholds::read(&mut fields, &mut written));
        let raw_rules: Vec<RawRule> = written
            .tables(&mut top, "rules", &RawRule::KEYS)
            .iter_mut()
            .map(|fields| RawRule::read(fields, &mut written))
            .collect();
        let mut mistakes = written.mistakes();
        let (thresholds, alert_budget) = by_file.map_or((None, None), |raw| by_score(&raw, file, text, &mut mistakes));
        let vocabulary = Vocabulary { schema, features };
        let mut rules: Vec<Rule> = Vec::new();
        for raw in &raw_rules {
            let name = raw.name.get_ref();
            let absent = raw.name.span().is_empty();
            if !absent && (name.trim().is_empty() || rules.iter().any(|rule| rule.name == *name)) {
                mistakes.push(Mistake::at(
                    file,
                    text,
                    raw.name.span().start,
                    format!("rule name `{name}` is empty or taken"),
                ));
            }
            let verdict = match raw.verdict.get_ref().as_str() {
                "allow" => Verdict::Allow,
                "review" => Verdict::Review,
                "block" => Verdict::Block,
                other => {
                    let message = format!("`{other}` is no verdict");
                    let mistake = Mistake::at(file, text, raw.verdict.span().start, message);
                    mistakes.push(mistake.help("\"allow\", \"review\" or \"block\""));
                    Verdict::Review
                }
            };
            let condition = vocabulary.compile(raw.when.get_ref()).unwrap_or_else(|wrong| {
                let start = start_of_text(text, &raw.when);
                mistakes.extend(wrong.into_iter().map(|(at, message, help)| {
                    let mistake = Mistake::at(file, text, start + at, format!("rule `{name}`: {message}"));
                    Mistake { help, ..mistake }
                }));
                Condition::Always(false)
            });
            let description = raw.description.clone().unwrap_or_else(|| name.replace('_', " "));
            rules.push(Rule { name: name.clone(), description, verdict, condition });
        }
        if rules.len() > MAX_RULES {
            mistakes.push(Mistake::in_file(file, format!("{} rules; at most {MAX_RULES}", rules.len())));
        }
        if !mistakes.is_empty() {
            mistakes.sort();
            return Err(Mistakes(mistakes));
        }
        let mut meaning = format!("caddis policy 1\n{thresholds:?}\n");
        for (rule, raw) in rules.iter().zip(&raw_rules) {
            meaning.push_str(&format!("{:?} {:?} {:?}\n", rule.name, rule.verdict, raw.when.get_ref()));
        }
        // Only where there is one: other policies keep the fingerprints that models and journals know.
        if let Some(AlertBudget { alerts_a_day, block, .. }) = alert_budget {
            meaning.push_str(&format!("alert budget {alerts_a_day:?} {block:?}\n"));
        }
        let fingerprint = blake3::hash(meaning.as_bytes()).to_hex().to_string();
        Ok(Self { rules, thresholds, alert_budget, fingerprint, base_scale: 10_f64.powi(i32::from(base_exponent)) })
    }

    /// A policy without rules.
    #[must_use]
    pub fn none() -> Self {
        let fingerprint = blake3::hash(b"caddis policy 1\nnone").to_hex().to_string();
        Self { rules: Vec::new(), thresholds: None, alert_budget: None, fingerprint, base_scale: 100.0 }
    }

    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The thresholds the file gives; where it gives none, and no budget, the model's own hold.
    #[must_use]
    pub fn thresholds(&self) -> Option<Thresholds> {
        self.thresholds
    }

    /// The alert budget the file gives in their place.
    #[must_use]
    pub fn alert_budget(&self) -> Option<AlertBudget> {
        self.alert_budget
    }

    /// BLAKE3 of what the policy says, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The rules whose bits are set.
    pub fn matched(&self, rules: u128) -> impl Iterator<Item = &Rule> {
        self.rules.iter().enumerate().filter(move |(at, _)| rules >> at & 1 == 1).map(|(_, rule)| rule)
    }

    /// Judges one transaction. `score` is NaN where there is no model.
    #[must_use]
    pub fn judge(
        &self,
        transaction: TransactionRef<'_>,
        features: &[f64],
        score: f64,
        thresholds: Thresholds,
    ) -> Judgement {
        let mut rules = 0;
        let mut decided = None;
        let mut raised = Verdict::Allow;
        let facts = expression::Facts { transaction, features, score, base_scale: self.base_scale };
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.condition.holds(&facts) {
                rules |= 1 << at;
                match rule.verdict {
                    Verdict::Review => raised = raised.max(Verdict::Review),
                    verdict => decided = decided.or(Some(verdict)),
                }
            }
        }
        let scored = if score >= thresholds.block {
            Verdict::Block
        } else if score >= thresholds.review {
            Verdict::Review
        } else {
            Verdict::Allow
        };
        Judgement { verdict: decided.unwrap_or(raised.max(scored)), rules }
    }
}

impl Policy {
    /// What the rules make of a transaction alone, without features or score. Rules that ask for either do not
    /// take part: a missing value would let them match what they were never meant for.
    #[must_use]
    pub fn judge_alone(&self, transaction: TransactionRef<'_>) -> Judgement {
        let facts = expression::Facts { transaction, features: &[], score: f64::NAN, base_scale: self.base_scale };
        let mut rules = 0;
        let mut verdicts = Vec::new();
        for (at, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.condition.stands_alone()) {
            if rule.condition.holds(&facts) {
                rules |= 1 << at;
                verdicts.push(rule.verdict);
            }
        }
        let decided = verdicts.iter().copied().find(|verdict| *verdict != Verdict::Review);
        let raised = if verdicts.is_empty() { Verdict::Allow } else { Verdict::Review };
        Judgement { verdict: decided.unwrap_or(raised), rules }
    }
}

/// Where the text of a TOML string begins, after its quotes.
fn start_of_text(text: &str, value: &Spanned<String>) -> usize {
    let span = value.span();
    let inside = text.get(span.clone()).and_then(|raw| raw.find(value.get_ref().as_str()));
    span.start + inside.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Judgement, Policy, Thresholds, Verdict};
    use crate::transaction::{Currency, Schema, TransactionBatch, schema};

    fn transaction() -> TransactionBatch {
        let mut batch = TransactionBatch::new(Arc::new(Schema::default()));
        let mut draft = batch.draft();
        draft.set_id("t1");
        draft.set_text(schema::COUNTRY, "US");
        draft.set_text(schema::CHANNEL, "online");
        draft.finish(1_700_000_000_000, 12_345, Currency::EUR, 12_345);
        batch
    }

    fn holds(when: &str) -> bool {
        let features = ["count_1h".to_owned(), "missing".to_owned()];
        let text = format!("[[rules]]\nname = \"r\"\nverdict = \"block\"\nwhen = '''{when}'''");
        let policy =
            Policy::parse(&text, "policy.toml", &Schema::default(), &features, 2).unwrap_or_else(|m| panic!("{m}"));
        let batch = transaction();
        policy.judge(batch.get(0), &[7.0, f64::NAN], 0.25, Thresholds::default()).rules == 1
    }

    #[test]
    fn rules_see_transaction_features_and_score() {
        for (when, expected) in [
            ("amount > 123.44 && amount < 123.46", true),
            ("amount_minor == 12345", true),
            ("count_1h >= 7", true),
            ("count_1h * 2 - 1 == 13 || false", true),
            ("count_1h + 1 > 8", false),
            ("score < 0.3 && !(score < 0.2)", true),
            ("country == \"US\" && country != 'GB'", true),
            ("country in ['GB', 'US']", true),
            ("count_1h in [1, 2, 7.0]", true),
            ("device == \"x\"", false),
            ("device != \"x\"", false),
            ("known(country) && !known(device) && !known(missing)", true),
            ("missing > 0 || missing <= 0 || missing != 1", false),
            ("channel.startsWith('on') && channel.endsWith('line') && channel.contains('nli')", true),
            ("size(channel) == 6", true),
            ("hour(event_time) == 22", true),
            ("country == 'US' ? amount > 100 : amount > 500", true),
            ("(country == 'GB' ? 1 : 2) == 2", true),
            ("-amount < -100.0", true),
            ("currency == 'EUR' && transaction_id == 't1'", true),
        ] {
            assert_eq!(holds(when), expected, "{when}");
        }
    }

    #[test]
    fn the_first_rule_that_allows_or_blocks_decides_and_all_are_named() {
        let text = r#"
            thresholds = { review = 0.2, block = 0.8 }
            [[rules]]
            name = "odd"
            when = "amount > 1"
            verdict = "review"
            [[rules]]
            name = "trusted"
            when = "country == 'US'"
            verdict = "allow"
            [[rules]]
            name = "too_much"
            when = "amount > 2"
            verdict = "block"
            "#;
        let policy = Policy::parse(text, "policy.toml", &Schema::default(), &[], 2).expect("a policy");
        let batch = transaction();
        let thresholds = policy.thresholds().expect("thresholds");
        assert_eq!(
            policy.judge(batch.get(0), &[], 0.9, thresholds),
            Judgement { verdict: Verdict::Allow, rules: 0b111 }
        );
        let none = Policy::none();
        for (score, verdict) in
            [(0.1, Verdict::Allow), (0.2, Verdict::Review), (0.8, Verdict::Block), (f64::NAN, Verdict::Allow)]
        {
            assert_eq!(none.judge(batch.get(0), &[], score, thresholds).verdict, verdict);
        }
    }

    #[test]
    fn every_mistake_has_its_place_in_the_file() {
        let text = r#"[thresholds]
review = 1.5
blokc = 2.5

[[rules]]
name = "a"
when = "amonut > 3 && country > 2"
verdict = "reveiw"

[[rules]]
name = "b"
when = 'amount >'
verdict = "block"

[[rules]]
name = "c"
when = "amount"
verdct = "block"

[[rules]]
when = "amount >= 'x'"
zebra = 1
"#;
        let mistakes =
            Policy::parse(text, "policy.toml", &Schema::default(), &[], 2).expect_err("mistakes").to_string();
        let places: Vec<&str> = mistakes.lines().filter(|line| line.starts_with("policy")).collect();
        assert_eq!(places.len(), 13, "{mistakes}");
        for (place, expected) in places.iter().zip([
            "2:10: threshold 1.5",
            "3:1: unknown key `blokc`",
            "3:9: threshold 2.5",
            "7:9: rule `a`: no field, feature or `score` is called `amonut`",
            "7:33: rule `a`",
            "8:11: `reveiw` is no verdict",
            "12:",
            "17:9: rule `c`",
            "18:1: unknown key `verdct`",
            "20:1: `name` is missing",
            "20:1: `verdict` is missing",
            "21:",
            "22:1: unknown key `zebra`",
        ]) {
            assert!(place.starts_with(&format!("policy.toml:{expected}")), "{expected}\n{mistakes}");
        }
        for help in ["`amount`", "`block`", "`verdict`"] {
            assert!(mistakes.contains(&format!("did you mean {help}?")), "{help}\n{mistakes}");
        }
    }
}
