//! The synchronous heart: records in, decided and appended to the log, one call a batch. Live service,
//! replay, backtest and the making of training sets all run this, with other logs and observers.

use std::io;

use super::entry::{EntryHead, EntryWriter, SectionKind};
use super::label::Label;
use super::ports::{Decode, Log, Records};
use crate::engine::{Batch, Decision, Engine, Fate, Piece, in_parallel};
use crate::transaction::{EventTime, Refusal, Schema};

use std::sync::Arc;

/// Records with what the pipeline must know of where they came from.
#[derive(Debug)]
pub struct Intake {
    pub records: Records,
    /// Whether the journal must keep the records themselves.
    pub keep: bool,
}

/// What a batch came to, before its buffers are used again.
pub struct Step<'a> {
    /// The number of the batch's entry in the log.
    pub sequence: u64,
    pub batch: &'a Batch,
    /// One a record, in the order of the intakes; row numbers are those of the batch.
    pub outcomes: &'a [Outcome],
    pub engine: &'a Engine,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is a transaction: this row of the batch.
    Row(u32),
    Refused(Refusal),
}

/// Decodes, decides and commits.
pub struct Processor {
    engine: Engine,
    /// One a thread.
    decoders: Vec<Box<dyn Decode>>,
    log: Box<dyn Log>,
    writer: EntryWriter,
    decided_by: u64,
    schema: Arc<Schema>,
    batch: Batch,
    spare: Vec<Piece>,
    outcomes: Vec<Outcome>,
    decisions: Vec<Decision>,
    /// An entry that the log would not take yet: it must go in before anything else does.
    unwritten: bool,
}

/// Batches below this are decoded on one thread.
const PARALLEL_FROM: usize = 512;

impl Processor {
    #[must_use]
    pub fn new(engine: Engine, decoder: &dyn Decode, schema: Arc<Schema>, log: Box<dyn Log>, decided_by: u64) -> Self {
        let threads = engine.threads();
        Self {
            engine,
            decoders: (0..threads).map(|_| decoder.another()).collect(),
            log,
            writer: EntryWriter::default(),
            decided_by,
            schema,
            batch: Batch::default(),
            spare: Vec::new(),
            outcomes: Vec::new(),
            decisions: Vec::new(),
            unwritten: false,
        }
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// To save its state, and to load it.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    #[must_use]
    pub fn log(&self) -> &dyn Log {
        &*self.log
    }

    /// Puts another log in place: recovery decides without one.
    pub fn commit_to(&mut self, log: Box<dyn Log>) {
        self.log = log;
    }

    /// Which feature set, model and policy decide, as the journal says it.
    #[must_use]
    pub fn decided_by(&self) -> u64 {
        self.decided_by
    }

    /// Decides all records of `intakes`, in order, and appends the entry. `arrival` is when they came in,
    /// or [`EventTime::MAX`] for recorded streams.
    ///
    /// # Errors
    /// The log did not take the entry. State has moved on: call [`append`](Self::append) until it does.
    pub fn process(&mut self, intakes: &[Intake], arrival: EventTime) -> io::Result<u64> {
        self.prepare(intakes, arrival);
        self.append()
    }

    /// Decides all records of `intakes`, in order, and makes their entry, which [`append`](Self::append) puts
    /// into the log.
    pub fn prepare(&mut self, intakes: &[Intake], arrival: EventTime) {
        self.decide(intakes, arrival);
        self.writer.begin(EntryHead { decided_by: self.decided_by, arrival });
        let mut outcomes = self.outcomes.iter();
        for intake in intakes {
            let records = &intake.records;
            self.decisions.clear();
            self.decisions.extend(outcomes.by_ref().take(records.len()).map(|outcome| match outcome {
                Outcome::Row(row) => {
                    self.batch.decisions.get(*row as usize).copied().unwrap_or(Decision::none(Fate::Refused))
                }
                Outcome::Refused(_) => Decision::none(Fate::Refused),
            }));
            // A refused record stands in the quarantine; the journal need not keep it twice.
            let mut kept =
                records.records.iter().zip(&self.decisions).enumerate().map(|(index, (_, decision))| {
                    if decision.fate == Fate::Refused { &[] } else { records.record(index) }
                });
            let kept: Option<&mut dyn Iterator<Item = &[u8]>> = if intake.keep { Some(&mut kept) } else { None };
            self.writer.section(SectionKind::Transactions, records, &self.decisions, kept);
        }
        self.unwritten = true;
    }

    /// Applies labels, in order, and makes their entry, which [`append`](Self::append) puts into the log. Says for
    /// each label whether its transaction is known to the features.
    pub fn prepare_labels(&mut self, intake: &Intake, labels: &[Label], arrival: EventTime) -> Vec<bool> {
        let known = self.apply_labels(labels);
        self.writer.begin(EntryHead { decided_by: self.decided_by, arrival });
        let mut records = (0..intake.records.len()).map(|index| intake.records.record(index));
        self.writer.section(SectionKind::Labels, &intake.records, &[], Some(&mut records));
        self.unwritten = true;
        known
    }

    /// Applies labels without a trace in the log: they are in it already.
    pub fn apply_labels(&mut self, labels: &[Label]) -> Vec<bool> {
        labels.iter().map(|label| self.engine.label(&label.transaction_id, label.fraud)).collect()
    }

    /// Appends the entry that was made last; does nothing when it is in the log already.
    ///
    /// # Errors
    /// The log does not take it: call this again until it does, before anything else is decided.
    pub fn append(&mut self) -> io::Result<u64> {
        if !self.unwritten {
            return Ok(self.log.next_sequence().saturating_sub(1));
        }
        let sequence = self.log.append(self.writer.bytes())?;
        self.unwritten = false;
        Ok(sequence)
    }

    /// What the last batch came to.
    #[must_use]
    pub fn step(&self, sequence: u64) -> Step<'_> {
        Step { sequence, batch: &self.batch, outcomes: &self.outcomes, engine: &self.engine }
    }

