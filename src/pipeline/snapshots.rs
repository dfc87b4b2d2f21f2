//! Snapshots of state, taken while the engine decides: between two batches some entities are handed to a
//! thread of their own, which writes them.
//!
//! A snapshot *begins* at an entry of the journal, where all but the entities is frozen, and *ends* at a later one, when
//! the last entity was handed over. Whoever loads it follows the journal from the beginning; decisions before the
//! end are taken from the journal as they were made.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};

use serde::{Deserialize, Serialize};

use super::ports::{Flush, Records};
use super::processor::Processor;
use super::recent::Recent;
use super::recovery::Resume;
use super::service::Shared;
use crate::clock::Stopwatch;
use crate::engine::{Decision, Fate, Frozen, Part};
use crate::policy::Verdict;
use crate::transaction::Position;

/// The kind of the piece that ends a snapshot.
pub const END: u8 = 0;
const HEAD: u8 = 1;
const RECENT: u8 = 2;

/// Where snapshots are kept.
pub trait SnapshotStore: Send {
    /// A new one, which begins at this entry of the journal; what was not finished before is gone.
    ///
    /// # Errors
    /// The disk refused.
    fn begin(&mut self, begin: u64) -> io::Result<Box<dyn Pieces>>;
}

/// A snapshot that is being written.
pub trait Pieces: Send {
    /// # Errors
    /// The disk refused.
    fn put(&mut self, kind: u8, payload: &[u8]) -> io::Result<()>;

    /// Makes it durable, in place of the oldest where there are enough; how many bytes it has.
    ///
    /// # Errors
    /// The disk refused: there is no snapshot.
    fn finish(self: Box<Self>) -> io::Result<u64>;
}

/// What state depends on besides the journal: a snapshot of another identity is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The feature set's fingerprint.
    pub features: String,
    /// The settings of the stream, and a hash that tells the key of identifiers.
    pub settings: String,
}

/// The first piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub identity: Identity,
    /// Where each partition goes on: partition, offset, cursor.
    pub resume: Vec<(u32, u64, u64)>,
}

/// What the engine thread hands over.
pub enum Job {
    Begin { begin: u64, head: Head, frozen: Box<Frozen> },
    Entities(Vec<u8>),
    Finish { end: u64, flush: Box<dyn Flush> },
}

/// Bytes of entities handed over between two batches: a tenth of a millisecond's work.
const SLICE: usize = 256 * 1024;

/// The engine thread's part.
pub struct Snapshots {
    jobs: SyncSender<Job>,
    identity: Identity,
    every_ms: i64,
    due_ms: Option<i64>,
    resume: BTreeMap<u32, Resume>,
    begun: Option<u64>,
    walking: bool,
    waiting: Option<Job>,
    finish: Option<Job>,
}

impl Snapshots {
    /// One every `every_ms` milliseconds, if there is anything new. `resume` is where partitions go on now.
    #[must_use]
    pub fn new(jobs: SyncSender<Job>, identity: Identity, every_ms: i64, resume: BTreeMap<u32, Resume>) -> Self {
        Self {
            jobs,
            identity,
            every_ms,
            due_ms: None,
            resume,
            begun: None,
            walking: false,
            waiting: None,
            finish: None,
        }
    }

