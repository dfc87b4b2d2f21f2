//! The live loop: whatever is waiting is taken as one batch, decided, journalled and published.
//!
//! Two threads: the *engine* thread runs [`Loop::run`], the *flusher* thread [`Flusher::run`]. The engine
//! goes on deciding while the flusher waits for the disk, so that one flush serves every batch that came
//! meanwhile (group commit). Both go on in turns, which a test may take one by one on a single thread.
//!
//! The order in which a batch becomes known: refused records go to the quarantine, then the entry to the journal,
//! then both are flushed, then it is answered, then its alerts go to the outbox. What a crash leaves is always
//! a beginning of that.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::entry::EntryHead;
use super::label::Label;
use super::ports::{Flush, Quarantine, Records};
use super::processor::{Intake, Outcome, Processor, Step};
use super::recent::{Basis, Recent, RecentDecisions};
use super::snapshots::Snapshots;
use super::status::Status;
use crate::clock::Stopwatch;
use crate::engine::{Decision, Engine, Fate};
use crate::transaction::{Currency, EventTime, Position, Refusal, TransactionRef};

/// When an answer may be given, and what a power cut can then take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the disk's own flush: nothing answered is ever lost.
    Flush,
    /// After the write; the disk is flushed at this interval. A killed process loses nothing, a power cut
    /// at most this much. Alerts still wait for the flush.
    Interval(Duration),
    /// After the write; the operating system flushes when it likes, some 30 s later. Alerts still wait for a
    /// flush, which is made for them.
    Os,
}

/// Something for the engine thread.
pub enum Message {
    /// Records to decide. `assign` gives them the next offsets of their partition.
    Records { intake: Intake, assign: bool, reply: Option<ReplyTo> },
    /// Labels, one JSON object a record.
    Labels { records: Records, reply: Option<LabelReplyTo> },
    /// A question about state, answered between two batches.
    Ask(Box<dyn FnOnce(&Engine) + Send>),
    /// Finish what was sent before this and stop.
    Stop,
}

/// Told for each label whether the features know its transaction.
pub type LabelReplyTo = Box<dyn FnOnce(Vec<Result<bool, Refusal>>) + Send>;

/// Told what became of each record.
pub type ReplyTo = Box<dyn FnOnce(Vec<RecordReply>) + Send>;

/// The answer for one record.
#[derive(Debug, Clone)]
pub enum RecordReply {
    Decided(Box<Answer>),
    Refused { position: Position, refusal: Refusal },
}

/// A decision with what its reader needs.
#[derive(Debug, Clone)]
pub struct Answer {
    pub transaction_id: String,
    pub recent: Recent,
}

/// A decision somebody is to be told of, with all that the alert says.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub sequence: u64,
    /// Which feature set, model and policy decided, as the journal says it.
    pub decided_by: u64,
    pub position: Position,
    pub transaction_id: String,
    pub event_time: EventTime,
    /// Minor units of `currency`.
    pub amount: i64,
    pub currency: Currency,
    /// The text fields the transaction has, by name.
    pub fields: Vec<(String, String)>,
    pub decision: Decision,
    pub basis: Arc<Basis>,
}

/// Told of the alerts of durable decisions, in order.
pub trait Notify: Send {
    /// `cursor` is the number of the entry after the last one these come from.
    fn notify(&mut self, candidates: Vec<Candidate>, cursor: u64);
}

/// What the two threads share.
pub struct Shared {
    pub recent: RecentDecisions,
    pub quarantine: Mutex<Box<dyn Quarantine>>,
    pub status: Status,
}

/// Where messages for the engine thread are put in; counts those that wait.
#[derive(Clone)]
pub struct Inbox {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl Inbox {
    #[must_use]
    pub fn new(sender: SyncSender<Message>, shared: Arc<Shared>) -> Self {
        Self { sender, shared }
    }

    /// Waits while it is full.
    ///
    /// # Errors
    /// The engine thread is gone.
    #[expect(clippy::result_large_err, reason = "the message comes back to whoever sends it")]
    pub fn send(&self, message: Message) -> Result<(), SendError<Message>> {
        self.sender.send(message).inspect(|()| self.shared.status.sent())
    }

