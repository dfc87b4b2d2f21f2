//! Of a row, what the trees look at: one integer a column, in the order of its numbers. Comparing integers
//! decides exactly as comparing the numbers does, and leaves room below and above them all for what is missing.
#![expect(clippy::indexing_slicing, reason = "a numeric kernel over structures that it laid out itself")]

use crate::models::compiled::{CategorySet, Node, Rule, Side, Tree, ZERO};
use hashbrown::HashMap;

/// Distinct tests of features at most: a row of them is 64 KiB.
pub(super) const MOST: usize = 8192;

/// What is looked at in one feature.
#[derive(Debug, Clone)]
enum Look {
    /// Its key; that of a value that is not finite is given.
    Imputed { missing: u64 },
    /// Its key; that of NaN is given.
    Number { missing: u64 },
    /// Its key; that of NaN and zero is given.
    ZeroMissing { missing: u64 },
    /// The lowest key inside the set, the highest outside; that of NaN is given.
    Among { set: CategorySet, missing: u64 },
}

#[derive(Debug, Clone)]
struct Column {
    slot: usize,
    look: Look,
}

/// Below the keys of all numbers.
const LOWEST: u64 = 0;
/// Above the keys of all numbers.
const HIGHEST: u64 = u64::MAX;

const fn extreme(side: Side) -> u64 {
    match side {
        Side::Left => LOWEST,
        Side::Right => HIGHEST,
    }
}

/// The columns of a model: one for each slot and rule that its trees split by.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    columns: Vec<Column>,
    by_test: HashMap<(u32, Rule), usize, foldhash::fast::FixedState>,
}

impl Columns {
    pub(super) fn of(trees: &[Tree], imputed: &[f64], sets: &[CategorySet]) -> Self {
        let mut columns = Self::default();
        for node in trees.iter().flat_map(|tree| &tree.nodes).filter(|node| !node.is_leaf()) {
            columns.by_test.entry((node.slot, node.rule)).or_insert_with(|| {
                let slot = node.slot as usize;
                let look = match node.rule {
                    Rule::Imputed => Look::Imputed { missing: key(imputed.get(slot).copied().unwrap_or_default()) },
                    Rule::AtMost { missing } => Look::Number { missing: extreme(missing) },
                    Rule::ZeroMissing { missing } => Look::ZeroMissing { missing: extreme(missing) },
                    Rule::Among { set, missing } => Look::Among {
                        set: sets.get(set as usize).cloned().unwrap_or_default(),
                        missing: extreme(missing),
                    },
                };
                columns.columns.push(Column { slot, look });
                columns.columns.len() - 1
            });
        }
        columns
    }

    pub(super) const fn len(&self) -> usize {
        self.columns.len()
    }

    /// The column and the greatest key that goes left.
    pub(super) fn test(&self, node: &Node) -> (u16, u64) {
        let column = self.by_test.get(&(node.slot, node.rule)).copied().unwrap_or_default();
        let threshold = if let Rule::Among { .. } = node.rule { LOWEST } else { key(node.threshold) };
        (u16::try_from(column).unwrap_or_default(), threshold)
    }

    #[inline]
    pub(super) fn keys(&self, row: &[f64], keys: &mut [u64]) {
        for (column, place) in self.columns.iter().zip(keys) {
            let value = row[column.slot];
            *place = match &column.look {
                Look::Imputed { missing } if !value.is_finite() => *missing,
                Look::ZeroMissing { missing } if value.is_nan() || value.abs() <= ZERO => *missing,
                Look::Number { missing } | Look::Among { missing, .. } if value.is_nan() => *missing,
                Look::Among { set, .. } => extreme(if set.contains(value) { Side::Left } else { Side::Right }),
                Look::Imputed { .. } | Look::Number { .. } | Look::ZeroMissing { .. } => key(value),
            };
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
