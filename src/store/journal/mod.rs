//! The journal on disk: numbered frames in segment files, each with a checksum, appended only.
//!
//! A segment is `<first sequence, 20 digits>.journal`: a header of 24 bytes (magic, format (u32), CRC-32 of
//! both and the first sequence (u32), first sequence (u64)), then frames: length of the payload (u32), CRC-32 of
//! all that follows (u32), sequence (u64), how many entries were durable when it was made (u64), payload; all
//! little endian.
//!
//! What a power cut may do and damage must be told apart. Entries that are known to be durable, by the
//! watermark outside of the journal or by a frame behind them, must be there and whole:
//! otherwise the journal is refused, with file and place. Behind them anything may be torn, and is cut off:
//! nobody was told of it.

mod segment;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::storage::{Folder, Storage, Stored};
use super::watermark::{self, Known, Watermark};
use crate::pipeline::ports::{Flush, Log};
use segment::{FORMAT, Frame, HEADER, Segment, SegmentReader, frame, later_frame_knows};

/// A frame is never longer than this, so that a damaged length cannot ask for the machine's memory.
pub const MAX_FRAME: usize = 256 * 1024 * 1024;
/// Folder of the segments in the data folder.
pub const FOLDER: &str = "journal";

/// What kept the journal from opening.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path}: not a journal segment (its header is damaged, or it is another program's file); restore it from a backup, or move the data folder aside to start afresh"
    )]
    Header { path: PathBuf },
    #[error("{path}: journal format {found} is newer than this build reads ({FORMAT}); use a newer Caddis")]
    Format { path: PathBuf, found: u32 },
    #[error(
        "{path}: damaged at byte {at}: {what}, and it was durable; restore the file from a backup, or move the data folder aside to start afresh"
    )]
    Damaged { path: PathBuf, at: u64, what: &'static str },
    #[error("{path}: starts at entry {found}, expected {expected}: a segment before it is missing or cut short")]
    Gap { path: PathBuf, found: u64, expected: u64 },
    #[error(
        "{path}: ends before entry {found}, but {durable} entries were durable ({watermark}): its end was lost; restore it from a backup, or remove {watermark} to go on without what was lost"
    )]
    Short { path: PathBuf, found: u64, durable: u64, watermark: PathBuf },
    #[error("{path}: another caddis is using this data folder (lock held)")]
    Locked { path: PathBuf },
}

/// How large a journal may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalLimits {
    /// A segment is closed once it is this long, in bytes.
    pub segment_bytes: u64,
    /// Nothing is appended beyond so many bytes in all segments.
    pub max_bytes: u64,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { segment_bytes: 256 * 1024 * 1024, max_bytes: u64::MAX }
    }
}

/// An open journal; frames are appended at its end.
#[derive(Debug)]
pub struct Journal {
    storage: Arc<dyn Storage>,
    file: Arc<dyn Stored>,
    /// Bytes in the last segment, and in those before it.
    length: u64,
    closed: u64,
    next: u64,
    scratch: Vec<u8>,
    limits: JournalLimits,
    torn: u64,
    unsure_from: u64,
    durable: Arc<Durable>,
}

/// How far the journal is durable; shared with those who flush it.
#[derive(Debug)]
struct Durable {
    entries: AtomicU64,
    failed: AtomicBool,
    watermark: Watermark,
}

