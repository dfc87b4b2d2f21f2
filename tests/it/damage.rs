//! Random damage to the files of a journal: what is read afterwards is what was there, or the journal is refused
//! with the file's name. Nothing that was durable is lost in silence.
//!
//! `CADDIS_DAMAGES=10000` does as many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caddis::pipeline::ports::Log;
use caddis::store::journal::{FOLDER, Journal, JournalError, JournalLimits};

use super::simulation::{Random, asked};

const LIMITS: JournalLimits = JournalLimits { segment_bytes: 4_000, max_bytes: u64::MAX };
const ENTRIES: u64 = 60;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A journal that was flushed as batches are, and killed after the last flush or stopped.
fn written(data: &Path, stopped: bool) -> Vec<Vec<u8>> {
    let mut random = Random::new(3);
    let mut journal = Journal::open(data, LIMITS).expect("opens");
    let mut entries = Vec::new();
    for n in 0..ENTRIES {
        let entry: Vec<u8> = (0..20 + random.below(600)).map(|_| random.next().to_le_bytes()[0]).collect();
        journal.append(&entry).expect("appends");
        entries.push(entry);
        if n % 3 == 2 {
            journal.flusher().flush().expect("flushes");
        }
    }
    if stopped {
        journal.settle().expect("flushes");
    }
    entries
}

fn files(data: &Path) -> Files {
    let mut all = Files::new();
    for folder in [data.to_owned(), data.join(FOLDER)] {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() && !path.ends_with("lock") {
                all.insert(path.clone(), std::fs::read(&path).expect("reads"));
            }
        }
    }
    all
}

/// Damages one file, or two; says what was done.
fn damage(files: &mut Files, random: &mut Random) -> String {
    let segments: Vec<PathBuf> =
        files.keys().filter(|path| path.extension().is_some_and(|extension| extension == "journal")).cloned().collect();
    let pick = |random: &mut Random| segments[random.upto(segments.len() - 1)].clone();
    // The last segment is the one that is still written to.
    let path = if random.chance(0.5) { segments[segments.len() - 1].clone() } else { pick(random) };
    let bytes = files.get_mut(&path).expect("a file");
    let at = random.upto(bytes.len() - 1);
    let what = match random.below(9) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            format!("a bit flipped at {at}")
        }
        2 => {
            let end = bytes.len().min(at + 1 + random.upto(600));
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.next().to_le_bytes()[0]);
            format!("garbage from {at} to {end}")
        }
        3 => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            format!("zeros from {at} to {end}")
        }
        4 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        5 => {
            let end = bytes.len().min(at + 1 + random.upto(600));
            bytes.drain(at..end);
            format!("cut out from {at} to {end}")
        }
        6 => {
            let again = bytes[at..].to_vec();
            bytes.extend(again);
            format!("its end from {at} on twice")
        }
        7 => {
            files.remove(&path);
            "removed".to_owned()
        }
        _ => {
            let other = pick(random);
            let (one, two) = (files[&path].clone(), files[&other].clone());
            files.insert(path.clone(), two);
            files.insert(other.clone(), one);
            format!("swapped with {}", other.display())
        }
    };
    format!("{}: {what}", path.display())
}

/// What is read, or why it is refused.
fn read(data: &Path) -> Result<Vec<Vec<u8>>, String> {
    let journal = Journal::open(data, LIMITS).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    let each = |_, payload: &[u8]| {
        all.push(payload.to_vec());
        Ok::<_, JournalError>(())
    };
    journal.replay(0, each).map_err(|error| error.to_string())?;
    Ok(all)
}

#[test]
fn damage_is_refused_or_makes_no_difference() {
    let damages = asked("CADDIS_DAMAGES").unwrap_or(1_000);
    let data = tempfile::tempdir().expect("a folder");
    let entries = written(data.path(), false);
    let whole = files(data.path());
    assert!(whole.len() > 5, "{} files", whole.len());
    let mut random = Random::new(11);
    let (mut refused, mut harmless) = (0, 0);
    for number in 0..damages {
        for path in files(data.path()).keys() {
            std::fs::remove_file(path).expect("removes");
        }
        let mut damaged = whole.clone();
        let what = damage(&mut damaged, &mut random);
        for (path, bytes) in &damaged {
            std::fs::write(path, bytes).expect("writes");
        }
        match read(data.path()) {
            Ok(found) => {
                // Garbage behind the end is a torn tail; nothing before it may be missing.
                assert!(found == entries, "damage {number}, {what}: {} of {ENTRIES} entries and no word", found.len());
                harmless += 1;
            }
            Err(why) => {
                assert!(why.contains(".journal") || why.contains("/journal"), "damage {number}, {what}: {why}");
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {harmless} without effect");
    assert!(refused > damages / 2);
}

/// The watermark tells of what the journal cannot: damage to it alone changes nothing.
#[test]
fn a_damaged_watermark_loses_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let entries = written(data.path(), true);
    let mark = data.path().join("watermark");
    let whole = std::fs::read(&mark).expect("reads");
    for cut in [0, 1, 10, 19, 20, 4_096, 4_100, whole.len()] {
        std::fs::write(&mark, &whole[..cut.min(whole.len())]).expect("writes");
        assert_eq!(read(data.path()).expect("whole"), entries, "cut at {cut}");
    }
    std::fs::write(&mark, vec![0xff; whole.len()]).expect("writes");
    assert_eq!(read(data.path()).expect("whole"), entries);
}
