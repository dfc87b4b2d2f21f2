//! Values of a record into a transaction, field by field.

use std::sync::Arc;

use super::digits::{Plain, number};
use super::layout::Slot;
use super::mapping::{AmountUnit, Mapping, field_name};
use super::scan::{Kind, Value, unescape};
use super::time::taken;
use crate::transaction::money::{AmountError, MAX_MINOR_UNITS, parse_major, parse_minor};
use crate::transaction::schema;
use crate::transaction::{
    Currency, Draft, EventTime, Field, Kept, MAX_TEXT_BYTES, NumberField, Refusal, TransactionBatch,
};

/// What the fields of a mapping are, and what is needed to read them.
#[derive(Debug)]
pub(super) struct Targets {
    mapping: Arc<Mapping>,
    /// The field and the name its sender gives it.
    pub fields: Vec<(Field, String)>,
    pub scratch: String,
}

/// A field by its place in [`Targets::fields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub at: u16,
    pub field: Field,
}

/// A transaction of which some fields are read.
pub(super) struct Row<'b> {
    draft: Draft<'b>,
    /// Where the record is kept, unless most of it is something else.
    kept: Option<Kept>,
    id: bool,
    time: Option<EventTime>,
    currency: Option<Currency>,
    /// Read once the currency is known: it says how many decimals there are.
    amount: Option<(usize, Value, Option<Plain>)>,
}

impl Row<'_> {
    /// Sets a text field to a part of the record as it stands; `false` if it has to be looked at.
    #[inline]
    fn place(&mut self, field: Field, start: usize, len: usize) -> bool {
        let Some(kept) = self.kept else { return false };
        // Lengths from one to the greatest.
        if len.wrapping_sub(1) >= MAX_TEXT_BYTES {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a record that is kept is short")]
        let (start, len) = (start as u32, len as u32);
        match field {
            Field::Text(field) => self.draft.set_text_at(field, kept, start, len),
            Field::TransactionId => {
                self.draft.set_id_at(kept, start, len);
                self.id = true;
            }
            _ => return false,
        }
        true
    }
}

/// Records up to this long are kept whole in the batch: one copy for all fields.
const KEPT_WHOLE: usize = 4_096;

impl Targets {
    pub fn new(mapping: Arc<Mapping>) -> Self {
        Self { mapping, fields: Vec::new(), scratch: String::new() }
    }

    /// The place of a target's value in a layout.
    pub fn slot(&self, target: usize, depth: u32) -> Slot {
        match (self.fields.get(target), u16::try_from(target)) {
            (Some((field, _)), Ok(at)) => Slot::Target(Target { at, field: *field }, depth),
            _ => Slot::Unmapped(depth),
        }
    }

