//! What else is kept in the data folder: the key of identifiers' hashes, the numbers of the partitions, and
//! which brains have decided.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::engine::Brain;

/// The partition that HTTP's records are in.
pub const HTTP_PARTITION: u32 = 0;
/// The partition that labels are in.
pub const LABEL_PARTITION: u32 = 1;
/// Configured sources have theirs from here on.
const FIRST_SOURCE: u32 = 2;

/// What decided, for the one who asks a year later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrainRecord {
    pub features: String,
    pub model: Option<(String, String)>,
    pub policy: String,
}

/// Every brain this data folder has seen, by what journal entries call it.
pub type Brains = BTreeMap<String, BrainRecord>;

#[must_use]
pub fn brain_name(decided_by: u64) -> String {
    format!("{decided_by:016x}")
}

/// The secret key of this data folder, made at first use.
pub fn key(folder: &Path) -> anyhow::Result<[u8; 16]> {
    let path = folder.join("key");
    match std::fs::read(&path) {
        Ok(bytes) => bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| anyhow::anyhow!("{}: {} bytes, a key has 16", path.display(), bytes.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 16];
            getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
            write_whole(&path, &key)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The partition of every source by its name: given once, kept for ever.
pub fn partitions<'a>(folder: &Path, names: impl Iterator<Item = &'a str>) -> anyhow::Result<BTreeMap<String, u32>> {
    let path = folder.join("sources.json");
    let mut known: BTreeMap<String, u32> = read_json(&path)?;
    let before = known.len();
    for name in names {
        if !known.contains_key(name) {
            let next = known.values().max().map_or(FIRST_SOURCE, |highest| highest + 1);
            known.insert(name.to_owned(), next);
        }
    }
    if known.len() > before {
        write_whole(&path, &serde_json::to_vec_pretty(&known)?)?;
    }
    Ok(known)
}

/// Notes that this brain decides from now on.
pub fn brains(folder: &Path, decided_by: u64, brain: &Brain) -> anyhow::Result<Brains> {
    let path = folder.join("brains.json");
    let mut known: Brains = read_json(&path)?;
    let record = BrainRecord {
        features: brain.features.fingerprint().to_owned(),
        model: brain.model.as_ref().map(|model| (model.name().to_owned(), model.version().to_owned())),
        policy: brain.policy.fingerprint().to_owned(),
    };
    if known.insert(brain_name(decided_by), record.clone()).as_ref() != Some(&record) {
        write_whole(&path, &serde_json::to_vec_pretty(&known)?)?;
    }
    Ok(known)
}

fn read_json<T: Default + serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Replaces a file whole or not at all, readable by its owner only.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let half: PathBuf = path.with_extension("half");
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&half)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&half, path)?;
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    };
    write().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::{key, partitions};

    #[test]
    fn keys_and_partitions_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = key(folder.path()).expect("a key");
        assert_eq!(key(folder.path()).expect("a key"), first);
        let names = |names: &'static [&'static str]| partitions(folder.path(), names.iter().copied()).expect("numbers");
        assert_eq!(names(&["b", "a"])["a"], 3);
        let again = names(&["a", "c"]);
        assert_eq!((again["a"], again["b"], again["c"]), (3, 2, 4));
    }
}
