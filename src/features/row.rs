//! Features of the transaction alone.

use super::phrase::{money, trimmed};
use super::set::{FeatureKind, FeatureSet, RowField, Words};
use super::{Admission, RowSink};
use crate::transaction::{Currency, Field, NumberField, TextField, TransactionBatch, TransactionRef};

#[derive(Debug, Clone)]
pub(super) struct RowFeature {
    pub slot: usize,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Amount,
    LogAmount,
    /// 0 to 23, UTC.
    Hour,
    /// 0 Monday to 6 Sunday, UTC.
    Weekday,
    Weekend,
    /// From 00:00 to 05:59, UTC.
    Night,
    Number(NumberField),
    /// The value's place in the list, the list's length for any other.
    Category(TextField, Vec<String>),
    /// Whether the field is there.
    Present(TextField),
}

const KINDS: &str = "one of amount, log_amount, hour, weekday, weekend, night, number, category, present";

impl RowFeature {
    /// # Errors
    /// What was expected.
    pub fn new(slot: usize, kind: &str, of: Option<RowField>, values: Option<&[String]>) -> Result<Self, String> {
        let what = match (kind, of, values) {
            ("amount", None, None) => What::Amount,
            ("log_amount", None, None) => What::LogAmount,
            ("hour", None, None) => What::Hour,
            ("weekday", None, None) => What::Weekday,
            ("weekend", None, None) => What::Weekend,
            ("night", None, None) => What::Night,
            ("number", Some(Some(Field::Number(field))), None) => What::Number(field),
            ("category", Some(Some(Field::Text(field))), Some(values)) => What::Category(field, values.to_vec()),
            ("present", Some(Some(Field::Text(field))), None) => What::Present(field),
            ("number", ..) => return Err("it needs `of`, a number field".into()),
            ("category", ..) => return Err("it needs `of`, a text field, and `values`, a list".into()),
            ("present", ..) => return Err("it needs `of`, a text field".into()),
            ("amount" | "log_amount" | "hour" | "weekday" | "weekend" | "night", ..) => {
                return Err("it takes neither `of` nor `values`".into());
            }
            _ => return Err(format!("expected {KINDS}")),
        };
        Ok(Self { slot, what })
    }

    pub fn kind(&self) -> FeatureKind {
        match self.what {
            What::LogAmount | What::Number(_) => FeatureKind::Real,
            _ => FeatureKind::Integer,
        }
    }

    /// What a value says, for an analyst.
    pub fn phrase(&self, words: &Words, value: f64, base: Currency) -> String {
        const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small place in a list")]
        let place = value.max(0.0) as usize;
        let name = &words.field;
        match &self.what {
            What::Amount => format!("the amount is {}", money(value, base)),
            What::LogAmount => format!("the amount is {}", money(value.exp_m1(), base)),
            What::Hour => format!("between {place}:00 and {place}:59 UTC"),
            What::Weekday => format!("on a {}", DAYS.get(place).copied().unwrap_or("day unknown")),
            What::Weekend => if value > 0.0 { "at a weekend" } else { "not at a weekend" }.to_owned(),
            What::Night => if value > 0.0 { "at night" } else { "not at night" }.to_owned(),
            What::Number(_) => format!("{name} is {}", trimmed(value)),
            What::Present(_) => {
                if value > 0.0 {
                    format!("{name} is given")
                } else {
                    format!("{name} is not given")
                }
            }
            What::Category(_, values) => match values.get(place) {
                Some(value) => format!("{name} is {value}"),
                None => format!("{name} is none of {}", values.join(", ")),
            },
        }
    }

    fn value(&self, transaction: TransactionRef<'_>) -> f64 {
        let time = transaction.event_time();
        // 1970-01-01 was a Thursday.
        let hour = || time.rem_euclid(86_400_000) / 3_600_000;
        let weekday = || (time.div_euclid(86_400_000) + 3).rem_euclid(7);
        let number = match &self.what {
            What::Amount => transaction.base_amount(),
            What::LogAmount => return (transaction.base_amount().max(0) as f64).ln_1p(),
            What::Hour => hour(),
            What::Weekday => weekday(),
            What::Weekend => i64::from(weekday() >= 5),
            What::Night => i64::from(hour() < 6),
            What::Number(field) => return transaction.number(*field),
            What::Present(field) => i64::from(transaction.text(*field).is_some()),
            What::Category(field, values) => {
                let Some(text) = transaction.text(*field) else { return f64::NAN };
                let place = values.iter().position(|value| value == text).unwrap_or(values.len());
                return place as f64;
            }
        };
        number as f64
    }
}

impl FeatureSet {
    /// Writes the features of the transactions alone.
    pub fn row_features(&self, batch: &TransactionBatch, admissions: &[Admission], sink: &mut impl RowSink) {
        for (row, (transaction, admission)) in batch.iter().zip(admissions).enumerate() {
            if *admission != Admission::Skip {
                for feature in &self.rows {
                    sink.put(row, feature.slot, feature.value(transaction));
                }
            }
        }
    }
}