impl Journal {
    /// Opens the journal of a data folder, which is made when it does not exist, and cuts a torn tail.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(data: &Path, limits: JournalLimits) -> Result<Self, JournalError> {
        let path = data.join(FOLDER);
        let io_at = |source| JournalError::Io { path: path.clone(), source };
        let segments = Folder::lock(&path).map_err(io_at)?;
        let segments = segments.ok_or_else(|| JournalError::Locked { path: path.join("lock") })?;
        let outside = Folder::open(data).map_err(io_at)?;
        Self::on(Arc::new(segments), &outside, limits)
    }

    /// Opens the journal whose segments are in `storage` and whose watermark is in `outside`.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn on(storage: Arc<dyn Storage>, outside: &dyn Storage, limits: JournalLimits) -> Result<Self, JournalError> {
        let io_at = |name: &str| {
            let path = storage.place(name);
            move |source| JournalError::Io { path, source }
        };
        let mark = outside.place(watermark::FILE);
        let mark_io = |source| JournalError::Io { path: mark.clone(), source };
        let segments = Segment::all(&*storage).map_err(io_at(""))?;
        let known = match Watermark::read(outside).map_err(mark_io)? {
            Known::Entries(entries) => Some(entries),
            // Nothing else is lost with it: the journal is read with what its own frames know.
            Known::Nothing | Known::Damaged => None,
        };
        let durable = known.unwrap_or_default();
        let short = |found, path| JournalError::Short { path, found, durable, watermark: mark.clone() };
        let end = match segments.last() {
            Some(last) => End::of(&*storage, last, durable)?,
            None if durable > 0 => return Err(short(0, storage.place(""))),
            None => End::remade(&*storage, Segment::starting(0), 0).map_err(io_at(""))?,
        };
        if end.next < durable {
            return Err(short(end.next, storage.place(&end.segment.name)));
        }
        end.make_durable(durable).and_then(|()| storage.flush()).map_err(io_at(&end.segment.name))?;
        // It is raised once recovery has seen to what else should have become durable: see `unsure_from`.
        let watermark = Watermark::open(outside, known.unwrap_or(end.next)).map_err(mark_io)?;
        if known.is_none() && end.next > 0 {
            let file = mark.display();
            tracing::warn!(%file, "missing or damaged: a journal cut at its end would not have been noticed");
        }
        let before = segments.iter().take(segments.len().saturating_sub(1));
        let closed = before.map(|segment| segment.open(&*storage)?.length()).sum::<io::Result<u64>>();
        let durable_entries = durable;
        let durable = Durable { entries: AtomicU64::new(end.next), failed: AtomicBool::new(false), watermark };
        Ok(Self {
            file: end.file,
            length: end.length,
            closed: closed.map_err(io_at(""))?,
            next: end.next,
            scratch: Vec::new(),
            limits,
            torn: end.torn,
            unsure_from: durable_entries,
            durable: Arc::new(durable),
            storage,
        })
    }

    /// Bytes of an unfinished entry that were cut from the tail at opening; 0 after a clean stop.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Entries from this one on were not known to be durable at opening; they are now. What should have become
    /// durable before them, the quarantine, may not have: [`settle`](Log::settle) once it has.
    #[must_use]
    pub fn unsure_from(&self) -> u64 {
        self.unsure_from
    }

    /// Reads every entry from `from` on, in order.
    ///
    /// # Errors
    /// [`JournalError`], or whatever `each` returns.
    pub fn replay<E: From<JournalError>>(
        &self,
        from: u64,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let folder = self.storage.place("");
        let all = Segment::all(&*self.storage).map_err(|source| JournalError::Io { path: folder.clone(), source })?;
        let mut expected = all.first().map_or(from, |first| first.first);
        if let Some(first) = all.first().filter(|first| first.first > from) {
            let path = self.storage.place(&first.name);
            return Err(JournalError::Gap { path, found: first.first, expected: from }.into());
        }
        let mut payload = Vec::new();
        for (index, segment) in all.iter().enumerate() {
            let path = || self.storage.place(&segment.name);
            if index > 0 && segment.first != expected {
                return Err(JournalError::Gap { path: path(), found: segment.first, expected }.into());
            }
            // A whole segment before `from` need not be read.
            if let Some(after) = all.get(index + 1).filter(|after| after.first <= from) {
                expected = after.first;
                continue;
            }
            let mut reader = SegmentReader::open(&*self.storage, segment)?;
            // Behind the last entry of a closed segment there may be what a cut that failed has left.
            let after = all.get(index + 1).map(|after| after.first);
            while Some(reader.sequence) != after {
                let (sequence, at) = (reader.sequence, reader.at);
                match reader.next(&mut payload)? {
                    Frame::Whole if sequence >= from => each(sequence, &payload)?,
                    Frame::Whole => {}
                    Frame::End => break,
                    Frame::Broken(what) => return Err(JournalError::Damaged { path: path(), at, what }.into()),
                }
            }
            expected = reader.sequence;
        }
        if expected != self.next {
            return Err(JournalError::Gap { path: folder, found: expected, expected: self.next }.into());
        }
        Ok(())
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.closed + self.length
    }

    /// Closes the segment and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        // What is in the old segment must be durable before anything after it can be. The watermark stays: only
        // the flusher knows that the quarantine is durable too.
        self.durable.flush(&*self.file, self.next)?;
        self.file = Segment::starting(self.next).make(&*self.storage)?;
        self.closed += std::mem::replace(&mut self.length, HEADER);
        self.storage.flush().inspect_err(|_| self.durable.failed.store(true, Ordering::Release))
    }
}

impl Log for Journal {
    fn next_sequence(&self) -> u64 {
        self.next
    }

    fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        self.durable.check()?;
        frame(&mut self.scratch, self.next, self.durable.entries.load(Ordering::Acquire), payload)?;
        if self.bytes() + self.scratch.len() as u64 > self.limits.max_bytes {
            let message =
                format!("it holds {} bytes of {} (`durability.max_journal`)", self.bytes(), self.limits.max_bytes);
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        if self.length >= self.limits.segment_bytes {
            self.roll()?;
        }
        if let Err(error) = self.file.write_at(self.length, &self.scratch) {
            // A short write (a full disk): the next try writes over it, but a crash before that should find
            // little to cut. If even this fails there is more to cut, no harm.
            let _ = self.file.truncate(self.length);
            return Err(error);
        }
        self.length += self.scratch.len() as u64;
        let sequence = self.next;
        self.next += 1;
        Ok(sequence)
    }

