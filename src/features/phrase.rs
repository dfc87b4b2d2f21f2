//! Features in an analyst's words.

use super::aggregate::Aggregate;
use super::set::{FeatureSet, Words};
use crate::transaction::Currency;
use crate::transaction::money::format_major;

impl FeatureSet {
    /// What a feature is about, whatever its window: features of one topic say much the same.
    #[must_use]
    pub fn topic(&self, slot: usize) -> String {
        let Some(words) = self.words.get(slot) else { return String::new() };
        let name = if words.aggregate.is_some() { "" } else { words.name.as_str() };
        format!("{:?} {} {} {name}", words.aggregate, words.entity, words.field)
    }

    /// What a value says: "12 transactions by this account in 1h". Money is in `base`, the deployment's
    /// currency.
    #[must_use]
    pub fn phrase(&self, slot: usize, value: f64, base: Currency) -> String {
        let Some(words) = self.words.get(slot) else { return String::new() };
        if value.is_nan() {
            return format!("{} is not known", words.name);
        }
        match words.aggregate {
            None => {
                let row = self.rows.iter().find(|row| row.slot == slot);
                row.map_or_else(String::new, |row| row.phrase(words, value, base))
            }
            Some(aggregate) => phrase(words, aggregate, value, base),
        }
    }
}

fn phrase(words: &Words, aggregate: Aggregate, value: f64, base: Currency) -> String {
    let Words { entity, field, window, delay, .. } = words;
    let window = if delay.is_empty() { format!("in {window}") } else { format!("in {window} up to {delay} ago") };
    let number = trimmed(value);
    let money = || money(value, base);
    let percent = || format!("{} %", trimmed(value * 100.0));
    match aggregate {
        Aggregate::Count => format!("{number} transactions by this {entity} {window}"),
        Aggregate::Sum => format!("{} in all by this {entity} {window}", money()),
        Aggregate::Mean => format!("{} on average by this {entity} {window}", money()),
        Aggregate::Std => format!("amounts of this {entity} vary by {} {window}", money()),
        Aggregate::Min => format!("smallest amount of this {entity} {window}: {}", money()),
        Aggregate::Max => format!("largest amount of this {entity} {window}: {}", money()),
        Aggregate::Last => format!("amount before by this {entity}: {}", money()),
        Aggregate::Distinct => format!("{number} different {field}s of this {entity} {window}"),
        Aggregate::IsNew if value > 0.0 => format!("{field} not seen before with this {entity} {window}"),
        Aggregate::IsNew => format!("{field} seen before with this {entity} {window}"),
        Aggregate::FirstSeen => format!("{field} first seen with this {entity} {} ago", span(value)),
        Aggregate::SinceLast => format!("{} since the last transaction of this {entity}", span(value)),
        Aggregate::Share => format!("{} of the transactions of this {entity} {window} have this {field}", percent()),
        Aggregate::ZScore => {
            format!("amount is {number} standard deviations from the usual of this {entity} {window}")
        }
        Aggregate::Ratio => format!("amount is {number} times the average of this {entity} {window}"),
        Aggregate::Distance => format!("{number} km from the last place of this {entity}"),
        Aggregate::Speed => format!("{number} km/h from the last place of this {entity}"),
        Aggregate::FraudCount => format!("{number} known frauds of this {entity} {window}"),
        Aggregate::FraudRate => {
            format!("{} of the transactions of this {entity} {window} known to be fraud", percent())
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an amount for a reader")]
pub(super) fn money(minor: f64, base: Currency) -> String {
    format!("{} {}", format_major(minor.round() as i64, base.exponent()), base.code())
}

pub(super) fn trimmed(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{} s", trimmed(s)),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
