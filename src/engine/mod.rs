//! Decides: features, score, verdict. Start reading here.
//!
//! [`Engine::decide`] takes a [`Batch`] whose pieces are decoded and prepared, and decides it in four steps:
//! admission in order; entity state and features, each worker owning the entities that fall to it and
//! walking the whole batch in order; scores, a run of rows a worker; verdicts. Every transaction sees
//! exactly the state left by all before it, whatever the number of threads or the cuts between batches.
//!
//! Nothing here reads a clock, draws a random number, does I/O or depends on the order of a hash table.

mod admission;
mod batch;
mod decision;
mod matrix;
mod pool;
mod save;

use std::sync::Arc;

pub use admission::{AdmissionBook, AdmissionCounts, AdmissionSettings, First, Standing};
pub use batch::{Batch, Piece};
pub use decision::{Decision, Fate};
pub use matrix::Matrix;
pub use pool::in_parallel;
pub use save::{Frozen, Part};

use crate::features::{Admission, FeatureSet, FeatureShards, KeyedHasher, Memory, Profile};
use crate::models::Model;
use crate::models::scorer::Scratch;
use crate::policy::{Policy, Thresholds};
use crate::transaction::EventTime;

/// What decides: replaced as a whole, between two batches.
#[derive(Clone)]
pub struct Brain {
    pub features: Arc<FeatureSet>,
    /// Without a model only the rules decide, and nothing has a score.
    pub model: Option<Arc<Model>>,
    pub policy: Arc<Policy>,
    pub thresholds: Thresholds,
}

/// How the engine works; none of it changes a decision, but for admission's.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Threads to decide with, 1 or more.
    pub threads: usize,
    pub admission: AdmissionSettings,
    /// The key of every identifier's hash: state holds no raw identifier.
    pub key: [u8; 16],
}

/// Everything that changes from one transaction to the next.
pub struct Engine {
    brain: Brain,
    settings: EngineSettings,
    hasher: KeyedHasher,
    book: AdmissionBook,
    shards: Vec<FeatureShards>,
    /// While a snapshot is taken: whose entities are walked.
    walking: usize,
}

/// Batches below this are decided on one thread: waking another costs more than it saves.
const PARALLEL_FROM: usize = 256;

/// Transactions whose ids are looked up together, ahead of their turn.
const AHEAD: usize = 32;

impl Engine {
    #[must_use]
    pub fn new(brain: Brain, settings: EngineSettings) -> Self {
        let workers = settings.threads.max(1);
        let lateness = settings.admission.allowed_lateness;
        let shards = (0..workers)
            .map(|worker| FeatureShards::new(Arc::clone(&brain.features), worker, workers, lateness))
            .collect();
        let hasher = KeyedHasher::new(settings.key);
        Self { brain, settings, hasher, book: AdmissionBook::new(settings.admission), shards, walking: 0 }
    }

    #[must_use]
    pub fn brain(&self) -> &Brain {
        &self.brain
    }

    #[must_use]
    pub fn hasher(&self) -> &KeyedHasher {
        &self.hasher
    }

    #[must_use]
    pub fn counts(&self) -> AdmissionCounts {
        self.book.counts()
    }

    #[must_use]
    pub fn threads(&self) -> usize {
        self.shards.len()
    }

    /// Hashes the identifiers of a decoded piece: part of decoding, so that threads share the work.
    pub fn prepare(&self, piece: &mut Piece) {
        piece.prepared.fill(&self.brain.features, &self.hasher, &piece.transactions);
    }

    /// The newest event time seen.
    #[must_use]
    pub fn newest(&self) -> Option<EventTime> {
        self.book.newest()
    }

    /// Decides every transaction of `batch`, in order. Afterwards `batch.decisions` has one a
    /// transaction and `batch.features` one row a transaction.
    pub fn decide(&mut self, batch: &mut Batch) {
        let rows = batch.rows();
        let width = self.brain.features.len();
        batch.features.reset(rows, width);
        batch.decisions.clear();
        batch.decisions.resize(rows, Decision::none(Fate::Decided));
        self.admit(batch);
        let Batch { pieces, features, decisions, .. } = batch;
        if self.shards.len() == 1 || rows < PARALLEL_FROM {
            for (worker, shards) in self.shards.iter_mut().enumerate() {
                walk(&self.brain.features, shards, worker, self.settings.threads, pieces, features);
            }
            judge(&self.brain, pieces, features, 0, decisions);
            return;
        }
        let (brain, workers) = (&self.brain, self.shards.len());
        let run = rows.div_ceil(workers);
        let barrier = std::sync::Barrier::new(workers);
        let jobs =
            self.shards.iter_mut().zip(decisions.chunks_mut(run).map(Some).chain(std::iter::repeat_with(|| None)));
        let jobs = jobs.enumerate().map(|(worker, (shards, decisions))| {
            let (pieces, features, barrier) = (&*pieces, &*features, &barrier);
            move || {
                walk(&brain.features, shards, worker, workers, pieces, features);
                barrier.wait();
                if let Some(decisions) = decisions {
                    judge(brain, pieces, features, worker * run, decisions);
                }
            }
        });
        in_parallel(jobs);
    }

