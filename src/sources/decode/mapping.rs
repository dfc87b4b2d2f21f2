//! Where a transaction's fields are in a user's own records.

use std::sync::Arc;

use crate::mistake::nearest;
use crate::transaction::schema::{CORE_FIELDS, NUMBER_FIELDS, TEXT_FIELDS};
use crate::transaction::{Currency, Field, Schema};

/// How an event time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFormat {
    Milliseconds,
    Seconds,
    Rfc3339,
    /// Digits alone are milliseconds, all else RFC 3339.
    Auto,
}

/// Which units an amount is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmountUnit {
    /// `12.34`
    Major,
    /// `1234`
    Minor,
}

/// Where each field is: paths of keys into nested objects.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub(super) schema: Arc<Schema>,
    /// Path and field, in the order in which they were given.
    pub(super) paths: Vec<(Vec<String>, Field)>,
    pub(super) time: TimeFormat,
    pub(super) unit: AmountUnit,
    /// For records that do not say.
    pub(super) currency: Option<Currency>,
    pub(super) rates: Rates,
    /// Whether a user wrote it, rather than that it is Caddis's own names.
    pub(super) given: bool,
}

/// What one base unit of money is worth in others: converts amounts to the base currency, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    base: Currency,
    /// Base units for one unit of the currency, in billionths.
    table: Vec<(Currency, i128)>,
}

/// Rates have nine decimals.
const RATE_SCALE: i128 = 1_000_000_000;

impl Rates {
    #[must_use]
    pub fn new(base: Currency) -> Self {
        Self { base, table: Vec::new() }
    }

    #[must_use]
    pub fn base(&self) -> Currency {
        self.base
    }

    /// One unit of `currency` is `rate` units of the base currency.
    ///
    /// # Errors
    /// The rate is no positive decimal number of at most nine decimals.
    pub fn set(&mut self, currency: Currency, rate: &str) -> Result<(), &'static str> {
        let rate = crate::transaction::money::parse_major(rate.as_bytes(), 9)
            .ok()
            .filter(|rate| *rate > 0)
            .ok_or("a positive decimal number with at most nine decimals")?;
        self.table.retain(|(known, _)| *known != currency);
        self.table.push((currency, i128::from(rate)));
        Ok(())
    }

    /// Minor units of the base currency; halves go to the even neighbour. `None` without a rate, or where
    /// the result is too large.
    #[must_use]
    pub fn convert(&self, minor: i64, currency: Currency) -> Option<i64> {
        if currency == self.base {
            return Some(minor);
        }
        let (_, rate) = self.table.iter().find(|(known, _)| *known == currency)?;
        let mut numerator = i128::from(minor).checked_mul(*rate)?;
        let mut denominator = RATE_SCALE;
        let (from, to) = (u32::from(currency.exponent()), u32::from(self.base.exponent()));
        if to > from {
            numerator = numerator.checked_mul(10_i128.pow(to - from))?;
        } else {
            denominator *= 10_i128.pow(from - to);
        }
        let (quotient, rest) = (numerator.div_euclid(denominator), numerator.rem_euclid(denominator));
        let up = rest * 2 > denominator || rest * 2 == denominator && quotient % 2 != 0;
        i64::try_from(quotient + i128::from(up)).ok()
    }
}

impl Mapping {
    /// Caddis's own names: each field under its own key.
    #[must_use]
    pub fn own(schema: Arc<Schema>, rates: Rates) -> Self {
        let paths = schema.names().filter_map(|name| Some((vec![name.to_owned()], schema.field(name)?))).collect();
        Self { schema, paths, time: TimeFormat::Auto, unit: AmountUnit::Major, currency: None, rates, given: false }
    }

