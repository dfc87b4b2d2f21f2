//! Records from a file or standard input: one a line, or CSV.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::decode::CsvReader;
use crate::pipeline::ports::{Polled, Records, Source};
use crate::transaction::{Position, Refusal};

/// The longest line taken, in bytes; the rest of a longer one is skipped and the record refused.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// How much is read at a time.
const READ_BYTES: usize = 1 << 18;
/// Records handed on at a time, at most.
const MAX_RECORDS: usize = 4_096;

/// What spreadsheets put before UTF-8 text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines as records, or CSV. Offsets count records: lines that are not empty, without CSV's header; the
/// cursor counts bytes.
pub struct LineSource<R> {
    name: String,
    partition: u32,
    reader: R,
    csv: Option<CsvReader>,
    rereadable: bool,
    buffer: Vec<u8>,
    /// What of the buffer is handed on already, and what was read.
    used: usize,
    filled: usize,
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
    /// Records that were not handed on, for the cursor after them would not do; more may come.
    held: Option<Records>,
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
            csv: None,
            rereadable,
            buffer: Vec::new(),
            used: 0,
            filled: 0,
            cursor: 0,
            next_offset: 0,
            ended: false,
            skipping: false,
            paused: false,
            follow: false,
            block_records: MAX_RECORDS,
            held: None,
        }
    }

    /// Takes the stream for CSV if there is a reader for it.
    #[must_use]
    pub fn read_by(mut self, csv: Option<CsvReader>) -> Self {
        self.csv = csv;
        self
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
        match self.held.take() {
            Some(held) => *into = held,
            None => into.clear(),
        }
        into.partition = self.partition;
        into.first_offset = self.next_offset;
        // A cursor never stands in the middle of a line: the rest of a long one is skipped before it is told.
        while into.is_empty() || self.is_amid() {
            self.cut(into)?;
            if self.ended && (into.is_empty() || self.is_amid()) {
                self.skipping = false;
                break;
            }
            if (into.is_empty() || self.is_amid()) && !self.read_more()? && self.follow {
                break;
            }
        }
        if into.is_empty() || self.is_amid() {
            self.held = (!into.is_empty()).then(|| std::mem::take(into));
            return Ok(false);
        }
        self.next_offset += into.len() as u64;
        into.cursor = self.cursor;
        Ok(true)
    }

    fn is_amid(&self) -> bool {
        self.skipping || self.csv.as_ref().is_some_and(CsvReader::is_amid)
    }

    fn cut(&mut self, into: &mut Records) -> io::Result<()> {
        self.skip_mark();
        if self.csv.is_none() {
            self.cut_lines(into);
            return Ok(());
        }
        while into.len() < self.block_records || self.is_amid() {
            if self.cut_csv(into)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes one record of CSV, or its header, if it is whole. Returns how many bytes.
    fn cut_csv(&mut self, into: &mut Records) -> io::Result<usize> {
        let Some(csv) = &mut self.csv else { return Ok(0) };
        let rest = self.buffer.get(self.used..self.filled).unwrap_or_default();
        let taken = csv.take(rest, self.ended, into);
        let taken = taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.advance(taken);
        Ok(taken)
    }

    fn cut_lines(&mut self, into: &mut Records) {
        while into.len() < self.block_records {
            let rest = self.buffer.get(self.used..self.filled).unwrap_or_default();
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

    fn skip_mark(&mut self) {
        if self.cursor == 0 && self.buffer.get(..self.filled).is_some_and(|read| read.starts_with(BYTE_ORDER_MARK)) {
            self.advance(BYTE_ORDER_MARK.len());
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.used += bytes;
        self.cursor += bytes as u64;
    }

    /// Whether there was more.
    fn read_more(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.used..self.filled, 0);
        (self.used, self.filled) = (0, self.filled - self.used);
        if self.buffer.len() < self.filled + READ_BYTES {
            self.buffer.resize(self.filled + READ_BYTES, 0);
        }
        let read = loop {
            match self.reader.read(self.buffer.get_mut(self.filled..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.filled += read;
        let more = read > 0;
        self.ended = !more && !self.follow;
        Ok(more)
    }
}

impl LineSource<File> {
    /// Reads CSV's header, which stands at the start wherever reading goes on; does nothing for lines.
    ///
    /// # Errors
    /// The file cannot be read, or the header cannot be used.
    pub fn read_header(&mut self) -> io::Result<()> {
        let lacks_header = |csv: &Option<CsvReader>| csv.as_ref().is_some_and(|csv| !csv.has_header());
        if !lacks_header(&self.csv) {
            return Ok(());
        }
        self.go_to(0, 0)?;
        let mut none = Records { partition: self.partition, ..Records::default() };
        while lacks_header(&self.csv) {
            self.skip_mark();
            if self.cut_csv(&mut none)? == 0 && (self.ended || !self.read_more()? && self.follow) {
                break;
            }
        }
        Ok(())
    }

    fn go_to(&mut self, offset: u64, cursor: u64) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(cursor))?;
        (self.used, self.filled, self.cursor, self.next_offset) = (0, 0, cursor, offset);
        (self.ended, self.skipping, self.held) = (false, false, None);
        if let Some(csv) = &mut self.csv {
            csv.go_on();
        }
        Ok(())
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
        if cursor > 0 {
            self.read_header()?;
        }
        self.go_to(next.offset, cursor)
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
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use super::{LineSource, MAX_RECORD_BYTES};
    use crate::pipeline::ports::{Polled, Records, Source};
    use crate::sources::decode::{CsvReader, Mapping, Rates};
    use crate::transaction::{Currency, Position, Schema};

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
    fn a_byte_order_mark_is_no_part_of_the_first_record() {
        assert_eq!(lines(b"\xef\xbb\xbfa\n\xef\xbb\xbfb"), [Ok("a".to_owned()), Ok("\u{feff}b".to_owned())]);
    }

    fn csv(path: &Path) -> LineSource<File> {
        let mapping = "transaction_id = 'id'\namount = 'sum'\nevent_time = 'at'\nmerchant = 'shop'";
        let schema = Arc::new(Schema::default());
        let mapping = Mapping::from_table(&mapping.parse().expect("TOML"), &schema, Rates::new(Currency::EUR));
        let reader = CsvReader::new(Arc::new(mapping.expect("a mapping")), b',');
        LineSource::open(path, 1).expect("opens").read_by(Some(reader))
    }

    /// Every record with its offset and the cursor after it.
    fn one_by_one(source: LineSource<File>) -> Vec<(u64, u64, Records)> {
        let (mut source, mut found) = (source.in_blocks_of(1), Vec::new());
        let mut records = Records::default();
        while source.next_records(&mut records).expect("reads") {
            let next = records.first_offset + records.len() as u64;
            found.push((next, records.cursor, records.clone()));
        }
        found
    }

    #[test]
    fn csv_is_read_on_from_any_cursor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("records.csv");
        let mut text = "\u{feff}id,at,sum,shop\r\n".to_owned();
        for n in 0..300 {
            text += &match n {
                100 => "x,1,2,\"never closed\n".to_owned(),
                n if n % 3 == 0 => format!("{n},1,2,\"a\n\"\"b\"\"\n,\"\r\n\n"),
                n => format!("{n},1,2,ab\n"),
            };
            if n == 150 {
                text += &"y,1,2,no quote for a mebibyte\n".repeat(MAX_RECORD_BYTES / 30 + 1);
            }
        }
        std::fs::write(&path, &text).expect("writes");
        let all = one_by_one(csv(&path));
        assert!(all.len() > 280, "{}", all.len());
        for step in all.iter().step_by(7) {
            let mut again = csv(&path);
            again.seek(Position { partition: 1, offset: step.0 }, step.1).expect("seeks");
            let rest: Vec<_> = all.iter().filter(|(next, ..)| *next > step.0).cloned().collect();
            assert!(one_by_one(again) == rest, "from {} {}", step.0, step.1);
        }
    }

    #[test]
    fn a_followed_csv_file_may_begin_empty_and_wait_for_a_quote() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("records.csv");
        let write = |text: &str| std::fs::write(&path, text).expect("writes");
        write("");
        let mut source = csv(&path).following();
        source.read_header().expect("nothing yet");
        let mut records = Records::default();
        assert_eq!(source.poll(&mut records).expect("reads"), Polled::Idle);
        write("id,at,sum,shop\n1,1,2,\"a");
        assert_eq!(source.poll(&mut records).expect("reads"), Polled::Idle);
        write("id,at,sum,shop\n1,1,2,\"a\nb\"\n");
        assert_eq!(source.poll(&mut records).expect("reads"), Polled::Records);
        assert_eq!(String::from_utf8_lossy(records.record(0)).matches("a\\nb").count(), 1);
        let error = csv(Path::new("Cargo.toml")).read_header().expect_err("no such columns");
        assert!(error.to_string().contains("no column `id` for `transaction_id`"), "{error}");
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
