//! Which events a transaction's label belongs to.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::transaction::EventTime;

/// Parts of the index: growing one of many stalls a batch for a moment only.
const PARTS: usize = 256;

/// A transaction as an entity with fraud features remembers it.
#[derive(Debug, Clone, Copy)]
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
    rows: VecDeque<Labelled>,
    /// The number of the first row since the start.
    first: u64,
    /// By id: numbers of rows; an id has one for each entity it touched.
    parts: Vec<HashTable<u64>>,
}

impl Default for LabelIndex {
    fn default() -> Self {
        Self { rows: VecDeque::new(), first: 0, parts: (0..PARTS).map(|_| HashTable::new()).collect() }
    }
}

impl LabelIndex {
    pub fn add(&mut self, id: u64, time: EventTime, entity: usize, key: u128) {
        let Ok(entity) = u16::try_from(entity) else { return };
        let number = self.first + self.rows.len() as u64;
        if self.rows.len() == self.rows.capacity() {
            self.rows.reserve_exact((self.rows.len() / 8).max(1_024));
        }
        self.rows.push_back(Labelled { time, id, entity, fraud: false, key });
        let (first, rows) = (self.first, &self.rows);
        if let Some(part) = self.parts.get_mut(part(id)) {
            part.insert_unique(id, number, |number| row(rows, first, *number).map_or(0, |row| row.id));
        }
    }

    /// Where a transaction is remembered, with what was known of it before; from now on `fraud` is.
    pub fn label(&mut self, id: u64, fraud: bool) -> Vec<Labelled> {
        let Some(part) = self.parts.get(part(id)) else { return Vec::new() };
        let mut found = Vec::new();
        for number in part.iter_hash(id) {
            let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
            if let Some(row) = place.and_then(|place| self.rows.get_mut(place)).filter(|row| row.id == id) {
                found.push(*row);
                row.fraud = fraud;
            }
        }
        found
    }

    /// Forgets transactions at or before `until`, as far as none before them is newer.
    pub fn forget(&mut self, until: EventTime) {
        while let Some(Labelled { id, .. }) = self.rows.front().filter(|row| row.time <= until).copied() {
            let number = self.first;
            if let Some(part) = self.parts.get_mut(part(id))
                && let Ok(found) = part.find_entry(id, |at| *at == number)
            {
                found.remove();
            }
            self.rows.pop_front();
            self.first += 1;
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.capacity() * 9);
        self.rows.capacity() * size_of::<Labelled>() + parts.sum::<usize>()
    }
}

fn row(rows: &VecDeque<Labelled>, first: u64, number: u64) -> Option<&Labelled> {
    rows.get(usize::try_from(number.checked_sub(first)?).ok()?)
}

/// By bits that the tables do not use.
#[expect(clippy::cast_possible_truncation, reason = "eight bits")]
fn part(id: u64) -> usize {
    usize::from((id >> 32) as u8)
}
