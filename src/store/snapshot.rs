//! Snapshots on disk: `<entry where it begins, 20 digits>.snapshot`, whole or not there.
//!
//! A file is a header of 24 bytes (magic, format (u32), CRC-32 of the others (u32), where it begins (u64)) and pieces:
//! kind (u8), length (u32), CRC-32 of kind, length and payload (u32), payload; all little endian. The last piece is
//! the end; without it a file is no snapshot. It is written under another name, flushed, and renamed.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::storage::{Folder, ReadFrom, Storage, Stored};
use crate::pipeline::snapshots::{END, Pieces, SnapshotStore};

/// Folder of the snapshots in the data folder.
pub const FOLDER: &str = "snapshots";
const MAGIC: [u8; 8] = *b"CADDISS\0";
const FORMAT: u32 = 1;
const HEADER: usize = 24;
const PIECE_HEAD: usize = 9;
/// No piece is longer, so that a damaged length cannot ask for the machine's memory.
const MAX_PIECE: usize = 256 * 1024 * 1024;
const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = "unfinished";
/// Bytes gathered before they are written.
const GATHER: usize = 1 << 20;

/// Why a file is no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: snapshot format {found} is newer than this build reads ({FORMAT}); use a newer Caddis")]
    Format { path: PathBuf, found: u32 },
    #[error("{path}: damaged at byte {at}: {what}")]
    Damaged { path: PathBuf, at: u64, what: &'static str },
}

/// The snapshots of a data folder.
#[derive(Debug)]
pub struct Snapshots {
    storage: Arc<dyn Storage>,
    /// How many are kept.
    keep: usize,
}

impl Snapshots {
    /// Those in `data`; the folder is made when it does not exist.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(data: &Path, keep: usize) -> io::Result<Self> {
        Ok(Self::on(Arc::new(Folder::open(&data.join(FOLDER))?), keep))
    }

    /// Those in `storage`.
    #[must_use]
    pub fn on(storage: Arc<dyn Storage>, keep: usize) -> Self {
        Self { storage, keep: keep.max(1) }
    }

    /// Where each begins, the newest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> io::Result<Vec<u64>> {
        let begin = |name: String| name.strip_suffix(SUFFIX)?.parse::<u64>().ok();
        let mut all: Vec<u64> = self.storage.list()?.into_iter().filter_map(begin).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        Ok(all)
    }

    /// Where a snapshot is, for messages.
    #[must_use]
    pub fn place(&self, begin: u64) -> PathBuf {
        self.storage.place(&name(begin))
    }

    /// Calls `each` with every piece of a snapshot, the end among them, in order; `false` from `each` stops it early.
    ///
    /// # Errors
    /// See [`SnapshotError`]: pieces before the damage were told of.
    pub fn read(&self, begin: u64, mut each: impl FnMut(u8, &[u8]) -> bool) -> Result<(), SnapshotError> {
        let path = self.place(begin);
        let io_at = |source| SnapshotError::Io { path: path.clone(), source };
        let file = self.storage.open(&name(begin)).map_err(io_at)?;
        let file = file.ok_or_else(|| io_at(io::ErrorKind::NotFound.into()))?;
        let mut reader = io::BufReader::with_capacity(GATHER, ReadFrom { file, at: 0 });
        let mut at = 0;
        let damaged = |at, what| SnapshotError::Damaged { path: path.clone(), at, what };
        let mut take = |bytes: &mut [u8], at: &mut u64| match reader.read_exact(bytes) {
            Ok(()) => {
                *at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(*at, "it ends in the middle")),
            Err(error) => Err(io_at(error)),
        };
        let mut header = [0; HEADER];
        take(&mut header, &mut at)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (format, crc, from) =
            (word(rest), word(rest.get(4..).unwrap_or_default()), rest.get(8..).unwrap_or_default());
        if magic != MAGIC {
            return Err(damaged(0, "it is no snapshot"));
        }
        if format > FORMAT {
            return Err(SnapshotError::Format { path: path.clone(), found: format });
        }
        if crc != header_crc(from) || from != begin.to_le_bytes() {
            return Err(damaged(0, "its header is not what it was"));
        }
        let mut payload = Vec::new();
        loop {
            let start = at;
            let mut head = [0; PIECE_HEAD];
            take(&mut head, &mut at)?;
            let [kind, rest @ ..] = head;
            let length = word(&rest) as usize;
            if length > MAX_PIECE {
                return Err(damaged(start, "a length that none has"));
            }
            payload.resize(length, 0);
            take(&mut payload, &mut at)?;
            if word(rest.get(4..).unwrap_or_default()) != piece_crc(kind, &payload) {
                return Err(damaged(start, "a checksum is wrong"));
            }
            if !each(kind, &payload) || kind == END {
                return Ok(());
            }
        }
    }
}

impl SnapshotStore for Snapshots {
    fn begin(&mut self, begin: u64) -> io::Result<Box<dyn Pieces>> {
        let file = self.storage.create(UNFINISHED)?;
        let mut gathered = MAGIC.to_vec();
        gathered.extend_from_slice(&FORMAT.to_le_bytes());
        gathered.extend_from_slice(&header_crc(&begin.to_le_bytes()).to_le_bytes());
        gathered.extend_from_slice(&begin.to_le_bytes());
        Ok(Box::new(Writer { storage: Arc::clone(&self.storage), file, begin, gathered, written: 0, keep: self.keep }))
    }
}

#[derive(Debug)]
struct Writer {
    storage: Arc<dyn Storage>,
    file: Arc<dyn Stored>,
    begin: u64,
    gathered: Vec<u8>,
    written: u64,
    keep: usize,
}

impl Writer {
    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(self.written, &self.gathered)?;
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

impl Pieces for Writer {
    fn put(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= MAX_PIECE);
        let length = length.ok_or_else(|| io::Error::other("a piece of a snapshot is too long"))?;
        self.gathered.push(kind);
        self.gathered.extend_from_slice(&length.to_le_bytes());
        self.gathered.extend_from_slice(&piece_crc(kind, payload).to_le_bytes());
        self.gathered.extend_from_slice(payload);
        if self.gathered.len() >= GATHER { self.write() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.write()?;
        self.file.flush()?;
        self.storage.rename(UNFINISHED, &name(self.begin))?;
        self.storage.flush()?;
        let snapshots = Snapshots { storage: Arc::clone(&self.storage), keep: self.keep };
        for old in snapshots.all()?.into_iter().skip(self.keep) {
            self.storage.remove(&name(old))?;
        }
        Ok(self.written)
    }
}

fn name(begin: u64) -> String {
    format!("{begin:020}{SUFFIX}")
}

fn header_crc(begin: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&MAGIC);
    crc.update(&FORMAT.to_le_bytes());
    crc.update(begin);
    crc.finalize()
}

fn piece_crc(kind: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&(payload.len() as u64).to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word))
}
