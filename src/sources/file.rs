//! Records from a file or standard input, one a line.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::pipeline::ports::{Polled, Records, Source};
use crate::transaction::{Position, Refusal};

/// The longest line taken, in bytes; the rest of a longer one is skipped and the record refused.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;
/// Records handed on at a time, at most.
const MAX_RECORDS: usize = 4_096;

/// Reads lines as records. Offsets count lines that are not empty; the cursor counts bytes.
pub struct LineSource<R> {
    name: String,
    partition: u32,
    reader: R,
    rereadable: bool,
    buffer: Vec<u8>,
    /// What of the buffer is handed on already.
    used: usize,
    /// Bytes of the stream before `used`.
    cursor: u64,
    next_offset: u64,
    ended: bool,
    /// In the middle of a line that is too long: its start was refused, its rest is skipped.
    skipping: bool,
    paused: bool,
    /// Lines may still be added at the end: there is no end, only nothing more for now.
    follow: bool,
    block_records: usize,
}

impl LineSource<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, partition: u32) -> io::Result<Self> {
        Ok(Self::new(path.display().to_string(), File::open(path)?, partition, true))
    }
}

impl LineSource<io::Stdin> {
    #[must_use]
    pub fn stdin(partition: u32) -> Self {
        Self::new("standard input".to_owned(), io::stdin(), partition, false)
    }
}

impl<R: Read> LineSource<R> {
    /// Reads from anything.
    pub fn new(name: String, reader: R, partition: u32, rereadable: bool) -> Self {
        Self {
            name,
            partition,
            reader,
            rereadable,
            buffer: Vec::new(),
            used: 0,
            cursor: 0,
            next_offset: 0,
            ended: false,
            skipping: false,
            paused: false,
            follow: false,
            block_records: MAX_RECORDS,
        }
    }

    /// Hands on at most this many records at a time.
    #[must_use]
    pub fn in_blocks_of(mut self, records: usize) -> Self {
        self.block_records = records.clamp(1, MAX_RECORDS);
        self
    }

