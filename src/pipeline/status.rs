//! How the pipeline is doing, as counters that any thread may read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::engine::{Decision, Fate};
use crate::policy::Verdict;
use crate::tally::Tally;

/// Totals since the start, and what stands in the way now.
#[derive(Debug)]
pub struct Status {
    pub allowed: AtomicU64,
    pub reviewed: AtomicU64,
    pub blocked: AtomicU64,
    pub late: AtomicU64,
    pub duplicates: AtomicU64,
    pub quarantined: AtomicU64,
    /// Tries to keep a refused record that failed; each is tried until it succeeds.
    pub quarantine_failures: AtomicU64,
    pub labels: AtomicU64,
    /// Verdicts by rules alone, of payments that could not be taken.
    pub degraded: AtomicU64,
    /// Entries in the journal, also those that are not durable yet.
    pub journal_entries: AtomicU64,
    /// Snapshots taken and given up; the last one's bytes and the journal entry it begins at.
    pub snapshots: AtomicU64,
    pub snapshots_failed: AtomicU64,
    pub snapshot_bytes: AtomicU64,
    pub snapshot_entry: AtomicU64,
    /// Messages sent to the engine, and those it has taken.
    sent: AtomicU64,
    taken: AtomicU64,
    /// How long the engine thread takes to decide, journal and publish a batch.
    pub batch_seconds: Tally,
    /// Records a batch.
    pub batch_size: Tally,
    /// How long the disk takes to make batches durable.
    pub flush_seconds: Tally,
    stalled: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            allowed: AtomicU64::default(),
            reviewed: AtomicU64::default(),
            blocked: AtomicU64::default(),
            late: AtomicU64::default(),
            duplicates: AtomicU64::default(),
            quarantined: AtomicU64::default(),
            quarantine_failures: AtomicU64::default(),
            labels: AtomicU64::default(),
            degraded: AtomicU64::default(),
            journal_entries: AtomicU64::default(),
            snapshots: AtomicU64::default(),
            snapshots_failed: AtomicU64::default(),
            snapshot_bytes: AtomicU64::default(),
            snapshot_entry: AtomicU64::default(),
            sent: AtomicU64::default(),
            taken: AtomicU64::default(),
            batch_seconds: Tally::of_times(),
            batch_size: Tally::of_sizes(),
            flush_seconds: Tally::of_times(),
            stalled: AtomicBool::default(),
            trouble: Mutex::default(),
        }
    }
}

impl Status {
    pub fn decided(&self, decision: &Decision) {
        let counter = match decision.fate {
            Fate::Duplicate { .. } => {
                self.duplicates.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Fate::Future | Fate::Refused => return,
            Fate::Decided | Fate::Late => match decision.verdict {
                Verdict::Allow => &self.allowed,
                Verdict::Review => &self.reviewed,
                Verdict::Block => &self.blocked,
            },
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if decision.fate == Fate::Late {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn quarantined(&self, records: u64) {
        self.quarantined.fetch_add(records, Ordering::Relaxed);
    }

    pub fn labels(&self, labels: u64) {
        self.labels.fetch_add(labels, Ordering::Relaxed);
    }

    /// The journal holds this many entries now.
    pub fn journalled(&self, entries: u64) {
        self.journal_entries.store(entries, Ordering::Relaxed);
    }

    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages that wait for the engine: roughly, while others send and it takes.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        // In this order: what is taken in between makes it too low, never wildly high.
        let sent = self.sent.load(Ordering::Relaxed);
        sent.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// The quarantine does not take a record.
    pub fn quarantine_failed(&self, error: &std::io::Error) {
        self.quarantine_failures.fetch_add(1, Ordering::Relaxed);
        self.stalled("the quarantine", error);
    }

    /// `what` (the journal, the quarantine) cannot be written; said once in the log until it can again.
    pub fn stalled(&self, what: &str, error: &std::io::Error) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("{what} cannot be written: {error}"));
        if !self.stalled.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "{what} cannot be written: paused until it can");
        }
    }

    pub fn resumed(&self) {
        if self.stalled.load(Ordering::Relaxed) && self.stalled.swap(false, Ordering::Relaxed) {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
            tracing::info!("it can be written again: going on");
        }
    }

    /// Why nothing can be taken now, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Transactions decided, duplicates not counted.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        [&self.allowed, &self.reviewed, &self.blocked].iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}