    /// Whether a snapshot is being taken: [`step`](Self::step) is to be called even when nothing comes in.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.walking || self.waiting.is_some() || self.finish.is_some()
    }

    /// Notes how far a partition was read.
    pub fn read(&mut self, records: &Records) {
        let offset = records.first_offset + records.len() as u64;
        self.resume.insert(records.partition, Resume { offset, cursor: records.cursor });
    }

    /// Goes on with a snapshot, or begins one when it is due; all that was decided is in the log.
    pub fn step(&mut self, processor: &mut Processor, now_ms: i64) {
        let entries = processor.log().next_sequence();
        if let Some(job) = self.waiting.take() {
            self.hand_over(job, processor);
        } else if self.walking
            && let Some(begin) = self.begun
        {
            let Ok(at) = u32::try_from(entries - begin) else { return self.give_up(processor) };
            let mut slice = Vec::with_capacity(SLICE + SLICE / 8);
            let more = processor.engine_mut().save_entities(at, SLICE, &mut slice);
            self.hand_over(Job::Entities(slice), processor);
            if !more && self.walking {
                self.walking = false;
                processor.engine_mut().thaw();
                let finish = Job::Finish { end: entries, flush: processor.log().flusher() };
                match self.waiting.take() {
                    // The last slice first: the finish follows with the next step.
                    Some(slice) => {
                        self.waiting = Some(slice);
                        self.finish = Some(finish);
                    }
                    None => self.hand_over(finish, processor),
                }
            }
        } else if let Some(finish) = self.finish.take() {
            self.hand_over(finish, processor);
        } else if now_ms >= *self.due_ms.get_or_insert(now_ms.saturating_add(self.every_ms)) {
            self.due_ms = Some(now_ms.saturating_add(self.every_ms));
            if self.begun != Some(entries) && entries > 0 {
                let resume = self.resume.iter().map(|(at, resume)| (*at, resume.offset, resume.cursor)).collect();
                let head = Head { identity: self.identity.clone(), resume };
                let frozen = Box::new(processor.engine_mut().freeze());
                (self.begun, self.walking) = (Some(entries), true);
                self.hand_over(Job::Begin { begin: entries, head, frozen }, processor);
            }
        }
    }

    /// What the writer has no room for waits for the next step: the engine never waits for the disk here.
    fn hand_over(&mut self, job: Job, processor: &mut Processor) {
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => self.waiting = Some(job),
            Err(TrySendError::Disconnected(_)) => self.give_up(processor),
        }
    }

    fn give_up(&mut self, processor: &mut Processor) {
        processor.engine_mut().thaw();
        (self.walking, self.waiting, self.finish) = (false, None, None);
        self.due_ms = Some(i64::MAX);
    }
}

/// The writer's part, a thread of its own.
pub struct Saver {
    pub jobs: Receiver<Job>,
    pub store: Box<dyn SnapshotStore>,
    pub shared: Arc<Shared>,
}

impl Saver {
    /// Writes until the engine thread is gone. A snapshot that fails is said and given up; the next is tried anew.
    pub fn run(mut self) {
        let mut taken: Option<(u64, Stopwatch, Box<dyn Pieces>)> = None;
        while let Ok(job) = self.jobs.recv() {
            let done = match (job, taken.take()) {
                (Job::Begin { begin, head, frozen }, _) => self.begin(begin, &head, &frozen).map(Some),
                (Job::Entities(slice), Some((begin, started, mut pieces))) => {
                    pieces.put(kind(Part::Entities), &slice).map(|()| Some((begin, started, pieces)))
                }
                (Job::Finish { end, flush }, Some((begin, started, pieces))) => {
                    self.finish(begin, end, &*flush, &started, pieces).map(|()| None)
                }
                // Given up already.
                (_, None) => Ok(None),
            };
            taken = done.unwrap_or_else(|error| {
                self.shared.status.snapshots_failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "a snapshot was given up; the next is tried when it is due");
                None
            });
        }
    }

    fn begin(&mut self, begin: u64, head: &Head, frozen: &Frozen) -> io::Result<(u64, Stopwatch, Box<dyn Pieces>)> {
        let started = Stopwatch::start();
        let mut pieces = self.store.begin(begin)?;
        pieces.put(HEAD, &postcard::to_stdvec(head).map_err(io::Error::other)?)?;
        frozen.write(|part, bytes| pieces.put(kind(part), bytes))?;
        Ok((begin, started, pieces))
    }

    fn finish(
        &self,
        begin: u64,
        end: u64,
        flush: &dyn Flush,
        started: &Stopwatch,
        mut pieces: Box<dyn Pieces>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (id, recent) in self.shared.recent.all() {
            remember(&mut bytes, id, &recent);
            if bytes.len() >= SLICE {
                pieces.put(RECENT, &bytes)?;
                bytes.clear();
            }
        }
        pieces.put(RECENT, &bytes)?;
        pieces.put(END, &end.to_le_bytes())?;
        // What it holds must not be undone by a power cut: first the journal, then the snapshot.
        flush.flush()?;
        let bytes = pieces.finish()?;
        let status = &self.shared.status;
        status.snapshots.fetch_add(1, Ordering::Relaxed);
        status.snapshot_bytes.store(bytes, Ordering::Relaxed);
        status.snapshot_entry.store(begin, Ordering::Relaxed);
        tracing::info!(entry = begin, end, bytes, seconds = started.elapsed().as_secs_f64(), "snapshot taken");
        Ok(())
    }
}