    /// Waits for lines to be added at the end, rather than taking it for the end; a line counts once its
    /// newline is there.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Reads some lines into `into`, which is cleared first; `false` at the end.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub fn next_records(&mut self, into: &mut Records) -> io::Result<bool> {
        into.clear();
        into.partition = self.partition;
        into.first_offset = self.next_offset;
        // A cursor never stands in the middle of a line: the rest of a long one is skipped before it is told.
        while into.is_empty() || self.skipping {
            self.cut_lines(into);
            if self.ended && (into.is_empty() || self.skipping) {
                self.skipping = false;
                break;
            }
            if (into.is_empty() || self.skipping) && !self.read_more()? && self.follow {
                break;
            }
        }
        if into.is_empty() {
            return Ok(false);
        }
        self.next_offset += into.len() as u64;
        into.cursor = self.cursor;
        Ok(true)
    }

    fn cut_lines(&mut self, into: &mut Records) {
        while into.len() < self.block_records {
            let rest = self.buffer.get(self.used..).unwrap_or_default();
            let (line, step) = match memchr::memchr(b'\n', rest) {
                Some(end) => (rest.get(..end).unwrap_or_default(), end + 1),
                None if self.ended && !rest.is_empty() => (rest, rest.len()),
                None if rest.len() > MAX_RECORD_BYTES => {
                    if !self.skipping {
                        into.records.push(Err(too_long(rest)));
                    }
                    self.skipping = true;
                    self.advance(rest.len());
                    return;
                }
                None => return,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.skipping {
                self.skipping = false;
            } else if line.len() > MAX_RECORD_BYTES {
                into.records.push(Err(too_long(line)));
            } else if !line.iter().all(u8::is_ascii_whitespace) {
                into.push(line);
            }
            self.advance(step);
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.used += bytes;
        self.cursor += bytes as u64;
    }

    /// Whether there was more.
    fn read_more(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let have = self.buffer.len();
        self.buffer.resize(have + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(self.buffer.get_mut(have..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(have + read.as_ref().copied().unwrap_or_default());
        let more = read? > 0;
        self.ended = !more && !self.follow;
        Ok(more)
    }
}

fn too_long(line: &[u8]) -> Refusal {
    Refusal::whole(line, format!("a record of at most {MAX_RECORD_BYTES} bytes"))
}

impl Source for LineSource<File> {
    fn name(&self) -> &str {
        &self.name
    }

    fn partitions(&self) -> Vec<u32> {
        vec![self.partition]
    }

    fn seek(&mut self, next: Position, cursor: u64) -> io::Result<()> {
        let length = self.reader.metadata()?.len();
        if cursor > length {
            let message =
                format!("{} has {length} bytes, {cursor} were read before: it was truncated or replaced", self.name);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.reader.seek(SeekFrom::Start(cursor))?;
        self.buffer.clear();
        (self.used, self.cursor, self.next_offset) = (0, cursor, next.offset);
        (self.ended, self.skipping) = (false, false);
        Ok(())
    }

    fn poll(&mut self, into: &mut Records) -> io::Result<Polled> {
        if self.paused {
            return Ok(Polled::Idle);
        }
        let nothing = if self.follow { Polled::Idle } else { Polled::End };
        Ok(if self.next_records(into)? { Polled::Records } else { nothing })
    }

    fn pause(&mut self, _partition: u32, paused: bool) {
        self.paused = paused;
    }

    fn acknowledge(&mut self, _position: Position) {}

    fn rereadable(&self) -> bool {
        self.rereadable
    }
}

#[cfg(test)]
mod tests {
    use super::{LineSource, MAX_RECORD_BYTES};
    use crate::pipeline::ports::{Polled, Records, Source};
    use crate::transaction::Position;

    fn lines(text: &[u8]) -> Vec<Result<String, ()>> {
        let mut source = LineSource::new("test".into(), text, 3, false);
        let mut records = Records::default();
        let mut found = Vec::new();
        while source.next_records(&mut records).expect("reads") {
            assert_eq!((records.partition, records.first_offset), (3, found.len() as u64));
            found.extend((0..records.len()).map(|at| match &records.records[at] {
                Ok(_) => Ok(String::from_utf8_lossy(records.record(at)).into_owned()),
                Err(_) => Err(()),
            }));
        }
        found
    }

    #[test]
    fn lines_are_records_whatever_ends_them() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(lines(b"a\nb\r\n\n  \nc"), [ok("a"), ok("b"), ok("c")]);
        assert_eq!(lines(b""), []);
        let long = [b"a\n".as_slice(), &vec![b'x'; 3 * MAX_RECORD_BYTES], b"\nb\n"].concat();
        assert_eq!(lines(&long), [ok("a"), Err(()), ok("b")]);
    }

    #[test]
    fn a_followed_file_has_no_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("records");
        std::fs::write(&path, "one\ntw").expect("writes");
        let mut source = LineSource::open(&path, 1).expect("opens").following();
        let mut records = Records::default();
        assert_eq!(source.poll(&mut records).expect("reads"), Polled::Records);
        assert_eq!((records.len(), records.record(0)), (1, b"one".as_slice()));
        assert_eq!(source.poll(&mut records).expect("reads"), Polled::Idle);
        std::fs::write(&path, "one\ntwo\n").expect("writes");
        assert_eq!(source.poll(&mut records).expect("reads"), Polled::Records);
        assert_eq!((records.first_offset, records.record(0)), (1, b"two".as_slice()));
    }

    #[test]
    fn a_file_is_read_on_from_any_cursor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("records");
        let text: String = (0..10_000).map(|n| format!("record {n}\n")).collect();
        std::fs::write(&path, text).expect("writes");
        let mut first = LineSource::open(&path, 1).expect("opens");
        let mut records = Records::default();
        assert!(first.next_records(&mut records).expect("reads"));
        let (offset, cursor) = (records.first_offset + records.len() as u64, records.cursor);
        let mut second = LineSource::open(&path, 1).expect("opens");
        second.seek(Position { partition: 1, offset }, cursor).expect("seeks");
        let mut again = Records::default();
        assert!(first.next_records(&mut records).expect("reads") && second.next_records(&mut again).expect("reads"));
        assert_eq!(records, again);
        assert!(second.seek(Position { partition: 1, offset: 0 }, 1 << 40).is_err());
    }
}
