//! Bringing state back: the journal's entries are decided again, in their own order, without a trace in
//! the log and without telling anybody twice.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::entry::{self, EntryError, EntryHead, Section, SectionKind};
use super::label::Label;
use super::ports::Records;
use super::processor::{Intake, Processor};
use super::service::{Candidate, Shared, publish, refused};
use crate::transaction::Position;

/// What keeps the journal from being followed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("entry {sequence}: {error}")]
    Entry { sequence: u64, error: EntryError },
    #[error(
        "entry {sequence}: {count} records of partition {partition} from offset {offset} must be read again from their source: {error}"
    )]
    Reread { sequence: u64, partition: u32, offset: u64, count: u64, error: String },
    #[error("entry {sequence}: the quarantine does not take its refused records: {error}")]
    Quarantine { sequence: u64, error: std::io::Error },
}

/// Reads records again that the journal does not keep.
pub trait Reread {
    /// The `count` records of `partition` from `offset` on; they are asked for in order.
    ///
    /// # Errors
    /// The source has them no more.
    fn reread(&mut self, partition: u32, offset: u64, count: u64) -> Result<Records, String>;
}

/// Where a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resume {
    pub offset: u64,
    pub cursor: u64,
}

/// What was brought back.
#[derive(Debug, Default)]
pub struct Recovered {
    pub entries: u64,
    pub records: u64,
    pub labels: u64,
    /// Decisions that the same brain makes differently now: a bug or a changed mapping.
    pub differences: u64,
    /// Entries decided by another feature set, model or policy; their decisions stand as recorded.
    pub by_another_brain: u64,
    pub resume: BTreeMap<u32, Resume>,
    /// Alerts from `alerts_from` on, which the outbox does not have yet.
    pub candidates: Vec<Candidate>,
}

/// Follows the journal, an entry a call.
pub struct Recovery<'a> {
    pub processor: &'a mut Processor,
    pub shared: &'a Shared,
    pub reread: &'a mut dyn Reread,
    /// Alerts of entries before this one are in the outbox already.
    pub alerts_from: u64,
    /// Refused records of entries from this one on may not be in the quarantine, since the power went before
    /// they were flushed: those that can be read again are kept once more.
    pub refused_from: u64,
    /// Where the snapshot that was loaded begins and ends, if one was.
    pub snapshot: Option<(u64, u64)>,
    pub recovered: Recovered,
}

impl Recovery<'_> {
    /// Decides the entry again.
    ///
    /// # Errors
    /// See [`RecoveryError`].
    pub fn entry(&mut self, sequence: u64, payload: &[u8]) -> Result<(), RecoveryError> {
        let (head, sections) = entry::read(payload).map_err(|error| RecoveryError::Entry { sequence, error })?;
        // Before its end the snapshot knows more than was known at this entry: decisions stand as recorded.
        let before_end = self.snapshot.filter(|(_, end)| sequence < *end);
        let now = before_end.map(|(begin, _)| u32::try_from(sequence.saturating_sub(begin)).unwrap_or(u32::MAX - 1));
        self.processor.engine_mut().replay(now);
        let mut intakes = Vec::new();
        let mut decisions = Vec::new();
        for section in sections {
            let resume = Resume { offset: section.first_offset + section.count, cursor: section.cursor };
            self.recovered.resume.insert(section.partition, resume);
            match section.kind {
                SectionKind::Labels => {
                    let records = section.records.unwrap_or_default();
                    let labels: Vec<Label> = records.iter().filter_map(|record| Label::parse(record).ok()).collect();
                    self.recovered.labels += labels.len() as u64;
                    self.processor.apply_labels(&labels);
                }
                SectionKind::Transactions => {
                    self.recovered.records += section.count;
                    decisions.extend_from_slice(&section.decisions);
                    intakes.push(self.intake(sequence, section)?);
                }
            }
        }
        self.recovered.entries += 1;
        if intakes.is_empty() {
            return Ok(());
        }
        self.processor.decide(&intakes, head.arrival);
        let same_brain = head.decided_by == self.processor.decided_by();
        let differences = self.processor.recorded(decisions.into_iter());
        if before_end.is_some() {
            // They were not made from the features of that moment.
        } else if same_brain {
            self.recovered.differences += differences as u64;
        } else {
            self.recovered.by_another_brain += 1;
        }
        if sequence >= self.refused_from {
            self.quarantine(sequence, head, &intakes)?;
        }
        let published = publish(self.processor, sequence, head, &intakes, Vec::new(), self.shared);
        if sequence >= self.alerts_from {
            self.recovered.candidates.extend(published.candidates);
        }
        Ok(())
    }

    fn quarantine(&self, sequence: u64, head: EntryHead, intakes: &[Intake]) -> Result<(), RecoveryError> {
        let step = self.processor.step(sequence);
        let mut quarantine = self.shared.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
        // What the journal kept of a refused record is nothing.
        for (position, refusal, record) in refused(&step, intakes).filter(|(_, _, record)| !record.is_empty()) {
            quarantine
                .keep(head.arrival, position, &refusal, record)
                .map_err(|error| RecoveryError::Quarantine { sequence, error })?;
        }
        Ok(())
    }

    fn intake(&mut self, sequence: u64, section: Section) -> Result<Intake, RecoveryError> {
        let Section { partition, first_offset, cursor, count, .. } = section;
        let (records, keep) = match section.records {
            Some(kept) => {
                let mut records = Records { partition, first_offset, cursor, ..Records::default() };
                for record in &kept {
                    records.push(record);
                }
                (records, true)
            }
            None => {
                let records = self.reread.reread(partition, first_offset, count).map_err(|error| {
                    RecoveryError::Reread { sequence, partition, offset: first_offset, count, error }
                })?;
                (records, false)
            }
        };
        Ok(Intake { records, keep })
    }
}

/// For journals that keep every record.
pub struct NothingToReread;

impl Reread for NothingToReread {
    fn reread(&mut self, _partition: u32, _offset: u64, _count: u64) -> Result<Records, String> {
        Err("no source of that name is configured any more".into())
    }
}

impl Recovered {
    /// Where a partition goes on; at its start when the journal has nothing of it.
    #[must_use]
    pub fn resume(&self, partition: u32) -> (Position, u64) {
        let resume = self.resume.get(&partition).copied().unwrap_or_default();
        (Position { partition, offset: resume.offset }, resume.cursor)
    }
}