    /// Applies a label: from here on features know that this transaction was, or was not, fraud.
    pub fn label(&mut self, transaction_id: &str, fraud: bool) -> bool {
        let id = self.hasher.transaction_id(transaction_id);
        // Every worker looks: each owns some of the entities the transaction touched.
        self.shards.iter_mut().fold(false, |known, shards| shards.label(id, fraud) | known)
    }

    /// The live features of one entity.
    #[must_use]
    pub fn profile(&self, kind: &str, id: &[&str]) -> Option<Profile> {
        self.shards.iter().find_map(|shards| shards.profile(&self.hasher, kind, id))
    }

    /// Puts another brain in force. Its feature set must be the one in force, or state would not fit.
    ///
    /// # Errors
    /// The fingerprint of the feature set is another.
    pub fn replace(&mut self, brain: Brain) -> Result<(), Brain> {
        if brain.features.fingerprint() != self.brain.features.fingerprint() {
            return Err(brain);
        }
        self.brain = Brain { features: Arc::clone(&self.brain.features), ..brain };
        Ok(())
    }

    /// What entity state holds.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.shards.iter().map(FeatureShards::memory).fold(Memory::default(), |all, one| all + one)
    }

    fn admit(&mut self, batch: &mut Batch) {
        let arrival = batch.arrival;
        let mut decisions = batch.decisions.iter_mut();
        for piece in &mut batch.pieces {
            piece.admissions.clear();
            for (row, decision) in (0..piece.transactions.len()).zip(decisions.by_ref()) {
                if row.is_multiple_of(AHEAD) {
                    let ahead = row..piece.transactions.len().min(row + AHEAD);
                    let seen = ahead.fold(0, |all, row| all ^ self.book.touch(piece.prepared.id_hash(row)));
                    std::hint::black_box(seen);
                }
                let transaction = piece.transactions.get(row);
                let id = piece.prepared.id_hash(row);
                let offset = piece.offsets.get(row).copied().unwrap_or_default();
                let standing = self.book.admit(piece.partition, offset, id, transaction.event_time(), arrival);
                let (admission, fate) = match standing {
                    Standing::Admitted => (Admission::Admit, Fate::Decided),
                    Standing::Late => (Admission::Late, Fate::Late),
                    Standing::Duplicate(First { partition, offset }) => {
                        (Admission::Skip, Fate::Duplicate { partition, offset })
                    }
                    Standing::Future => (Admission::Skip, Fate::Future),
                };
                piece.admissions.push(admission);
                decision.fate = fate;
            }
        }
    }
}

/// One worker's share of the features: its own entities over all pieces, and the row features of some.
fn walk(
    set: &FeatureSet,
    shards: &mut FeatureShards,
    worker: usize,
    workers: usize,
    pieces: &[Piece],
    features: &Matrix,
) {
    let mut first_row = 0;
    for (index, piece) in pieces.iter().enumerate() {
        let mut sink = features.sink(first_row);
        if index % workers.max(1) == worker {
            set.row_features(&piece.transactions, &piece.admissions, &mut sink);
        }
        shards.apply(&piece.transactions, &piece.prepared, &piece.admissions, &mut sink);
        first_row += piece.transactions.len();
    }
}

/// Rows scored at a time: enough to keep a tree in the cache over them.
const BLOCK: usize = 256;

/// Scores and judges the rows from `first` on, one a decision.
fn judge(brain: &Brain, pieces: &[Piece], features: &Matrix, first: usize, decisions: &mut [Decision]) {
    let width = features.width();
    let mut scores = vec![f64::NAN; BLOCK.min(decisions.len())];
    let mut rows = Vec::with_capacity(scores.len() * width);
    let mut scratch = brain.model.as_ref().map(|_| Scratch::default());
    let mut transactions = pieces.iter().flat_map(|piece| piece.transactions.iter()).skip(first);
    let mut row = first;
    for block in decisions.chunks_mut(BLOCK) {
        features.copy_rows(row..row + block.len(), &mut rows);
        let scores = scores.get_mut(..block.len()).unwrap_or_default();
        if let (Some(model), Some(scratch)) = (&brain.model, &mut scratch) {
            model.score_block(&rows, width, scores, scratch);
        }
        let values = rows.chunks_exact(width.max(1)).map(Some).chain(std::iter::repeat(None));
        for (((decision, score), values), transaction) in
            block.iter_mut().zip(scores.iter()).zip(values).zip(transactions.by_ref())
        {
            if matches!(decision.fate, Fate::Decided | Fate::Late) {
                let judgement = brain.policy.judge(transaction, values.unwrap_or_default(), *score, brain.thresholds);
                decision.score = *score;
                decision.verdict = judgement.verdict;
                decision.rules = judgement.rules;
            }
        }
        row += block.len();
    }
}
