//! Refused records on disk, one JSON object a line, to be looked at and fed again.
//!
//! `refused.ndjson` has the records, `fed` the ids of those that were dealt with. Once the records come to the
//! limit, those that were dealt with make room; if that is not enough, no more is taken until somebody deals
//! with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::storage::{Folder, ReadFrom, Storage, Stored};
use crate::pipeline::ports::{Flush, Quarantine};
use crate::transaction::{EventTime, Position, Refusal};

/// Folder of the quarantine in the data folder.
pub const FOLDER: &str = "quarantine";
const RECORDS: &str = "refused.ndjson";
const HALF: &str = "refused.half";
const FED: &str = "fed";

/// The quarantine of a data folder, open for adding.
#[derive(Debug)]
pub struct QuarantineFile {
    storage: Arc<dyn Storage>,
    file: Arc<dyn Stored>,
    length: u64,
    line: Vec<u8>,
    max_bytes: u64,
    /// Nothing was added since it was opened: a crash may have torn the last line off, whatever it looks like before
    /// the next power cut, and what follows must not be glued to it.
    torn: bool,
    /// How long `fed` was when room was last made.
    fed: u64,
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

    /// What names it in this quarantine. A position alone would not do: where a crash came before its batch was
    /// committed, another record gets it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}-{:08x}", self.partition, self.offset, crc32fast::hash(&self.bytes()))
    }
}

impl QuarantineFile {
    /// Opens the quarantine in `storage`, which takes so many bytes of records.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn on(storage: Arc<dyn Storage>, max_bytes: u64) -> io::Result<Self> {
        let file = match storage.open(RECORDS)? {
            Some(file) => file,
            None => storage.create(RECORDS)?,
        };
        storage.flush()?;
        let length = file.length()?;
        Ok(Self { storage, file, length, line: Vec::new(), max_bytes, torn: length > 0, fed: 0 })
    }

    /// Opens the quarantine in a folder, which is made when it does not exist.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        Self::on(Arc::new(Folder::open(folder)?), max_bytes)
    }

    /// Lets go of what was dealt with.
    fn make_room(&mut self) -> io::Result<()> {
        let Some(fed) = self.storage.open(FED)? else { return Ok(()) };
        let length = fed.length()?;
        if length == self.fed {
            return Ok(());
        }
        let half = self.storage.create(HALF)?;
        let mut written = 0;
        for refused in refused_in(&*self.storage)? {
            self.line.clear();
            serde_json::to_writer(&mut self.line, &refused)?;
            self.line.push(b'\n');
            half.write_at(written, &self.line)?;
            written += self.line.len() as u64;
        }
        half.flush()?;
        self.storage.rename(HALF, RECORDS)?;
        self.storage.flush()?;
        (self.file, self.length, self.torn) = (half, written, false);
        // Marks that are set meanwhile are lost, and their records listed once more: feeding twice is harmless.
        fed.truncate(0)?;
        self.fed = 0;
        Ok(())
    }
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
        let mut line = serde_json::to_vec(&refused)?;
        line.push(b'\n');
        if self.length + line.len() as u64 >= self.max_bytes {
            self.make_room()?;
            if self.length + line.len() as u64 >= self.max_bytes {
                self.fed = self.storage.open(FED)?.map_or(Ok(0), |fed| fed.length())?;
                let message = format!(
                    "it holds {} bytes of {} (`quarantine.max_bytes`): `caddis quarantine feed` or `clear` makes room",
                    self.length, self.max_bytes
                );
                return Err(io::Error::new(io::ErrorKind::StorageFull, message));
            }
        }
        if self.torn {
            line.insert(0, b'\n');
        }
        if let Err(error) = self.file.write_at(self.length, &line) {
            // The next try writes over what is there of it.
            let _ = self.file.truncate(self.length);
            return Err(error);
        }
        self.length += line.len() as u64;
        self.torn = false;
        Ok(())
    }

    fn flusher(&self) -> Box<dyn Flush> {
        Box::new(FlushFile(Arc::clone(&self.file)))
    }
}

struct FlushFile(Arc<dyn Stored>);

