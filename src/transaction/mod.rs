//! A payment attempt in Caddis's own words. Imports nothing of the rest.

mod batch;
pub mod money;
mod refusal;
pub mod schema;

pub use batch::{Draft, EVENT_TIMES, EventTime, Kept, MAX_TEXT_BYTES, TransactionBatch, TransactionRef};
pub use money::Currency;
pub use refusal::{Refusal, Why, shorten};
pub use schema::{Field, NumberField, Schema, TextField};

/// Where a record stands in its source: the order inside a partition is the source's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    pub partition: u32,
    /// Counted from 0; the offset of the *next* record is one more.
    pub offset: u64,
}
