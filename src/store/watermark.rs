//! How far the journal is known to be durable, in a small file outside of it: a journal whose end was cut off
//! looks whole by itself.
//!
//! Two slots, at 0 and at 4096, are written in turn, so that a torn write spoils one of them only: magic (8
//! bytes), entries (u64), CRC-32 of both (u32); all little endian.
//!
//! It is written after every flush of the journal, which costs a system call, and flushed itself at every
//! 256th, after recovery and at a clean stop. A killed process thus leaves it exact; after
//! a power cut it may be some flushes old, and is a lower bound.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::storage::{Storage, Stored};

pub const FILE: &str = "watermark";
const MAGIC: [u8; 8] = *b"CADDISW\x01";
const SLOT: usize = 20;
const PLACES: [u64; 2] = [0, 4_096];
/// A second's worth on a disk that takes 4 ms a flush.
const FLUSH_EVERY: u32 = 256;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// So many entries were durable.
    Entries(u64),
    /// There is no file.
    Nothing,
    /// Neither slot can be read.
    Damaged,
}

#[derive(Debug)]
pub struct Watermark {
    state: Mutex<State>,
    place: PathBuf,
}

#[derive(Debug)]
struct State {
    file: Arc<dyn Stored>,
    entries: u64,
    /// The slot to write next.
    slot: usize,
    unflushed: u32,
    told: bool,
}

impl Watermark {
    /// What the file of `storage` says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(storage: &dyn Storage) -> io::Result<Known> {
        let Some(file) = storage.open(FILE)? else { return Ok(Known::Nothing) };
        Ok(newest(&*file)?.map_or(Known::Damaged, |(_, entries)| Known::Entries(entries)))
    }

    /// Goes on from `entries`, which are durable. A new file is durable with it.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn open(storage: &dyn Storage, entries: u64) -> io::Result<Self> {
        let found = storage.open(FILE)?;
        let newest = found.as_ref().map_or(Ok(None), |file| newest(&**file))?;
        let slot = newest.map_or(0, |(slot, _)| 1 - slot);
        let file = found.map_or_else(|| storage.create(FILE), Ok)?;
        let state = State { file, entries, slot, unflushed: 0, told: false };
        let watermark = Self { state: Mutex::new(state), place: storage.place(FILE) };
        {
            // Also where it says so already: that may never have reached the disk.
            let mut state = watermark.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.write()?;
            state.file.flush()?;
        }
        storage.flush()?;
        Ok(watermark)
    }

    /// Notes that `entries` are durable, for a while only in the operating system's memory.
    pub fn raise(&self, entries: u64) {
        self.note(entries, false);
    }

    /// Notes that `entries` are durable, durably.
    pub fn settle(&self, entries: u64) {
        self.note(entries, true);
    }

    /// The file guards against damage; decisions do not hang on it. It failing to be written lowers the guard,
    /// which is said once.
    fn note(&self, entries: u64, durably: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if entries < state.entries {
            return;
        }
        let written = if entries > state.entries {
            state.entries = entries;
            state.unflushed += 1;
            state.write()
        } else {
            Ok(())
        };
        let written = written.and_then(|()| {
            if state.unflushed > 0 && (durably || state.unflushed >= FLUSH_EVERY) {
                state.unflushed = 0;
                return state.file.flush();
            }
            Ok(())
        });
        if let Err(error) = written
            && !std::mem::replace(&mut state.told, true)
        {
            let file = self.place.display();
            tracing::warn!(%file, %error, "cannot be written: a journal cut at its end may go unnoticed");
        }
    }
}

impl State {
    fn write(&mut self) -> io::Result<()> {
        let mut slot = [0; SLOT];
        let bytes = MAGIC.into_iter().chain(self.entries.to_le_bytes());
        slot.iter_mut().zip(bytes).for_each(|(cell, byte)| *cell = byte);
        let crc = crc32fast::hash(slot.get(..SLOT - 4).unwrap_or_default());
        slot.iter_mut().skip(SLOT - 4).zip(crc.to_le_bytes()).for_each(|(cell, byte)| *cell = byte);
        let at = PLACES.get(self.slot).copied().unwrap_or_default();
        self.slot = 1 - self.slot;
        self.file.write_at(at, &slot)
    }
}

/// The slot with the most entries, and how many.
fn newest(file: &dyn Stored) -> io::Result<Option<(usize, u64)>> {
    let mut newest: Option<(usize, u64)> = None;
    for (slot, at) in PLACES.into_iter().enumerate() {
        let mut bytes = [0; SLOT];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match file.read_at(at + read as u64, rest)? {
                0 => break,
                some => read += some,
            }
        }
        let whole = read == SLOT && bytes.starts_with(&MAGIC);
        let crc = bytes.last_chunk::<4>().map(|crc| u32::from_le_bytes(*crc));
        let right = crc == bytes.get(..SLOT - 4).map(crc32fast::hash);
        let entries = bytes.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        if let Some(entries) = entries.filter(|_| whole && right)
            && newest.is_none_or(|(_, most)| entries > most)
        {
            newest = Some((slot, entries));
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::{FILE, Known, Watermark};
    use crate::store::storage::{Folder, Storage};

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Folder::open(folder.path()).expect("a folder");
        assert_eq!(Watermark::read(&storage).expect("reads"), Known::Nothing);
        let watermark = Watermark::open(&storage, 0).expect("opens");
        for entries in [3, 5, 4, 9] {
            watermark.raise(entries);
        }
        assert_eq!(Watermark::read(&storage).expect("reads"), Known::Entries(9));
        let file = storage.open(FILE).expect("opens").expect("is there");
        // Slots were written in turn: 0, 3, 5, 9.
        file.write_at(4_096 + 10, b"torn").expect("writes");
        assert_eq!(Watermark::read(&storage).expect("reads"), Known::Entries(5));
        let watermark = Watermark::open(&storage, 7).expect("goes on");
        assert_eq!(Watermark::read(&storage).expect("reads"), Known::Entries(7));
        watermark.settle(8);
        file.write_at(10, b"torn").expect("writes");
        file.write_at(4_096 + 10, b"torn").expect("writes");
        assert_eq!(Watermark::read(&storage).expect("reads"), Known::Damaged);
    }
}
