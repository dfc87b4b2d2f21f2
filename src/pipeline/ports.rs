//! What the pipeline needs of the world, as small traits: a log to commit to, sources to read from, a
//! decoder for their records, and somebody to tell of what was decided.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::transaction::{EventTime, Position, Refusal, TransactionBatch};

/// An append-only log of entries: the one commit point.
pub trait Log: Send {
    /// The number the next entry will get, counted from 0.
    fn next_sequence(&self) -> u64;

    /// Appends an entry and returns its number. It is durable once a flusher taken afterwards has flushed.
    ///
    /// # Errors
    /// The entry was not appended: nothing of it stays behind.
    fn append(&mut self, payload: &[u8]) -> io::Result<u64>;

    /// Makes durable, from any thread, what was appended before this call.
    fn flusher(&self) -> Box<dyn Flush>;

    /// Whether a flush failed: what was written since the one before cannot be trusted, and nothing more is
    /// taken. The log must be opened anew.
    fn failed(&self) -> bool {
        false
    }

    /// Makes everything durable before a clean stop.
    ///
    /// # Errors
    /// The disk refused.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

pub trait Flush: Send {
    /// # Errors
    /// The disk refused; what was appended may be lost at a power cut.
    fn flush(&self) -> io::Result<()>;
}

/// Records as they were read, several in one buffer that is reused.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records {
    pub partition: u32,
    /// The offset of the first record; the others follow one by one.
    pub first_offset: u64,
    pub bytes: Vec<u8>,
    /// Start and end of each record in `bytes`, or why it could not even be cut out of its stream.
    pub records: Vec<Result<(u32, u32), Refusal>>,
    /// What there is of refused records, for the quarantine: index, start and end, in the order of the index.
    pub refused: Vec<(usize, u32, u32)>,
    /// Where the source reads on after these records, in the source's own terms.
    pub cursor: u64,
}

impl Records {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.refused.clear();
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The bytes of record `index`, or of a refused one what was kept; empty where there is nothing.
    #[must_use]
    pub fn record(&self, index: usize) -> &[u8] {
        let span = match self.records.get(index) {
            Some(Ok(span)) => Some(*span),
            Some(Err(_)) => {
                let at = self.refused.binary_search_by_key(&index, |(index, ..)| *index).ok();
                at.and_then(|at| self.refused.get(at)).map(|(_, start, end)| (*start, *end))
            }
            None => None,
        };
        span.and_then(|(start, end)| self.bytes.get(start as usize..end as usize)).unwrap_or_default()
    }

    /// Adds a record at the end.
    pub fn push(&mut self, record: &[u8]) {
        let span = self.add(record);
        self.records.push(Ok(span));
    }

    /// Adds a refused record at the end; `record` is what the quarantine keeps of it.
    pub fn push_refused(&mut self, refusal: Refusal, record: &[u8]) {
        let (start, end) = self.add(record);
        self.refused.push((self.records.len(), start, end));
        self.records.push(Err(refusal));
    }

    fn add(&mut self, record: &[u8]) -> (u32, u32) {
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(record);
        (start, u32::try_from(self.bytes.len()).unwrap_or(u32::MAX))
    }
}

/// What a poll found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Records were read.
    Records,
    /// Nothing is there now.
    Idle,
    /// Nothing will come any more.
    End,
}

/// A stream of records in partitions, each with its own order.
pub trait Source: Send {
    /// Its name in the configuration, for logs and metrics.
    fn name(&self) -> &str;

    /// The partitions it reads now.
    fn partitions(&self) -> Vec<u32>;

    /// Reads on from a position that was reached before: `next` is the offset of the next record, `cursor`
    /// what [`Records::cursor`] said then.
    ///
    /// # Errors
    /// The source cannot go there (truncated, expired).
    fn seek(&mut self, next: Position, cursor: u64) -> io::Result<()>;

    /// Reads some records of one partition into `into`, which is cleared first. May wait a little.
    ///
    /// # Errors
    /// The source cannot be read now.
    fn poll(&mut self, into: &mut Records) -> io::Result<Polled>;

    /// Stops or goes on with a partition; a paused one costs no memory.
    fn pause(&mut self, partition: u32, paused: bool);

    /// Everything before `position` is decided and durable.
    fn acknowledge(&mut self, position: Position);

    /// Whether it can be read again from an older position; if not, the journal keeps the records.
    fn rereadable(&self) -> bool;
}

/// Turns a record's bytes into a transaction.
pub trait Decode: Send {
    /// # Errors
    /// The record is no transaction; the batch is left as it was.
    fn decode(&mut self, record: &[u8], into: &mut TransactionBatch) -> Result<(), Refusal>;

    /// Another of the same, for another thread.
    fn another(&self) -> Box<dyn Decode>;
}

/// Where refused records go.
pub trait Quarantine: Send {
    /// Keeps a refused record. `arrival` is when it came in, milliseconds since 1970.
    ///
    /// Of two records kept at the same position the later counts.
    ///
    /// # Errors
    /// It could not be kept: the disk is full, or its own limit is met.
    fn keep(&mut self, arrival: EventTime, position: Position, refusal: &Refusal, record: &[u8]) -> io::Result<()>;

    /// Makes durable, from any thread, what was kept before this call.
    fn flusher(&self) -> Box<dyn Flush>;
}

/// A quarantine that keeps nothing.
#[derive(Debug, Default)]
pub struct NoQuarantine;

impl Quarantine for NoQuarantine {
    fn keep(&mut self, _: EventTime, _: Position, _: &Refusal, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn flusher(&self) -> Box<dyn Flush> {
        Box::new(NothingToFlush)
    }
}

/// A log in memory, for tests, the demo and benchmarks. Clones share their entries.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    entries: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl MemoryLog {
    #[must_use]
    pub fn entries(&self) -> Vec<Vec<u8>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Log for MemoryLog {
    fn next_sequence(&self) -> u64 {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(payload.to_vec());
        Ok(entries.len() as u64 - 1)
    }

    fn flusher(&self) -> Box<dyn Flush> {
        Box::new(NothingToFlush)
    }
}

/// A log that keeps only its length: for runs whose output is the result (features, training).
#[derive(Debug, Default)]
pub struct NoLog(u64);

impl Log for NoLog {
    fn next_sequence(&self) -> u64 {
        self.0
    }

    fn append(&mut self, _payload: &[u8]) -> io::Result<u64> {
        self.0 += 1;
        Ok(self.0 - 1)
    }

    fn flusher(&self) -> Box<dyn Flush> {
        Box::new(NothingToFlush)
    }
}

struct NothingToFlush;

impl Flush for NothingToFlush {
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
