//! The journal on disk: numbered frames in segment files, each with a checksum, appended only.
//!
//! A segment is `<first sequence, 20 digits>.journal`: a header of 24 bytes (magic, format, first
//! sequence), then frames: length (u32), CRC-32 of sequence and payload (u32), sequence (u64), payload;
//! all little endian. A tail that a crash tore off is cut at opening; damage anywhere else is an error
//! that names file and place, never a silent loss.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::pipeline::ports::{Flush, Log};

const MAGIC: [u8; 8] = *b"CADDISJ\0";
const FORMAT: u32 = 1;
const HEADER: u64 = HEADER_LENGTH as u64;
const HEADER_LENGTH: usize = 24;
const FRAME_HEADER: usize = 16;
/// A frame is never longer than this, so that a damaged length cannot ask for the machine's memory.
pub const MAX_FRAME: usize = 256 * 1024 * 1024;
/// A segment is closed once it is this long, in bytes.
pub const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;

/// What kept the journal from opening.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: not a journal segment (its header is damaged, or it is another program's file)")]
    Header { path: PathBuf },
    #[error("{path}: journal format {found} is newer than this build reads ({FORMAT}); use a newer Caddis")]
    Format { path: PathBuf, found: u32 },
    #[error(
        "{path}: damaged at byte {at}: {what}, with whole entries after it; restore the file from a backup, or move the data folder aside to start afresh"
    )]
    Damaged { path: PathBuf, at: u64, what: &'static str },
    #[error("{path}: starts at entry {found}, expected {expected}: a segment before it is missing")]
    Gap { path: PathBuf, found: u64, expected: u64 },
    #[error("{path}: another caddis is using this data folder (lock held)")]
    Locked { path: PathBuf },
}

/// An open journal; frames are appended at its end.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    file: Arc<File>,
    length: u64,
    next: u64,
    /// Where the last whole append ended, so that a torn one can be taken back.
    scratch: Vec<u8>,
    segment_bytes: u64,
    /// Bytes cut from the tail at opening, for the log line.
    torn: u64,
    /// Held for as long as the journal is open: one writer a folder.
    _lock: File,
}

struct Segment {
    path: PathBuf,
    first: u64,
}

impl Journal {
    /// Opens the journal in `folder`, which is made when it does not exist, and cuts a torn tail.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        Self::open_with(folder, SEGMENT_BYTES)
    }

    /// [`open`](Self::open) with another segment length, for tests.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open_with(folder: &Path, segment_bytes: u64) -> Result<Self, JournalError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io_at(folder))?;
        let lock_path = folder.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io_at(&lock_path))?;
        if lock.try_lock().is_err() {
            return Err(JournalError::Locked { path: lock_path });
        }
        let segments = segments(folder).map_err(io_at(folder))?;
        let Some(last) = segments.last() else {
            let (file, path) = create_segment(folder, 0).map_err(io_at(folder))?;
            sync_folder(folder).map_err(io_at(&path))?;
            return Ok(Self::at_end(folder, file, HEADER, 0, segment_bytes, 0, lock));
        };
        let mut file = OpenOptions::new().read(true).write(true).open(&last.path).map_err(io_at(&last.path))?;
        let length = file.metadata().map_err(io_at(&last.path))?.len();
        if length < HEADER && (segments.len() > 1 || last.first == 0) {
            // The crash came while the segment was being made: make it again.
            drop(file);
            let (file, _) = create_segment(folder, last.first).map_err(io_at(&last.path))?;
            return Ok(Self::at_end(folder, file, HEADER, last.first, segment_bytes, length, lock));
        }
        let mut reader = SegmentReader::open(&last.path, last.first)?;
        let mut payload = Vec::new();
        let (mut end, mut next) = (HEADER, last.first);
        loop {
            match reader.next(&mut payload)? {
                Frame::Whole => {
                    end = reader.at;
                    next += 1;
                }
                Frame::End => break,
                Frame::Broken(what) => {
                    if reader.whole_frame_after(next)? {
                        return Err(JournalError::Damaged { path: last.path.clone(), at: end, what });
                    }
                    break;
                }
            }
        }
        let torn = length.saturating_sub(end);
        if torn > 0 {
            file.set_len(end).and_then(|()| file.sync_all()).map_err(io_at(&last.path))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(io_at(&last.path))?;
        Ok(Self::at_end(folder, file, end, next, segment_bytes, torn, lock))
    }

    fn at_end(folder: &Path, file: File, length: u64, next: u64, segment_bytes: u64, torn: u64, lock: File) -> Self {
        let folder = folder.to_owned();
        Self { folder, file: Arc::new(file), length, next, scratch: Vec::new(), segment_bytes, torn, _lock: lock }
    }

    /// Bytes of an unfinished entry that were cut from the tail at opening; 0 after a clean stop.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
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
        let all = segments(&self.folder).map_err(|source| JournalError::Io { path: self.folder.clone(), source })?;
        let mut expected: Option<u64> = None;
        let mut payload = Vec::new();
        for (index, segment) in all.iter().enumerate() {
            if let Some(expected) = expected.filter(|expected| *expected != segment.first) {
                return Err(JournalError::Gap { path: segment.path.clone(), found: segment.first, expected }.into());
            }
            // A whole segment before `from` need not be read.
            if let Some(after) = all.get(index + 1).filter(|after| after.first <= from) {
                expected = Some(after.first);
                continue;
            }
            let mut reader = SegmentReader::open(&segment.path, segment.first)?;
            loop {
                let (sequence, at) = (reader.sequence, reader.at);
                match reader.next(&mut payload)? {
                    Frame::Whole if sequence >= from => each(sequence, &payload)?,
                    Frame::Whole => {}
                    Frame::End => break,
                    Frame::Broken(what) => {
                        return Err(JournalError::Damaged { path: segment.path.clone(), at, what }.into());
                    }
                }
            }
            expected = Some(reader.sequence);
        }
        if let Some(end) = expected.filter(|end| *end != self.next) {
            return Err(JournalError::Gap { path: self.folder.clone(), found: end, expected: self.next }.into());
        }
        Ok(())
    }

    /// Bytes in all segments.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn bytes(&self) -> io::Result<u64> {
        segments(&self.folder)?.iter().map(|segment| Ok(std::fs::metadata(&segment.path)?.len())).sum()
    }
}