    /// Puts what was decided when the entry was written in place of what was decided now, for a journal
    /// that another model or policy wrote. Returns how many differ.
    pub fn recorded(&mut self, recorded: impl Iterator<Item = Decision>) -> usize {
        let mut differ = 0;
        for (outcome, recorded) in self.outcomes.iter().zip(recorded) {
            let Outcome::Row(row) = outcome else {
                differ += usize::from(recorded.fate != Fate::Refused);
                continue;
            };
            let Some(decision) = self.batch.decisions.get_mut(*row as usize) else { continue };
            let same = decision.fate == recorded.fate
                && decision.verdict == recorded.verdict
                && decision.rules == recorded.rules
                && decision.score.to_bits() == recorded.score.to_bits();
            differ += usize::from(!same);
            *decision = recorded;
        }
        differ
    }

    /// Decides without a trace in the log: the records are in it already, or need no log.
    pub fn decide(&mut self, intakes: &[Intake], arrival: EventTime) {
        self.decode(intakes);
        self.batch.arrival = arrival;
        self.engine.decide(&mut self.batch);
    }

    /// Decides records of `intake` without a trace in the log, those from the one at `from` on, up to the first
    /// whose event time is at or after `before`. Returns how many, and the event time that it stopped at.
    pub fn decide_until(
        &mut self,
        intake: &Intake,
        from: usize,
        before: EventTime,
        arrival: EventTime,
    ) -> (usize, Option<EventTime>) {
        if from == 0 && before == EventTime::MAX {
            self.decide(std::slice::from_ref(intake), arrival);
            return (intake.records.len(), None);
        }
        self.spare.append(&mut self.batch.pieces);
        self.outcomes.clear();
        let mut piece = self.spare.pop().unwrap_or_else(|| Piece::new(Arc::clone(&self.schema)));
        piece.clear();
        piece.partition = intake.records.partition;
        let mut stopped = None;
        if let Some(decoder) = self.decoders.first_mut() {
            for index in from..intake.records.len() {
                let outcome = decode_record(&mut **decoder, &intake.records, index, &mut piece);
                stopped = match outcome {
                    Outcome::Row(row) => Some(piece.transactions.get(row as usize).event_time()),
                    Outcome::Refused(_) => None,
                };
                stopped = stopped.filter(|time| *time >= before);
                if stopped.is_some() {
                    piece.transactions.pop();
                    piece.offsets.pop();
                    break;
                }
                self.outcomes.push(outcome);
            }
        }
        self.engine.prepare(&mut piece);
        self.batch.pieces.push(piece);
        self.batch.arrival = arrival;
        self.engine.decide(&mut self.batch);
        (self.outcomes.len(), stopped)
    }