    fn flusher(&self) -> Box<dyn Flush> {
        let (file, durable) = (Arc::clone(&self.file), Arc::clone(&self.durable));
        Box::new(SegmentFlush { file, durable, entries: self.next })
    }

    fn failed(&self) -> bool {
        self.durable.failed.load(Ordering::Acquire)
    }

    fn settle(&self) -> io::Result<()> {
        self.durable.check()?;
        if self.durable.entries.load(Ordering::Acquire) < self.next {
            self.durable.flush(&*self.file, self.next)?;
        }
        self.durable.watermark.settle(self.next);
        Ok(())
    }
}

struct SegmentFlush {
    file: Arc<dyn Stored>,
    durable: Arc<Durable>,
    /// Entries that are durable afterwards: older segments were flushed when they were closed.
    entries: u64,
}

impl Flush for SegmentFlush {
    fn flush(&self) -> io::Result<()> {
        self.durable.flush(&*self.file, self.entries)?;
        self.durable.watermark.raise(self.entries);
        Ok(())
    }
}

impl Durable {
    fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a flush failed before: what was written cannot be trusted"));
        }
        Ok(())
    }

    fn flush(&self, file: &dyn Stored, entries: u64) -> io::Result<()> {
        self.check()?;
        if let Err(error) = file.flush() {
            self.failed.store(true, Ordering::Release);
            return Err(error);
        }
        self.entries.fetch_max(entries, Ordering::AcqRel);
        Ok(())
    }
}

/// The last segment, as it was found.
struct End {
    segment: Segment,
    file: Arc<dyn Stored>,
    length: u64,
    next: u64,
    torn: u64,
    /// Where that begins which was not known to be durable.
    unsure: u64,
}

impl End {
    /// Reads the last segment. `durable` entries must be there.
    fn of(storage: &dyn Storage, last: &Segment, durable: u64) -> Result<Self, JournalError> {
        let path = storage.place(&last.name);
        let io_at = |source| JournalError::Io { path: path.clone(), source };
        let file = last.open(storage).map_err(io_at)?;
        let length = file.length().map_err(io_at)?;
        let mut reader = match SegmentReader::open(storage, last) {
            Ok(reader) => reader,
            // The power went before the first flush: nothing in it was ever durable.
            Err(JournalError::Header { .. })
                if durable <= last.first && !later_frame_knows(&*file, 0, last.first).map_err(io_at)? =>
            {
                return Self::remade(storage, last.clone(), length).map_err(io_at);
            }
            Err(error) => return Err(error),
        };
        let mut payload = Vec::new();
        let mut unsure = 0;
        loop {
            let (at, sequence) = (reader.at, reader.sequence);
            match reader.next(&mut payload)? {
                Frame::Whole if sequence < durable => unsure = reader.at,
                Frame::Whole => {}
                Frame::Broken(what)
                    if sequence < durable || later_frame_knows(&*file, at, sequence).map_err(io_at)? =>
                {
                    return Err(JournalError::Damaged { path, at, what });
                }
                Frame::End | Frame::Broken(_) => {
                    let torn = length.saturating_sub(at);
                    return Ok(Self { segment: last.clone(), file, length: at, next: sequence, torn, unsure });
                }
            }
        }
    }

    fn remade(storage: &dyn Storage, segment: Segment, torn: u64) -> io::Result<Self> {
        let file = segment.make(storage)?;
        let next = segment.first;
        Ok(Self { segment, file, length: HEADER, next, torn, unsure: 0 })
    }

    /// Cuts what is torn, and makes sure that the rest is on the disk: it is about to be acted on. Entries after
    /// the last known flush are written again, since after a failed flush the system takes them for clean.
    fn make_durable(&self, durable: u64) -> io::Result<()> {
        let unsure = self.torn > 0 || self.next > durable;
        if unsure {
            // Whole entries behind the tear must never come to stand behind what is written in its place.
            self.file.truncate(self.length)?;
        }
        let mut at = self.unsure;
        let mut buffer = vec![0; 1 << 16];
        while at < self.length {
            let left = usize::try_from(self.length - at).unwrap_or(usize::MAX).min(buffer.len());
            let some = self.file.read_at(at, buffer.get_mut(..left).unwrap_or_default())?;
            if some == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.file.write_at(at, buffer.get(..some).unwrap_or_default())?;
            at += some as u64;
        }
        // The header of an empty segment is flushed with its first entry.
        if unsure { self.file.flush() } else { Ok(()) }
    }
}
