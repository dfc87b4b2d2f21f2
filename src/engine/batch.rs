//! What the engine is given and gives back, with its memory reused from batch to batch.

use std::sync::Arc;

use super::{Decision, Matrix};
use crate::features::{Admission, Prepared};
use crate::transaction::{EventTime, Schema, TransactionBatch};

/// Transactions in the order in which they are to be decided.
#[derive(Debug)]
pub struct Batch {
    pub pieces: Vec<Piece>,
    /// When they came in, milliseconds since 1970; `i64::MAX` for recorded streams.
    pub arrival: EventTime,
    /// One row a transaction, after [`decide`](super::Engine::decide).
    pub features: Matrix,
    /// One a transaction, after [`decide`](super::Engine::decide).
    pub decisions: Vec<Decision>,
}

/// A run of transactions of one partition: what one thread decodes and prepares.
#[derive(Debug)]
pub struct Piece {
    pub partition: u32,
    pub transactions: TransactionBatch,
    /// The offset of each transaction: refused records leave gaps.
    pub offsets: Vec<u64>,
    /// Hashes of the identifiers, made by [`Prepared::fill`] once the transactions are in.
    pub prepared: Prepared,
    pub(super) admissions: Vec<Admission>,
}

impl Piece {
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        Self {
            partition: 0,
            transactions: TransactionBatch::new(schema),
            offsets: Vec::new(),
            prepared: Prepared::default(),
            admissions: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.transactions.clear();
        self.offsets.clear();
        self.admissions.clear();
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { pieces: Vec::new(), arrival: EventTime::MAX, features: Matrix::default(), decisions: Vec::new() }
    }
}

impl Batch {
    /// Transactions in all pieces.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.pieces.iter().map(|piece| piece.transactions.len()).sum()
    }

    /// The piece of a row and its place inside, for rows below [`rows`](Self::rows).
    #[must_use]
    pub fn locate(&self, row: usize) -> Option<(&Piece, usize)> {
        let mut before = 0;
        for piece in &self.pieces {
            let end = before + piece.transactions.len();
            if row < end {
                return Some((piece, row - before));
            }
            before = end;
        }
        None
    }
}
