//! Exact sliding-window features of entities, per event.
//!
//! A [`FeatureSet`] says which features over which entities; [`FeatureShards`] keeps the state and writes a
//! row of features a transaction. For a transaction at event time *t*, a window of length *w* delayed by
//! *d* covers the entity's transactions in (*t − d − w*, *t − d*], among those that came before it in the
//! order, itself included (when *d* = 0) unless the feature says `current = "exclude"`.
//!
//! Nothing older than an entity's longest reach (the largest *d + w*) is seen by any of its features.

mod aggregate;
mod arena;
mod blocks;
mod entity;
mod geo;
mod hash;
mod labels;
mod large;
#[cfg(test)]
mod oracle;
mod phrase;
mod row;
mod running;
mod save;
mod set;
mod shards;
mod sketch;
mod tiles;

pub use aggregate::Aggregate;
pub use blocks::Blocks;
pub use hash::{KeyedHasher, Prepared};
pub use save::SavedLabels;
pub use set::{EXACT_EVENTS, FeatureKind, FeatureSet};
pub use shards::{FeatureShards, Memory, Profile};

/// How a transaction takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Features are worked out and the transaction is remembered.
    Admit,
    /// Features are worked out; the transaction changes nothing.
    Late,
    /// Neither: a duplicate. Its row stays missing.
    Skip,
}

/// Where features go. A cell that is never written is NaN: missing.
pub trait RowSink {
    fn put(&mut self, row: usize, slot: usize, value: f64);
}

/// Rows one after the other, `width` cells each.
#[derive(Debug)]
pub struct PlainRows<'a> {
    pub cells: &'a mut [f64],
    pub width: usize,
}

impl RowSink for PlainRows<'_> {
    fn put(&mut self, row: usize, slot: usize, value: f64) {
        if let Some(cell) = self.cells.get_mut(row * self.width + slot) {
            *cell = value;
        }
    }
}
