//! Many transactions side by side: fixed-size rows, with their text in one buffer that is reused, so
//! that a transaction costs no allocation.

use std::sync::Arc;

use super::money::Currency;
use super::schema::{NumberField, Schema, TextField};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type EventTime = i64;

/// The earliest and the latest event time taken: 1970 up to the year 2200.
pub const EVENT_TIMES: std::ops::Range<EventTime> = 0..7_258_118_400_000;

/// The longest text a field may hold, in bytes; an identifier longer than this is refused.
pub const MAX_TEXT_BYTES: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Marks a field that the transaction does not have.
    const ABSENT: Self = Self { start: u32::MAX, len: 0 };
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    id: Span,
    event_time: EventTime,
    amount: i64,
    base_amount: i64,
    currency: Currency,
}

/// A batch of transactions of one schema. Clearing it keeps its memory.
#[derive(Debug, Clone)]
pub struct TransactionBatch {
    schema: Arc<Schema>,
    rows: Vec<Row>,
    /// `rows × schema.texts`, row by row.
    texts: Vec<Span>,
    /// `rows × schema.numbers`, row by row; NaN where absent.
    numbers: Vec<f64>,
    bytes: String,
}

impl TransactionBatch {
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        Self { schema, rows: Vec::new(), texts: Vec::new(), numbers: Vec::new(), bytes: String::new() }
    }

    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes the last transaction out again; does nothing without any.
    pub fn pop(&mut self) {
        self.rows.pop();
        self.texts.truncate(self.rows.len() * self.schema.texts().len());
        self.numbers.truncate(self.rows.len() * self.schema.numbers().len());
    }

    pub fn clear(&mut self) {
        self.rows.clear();
        self.texts.clear();
        self.numbers.clear();
        self.bytes.clear();
    }

    /// Starts a transaction. It joins the batch at [`Draft::finish`]; dropped before, it leaves no trace.
    pub fn draft(&mut self) -> Draft<'_> {
        let texts_from = self.texts.len();
        let numbers_from = self.numbers.len();
        let bytes_from = self.bytes.len();
        self.texts.resize(texts_from + self.schema.texts().len(), Span::ABSENT);
        self.numbers.resize(numbers_from + self.schema.numbers().len(), f64::NAN);
        Draft { batch: self, texts_from, numbers_from, bytes_from, id: Span::ABSENT, finished: false }
    }

    /// The transaction at `index`, which must be below [`len`](Self::len).
    ///
    /// # Panics
    /// If `index` is not below the length: a programmer's error.
    #[must_use]
    pub fn get(&self, index: usize) -> TransactionRef<'_> {
        assert!(index < self.rows.len(), "transaction {index} of {}", self.rows.len());
        TransactionRef { batch: self, index }
    }

    pub fn iter(&self) -> impl Iterator<Item = TransactionRef<'_>> {
        (0..self.rows.len()).map(|index| TransactionRef { batch: self, index })
    }

    fn span(&self, span: Span) -> Option<&str> {
        if span == Span::ABSENT {
            return None;
        }
        let start = span.start as usize;
        self.bytes.get(start..start + span.len as usize)
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
            + self.texts.capacity() * size_of::<Span>()
            + self.numbers.capacity() * size_of::<f64>()
            + self.bytes.capacity()
    }
}

/// Where a text that was kept begins.
#[derive(Debug, Clone, Copy)]
pub struct Kept(u32);

/// A transaction being written into its batch.
#[derive(Debug)]
pub struct Draft<'a> {
    batch: &'a mut TransactionBatch,
    texts_from: usize,
    numbers_from: usize,
    bytes_from: usize,
    id: Span,
    finished: bool,
}

