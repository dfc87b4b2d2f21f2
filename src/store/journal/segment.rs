//! One file of the journal: a header, then frames. See the [module above](super) for the bytes.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::{JournalError, MAX_FRAME};
use crate::store::storage::{ReadFrom, Storage, Stored};

const MAGIC: [u8; 8] = *b"CADDISJ\0";
pub(super) const FORMAT: u32 = 2;
const HEADER_LENGTH: usize = 24;
pub(super) const HEADER: u64 = HEADER_LENGTH as u64;
const FRAME_HEADER: usize = 24;

/// A segment's name and the number of its first entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub name: String,
    pub first: u64,
}

impl Segment {
    pub fn starting(first: u64) -> Self {
        Self { name: format!("{first:020}.journal"), first }
    }

    /// All segments of a folder, in order.
    pub fn all(storage: &dyn Storage) -> io::Result<Vec<Self>> {
        let first = |name: &str| name.strip_suffix(".journal").and_then(|digits| digits.parse().ok());
        let named = |name: String| Some(Self { first: first(&name)?, name });
        let mut found: Vec<Self> = storage.list()?.into_iter().filter_map(named).collect();
        found.sort_by_key(|segment| segment.first);
        Ok(found)
    }

    /// Makes it, with nothing but its header. It is there after a power cut once the folder is flushed, and
    /// whole once its first entry is.
    pub fn make(&self, storage: &dyn Storage) -> io::Result<Arc<dyn Stored>> {
        let file = storage.create(&self.name)?;
        file.write_at(0, &header(self.first))?;
        Ok(file)
    }

    pub fn open(&self, storage: &dyn Storage) -> io::Result<Arc<dyn Stored>> {
        storage.open(&self.name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn header(first: u64) -> Vec<u8> {
    let crc = header_checksum(FORMAT, first);
    [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &crc.to_le_bytes(), &first.to_le_bytes()].concat()
}

fn header_checksum(format: u32, first: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&MAGIC);
    hasher.update(&format.to_le_bytes());
    hasher.update(&first.to_le_bytes());
    hasher.finalize()
}

/// Puts a frame together. `durable` is how many entries were durable when it was made.
pub(super) fn frame(into: &mut Vec<u8>, sequence: u64, durable: u64, payload: &[u8]) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a journal entry is longer than 256 MiB");
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_FRAME).ok_or_else(too_long)?;
    into.clear();
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&checksum(sequence, durable, payload).to_le_bytes());
    into.extend_from_slice(&sequence.to_le_bytes());
    into.extend_from_slice(&durable.to_le_bytes());
    into.extend_from_slice(payload);
    Ok(())
}

fn checksum(sequence: u64, durable: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&durable.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// What stands at a place of a segment.
pub(super) enum Frame {
    Whole,
    End,
    Broken(&'static str),
}

/// Reads a segment from its start.
pub(super) struct SegmentReader {
    path: PathBuf,
    reader: BufReader<ReadFrom>,
    /// Where the next frame begins.
    pub at: u64,
    length: u64,
    /// The number of the next frame.
    pub sequence: u64,
}

impl SegmentReader {
    pub fn open(storage: &dyn Storage, segment: &Segment) -> Result<Self, JournalError> {
        let path = storage.place(&segment.name);
        let io_at = |source| JournalError::Io { path: path.clone(), source };
        let file = segment.open(storage).map_err(io_at)?;
        let length = file.length().map_err(io_at)?;
        let mut reader = BufReader::with_capacity(1 << 20, ReadFrom { file, at: 0 });
        let mut header = [0; HEADER_LENGTH];
        let damaged = || JournalError::Header { path: path.clone() };
        if length < HEADER {
            return Err(damaged());
        }
        reader.read_exact(&mut header).map_err(io_at)?;
        let format = u32_at(&header, 8).filter(|_| header.starts_with(&MAGIC)).ok_or_else(damaged)?;
        if format > FORMAT {
            return Err(JournalError::Format { path, found: format });
        }
        let whole = u32_at(&header, 12) == Some(header_checksum(FORMAT, segment.first));
        if format != FORMAT || !whole || u64_at(&header, 16) != Some(segment.first) {
            return Err(damaged());
        }
        Ok(Self { path, reader, at: HEADER, length, sequence: segment.first })
    }

    /// Reads the next frame's payload.
    pub fn next(&mut self, payload: &mut Vec<u8>) -> Result<Frame, JournalError> {
        let io_at = |source| JournalError::Io { path: self.path.clone(), source };
        let left = self.length.saturating_sub(self.at);
        if left == 0 {
            return Ok(Frame::End);
        }
        if left < FRAME_HEADER as u64 {
            return Ok(Frame::Broken("an entry's header is cut short"));
        }
        let mut header = [0; FRAME_HEADER];
        self.reader.read_exact(&mut header).map_err(io_at)?;
        let length = u32_at(&header, 0).unwrap_or(u32::MAX);
        let (crc, sequence) = (u32_at(&header, 4), u64_at(&header, 8));
        let durable = u64_at(&header, 16).unwrap_or_default();
        if length as usize > MAX_FRAME || u64::from(length) > left - FRAME_HEADER as u64 {
            return Ok(Frame::Broken("an entry is longer than the file"));
        }
        payload.clear();
        payload.resize(length as usize, 0);
        self.reader.read_exact(payload).map_err(io_at)?;
        if sequence != Some(self.sequence) {
            return Ok(Frame::Broken("an entry is out of sequence"));
        }
        if crc != Some(checksum(self.sequence, durable, payload)) {
            return Ok(Frame::Broken("an entry's checksum does not match"));
        }
        self.at += FRAME_HEADER as u64 + u64::from(length);
        self.sequence += 1;
        Ok(Frame::Whole)
    }
}

/// Whether a whole frame behind `at` says that entry `broken` was durable when it was written: then what is at
/// `at` is no torn tail but damage.
pub(super) fn later_frame_knows(file: &dyn Stored, at: u64, broken: u64) -> io::Result<bool> {
    let mut rest = vec![0; usize::try_from(file.length()?.saturating_sub(at)).unwrap_or(usize::MAX)];
    let mut read = 0;
    while let Some(more) = rest.get_mut(read..).filter(|more| !more.is_empty()) {
        match file.read_at(at + read as u64, more)? {
            0 => break,
            some => read += some,
        }
    }
    rest.truncate(read);
    for at in 0..(rest.len() + 1).saturating_sub(FRAME_HEADER) {
        // Cheap signs first: the numbers fit together, and the payload is there.
        let Some(sequence) = u64_at(&rest, at + 8).filter(|n| (broken + 1..broken + 1_000_000).contains(n)) else {
            continue;
        };
        let Some(durable) = u64_at(&rest, at + 16).filter(|n| (broken + 1..=sequence).contains(n)) else { continue };
        let start = at + FRAME_HEADER;
        let end = u32_at(&rest, at).and_then(|length| start.checked_add(length as usize));
        let payload = end.and_then(|end| rest.get(start..end));
        if payload.is_some_and(|payload| u32_at(&rest, at + 4) == Some(checksum(sequence, durable, payload))) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
