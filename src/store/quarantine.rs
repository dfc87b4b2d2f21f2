//! Refused records on disk, one JSON object a line, to be looked at and fed again.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::pipeline::ports::{Flush, Quarantine};
use crate::transaction::{EventTime, Position, Refusal};

/// Beyond this many bytes further records are counted but not kept.
pub const MAX_BYTES: u64 = 1 << 30;

/// The quarantine of a data folder, open for adding.
#[derive(Debug)]
pub struct QuarantineFile {
    file: Arc<File>,
    length: u64,
    line: Vec<u8>,
    max_bytes: u64,
}

/// A refused record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When it came in, milliseconds since 1970.
    pub arrival: EventTime,
    pub partition: u32,
    pub offset: u64,
    #[serde(flatten)]
    pub refusal: Refusal,
    /// The record; absent where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_base64: Option<String>,
}

impl Refused {
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.record, &self.record_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }

    /// What names it in this quarantine.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}", self.partition, self.offset)
    }
}

impl QuarantineFile {
    /// Opens the quarantine in `folder`, which is made when it does not exist.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        let mut file = options.open(records_path(folder))?;
        let mut length = file.metadata()?.len();
        if length > 0 && !ends_with_newline(&file, length)? {
            // A crash tore the last line off: what follows must not be glued to it.
            file.write_all(b"\n")?;
            length += 1;
        }
        Ok(Self { file: Arc::new(file), length, line: Vec::new(), max_bytes: MAX_BYTES })
    }
}

fn ends_with_newline(file: &File, length: u64) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut reader = file;
    reader.seek(SeekFrom::Start(length - 1))?;
    let mut last = [0];
    reader.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Quarantine for QuarantineFile {
    fn keep(&mut self, arrival: EventTime, position: Position, refusal: &Refusal, record: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(record).ok();
        let refused = Refused {
            arrival,
            partition: position.partition,
            offset: position.offset,
            refusal: refusal.clone(),
            record: text.map(str::to_owned),
            record_base64: text.is_none().then(|| STANDARD.encode(record)),
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &refused)?;
        self.line.push(b'\n');
        if self.length + self.line.len() as u64 > self.max_bytes {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("it holds {} bytes", self.length)));
        }
        (&*self.file).write_all(&self.line)?;
        self.length += self.line.len() as u64;
        Ok(())
    }

    fn flusher(&self) -> Box<dyn Flush> {
        Box::new(FlushFile(Arc::clone(&self.file)))
    }
}

struct FlushFile(Arc<File>);

impl Flush for FlushFile {
    fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn records_path(folder: &Path) -> PathBuf {
    folder.join("refused.ndjson")
}

fn fed_path(folder: &Path) -> PathBuf {
    folder.join("fed")
}

/// The records of a quarantine that were not fed again, oldest first. A record refused twice at the same
/// position counts once.
///
/// # Errors
/// The files cannot be read.
pub fn refused(folder: &Path) -> io::Result<Vec<Refused>> {
    let mut done: BTreeSet<String> = match std::fs::read_to_string(fed_path(folder)) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    let file = match File::open(records_path(folder)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        // A line torn by a crash is no record.
        if let Ok(refused) = serde_json::from_slice::<Refused>(&line?)
            && done.insert(refused.id())
        {
            records.push(refused);
        }
    }
    Ok(records)
}

/// Notes that records were fed again: they are listed no more.
///
/// # Errors
/// The note cannot be written.
pub fn mark_fed(folder: &Path, ids: &[String]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(fed_path(folder))?;
    let mut text = ids.join("\n");
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::{QuarantineFile, mark_fed, refused};
    use crate::pipeline::ports::Quarantine;
    use crate::transaction::{Position, Refusal};

    #[test]
    fn refused_records_are_kept_listed_and_marked() {
        let folder = tempfile::tempdir().expect("a folder");
        let keep = |offset, record: &[u8]| {
            let mut quarantine = QuarantineFile::open(folder.path()).expect("opens");
            let refusal = Refusal::new("amount", b"x", "a number");
            let position = Position { partition: 1, offset };
            quarantine.keep(5, position, &refusal, record).expect("keeps");
            quarantine.flusher().flush().expect("flushes");
        };
        keep(0, b"{\"amount\":\"x\"}");
        keep(1, b"\xff\xfe");
        // A torn line is skipped, and the next record is not lost to it.
        let path = super::records_path(folder.path());
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes.extend_from_slice(b"{\"arrival\":5,\"parti");
        std::fs::write(&path, bytes).expect("writes");
        keep(2, b"later");
        let records = refused(folder.path()).expect("lists");
        let bytes: Vec<Vec<u8>> = records.iter().map(super::Refused::bytes).collect();
        assert_eq!(bytes, [b"{\"amount\":\"x\"}".to_vec(), vec![0xff, 0xfe], b"later".to_vec()]);
        mark_fed(folder.path(), &[records[0].id()]).expect("marks");
        assert_eq!(refused(folder.path()).expect("lists").len(), 2);
    }

    #[test]
    fn a_full_quarantine_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut quarantine = QuarantineFile::open(folder.path()).expect("opens");
        quarantine.max_bytes = 10;
        let position = Position { partition: 1, offset: 0 };
        let error = quarantine.keep(5, position, &Refusal::whole(b"", "x"), b"record").expect_err("full");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
}
