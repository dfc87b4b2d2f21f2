//! Identifiers become keyed hashes before any state sees them.

use std::hash::Hasher;

use siphasher::sip::SipHasher13 as Sip64;
use siphasher::sip128::{Hasher128, SipHasher13 as Sip128};

use super::FeatureSet;
use crate::transaction::TransactionBatch;

/// SipHash-1-3 (Aumasson and Bernstein, 2012), a key of its own for each field: 128 bits of output for what
/// entities are known by, 64 for transactions' ids and for values that are only compared.
#[derive(Debug, Clone)]
pub struct KeyedHasher {
    key: [u8; 16],
    ids: Sip64,
}

/// Stands for a field that a transaction does not have. A real hash is never 0.
pub(super) const ABSENT: u128 = 0;

impl KeyedHasher {
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        let ids = Sip64::new_with_key(&domain_key(&key, "transaction_id"));
        Self { key, ids }
    }

    /// The hash of a transaction's id.
    #[must_use]
    pub fn transaction_id(&self, id: &str) -> u64 {
        self.ids.hash(id.as_bytes()).max(1)
    }

    /// The key of an entity over one or more fields; `None` if a value is missing.
    pub(super) fn entity(&self, fields: &[&str], values: &[&str]) -> Option<u128> {
        if fields.len() != values.len() {
            return None;
        }
        let mut hashes = fields.iter().zip(values).map(|(field, value)| hash(&self.domain(field), value));
        if fields.len() == 1 { hashes.next() } else { Some(self.combine(hashes)) }
    }

    pub(super) fn domain(&self, field: &str) -> Sip128 {
        Sip128::new_with_key(&domain_key(&self.key, field))
    }

    /// For a field whose values are only compared.
    fn short_domain(&self, field: &str) -> Sip64 {
        Sip64::new_with_key(&domain_key(&self.key, field))
    }

    pub(super) fn combine(&self, hashes: impl Iterator<Item = u128>) -> u128 {
        let mut hasher = Sip128::new_with_key(&self.key);
        for hash in hashes {
            hasher.write(&hash.to_le_bytes());
        }
        hasher.finish128().as_u128().max(1)
    }
}

/// The key of a field's own hashes.
fn domain_key(key: &[u8; 16], field: &str) -> [u8; 16] {
    Sip128::new_with_key(key).hash(field.as_bytes()).as_u128().to_le_bytes()
}

fn hash(domain: &Sip128, text: &str) -> u128 {
    // One call to `hash` instead of `write` and `finish`: no state is carried from value to value.
    domain.hash(text.as_bytes()).as_u128().max(1)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half of a hash is a hash")]
pub(super) fn low(hash: u128) -> u64 {
    hash as u64
}

/// The hashes of a batch: made once, in the parallel phase that decodes.
#[derive(Debug, Default)]
pub struct Prepared {
    rows: usize,
    ids: Vec<u64>,
    /// Field by field (in the set's order), a hash a row; 64 bits of it where the field is no entity's key.
    fields: Vec<u128>,
    /// Entity by entity (in the set's order), a key a row.
    keys: Vec<u128>,
}

impl Prepared {
    /// Hashes what `set` needs of every transaction.
    pub fn fill(&mut self, set: &FeatureSet, hasher: &KeyedHasher, batch: &TransactionBatch) {
        self.rows = batch.len();
        self.ids.clear();
        self.ids.extend(batch.iter().map(|transaction| hasher.transaction_id(transaction.id())));
        self.fields.clear();
        for (at, (field, name)) in set.hashed.iter().enumerate() {
            let texts = batch.iter().map(|transaction| transaction.text(*field));
            if set.entities.iter().any(|entity| entity.key_fields.contains(&at)) {
                let domain = hasher.domain(name);
                self.fields.extend(texts.map(|text| text.map_or(ABSENT, |text| hash(&domain, text))));
            } else {
                let domain = hasher.short_domain(name);
                let short = |text: &str| u128::from(domain.hash(text.as_bytes()).max(1));
                self.fields.extend(texts.map(|text| text.map_or(ABSENT, short)));
            }
        }
        self.keys.clear();
        for entity in &set.entities {
            if let [one] = entity.key_fields.as_slice() {
                self.keys.extend_from_slice(column(&self.fields, *one, self.rows));
                continue;
            }
            for row in 0..self.rows {
                let of = |field: &usize| column(&self.fields, *field, self.rows).get(row).copied().unwrap_or(ABSENT);
                let whole = entity.key_fields.iter().all(|field| of(field) != ABSENT);
                self.keys.push(if whole { hasher.combine(entity.key_fields.iter().map(of)) } else { ABSENT });
            }
        }
    }

    /// The hash of the id of the transaction at `row`.
    #[must_use]
    pub fn id_hash(&self, row: usize) -> u64 {
        self.ids.get(row).copied().unwrap_or_default()
    }

    /// The keys of an entity, a row each.
    pub(super) fn keys(&self, entity: usize) -> &[u128] {
        column(&self.keys, entity, self.rows)
    }

    /// The hash of a field's value, by the field's place in the set.
    pub(super) fn value(&self, field: usize, row: usize) -> u64 {
        low(self.fields.get(field * self.rows + row).copied().unwrap_or(ABSENT))
    }
}

fn column(all: &[u128], index: usize, rows: usize) -> &[u128] {
    all.get(index * rows..(index + 1) * rows).unwrap_or_default()
}
