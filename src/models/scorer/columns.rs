//! Of a row, what the trees look at: one integer a column, in the order of its numbers. Comparing integers
//! decides exactly as comparing the numbers does, and leaves room below and above them all for what is missing.
#![expect(clippy::indexing_slicing, reason = "a numeric kernel over structures that it laid out itself")]

use crate::models::compiled::{Node, Tree};
use hashbrown::HashMap;

/// A feature, and what a missing value of it stands for.
#[derive(Debug, Clone, Copy)]
struct Column {
    slot: usize,
    /// The key of a value that is not finite.
    missing: u64,
}

/// The columns of a forest, one a slot that its trees split on.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    columns: Vec<Column>,
    by_slot: HashMap<u32, u16, foldhash::fast::FixedState>,
}

impl Columns {
    pub(super) fn of(trees: &[Tree], imputed: &[f64]) -> Self {
        let mut columns = Self::default();
        for node in trees.iter().flat_map(|tree| &tree.nodes).filter(|node| !node.is_leaf()) {
            columns.by_slot.entry(node.slot).or_insert_with(|| {
                let slot = node.slot as usize;
                let missing = key(imputed.get(slot).copied().unwrap_or_default());
                columns.columns.push(Column { slot, missing });
                u16::try_from(columns.columns.len() - 1).unwrap_or_default()
            });
        }
        columns
    }

    pub(super) const fn len(&self) -> usize {
        self.columns.len()
    }

    /// The column and the greatest key that goes left.
    pub(super) fn test(&self, node: &Node) -> (u16, u64) {
        (self.by_slot.get(&node.slot).copied().unwrap_or_default(), key(node.threshold))
    }

    #[inline]
    pub(super) fn keys(&self, row: &[f64], keys: &mut [u64]) {
        for (column, place) in self.columns.iter().zip(keys) {
            let value = row[column.slot];
            *place = if value.is_finite() { key(value) } else { column.missing };
        }
    }
}

/// An integer for each number, in the same order; both zeros are the same number.
#[inline]
pub(super) const fn key(value: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    // Adding zero turns -0 into 0.
    let bits = (value + 0.0).to_bits();
    // All ones for a negative number, whose magnitude counts downwards.
    bits ^ ((bits >> 63).wrapping_neg() | SIGN)
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn keys_are_in_the_order_of_numbers() {
        let numbers =
            [f64::MIN, -2.5, -1.0, -f64::MIN_POSITIVE, -5e-324, 0.0, 5e-324, 1.0, 1.0_f64.next_up(), f64::MAX];
        assert!(numbers.is_sorted_by(|a, b| key(*a) < key(*b)));
        assert_eq!(key(-0.0), key(0.0));
        assert!(key(f64::NEG_INFINITY) > 0 && key(f64::INFINITY) < u64::MAX, "room for what is missing");
    }
}