impl Log for Journal {
    fn next_sequence(&self) -> u64 {
        self.next
    }

    fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length as usize <= MAX_FRAME)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a journal entry is longer than 256 MiB"))?;
        if self.length >= self.segment_bytes {
            // What is in the old segment must be durable before anything after it can be.
            self.file.sync_data()?;
            let (file, _) = create_segment(&self.folder, self.next)?;
            sync_folder(&self.folder)?;
            self.file = Arc::new(file);
            self.length = HEADER;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(&length.to_le_bytes());
        self.scratch.extend_from_slice(&checksum(self.next, payload).to_le_bytes());
        self.scratch.extend_from_slice(&self.next.to_le_bytes());
        self.scratch.extend_from_slice(payload);
        if let Err(error) = (&*self.file).write_all(&self.scratch) {
            // A short write (a full disk) must not stay in the middle of the file.
            let mut file = &*self.file;
            file.set_len(self.length)?;
            file.seek(SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += self.scratch.len() as u64;
        let sequence = self.next;
        self.next += 1;
        Ok(sequence)
    }

    fn flusher(&self) -> Box<dyn Flush> {
        Box::new(FileFlush(Arc::clone(&self.file)))
    }
}

struct FileFlush(Arc<File>);

impl Flush for FileFlush {
    fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

enum Frame {
    Whole,
    End,
    Broken(&'static str),
}

struct SegmentReader {
    path: PathBuf,
    reader: BufReader<File>,
    at: u64,
    length: u64,
    sequence: u64,
}

impl SegmentReader {
    fn open(path: &Path, first: u64) -> Result<Self, JournalError> {
        let io_at = |source| JournalError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io_at)?;
        let length = file.metadata().map_err(io_at)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut header = [0; HEADER_LENGTH];
        let damaged = || JournalError::Header { path: path.to_owned() };
        reader.read_exact(&mut header).map_err(|_| damaged())?;
        if header.get(..8) != Some(&MAGIC) {
            return Err(damaged());
        }
        let format = u32_at(&header, 8).ok_or_else(damaged)?;
        if format != FORMAT {
            return Err(JournalError::Format { path: path.to_owned(), found: format });
        }
        if u64_at(&header, 16) != Some(first) {
            return Err(damaged());
        }
        Ok(Self { path: path.to_owned(), reader, at: HEADER, length, sequence: first })
    }

    fn next(&mut self, payload: &mut Vec<u8>) -> Result<Frame, JournalError> {
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
        if length as usize > MAX_FRAME || u64::from(length) > left - FRAME_HEADER as u64 {
            return Ok(Frame::Broken("an entry is longer than the file"));
        }
        payload.clear();
        payload.resize(length as usize, 0);
        self.reader.read_exact(payload).map_err(io_at)?;
        if sequence != Some(self.sequence) {
            return Ok(Frame::Broken("an entry is out of sequence"));
        }
        if crc != Some(checksum(self.sequence, payload)) {
            return Ok(Frame::Broken("an entry's checksum does not match"));
        }
        self.at += FRAME_HEADER as u64 + u64::from(length);
        self.sequence += 1;
        Ok(Frame::Whole)
    }

    /// Whether a whole entry of a sequence after `broken` stands anywhere behind the broken place: then it
    /// is no torn tail but damage.
    fn whole_frame_after(&self, broken: u64) -> Result<bool, JournalError> {
        let io_at = |source| JournalError::Io { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(io_at)?;
        file.seek(SeekFrom::Start(self.at)).map_err(io_at)?;
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).map_err(io_at)?;
        for at in 1..rest.len().saturating_sub(FRAME_HEADER) {
            let Some(sequence) = u64_at(&rest, at + 8).filter(|s| (broken + 1..broken + 1_000_000).contains(s)) else {
                continue;
            };
            let Some(length) = u32_at(&rest, at).map(|length| length as usize) else { continue };
            let start = at + FRAME_HEADER;
            let whole = start
                .checked_add(length)
                .and_then(|end| rest.get(start..end))
                .is_some_and(|payload| u32_at(&rest, at + 4) == Some(checksum(sequence, payload)));
            if whole {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn checksum(sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn segments(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let first = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".journal"))
            .and_then(|digits| digits.parse().ok());
        if let Some(first) = first {
            found.push(Segment { path, first });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

fn create_segment(folder: &Path, first: u64) -> io::Result<(File, PathBuf)> {
    let path = folder.join(format!("{first:020}.journal"));
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
    let mut header = [0; HEADER_LENGTH];
    for (cell, byte) in
        header.iter_mut().zip(MAGIC.iter().chain(&FORMAT.to_le_bytes()).chain(&[0; 4]).chain(&first.to_le_bytes()))
    {
        *cell = *byte;
    }
    file.write_all(&header)?;
    file.sync_all()?;
    Ok((file, path))
}

/// Makes the folder's own entries durable: without it a new file may be gone after a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{Journal, JournalError};
    use crate::pipeline::ports::Log;

    fn entries(journal: &Journal) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        journal
            .replay(0, |sequence, payload| {
                assert_eq!(sequence, all.len() as u64);
                all.push(payload.to_vec());
                Ok::<_, JournalError>(())
            })
            .expect("a whole journal");
        all
    }

    fn filled(folder: &std::path::Path, count: u32) -> Vec<Vec<u8>> {
        let mut journal = Journal::open_with(folder, 200).expect("opens");
        let payloads: Vec<Vec<u8>> =
            (0..count).map(|n| format!("entry {n} {}", "x".repeat(n as usize)).into()).collect();
        for payload in &payloads {
            journal.append(payload).expect("appends");
        }
        payloads
    }

    #[test]
    fn what_was_appended_is_read_again_over_several_segments() {
        let folder = tempfile::tempdir().expect("a folder");
        let payloads = filled(folder.path(), 30);
        let journal = Journal::open_with(folder.path(), 200).expect("opens again");
        assert_eq!(journal.next_sequence(), 30);
        assert_eq!(entries(&journal), payloads);
        assert!(super::segments(folder.path()).expect("segments").len() > 3);
    }

    #[test]
    fn one_process_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = Journal::open(folder.path()).expect("opens");
        assert!(matches!(Journal::open(folder.path()), Err(JournalError::Locked { .. })));
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_and_the_entries_before_it_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let payloads = filled(folder.path(), 3);
        let path = super::segments(folder.path()).expect("segments").pop().expect("one").path;
        let whole = std::fs::read(&path).expect("reads");
        for cut in 0..whole.len() {
            std::fs::write(&path, whole.get(..cut).expect("in range")).expect("writes");
            let mut journal = Journal::open_with(folder.path(), 1 << 20).expect("a torn tail is no error");
            let kept = entries(&journal);
            assert_eq!(kept, payloads.get(..kept.len()).expect("a prefix"), "cut at {cut}");
            journal.append(b"after").expect("goes on");
            assert_eq!(entries(&journal).last().map(Vec::as_slice), Some(b"after".as_slice()));
            drop(journal);
        }
    }

    #[test]
    fn damage_before_whole_entries_is_refused_with_file_and_place() {
        let folder = tempfile::tempdir().expect("a folder");
        filled(folder.path(), 3);
        let path = super::segments(folder.path()).expect("segments").pop().expect("one").path;
        let mut bytes = std::fs::read(&path).expect("reads");
        *bytes.get_mut(24 + 18).expect("in the first entry") ^= 1;
        std::fs::write(&path, bytes).expect("writes");
        let error = Journal::open_with(folder.path(), 1 << 20).expect_err("damaged");
        assert!(error.to_string().contains("damaged at byte 24"), "{error}");
    }
}