    /// # Errors
    /// It is full, or the engine thread is gone.
    #[expect(clippy::result_large_err, reason = "the message comes back to whoever sends it")]
    pub fn try_send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        self.sender.try_send(message).inspect(|()| self.shared.status.sent())
    }
}

/// Decided and in the log; to be made durable and told.
pub struct Committed {
    cursor: u64,
    flush: Box<dyn Flush>,
    /// Refused records to make durable as well.
    quarantine: Option<Box<dyn Flush>>,
    published: Published,
}

/// What a batch is to tell the world.
#[derive(Default)]
pub struct Published {
    answers: Vec<Box<dyn FnOnce() + Send>>,
    pub candidates: Vec<Candidate>,
}

/// The engine thread's part.
pub struct Loop {
    pub processor: Processor,
    pub inbox: Receiver<Message>,
    pub committed: SyncSender<Committed>,
    pub shared: Arc<Shared>,
    pub durability: Durability,
    /// Records taken as one batch, at most (a single message may hold more).
    pub max_batch: usize,
    /// The next offset of each partition whose offsets are given here.
    pub next_offsets: hashbrown::HashMap<u32, u64, foldhash::fast::FixedState>,
    pub now_ms: fn() -> i64,
    /// Waits a while before the disk is tried again; `false` says that it is no use, since all is to stop.
    pub wait: Box<dyn FnMut(Duration) -> bool + Send>,
    /// Without it no snapshots are taken.
    pub snapshots: Option<Snapshots>,
}

/// Whether a thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Done,
    /// There will be no further turn.
    Over,
}

/// Between two steps of a snapshot when nothing comes in.
const SNAPSHOT_PAUSE: Duration = Duration::from_micros(200);
/// How long after it is due a snapshot begins, at most.
const SNAPSHOT_DUE: Duration = Duration::from_secs(1);

/// How long to wait before the disk is tried again.
const RETRY: Duration = Duration::from_millis(250);