impl Draft<'_> {
    /// Sets the transaction's id. Text longer than [`MAX_TEXT_BYTES`] is for the decoder to refuse.
    pub fn set_id(&mut self, id: &str) {
        self.id = self.store(id);
    }

    pub fn set_text(&mut self, field: TextField, text: &str) {
        let span = self.store(text);
        if let Some(cell) = self.batch.texts.get_mut(self.texts_from + usize::from(field.0)) {
            *cell = span;
        }
    }

    /// Keeps the text that the transaction is read from, so that fields need not be copied one by one. Returns
    /// what [`set_text_at`](Self::set_text_at) counts from.
    pub fn keep(&mut self, text: &str) -> Kept {
        Kept(self.store(text).start)
    }

    /// Sets a text field to a part of the text kept.
    #[inline]
    pub fn set_text_at(&mut self, field: TextField, kept: Kept, start: u32, len: u32) {
        if let Some(cell) = self.batch.texts.get_mut(self.texts_from + usize::from(field.0)) {
            *cell = Span { start: kept.0.saturating_add(start), len };
        }
    }

    /// Sets the transaction's id to a part of the text kept.
    pub fn set_id_at(&mut self, kept: Kept, start: u32, len: u32) {
        self.id = Span { start: kept.0.saturating_add(start), len };
    }

    pub fn set_number(&mut self, field: NumberField, number: f64) {
        if let Some(cell) = self.batch.numbers.get_mut(self.numbers_from + usize::from(field.0)) {
            *cell = number;
        }
    }

    /// Adds the transaction to the batch. `amount` is in minor units of `currency`, `base_amount` the
    /// same money in minor units of the deployment's base currency.
    pub fn finish(mut self, event_time: EventTime, amount: i64, currency: Currency, base_amount: i64) {
        let row = Row { id: self.id, event_time, amount, base_amount, currency };
        self.batch.rows.push(row);
        self.finished = true;
    }

    fn store(&mut self, text: &str) -> Span {
        let start = u32::try_from(self.batch.bytes.len()).unwrap_or(u32::MAX);
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.batch.bytes.push_str(text);
        Span { start, len }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.batch.texts.truncate(self.texts_from);
            self.batch.numbers.truncate(self.numbers_from);
            self.batch.bytes.truncate(self.bytes_from);
        }
    }
}

/// One transaction of a batch.
#[derive(Debug, Clone, Copy)]
pub struct TransactionRef<'a> {
    batch: &'a TransactionBatch,
    index: usize,
}

impl<'a> TransactionRef<'a> {
    fn row(&self) -> &'a Row {
        #[expect(clippy::indexing_slicing, reason = "`get` and `iter` checked the index")]
        &self.batch.rows[self.index]
    }

    #[must_use]
    pub fn id(&self) -> &'a str {
        self.batch.span(self.row().id).unwrap_or_default()
    }

    #[must_use]
    pub fn event_time(&self) -> EventTime {
        self.row().event_time
    }

    /// Minor units of [`currency`](Self::currency).
    #[must_use]
    pub fn amount(&self) -> i64 {
        self.row().amount
    }

    /// Minor units of the base currency: what features and thresholds work on.
    #[must_use]
    pub fn base_amount(&self) -> i64 {
        self.row().base_amount
    }

    #[must_use]
    pub fn currency(&self) -> Currency {
        self.row().currency
    }

    /// The field's text, or `None` where the transaction has none.
    #[must_use]
    pub fn text(&self, field: TextField) -> Option<&'a str> {
        let width = self.batch.schema.texts().len();
        let span = self.batch.texts.get(self.index * width + usize::from(field.0))?;
        self.batch.span(*span)
    }

    /// The text fields the transaction has, with their names.
    pub fn texts(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let this = *self;
        let names = this.batch.schema.texts().iter().enumerate();
        names.filter_map(move |(at, name)| {
            let field = TextField(u16::try_from(at).ok()?);
            Some((name.as_str(), this.text(field)?))
        })
    }

    /// The field's number, NaN where the transaction has none.
    #[must_use]
    pub fn number(&self, field: NumberField) -> f64 {
        let width = self.batch.schema.numbers().len();
        self.batch.numbers.get(self.index * width + usize::from(field.0)).copied().unwrap_or(f64::NAN)
    }
}
