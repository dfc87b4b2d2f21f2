//! Which events a transaction's label belongs to.
//!
//! Every transaction is added, and one in a hundred is ever looked up: adding must cost next to nothing. Rows
//! are appended in the order they came, and their numbers to one of many short lists by a part of the id: a
//! look-up reads one list from its start to its end.

use std::collections::VecDeque;

use super::blocks::Blocks;
use crate::transaction::EventTime;

/// Lists of numbers: with ten million transactions each has some 2,400.
const LISTS: usize = 4_096;

/// A transaction as an entity with fraud features remembers it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Labelled {
    pub time: EventTime,
    pub id: u64,
    pub entity: u16,
    /// What is known of it so far.
    pub fraud: bool,
    pub key: u128,
}

/// Transactions that a label can still change, in the order they came.
#[derive(Debug)]
pub(super) struct LabelIndex {
    rows: Blocks<Labelled>,
    /// The number of the first row since the start.
    first: u64,
    /// By a part of the id: another part of it, and the row's number.
    lists: Vec<VecDeque<(u32, u32)>>,
}

impl Default for LabelIndex {
    fn default() -> Self {
        Self { rows: Blocks::default(), first: 0, lists: (0..LISTS).map(|_| VecDeque::new()).collect() }
    }
}

impl LabelIndex {
    pub fn add(&mut self, id: u64, time: EventTime, entity: usize, key: u128) {
        let Ok(entity) = u16::try_from(entity) else { return };
        self.push(Labelled { time, id, entity, fraud: false, key });
    }

    /// Adds a row as it was when it was saved.
    pub fn push(&mut self, row: Labelled) {
        let number = self.first + self.rows.len() as u64;
        if let Some(list) = self.lists.get_mut(list(row.id)) {
            list.push_back((tag(row.id), low(number)));
        }
        self.rows.push_back(row);
    }

    /// The rows as they are now, whatever becomes of them later.
    pub fn rows(&self) -> Blocks<Labelled> {
        self.rows.clone()
    }

    /// Where a transaction is remembered, with what was known of it before; from now on `fraud` is.
    pub fn label(&mut self, id: u64, fraud: bool) -> Vec<Labelled> {
        let mut found = Vec::new();
        let Some(list) = self.lists.get(list(id)) else { return found };
        for (_, number) in list.iter().filter(|(known, _)| *known == tag(id)) {
            // Fewer than 2^32 rows are remembered at a time: the low half tells them apart.
            let place = number.wrapping_sub(low(self.first)) as usize;
            let Some(row) = self.rows.get(place).filter(|row| row.id == id).copied() else { continue };
            found.push(row);
            if row.fraud != fraud
                && let Some(row) = self.rows.get_mut(place)
            {
                row.fraud = fraud;
            }
        }
        found
    }

    /// Forgets transactions at or before `until`, as far as none before them is newer.
    pub fn forget(&mut self, until: EventTime) {
        while let Some(Labelled { id, .. }) = self.rows.get(0).filter(|row| row.time <= until).copied() {
            // Numbers in a list are in order: the first row's is the first of its list.
            self.lists.get_mut(list(id)).map(VecDeque::pop_front);
            self.rows.pop_front();
            self.first += 1;
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let lists = self.lists.iter().map(|list| list.capacity() * 8 + size_of::<VecDeque<(u32, u32)>>());
        self.rows.memory_bytes() + lists.sum::<usize>()
    }
}

fn list(id: u64) -> usize {
    (id >> 52) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "the low half")]
fn tag(id: u64) -> u32 {
    id as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the low half")]
fn low(number: u64) -> u32 {
    number as u32
}