impl Flush for FlushFile {
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The records of a quarantine that were not dealt with, oldest first. Of two at the same position the later
/// counts: the first one's batch was not committed before a crash.
///
/// # Errors
/// The files cannot be read.
pub fn refused_in(storage: &dyn Storage) -> io::Result<Vec<Refused>> {
    let mut fed = String::new();
    if let Some(file) = storage.open(FED)? {
        ReadFrom { file, at: 0 }.read_to_string(&mut fed)?;
    }
    let fed: BTreeSet<&str> = fed.lines().collect();
    let Some(file) = storage.open(RECORDS)? else { return Ok(Vec::new()) };
    let mut places: BTreeMap<(u32, u64), usize> = BTreeMap::new();
    let mut records: Vec<Option<Refused>> = Vec::new();
    for line in BufReader::new(ReadFrom { file, at: 0 }).split(b'\n') {
        // A line torn by a crash is no record.
        let Ok(refused) = serde_json::from_slice::<Refused>(&line?) else { continue };
        let position = (refused.partition, refused.offset);
        if let Some(earlier) = places.insert(position, records.len()).and_then(|at| records.get_mut(at)) {
            *earlier = None;
        }
        records.push(Some(refused));
    }
    Ok(records.into_iter().flatten().filter(|refused| !fed.contains(refused.id().as_str())).collect())
}

/// [`refused_in`] a folder; none where there is no such folder.
///
/// # Errors
/// The files cannot be read.
pub fn refused(folder: &Path) -> io::Result<Vec<Refused>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    refused_in(&Folder::open(folder)?)
}

/// Notes that records were dealt with: they are listed no more.
///
/// # Errors
/// The note cannot be written.
pub fn mark_fed(folder: &Path, ids: &[String]) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(FED))?;
    let mut text = ids.join("\n");
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::{QuarantineFile, RECORDS, Refused, mark_fed, refused};
    use crate::pipeline::ports::Quarantine;
    use crate::transaction::{Position, Refusal};

    fn keep(quarantine: &mut QuarantineFile, offset: u64, record: &[u8]) -> std::io::Result<()> {
        quarantine.keep(5, Position { partition: 1, offset }, &Refusal::new("amount", b"x", "a number"), record)
    }

    fn bytes(folder: &std::path::Path) -> Vec<Vec<u8>> {
        refused(folder).expect("lists").iter().map(Refused::bytes).collect()
    }

    #[test]
    fn refused_records_are_kept_listed_and_marked() {
        let folder = tempfile::tempdir().expect("a folder");
        let keep = |offset, record: &[u8]| {
            let mut quarantine = QuarantineFile::open(folder.path(), 1 << 20).expect("opens");
            keep(&mut quarantine, offset, record).expect("keeps");
            quarantine.flusher().flush().expect("flushes");
        };
        keep(0, b"{\"amount\":\"x\"}");
        keep(1, b"\xff\xfe");
        // A torn line is skipped, and the next record is not lost to it.
        let path = folder.path().join(RECORDS);
        let mut torn = std::fs::read(&path).expect("reads");
        torn.extend_from_slice(b"{\"arrival\":5,\"parti");
        std::fs::write(&path, torn).expect("writes");
        keep(2, b"lost with its batch");
        keep(2, b"later");
        assert_eq!(bytes(folder.path()), [b"{\"amount\":\"x\"}".to_vec(), vec![0xff, 0xfe], b"later".to_vec()]);
        mark_fed(folder.path(), &[refused(folder.path()).expect("lists")[0].id()]).expect("marks");
        assert_eq!(bytes(folder.path()).len(), 2);
    }

    #[test]
    fn a_full_quarantine_says_so_until_somebody_deals_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut quarantine = QuarantineFile::open(folder.path(), 500).expect("opens");
        let mut kept = 0;
        let error = loop {
            match keep(&mut quarantine, kept, b"record") {
                Ok(()) => kept += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("`caddis quarantine feed`"), "{error}");
        assert!(kept > 2 && keep(&mut quarantine, kept, b"record").is_err());
        let id = |offset| format!("1-{offset}-{:08x}", crc32fast::hash(b"record"));
        mark_fed(folder.path(), &[id(1)]).expect("marks");
        keep(&mut quarantine, kept, b"newest").expect("there is room again");
        drop(quarantine);
        let ids: Vec<u64> = refused(folder.path()).expect("lists").iter().map(|refused| refused.offset).collect();
        assert_eq!(ids, (0..=kept).filter(|offset| *offset != 1).collect::<Vec<_>>());
        // Also by one that begins anew.
        mark_fed(folder.path(), &[id(0)]).expect("marks");
        let mut quarantine = QuarantineFile::open(folder.path(), 500).expect("opens");
        keep(&mut quarantine, kept + 1, b"newest").expect("there is room again");
    }
}