    /// Decodes into pieces of one partition each, on as many threads as there are decoders.
    fn decode(&mut self, intakes: &[Intake]) {
        self.spare.append(&mut self.batch.pieces);
        self.outcomes.clear();
        let total: usize = intakes.iter().map(|intake| intake.records.len()).sum();
        let threads = if total < PARALLEL_FROM { 1 } else { self.decoders.len() };
        let run = total.div_ceil(threads).max(1);
        // Cut the records into runs of one partition, none longer than a thread's share.
        let mut cuts: Vec<Cut<'_>> = Vec::new();
        for intake in intakes {
            let length = intake.records.len();
            let mut from = 0;
            while from < length {
                let to = length.min(from + run);
                cuts.push(Cut { intake, from, to });
                from = to;
            }
        }
        let mut jobs: Vec<(Piece, Vec<Outcome>, Vec<Cut<'_>>)> = Vec::new();
        for cut in cuts {
            let joins = jobs.last().is_some_and(|(piece, _, cuts)| {
                piece.partition == cut.intake.records.partition
                    && cuts.iter().map(|cut| cut.to - cut.from).sum::<usize>() + cut.to - cut.from <= run
            });
            if !joins {
                let mut piece = self.spare.pop().unwrap_or_else(|| Piece::new(Arc::clone(&self.schema)));
                piece.clear();
                piece.partition = cut.intake.records.partition;
                jobs.push((piece, Vec::new(), Vec::new()));
            }
            if let Some((_, _, cuts)) = jobs.last_mut() {
                cuts.push(cut);
            }
        }
        let engine = &self.engine;
        if threads == 1 {
            if let Some(decoder) = self.decoders.first_mut() {
                for job in &mut jobs {
                    decode_job(engine, &mut **decoder, job);
                }
            }
        } else {
            let shares = jobs.len().div_ceil(threads).max(1);
            in_parallel(jobs.chunks_mut(shares).zip(&mut self.decoders).map(|(share, decoder)| {
                move || {
                    for job in share {
                        decode_job(engine, &mut **decoder, job);
                    }
                }
            }));
        }
        let mut first_row = 0;
        for (piece, outcomes, _) in jobs {
            let rows = u32::try_from(piece.transactions.len()).unwrap_or(u32::MAX);
            self.outcomes.extend(outcomes.into_iter().map(|outcome| match outcome {
                Outcome::Row(row) => Outcome::Row(row + first_row),
                refused @ Outcome::Refused(_) => refused,
            }));
            first_row += rows;
            self.batch.pieces.push(piece);
        }
    }
}

struct Cut<'a> {
    intake: &'a Intake,
    from: usize,
    to: usize,
}

fn decode_job(
    engine: &Engine,
    decoder: &mut dyn Decode,
    (piece, outcomes, cuts): &mut (Piece, Vec<Outcome>, Vec<Cut<'_>>),
) {
    for Cut { intake, from, to } in cuts {
        for index in *from..*to {
            outcomes.push(decode_record(decoder, &intake.records, index, piece));
        }
    }
    engine.prepare(piece);
}

fn decode_record(decoder: &mut dyn Decode, records: &Records, index: usize, piece: &mut Piece) -> Outcome {
    let decoded = match records.records.get(index) {
        Some(Err(refusal)) => Err(refusal.clone()),
        _ => decoder.decode(records.record(index), &mut piece.transactions),
    };
    match decoded {
        Ok(()) => {
            piece.offsets.push(records.first_offset + index as u64);
            Outcome::Row(u32::try_from(piece.transactions.len() - 1).unwrap_or(u32::MAX))
        }
        Err(refusal) => Outcome::Refused(refusal),
    }
}
