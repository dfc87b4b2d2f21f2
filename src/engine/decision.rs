//! The central noun: what was decided for a transaction.

use crate::policy::Verdict;

/// What was decided for one record, small enough to be kept for every one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    pub fate: Fate,
    pub verdict: Verdict,
    /// The model's probability of fraud; NaN where nothing was scored.
    pub score: f64,
    /// The rules that matched, a bit each, in the order of the policy file.
    pub rules: u128,
}

impl Decision {
    /// The decision for a record that is none: refused, or too far ahead of its time.
    #[must_use]
    pub fn none(fate: Fate) -> Self {
        Self { fate, verdict: Verdict::Allow, score: f64::NAN, rules: 0 }
    }

    /// Whether somebody is to be told: it was decided now, and not allowed.
    #[must_use]
    pub fn alerts(&self) -> bool {
        matches!(self.fate, Fate::Decided | Fate::Late) && self.verdict != Verdict::Allow
    }
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Decided,
    /// Decided, but older than the allowed lateness: it changed no window.
    Late,
    /// Its id was decided before, at this position; that decision stands.
    Duplicate {
        partition: u32,
        offset: u64,
    },
    /// Too far ahead of its arrival; quarantined.
    Future,
    /// No transaction; quarantined.
    Refused,
}
