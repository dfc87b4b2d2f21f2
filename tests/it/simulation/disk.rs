//! A disk in memory that fills up, tears writes, fails to flush, and stops the process or the power at any
//! operation. What the process sees (the page cache) and what outlasts a power cut are kept apart.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caddis::store::storage::{Storage, Stored};

use super::Random;

/// What the process unwinds with when it is killed at an operation.
pub struct Crash;

/// What a power cut leaves of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    Nothing,
    /// A beginning of it, the last write torn.
    Beginning,
    /// Any of its sectors.
    Sectors,
}

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that are not durable yet, in order.
    renamed: Vec<Naming>,
    operations: u64,
    crash_at: Option<u64>,
    full: bool,
    failing_flush: bool,
    flushes: u64,
    /// The flush that does nothing: a mistake in the code, as it were.
    forgotten: Option<u64>,
    /// Flushes that had something to do, by what they are of and at which operation they were.
    needed: Vec<(u64, u64, String)>,
}

/// A file gets a name, and may lose another, at once.
#[derive(Debug, Clone)]
struct Naming {
    name: String,
    file: usize,
    not: Option<String>,
}

#[derive(Debug, Default, Clone)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Disk {
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(State {
            random,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            operations: 0,
            crash_at: None,
            full: false,
            failing_flush: false,
            flushes: 0,
            forgotten: None,
            needed: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn folder(&self, path: &str) -> Arc<dyn Storage> {
        Arc::new(Folder { disk: self.clone(), path: path.to_owned() })
    }

    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The process dies at this operation, which is done in part.
    pub fn crash_at(&self, operation: Option<u64>) {
        self.state().crash_at = operation;
    }

    /// A place where the process may die that is no operation of the disk.
    pub fn passes(&self) {
        let state = self.state();
        step(state, |_| {});
    }

    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// The next flush fails, and what it should have made durable is taken for clean.
    pub fn fail_flush(&self, failing: bool) {
        self.state().failing_flush = failing;
    }

    pub fn forget_flush(&self, number: Option<u64>) {
        self.state().forgotten = number;
    }

    /// Flushes that had something to do: number, operation, and what was flushed.
    pub fn needed(&self) -> Vec<(u64, u64, String)> {
        self.state().needed.clone()
    }

    pub fn length(&self, path: &str) -> usize {
        let state = self.state();
        state.names.get(path).map_or(0, |file| state.files[*file].now.len())
    }

    /// Everything that stands on it, for comparison.
    pub fn image(&self) -> Vec<u8> {
        let state = self.state();
        let mut image = Vec::new();
        for (name, file) in &state.names {
            image.extend_from_slice(name.as_bytes());
            image.extend_from_slice(&state.files[*file].now);
        }
        image
    }

    /// The power goes, and comes back.
    pub fn lose_power(&self, leaves: Leaves) {
        let mut state = self.state();
        let state = &mut *state;
        let kept = match leaves {
            Leaves::Nothing => 0,
            _ => state.random.below(state.renamed.len() as u64 + 1),
        };
        for naming in state.renamed.drain(..).take(usize::try_from(kept).expect("few")) {
            naming.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        for file in &mut state.files {
            let dirty = std::mem::take(&mut file.dirty);
            survive(&mut file.durable, &dirty, leaves, &mut state.random);
            file.now = file.durable.clone();
        }
    }
}

impl Naming {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        names.insert(self.name, self.file);
        if let Some(not) = self.not {
            names.remove(&not);
        }
    }
}

/// Applies what a power cut leaves of `dirty`.
fn survive(durable: &mut Vec<u8>, dirty: &[Change], leaves: Leaves, random: &mut Random) {
    let whole = match leaves {
        Leaves::Nothing => return,
        Leaves::Beginning => usize::try_from(random.below(dirty.len() as u64 + 1)).expect("few"),
        Leaves::Sectors => dirty.len(),
    };
    for (index, change) in dirty.iter().enumerate().take(whole) {
        let last = index + 1 == whole;
        match change {
            Change::Truncate(length) => {
                if leaves == Leaves::Beginning || random.chance(0.5) {
                    durable.resize(*length, 0);
                }
            }
            Change::Write(at, bytes) if leaves == Leaves::Beginning => {
                let kept = if last { random.upto(bytes.len()) } else { bytes.len() };
                write(durable, *at, &bytes[..kept]);
            }
            Change::Write(at, bytes) => {
                // The new length may be there without the data.
                if random.chance(0.5) && durable.len() < at + bytes.len() {
                    durable.resize(at + bytes.len(), 0);
                }
                let mut from = 0;
                while from < bytes.len() {
                    let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                    if random.chance(0.5) {
                        write(durable, at + from, &bytes[from..to]);
                    }
                    from = to;
                }
            }
        }
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Counts an operation; the process may die in it.
fn step<T>(mut state: MutexGuard<'_, State>, operation: impl FnOnce(&mut State) -> T) -> T {
    state.operations += 1;
    if state.crash_at == Some(state.operations) {
        state.crash_at = None;
        // The operation may have been done, just not told.
        if state.random.chance(0.5) {
            operation(&mut state);
        }
        drop(state);
        std::panic::resume_unwind(Box::new(Crash));
    }
    operation(&mut state)
}

#[derive(Debug)]
struct Folder {
    disk: Disk,
    path: String,
}

#[derive(Debug)]
struct OpenFile {
    disk: Disk,
    file: usize,
    name: String,
}

impl Folder {
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    fn opened(&self, file: usize, name: &str) -> Arc<dyn Stored> {
        Arc::new(OpenFile { disk: self.disk.clone(), file, name: self.full(name) })
    }
}

fn no_space() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
}

impl Storage for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.disk.state();
        let inside =
            |name: &String| name.strip_prefix(&self.path).filter(|rest| !rest.contains('/')).map(str::to_owned);
        Ok(state.names.keys().filter_map(inside).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn Stored>> {
        let full = self.full(name);
        let made = step(self.disk.state(), |state| {
            if let Some(file) = state.names.get(&full).copied() {
                state.files[file].now.clear();
                state.files[file].dirty.push(Change::Truncate(0));
                return Ok(file);
            }
            if state.full && state.random.chance(0.5) {
                return Err(no_space());
            }
            state.files.push(File::default());
            let file = state.files.len() - 1;
            state.names.insert(full.clone(), file);
            state.renamed.push(Naming { name: full.clone(), file, not: None });
            Ok(file)
        });
        Ok(self.opened(made?, name))
    }

    fn open(&self, name: &str) -> io::Result<Option<Arc<dyn Stored>>> {
        let file = self.disk.state().names.get(&self.full(name)).copied();
        Ok(file.map(|file| self.opened(file, name)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.full(from), self.full(to));
        step(self.disk.state(), |state| {
            let file = state.names.get(&from).copied().ok_or(io::ErrorKind::NotFound)?;
            let naming = Naming { name: to, file, not: Some(from) };
            naming.clone().apply(&mut state.names);
            state.renamed.push(naming);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let full = self.full(name);
        step(self.disk.state(), |state| {
            state.durable_names.remove(&full);
            state.names.remove(&full).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn flush(&self) -> io::Result<()> {
        let folder = self.path.clone();
        step(self.disk.state(), |state| {
            let inside = |name: &str| name.strip_prefix(&folder).is_some_and(|rest| !rest.contains('/'));
            let any = state.renamed.iter().any(|naming| inside(&naming.name));
            if state.begin_flush(any, &format!("{folder} (names)"))? {
                let all = std::mem::take(&mut state.renamed).into_iter();
                let (done, left): (Vec<Naming>, _) = all.partition(|naming| inside(&naming.name));
                state.renamed = left;
                done.into_iter().for_each(|naming| naming.apply(&mut state.durable_names));
            }
            Ok(())
        })
    }

    fn place(&self, name: &str) -> PathBuf {
        self.full(name).into()
    }
}

impl State {
    /// Counts a flush and says whether it is to be done.
    fn begin_flush(&mut self, any: bool, what: &str) -> io::Result<bool> {
        self.flushes += 1;
        if any {
            self.needed.push((self.flushes, self.operations, what.to_owned()));
        }
        if std::mem::take(&mut self.failing_flush) {
            return Err(io::Error::other("the disk failed to flush"));
        }
        Ok(self.forgotten != Some(self.flushes))
    }
}

impl Stored for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].now.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        let now = &state.files[self.file].now;
        let from = now.len().min(usize::try_from(at).expect("small"));
        let read = into.len().min(now.len() - from);
        into[..read].copy_from_slice(&now[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).expect("small");
        let mut state = self.disk.state();
        // Also a write that the process dies in may be done in part.
        let dies = state.crash_at == Some(state.operations + 1);
        let full = state.full && at + bytes.len() > state.files[self.file].now.len();
        let kept = if dies || full { state.random.upto(bytes.len()) } else { bytes.len() };
        step(state, |state| {
            let file = &mut state.files[self.file];
            write(&mut file.now, at, &bytes[..kept]);
            if kept > 0 {
                file.dirty.push(Change::Write(at, bytes[..kept].to_vec()));
            }
            if full { Err(no_space()) } else { Ok(()) }
        })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).expect("small");
        step(self.disk.state(), |state| {
            let file = &mut state.files[self.file];
            if file.now.len() != length {
                file.now.resize(length, 0);
                file.dirty.push(Change::Truncate(length));
            }
            Ok(())
        })
    }

    fn flush(&self) -> io::Result<()> {
        step(self.disk.state(), |state| {
            let any = !state.files[self.file].dirty.is_empty();
            match state.begin_flush(any, &self.name) {
                Ok(true) => {
                    let file = &mut state.files[self.file];
                    // Only what is dirty: what a failed flush lost stays lost until it is written again.
                    for change in std::mem::take(&mut file.dirty) {
                        match change {
                            Change::Write(at, bytes) => write(&mut file.durable, at, &bytes),
                            Change::Truncate(length) => file.durable.resize(length, 0),
                        }
                    }
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(error) => {
                    let file = &mut state.files[self.file];
                    let dirty = std::mem::take(&mut file.dirty);
                    survive(&mut file.durable, &dirty, Leaves::Sectors, &mut state.random);
                    Err(error)
                }
            }
        })
    }
}
