//! The folder that a store keeps its files in, as a small trait: the real one is [`Folder`]; tests put one in
//! its place that fills up, tears writes, fails to flush and loses power.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files by name. Names become durable with [`flush`](Storage::flush), what is in a file with its own.
pub trait Storage: Debug + Send + Sync {
    /// The names of all files, in no order.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// An empty file of this name, also where there is one already.
    ///
    /// # Errors
    /// It cannot be made.
    fn create(&self, name: &str) -> io::Result<Arc<dyn Stored>>;

    /// A file for reading and writing; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, name: &str) -> io::Result<Option<Arc<dyn Stored>>>;

    /// Gives a file another name; what had that name is gone.
    ///
    /// # Errors
    /// There is no such file, or the folder cannot be written.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// There is no such file, or the folder cannot be written.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names durable: without it a new file may be gone after a power cut.
    ///
    /// # Errors
    /// The disk refused.
    fn flush(&self) -> io::Result<()>;

    /// Where a file is, for messages.
    fn place(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait Stored: Debug + Send + Sync {
    /// Bytes in it.
    ///
    /// # Errors
    /// It cannot be read.
    fn length(&self) -> io::Result<u64>;

    /// Reads some bytes from `at` on; 0 at the end.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `at`.
    ///
    /// # Errors
    /// It cannot be written; any part of `bytes` may be there.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts it to `length` bytes.
    ///
    /// # Errors
    /// It cannot be cut.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The disk refused: what was written since the last flush may be lost, and a further flush would not tell.
    fn flush(&self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held for as long as the folder is in use, if one was asked for.
    _lock: Option<File>,
}

impl Folder {
    /// The folder at `path`, which is made when it does not exist.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// The folder at `path` for this process alone; `None` while another has it.
    ///
    /// # Errors
    /// It cannot be made, or the lock file cannot.
    pub fn lock(path: &Path) -> io::Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        Ok(lock.try_lock().is_ok().then(|| Self { path: path.to_owned(), _lock: Some(lock) }))
    }
}

impl Storage for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<std::fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
        std::fs::read_dir(&self.path)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn Stored>> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).read(true).write(true).open(self.place(name))?;
        Ok(Arc::new(PlainFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Option<Arc<dyn Stored>>> {
        match OpenOptions::new().read(true).write(true).open(self.place(name)) {
            Ok(file) => Ok(Some(Arc::new(PlainFile(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.place(from), self.place(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.place(name))
    }

    fn flush(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[derive(Debug)]
struct PlainFile(File);

impl Stored for PlainFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(into, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Reads a file from some place on.
#[derive(Debug)]
pub(super) struct ReadFrom {
    pub file: Arc<dyn Stored>,
    pub at: u64,
}

impl io::Read for ReadFrom {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}