    /// Starts the transaction of `record`. It leaves no trace unless it is [finished](Self::finish).
    #[inline]
    pub fn begin<'b>(&self, record: &str, into: &'b mut TransactionBatch) -> Row<'b> {
        let mut draft = into.draft();
        let kept = (record.len() <= KEPT_WHOLE).then(|| draft.keep(record));
        Row { draft, kept, id: false, time: None, currency: self.mapping.currency, amount: None }
    }

    /// Sets a target's field to a text without escapes if that is the whole matter; `false` if it is not, and
    /// [`set`](Self::set) is to be asked.
    #[inline]
    pub fn set_text(&self, row: &mut Row<'_>, record: &str, target: Target, start: usize, len: usize) -> bool {
        match target.field {
            Field::Text(_) | Field::TransactionId => row.place(target.field, start, len),
            _ => self.set_other(row, record, target, start, len),
        }
    }

    fn set_other(&self, row: &mut Row<'_>, record: &str, target: Target, start: usize, len: usize) -> bool {
        let text = record.get(start..start + len).unwrap_or_default();
        if target.field == Field::Currency {
            row.currency = Currency::parse(text);
            return row.currency.is_some();
        }
        match Plain::read(text.as_bytes()) {
            Some(plain) if plain.len == len => self.set_plain(row, target, start, plain, Kind::Text),
            _ => false,
        }
    }

    /// As [`set_text`](Self::set_text), for a number that was read.
    #[inline]
    pub fn set_plain(&self, row: &mut Row<'_>, target: Target, start: usize, plain: Plain, kind: Kind) -> bool {
        match target.field {
            Field::Text(_) | Field::TransactionId => row.place(target.field, start, plain.len),
            Field::EventTime => {
                let scale = self.mapping.time.decimals();
                row.time = scale.and_then(|scale| plain.scaled(scale)).and_then(taken);
                row.time.is_some()
            }
            Field::Number(field) => {
                let number = plain.float().filter(|number| number.abs() <= bound(field));
                number.map(|number| row.draft.set_number(field, number)).is_some()
            }
            Field::Amount => {
                let value = Value::new(kind, start, start + plain.len);
                row.amount = Some((usize::from(target.at), value, Some(plain)));
                true
            }
            Field::Currency => false,
        }
    }

    /// Sets a target's field to a value of any kind; what is absent, `null` or empty sets nothing.
    ///
    /// # Errors
    /// The value cannot be one of that field.
    pub fn set(&mut self, row: &mut Row<'_>, record: &str, target: usize, value: Value) -> Result<(), Refusal> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let set = self.set_with(row, record, target, value, &mut scratch);
        self.scratch = scratch;
        set
    }

    fn set_with(
        &self,
        row: &mut Row<'_>,
        record: &str,
        target: usize,
        value: Value,
        scratch: &mut String,
    ) -> Result<(), Refusal> {
        let Some((field, _)) = self.fields.get(target) else { return Ok(()) };
        let Some(text) = self.text(target, value, record, scratch)? else { return Ok(()) };
        let (start, len) = value.span();
        let kept = row.kept.filter(|_| value.kind() != Kind::Escaped);
        match field {
            Field::TransactionId => {
                match kept {
                    Some(kept) => row.draft.set_id_at(kept, start, len),
                    None => row.draft.set_id(text),
                }
                row.id = true;
            }
            Field::Text(field) => match kept {
                Some(kept) => row.draft.set_text_at(*field, kept, start, len),
                None => row.draft.set_text(*field, text),
            },
            Field::Number(field) => {
                let number = number(text).ok_or_else(|| self.refuse(target, text.as_bytes(), "a finite number"))?;
                let bound = bound(*field);
                if number.abs() > bound {
                    return Err(self.refuse(target, text.as_bytes(), format!("from -{bound} to {bound} degrees")));
                }
                row.draft.set_number(*field, number);
            }
            Field::EventTime => {
                let parsed = self.mapping.time.parse(text);
                let refused = || self.refuse(target, text.as_bytes(), self.mapping.time.expected());
                row.time = Some(parsed.ok_or_else(refused)?);
            }
            Field::Currency => {
                let refused = || self.refuse(target, text.as_bytes(), "an ISO 4217 code such as EUR");
                row.currency = Some(Currency::parse(text).ok_or_else(refused)?);
            }
            Field::Amount => row.amount = Some((target, value, None)),
        }
        Ok(())
    }

    /// Adds the transaction to its batch.
    ///
    /// # Errors
    /// A field that every transaction must have is missing, or the amount is none of its currency.
    #[inline]
    pub fn finish(&mut self, row: Row<'_>, record: &str) -> Result<(), Refusal> {
        if !row.id {
            return Err(self.missing(Field::TransactionId));
        }
        let Some(time) = row.time else { return Err(self.missing(Field::EventTime)) };
        let Some(currency) = row.currency else { return Err(self.missing(Field::Currency)) };
        let Some((target, value, plain)) = row.amount else { return Err(self.missing(Field::Amount)) };
        let decimals = match self.mapping.unit {
            AmountUnit::Major => currency.exponent(),
            AmountUnit::Minor => 0,
        };
        let minor = match plain.and_then(|plain| plain.scaled(decimals)).filter(|minor| *minor <= MAX_MINOR_UNITS) {
            Some(minor) => minor,
            None => self.amount(record, target, value, currency)?,
        };
        let base = match self.mapping.rates.convert(minor, currency) {
            Some(base) => base,
            None => return Err(self.no_rate(record, target, value, currency)),
        };
        row.draft.finish(time, minor, currency, base);
        Ok(())
    }

    /// An amount of any form, in minor units.
    fn amount(&mut self, record: &str, target: usize, value: Value, currency: Currency) -> Result<i64, Refusal> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let text = self.text(target, value, record, &mut scratch)?.unwrap_or_default().as_bytes();
        let unit = self.mapping.unit;
        let minor = match unit {
            AmountUnit::Major => parse_major(text, currency.exponent()),
            AmountUnit::Minor => parse_minor(text),
        }
        .map_err(|error| self.refuse(target, text, amount_expected(error, unit, currency)));
        self.scratch = scratch;
        minor
    }

    #[cold]
    fn no_rate(&mut self, record: &str, target: usize, value: Value, currency: Currency) -> Refusal {
        let mut scratch = std::mem::take(&mut self.scratch);
        let text = match self.text(target, value, record, &mut scratch) {
            Ok(text) => text.unwrap_or_default(),
            Err(refusal) => return refusal,
        };
        let expected = format!("an amount that a rate for {currency} turns into {}", self.mapping.rates.base());
        self.refuse(target, text.as_bytes(), expected)
    }

    /// The text of a value; `None` where it is absent, `null` or empty.
    #[inline]
    fn text<'t>(
        &self,
        target: usize,
        value: Value,
        record: &'t str,
        scratch: &'t mut String,
    ) -> Result<Option<&'t str>, Refusal> {
        let text = match value.kind() {
            Kind::Absent | Kind::Null => return Ok(None),
            Kind::Text | Kind::Number | Kind::Bool => value.of(record),
            Kind::Escaped => {
                let text = value.of(record);
                unescape(text, scratch).map_err(|expected| self.refuse(target, text.as_bytes(), expected))?;
                scratch
            }
            Kind::Nested => return Err(self.refuse(target, b"", "a text or a number, not an object or array")),
        };
        if text.len() > MAX_TEXT_BYTES {
            return Err(self.refuse(target, text.as_bytes(), format!("at most {MAX_TEXT_BYTES} bytes long")));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    #[cold]
    pub fn refuse(&self, target: usize, value: &[u8], expected: impl Into<String>) -> Refusal {
        let name = self.fields.get(target).map(|(_, name)| name.clone()).unwrap_or_default();
        Refusal::new(name, value, expected)
    }

    #[cold]
    fn missing(&self, field: Field) -> Refusal {
        let own = field_name(field, &self.mapping.schema);
        let named = self.fields.iter().find(|(target, _)| *target == field).map(|(_, name)| name.clone());
        Refusal::new(named.unwrap_or(own), b"", "a value: the record has none")
    }
}

/// The largest absolute value that a number field takes.
#[inline]
fn bound(field: NumberField) -> f64 {
    match field {
        schema::LATITUDE => 90.0,
        schema::LONGITUDE => 180.0,
        _ => f64::MAX,
    }
}

#[cold]
fn amount_expected(error: AmountError, unit: AmountUnit, currency: Currency) -> String {
    match (error, unit) {
        (AmountError::TooLarge, _) => "an amount of at most 100,000,000,000,000 minor units".into(),
        (AmountError::TooPrecise(_), AmountUnit::Minor) => "a whole number of minor units".into(),
        (AmountError::TooPrecise(decimals), AmountUnit::Major) => {
            format!("an amount of {currency}, which has {decimals} decimals")
        }
        (AmountError::NotANumber, _) => "a decimal number".into(),
    }
}