impl Loop {
    /// Decides until told to stop, or until nobody can send any more.
    pub fn run(mut self) -> Processor {
        loop {
            let message = match &self.snapshots {
                Some(snapshots) => {
                    // It goes on, and begins, also when nothing comes in.
                    let pause = if snapshots.is_busy() { SNAPSHOT_PAUSE } else { SNAPSHOT_DUE };
                    match self.inbox.recv_timeout(pause) {
                        Ok(message) => Some(message),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
                None => match self.inbox.recv() {
                    Ok(message) => Some(message),
                    Err(_) => break,
                },
            };
            if message.is_some_and(|message| self.turn(message) == Turn::Over) {
                break;
            }
            if let Some(snapshots) = &mut self.snapshots {
                snapshots.step(&mut self.processor, (self.now_ms)());
            }
        }
        self.processor
    }

    #[must_use]
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Decides what `message` brings, and what else is waiting by then.
    pub fn turn(&mut self, mut message: Message) -> Turn {
        let mut batch: Vec<(Intake, Option<ReplyTo>)> = Vec::new();
        let mut taken = 0;
        loop {
            self.shared.status.taken();
            match message {
                Message::Records { mut intake, assign, reply } => {
                    if assign {
                        let next = self.next_offsets.entry(intake.records.partition).or_default();
                        intake.records.first_offset = *next;
                        *next += intake.records.len() as u64;
                    }
                    taken += intake.records.len();
                    batch.push((intake, reply));
                }
                Message::Labels { mut records, reply } => {
                    if self.decide(&mut batch) == Turn::Over {
                        return Turn::Over;
                    }
                    let next = self.next_offsets.entry(records.partition).or_default();
                    records.first_offset = *next;
                    *next += records.len() as u64;
                    if self.label(records, reply) == Turn::Over {
                        return Turn::Over;
                    }
                }
                Message::Ask(question) => {
                    if self.decide(&mut batch) == Turn::Over {
                        return Turn::Over;
                    }
                    question(self.processor.engine());
                }
                Message::Stop => {
                    self.decide(&mut batch);
                    return Turn::Over;
                }
            }
            if taken >= self.max_batch {
                break;
            }
            match self.inbox.try_recv() {
                Ok(next) => message = next,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        self.decide(&mut batch)
    }

    fn decide(&mut self, batch: &mut Vec<(Intake, Option<ReplyTo>)>) -> Turn {
        if batch.is_empty() {
            return Turn::Done;
        }
        let started = Stopwatch::start();
        let (intakes, replies): (Vec<Intake>, Vec<Option<ReplyTo>>) = batch.drain(..).unzip();
        let arrival = (self.now_ms)();
        self.processor.prepare(&intakes, arrival);
        if let Some(snapshots) = &mut self.snapshots {
            intakes.iter().for_each(|intake| snapshots.read(&intake.records));
        }
        let Some(quarantined) = self.until_kept(&intakes, arrival) else { return Turn::Over };
        let Some(sequence) = self.until_appended() else { return Turn::Over };
        let head = EntryHead { decided_by: self.processor.decided_by(), arrival };
        let published = publish(&self.processor, sequence, head, &intakes, replies, &self.shared);
        let status = &self.shared.status;
        status.batch_seconds.add_time(started.elapsed());
        status.batch_size.add(intakes.iter().map(|intake| intake.records.len() as u64).sum());
        self.send(sequence, published, quarantined)
    }

    fn label(&mut self, records: Records, reply: Option<LabelReplyTo>) -> Turn {
        let parsed: Vec<Result<Label, Refusal>> = (0..records.len())
            .map(|index| match records.records.get(index) {
                Some(Err(refusal)) => Err(refusal.clone()),
                _ => Label::parse(records.record(index)),
            })
            .collect();
        let labels: Vec<Label> = parsed.iter().flatten().cloned().collect();
        let intake = Intake { records, keep: true };
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.read(&intake.records);
        }
        let known = self.processor.prepare_labels(&intake, &labels, (self.now_ms)());
        let Some(sequence) = self.until_appended() else { return Turn::Over };
        self.shared.status.labels(labels.len() as u64);
        let mut published = Published::default();
        if let Some(reply) = reply {
            let mut known = known.into_iter();
            let answers = parsed.into_iter().map(|label| label.map(|_| known.next().unwrap_or_default())).collect();
            published.answers.push(Box::new(move || reply(answers)));
        }
        self.send(sequence, published, false)
    }

    /// Puts refused records into the quarantine, before their entry is in the journal, which does not keep them
    /// once more. A full quarantine stops the engine as a full disk does. `None` when it was given up.
    fn until_kept(&mut self, intakes: &[Intake], arrival: EventTime) -> Option<bool> {
        let step = self.processor.step(0);
        let mut refused = refused(&step, intakes).peekable();
        let any = refused.peek().is_some();
        for (position, refusal, record) in refused {
            let mut stalled = false;
            loop {
                let kept = lock(&self.shared.quarantine).keep(arrival, position, &refusal, record);
                let Err(error) = kept else { break };
                stalled = true;
                self.shared.status.quarantine_failed(&error);
                if !(self.wait)(RETRY) {
                    return None;
                }
            }
            if stalled {
                self.shared.status.resumed();
            }
        }
        Some(any)
    }

    /// A full disk stops the engine, and so its sources, until there is room again: nothing is dropped. `None`
    /// when it was given up: the entry's records were not answered, and count as never sent.
    fn until_appended(&mut self) -> Option<u64> {
        loop {
            match self.processor.append() {
                Ok(sequence) => {
                    self.shared.status.resumed();
                    self.shared.status.journalled(sequence + 1);
                    return Some(sequence);
                }
                Err(error) => {
                    self.shared.status.stalled("the journal", &error);
                    if self.processor.log().failed() || !(self.wait)(RETRY) {
                        return None;
                    }
                }
            }
        }
    }

    fn send(&self, sequence: u64, mut published: Published, quarantined: bool) -> Turn {
        if self.durability != Durability::Flush {
            published.answer();
        }
        let quarantine = quarantined.then(|| lock(&self.shared.quarantine).flusher());
        let flush = self.processor.log().flusher();
        let committed = Committed { cursor: sequence + 1, flush, quarantine, published };
        // The flusher ends before this thread only when a flush failed.
        if self.committed.send(committed).is_ok() { Turn::Done } else { Turn::Over }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Published {
    fn answer(&mut self) {
        for answer in self.answers.drain(..) {
            answer();
        }
    }
}

/// The records of a batch that were refused, with their positions and why.
pub fn refused<'a>(step: &Step<'a>, intakes: &'a [Intake]) -> impl Iterator<Item = (Position, Refusal, &'a [u8])> {
    let batch = step.batch;
    let mut outcomes = step.outcomes.iter();
    let mut rows = batch.pieces.iter().flat_map(|piece| piece.transactions.iter());
    intakes.iter().flat_map(|intake| (0..intake.records.len()).map(move |index| (&intake.records, index))).filter_map(
        move |(records, index)| {
            let refusal = match outcomes.next()? {
                Outcome::Row(row) => {
                    let transaction = rows.next()?;
                    let decision = batch.decisions.get(*row as usize)?;
                    (decision.fate == Fate::Future).then(|| too_far_ahead(transaction.event_time()))?
                }
                Outcome::Refused(refusal) => refusal.clone(),
            };
            let position = Position { partition: records.partition, offset: records.first_offset + index as u64 };
            Some((position, refusal, records.record(index)))
        },
    )
}

fn too_far_ahead(event_time: EventTime) -> Refusal {
    let found = event_time.to_string();
    Refusal::new("event_time", found.as_bytes(), "at most `max_future` ahead of the time it arrived")
}

/// Turns what was decided into answers, alerts and recent decisions.
pub fn publish(
    processor: &Processor,
    sequence: u64,
    head: EntryHead,
    intakes: &[Intake],
    replies: Vec<Option<ReplyTo>>,
    shared: &Shared,
) -> Published {
    let mut published = Published::default();
    let step = processor.step(sequence);
    let mut outcomes = step.outcomes.iter();
    let mut rows = step.batch.pieces.iter().flat_map(|piece| {
        (0..piece.transactions.len()).map(move |row| (piece.transactions.get(row), piece.prepared.id_hash(row)))
    });
    for (intake, reply) in intakes.iter().zip(replies.into_iter().map(Some).chain(std::iter::repeat_with(|| None))) {
        let records = &intake.records;
        let reply = reply.flatten();
        let mut answers = Vec::with_capacity(if reply.is_some() { records.len() } else { 0 });
        for (index, outcome) in outcomes.by_ref().take(records.len()).enumerate() {
            let position = Position { partition: records.partition, offset: records.first_offset + index as u64 };
            let decided = match outcome {
                Outcome::Row(row) => rows.next().and_then(|(transaction, id)| {
                    let decision = step.batch.decisions.get(*row as usize)?;
                    Some((transaction, id, *row as usize, *decision))
                }),
                Outcome::Refused(_) => None,
            };
            let refusal = match (outcome, &decided) {
                (Outcome::Refused(refusal), _) => Some(refusal.clone()),
                (_, Some((transaction, _, _, decision))) if decision.fate == Fate::Future => {
                    Some(too_far_ahead(transaction.event_time()))
                }
                _ => None,
            };
            if let Some(refusal) = refusal {
                shared.status.quarantined(1);
                if reply.is_some() {
                    answers.push(RecordReply::Refused { position, refusal });
                }
                continue;
            }
            let Some((transaction, id, row, decision)) = decided else { continue };
            shared.status.decided(&decision);
            let decided = Recent {
                position,
                event_time: transaction.event_time(),
                decided_by: head.decided_by,
                decision,
                basis: decision.alerts().then(|| Basis::new(step.batch.features.row(row))),
            };
            let recent = settle(shared, id, decided);
            if decision.alerts()
                && let Some(basis) = &recent.basis
            {
                let candidate = candidate(sequence, &recent, transaction, Arc::clone(basis));
                published.candidates.push(candidate);
            }
            if reply.is_some() {
                answers.push(RecordReply::Decided(Box::new(Answer {
                    transaction_id: transaction.id().to_owned(),
                    recent,
                })));
            }
        }
        if let Some(reply) = reply {
            published.answers.push(Box::new(move || reply(answers)));
        }
    }
    published
}

/// Remembers a new decision; finds the first one for a duplicate.
fn settle(shared: &Shared, id: u64, mut recent: Recent) -> Recent {
    let decision = recent.decision;
    if let Fate::Duplicate { partition, offset } = decision.fate {
        let first = Position { partition, offset };
        if let Some(known) = shared.recent.get(id).filter(|known| known.position == first) {
            // The first decision stands, under its own position; the fate says that this is a repeat.
            recent = Recent { decision: Decision { fate: decision.fate, ..known.decision }, ..known };
        } else {
            recent.position = first;
        }
        return recent;
    }
    shared.recent.insert(id, recent.clone());
    recent
}

fn candidate(sequence: u64, recent: &Recent, transaction: TransactionRef<'_>, basis: Arc<Basis>) -> Candidate {
    Candidate {
        sequence,
        decided_by: recent.decided_by,
        position: recent.position,
        transaction_id: transaction.id().to_owned(),
        event_time: recent.event_time,
        amount: transaction.amount(),
        currency: transaction.currency(),
        fields: transaction.texts().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
        decision: recent.decision,
        basis,
    }
}

/// The flusher thread's part: makes batches durable, several at a time, and tells of them.
pub struct Flusher {
    pub inbox: Receiver<Committed>,
    pub durability: Durability,
    pub notify: Box<dyn Notify>,
    pub shared: Arc<Shared>,
    /// Refused records that are not durable yet, also those of turns that did not flush.
    quarantine: Option<Box<dyn Flush>>,
}

impl Flusher {
    #[must_use]
    pub fn new(
        inbox: Receiver<Committed>,
        durability: Durability,
        notify: Box<dyn Notify>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { inbox, durability, notify, shared, quarantine: None }
    }

    /// Flushes until the engine thread is gone.
    ///
    /// # Errors
    /// The disk failed to flush: what was written since the last flush may be lost at a power cut, and
    /// trying again would not tell. The process must stop and read the journal again.
    pub fn run(mut self) -> std::io::Result<()> {
        while let Ok(committed) = self.inbox.recv() {
            self.turn(committed)?;
        }
        self.end()
    }

    /// Flushes the refused records of turns that did not: the log is settled next, and relies on them.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn end(&mut self) -> std::io::Result<()> {
        let Some(quarantine) = self.quarantine.take() else { return Ok(()) };
        quarantine.flush().inspect_err(|error| self.shared.status.stalled("the quarantine", error))
    }

    /// Makes `first` durable, with what else is waiting by then, and tells of it.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn turn(&mut self, first: Committed) -> std::io::Result<()> {
        let mut waiting = vec![first];
        if let Durability::Interval(interval) = self.durability {
            self.gather(interval, &mut waiting);
        }
        while let Ok(committed) = self.inbox.try_recv() {
            waiting.push(committed);
        }
        // The newest covers all before it.
        if let Some(newest) = waiting.iter_mut().rev().find_map(|committed| committed.quarantine.take()) {
            self.quarantine = Some(newest);
        }
        // An alert must not tell of what a power cut can take back.
        let flushes = self.durability != Durability::Os
            || waiting.iter().any(|committed| !committed.published.candidates.is_empty());
        if flushes {
            self.flush(&waiting)?;
        }
        let mut candidates = Vec::new();
        let mut cursor = 0;
        for mut committed in waiting {
            committed.published.answer();
            candidates.append(&mut committed.published.candidates);
            cursor = committed.cursor;
        }
        if flushes {
            self.notify.notify(candidates, cursor);
        }
        Ok(())
    }

    fn flush(&mut self, waiting: &[Committed]) -> std::io::Result<()> {
        let Some(last) = waiting.last() else { return Ok(()) };
        let started = Stopwatch::start();
        // The quarantine first, for the journal relies on it.
        self.end()?;
        last.flush.flush().inspect_err(|error| self.shared.status.stalled("the journal", error))?;
        self.shared.status.flush_seconds.add_time(started.elapsed());
        Ok(())
    }

    /// Takes what comes within an interval of the first.
    fn gather(&self, interval: Duration, waiting: &mut Vec<Committed>) {
        let started = Stopwatch::start();
        loop {
            let left = interval.saturating_sub(started.elapsed());
            match self.inbox.recv_timeout(left) {
                Ok(committed) => waiting.push(committed),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}