    /// Reads a `[mapping]` table: `field = "path.to.it"`, or with more to say
    /// `event_time = { path = "ts", format = "s" }`, `amount = { path = "a", unit = "minor" }`,
    /// `currency = { value = "EUR" }`. Fields that are not named are not read.
    ///
    /// # Errors
    /// What is wrong, one sentence a mistake, each with the name of the key it is about.
    pub fn from_table(table: &toml::Table, schema: &Arc<Schema>, rates: Rates) -> Result<Self, Vec<(String, String)>> {
        let mut mistakes: Vec<(String, String)> = Vec::new();
        let mut mapping = Self {
            schema: Arc::clone(schema),
            paths: Vec::new(),
            time: TimeFormat::Auto,
            unit: AmountUnit::Major,
            currency: None,
            rates,
            given: true,
        };
        for (name, value) in table {
            let Some(field) = schema.field(name) else {
                let help =
                    nearest(name, schema.names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                mistakes.push((name.clone(), format!("a transaction has no field `{name}`{help}")));
                continue;
            };
            if let Err(expected) = mapping.field(field, value) {
                mistakes.push((name.clone(), format!("`{name}`: {expected}")));
            }
        }
        for needed in ["transaction_id", "event_time", "amount"] {
            if !table.contains_key(needed) {
                mistakes.push((String::new(), format!("the mapping does not say where `{needed}` is")));
            }
        }
        if !table.contains_key("currency") {
            mapping.currency = Some(mapping.rates.base());
        }
        for (at, (path, _)) in mapping.paths.iter().enumerate() {
            let others = mapping.paths.iter().take(at);
            if let Some((other, _)) =
                others.into_iter().find(|(other, _)| path.starts_with(other) || other.starts_with(path))
            {
                let message = format!("`{}` and `{}` are in each other's way", path.join("."), other.join("."));
                mistakes.push((String::new(), message));
            }
        }
        if mistakes.is_empty() { Ok(mapping) } else { Err(mistakes) }
    }

    fn field(&mut self, field: Field, value: &toml::Value) -> Result<(), String> {
        let mut path = None;
        match value {
            toml::Value::String(text) => path = Some(text.as_str()),
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let text = value.as_str().ok_or_else(|| format!("{key} must be text"))?;
                    match (key.as_str(), field) {
                        ("path", _) => path = Some(text),
                        ("format", Field::EventTime) => {
                            self.time = match text {
                                "s" => TimeFormat::Seconds,
                                "ms" => TimeFormat::Milliseconds,
                                "rfc3339" => TimeFormat::Rfc3339,
                                "auto" => TimeFormat::Auto,
                                _ => return Err("format must be \"s\", \"ms\", \"rfc3339\" or \"auto\"".into()),
                            }
                        }
                        ("unit", Field::Amount) => {
                            self.unit = match text {
                                "major" => AmountUnit::Major,
                                "minor" => AmountUnit::Minor,
                                _ => return Err("unit must be \"major\" (12.34) or \"minor\" (1234)".into()),
                            }
                        }
                        ("value", Field::Currency) => {
                            let currency = Currency::parse(text);
                            self.currency = Some(currency.ok_or("value must be an ISO 4217 code such as \"EUR\"")?);
                        }
                        _ => return Err(format!("unknown key `{key}`")),
                    }
                }
            }
            _ => return Err("expected a path such as \"payment.id\"".into()),
        }
        let Some(path) = path else {
            return if field == Field::Currency && self.currency.is_some() {
                Ok(())
            } else {
                Err("it needs a path".into())
            };
        };
        let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
        if keys.iter().any(String::is_empty) || keys.len() > 8 {
            return Err(format!("`{path}` is no path of one to eight keys with points between them"));
        }
        self.paths.push((keys, field));
        Ok(())
    }

    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }
}

/// The name of a field in Caddis's own words.
pub(super) fn field_name(field: Field, schema: &Schema) -> String {
    let [id, time, amount, currency] = CORE_FIELDS;
    match field {
        Field::TransactionId => id.to_owned(),
        Field::EventTime => time.to_owned(),
        Field::Amount => amount.to_owned(),
        Field::Currency => currency.to_owned(),
        Field::Text(at) => schema.texts().get(usize::from(at.0)).cloned().unwrap_or_else(|| TEXT_FIELDS.join("|")),
        Field::Number(at) => {
            schema.numbers().get(usize::from(at.0)).cloned().unwrap_or_else(|| NUMBER_FIELDS.join("|"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Mapping, Rates};
    use crate::transaction::{Currency, Schema};

    #[test]
    fn conversion_is_exact_and_halves_go_to_the_even_neighbour() {
        let currency = |code| Currency::parse(code).expect("a currency");
        let mut rates = Rates::new(currency("EUR"));
        rates.set(currency("USD"), "0.5").expect("a rate");
        rates.set(currency("JPY"), "0.006").expect("a rate");
        rates.set(currency("KWD"), "3").expect("a rate");
        assert_eq!(rates.convert(1_234, currency("EUR")), Some(1_234));
        assert_eq!(rates.convert(101, currency("USD")), Some(50));
        assert_eq!(rates.convert(103, currency("USD")), Some(52));
        assert_eq!(rates.convert(-103, currency("USD")), Some(-52));
        assert_eq!(rates.convert(1_000, currency("JPY")), Some(600));
        assert_eq!(rates.convert(1_000, currency("KWD")), Some(300));
        assert_eq!(rates.convert(1, currency("CHF")), None);
        assert_eq!(rates.convert(i64::MAX, currency("KWD")), Some(2_767_011_611_056_432_742));
        assert!(rates.set(currency("USD"), "-1").is_err());
    }

    #[test]
    fn every_mistake_in_a_mapping_is_said() {
        let table: toml::Table = r#"
            transaction_id = "id"
            amont = "a"
            event_time = { path = "ts", format = "minutes" }
            account = "user"
            card = "user.card"
        "#
        .parse()
        .expect("TOML");
        let rates = Rates::new(Currency::parse("EUR").expect("EUR"));
        let mistakes = Mapping::from_table(&table, &Arc::new(Schema::default()), rates).expect_err("mistakes");
        let text: Vec<&str> = mistakes.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            text,
            [
                "a transaction has no field `amont`; did you mean `amount`?",
                "`event_time`: format must be \"s\", \"ms\", \"rfc3339\" or \"auto\"",
                "the mapping does not say where `amount` is",
                "`user.card` and `user` are in each other's way",
            ]
        );
    }
}