fn kind(part: Part) -> u8 {
    match part {
        Part::Book => 3,
        Part::Old => 4,
        Part::Young => 5,
        Part::Labels => 6,
        Part::Entities => 7,
    }
}

/// The first and the last piece of a snapshot, by which to tell whether it can be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ends {
    pub head: Option<Head>,
    pub end: Option<u64>,
}

impl Ends {
    /// Looks at a piece.
    pub fn see(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            HEAD => self.head = postcard::from_bytes(payload).ok(),
            END => self.end = payload.first_chunk::<8>().map(|end| u64::from_le_bytes(*end)),
            _ => {}
        }
    }
}

/// Takes in a piece of a snapshot. `processor` must be new.
///
/// # Errors
/// What is wrong with it.
pub fn load(kind_of: u8, payload: &[u8], processor: &mut Processor, shared: &Shared) -> Result<(), &'static str> {
    let parts = [Part::Book, Part::Old, Part::Young, Part::Labels, Part::Entities];
    match kind_of {
        END | HEAD => Ok(()),
        RECENT => {
            let mut rest = payload;
            while !rest.is_empty() {
                let (id, recent) = recall(&mut rest).ok_or("a decision ends in the middle")?;
                shared.recent.insert(id, recent);
            }
            Ok(())
        }
        other => match parts.into_iter().find(|part| kind(*part) == other) {
            Some(part) => processor.engine_mut().load(part, payload),
            None => Err("a piece of a kind that no build writes"),
        },
    }
}

fn remember(out: &mut Vec<u8>, id: u64, recent: &Recent) {
    let Recent { position, event_time, decided_by, decision, basis } = recent;
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&position.partition.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
    out.extend_from_slice(&event_time.to_le_bytes());
    out.extend_from_slice(&decided_by.to_le_bytes());
    out.push(u8::from(decision.fate == Fate::Late));
    out.push(decision.verdict as u8);
    out.extend_from_slice(&decision.score.to_le_bytes());
    out.extend_from_slice(&decision.rules.to_le_bytes());
    let features = basis.as_ref().map_or(&[][..], |basis| &basis.features);
    out.extend_from_slice(&u32::try_from(features.len()).unwrap_or_default().to_le_bytes());
    features.iter().for_each(|feature| out.extend_from_slice(&feature.to_le_bytes()));
}

fn recall(rest: &mut &[u8]) -> Option<(u64, Recent)> {
    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (bytes, after) = rest.split_first_chunk::<N>()?;
        *rest = after;
        Some(*bytes)
    }
    let id = u64::from_le_bytes(take(rest)?);
    let position = Position { partition: u32::from_le_bytes(take(rest)?), offset: u64::from_le_bytes(take(rest)?) };
    let (event_time, decided_by) = (i64::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
    let [late, verdict] = take::<2>(rest)?;
    let verdict = [Verdict::Allow, Verdict::Review, Verdict::Block].into_iter().find(|one| *one as u8 == verdict)?;
    let (score, rules) = (f64::from_le_bytes(take(rest)?), u128::from_le_bytes(take(rest)?));
    let count = u32::from_le_bytes(take(rest)?) as usize;
    let mut features = Vec::new();
    for _ in 0..count {
        features.push(f64::from_le_bytes(take(rest)?));
    }
    let fate = if late == 1 { Fate::Late } else { Fate::Decided };
    let decision = Decision { fate, verdict, score, rules };
    let basis = (!features.is_empty()).then(|| super::recent::Basis::new(features));
    Some((id, Recent { position, event_time, decided_by, decision, basis }))
}
