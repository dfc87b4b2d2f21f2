use std::path::{Path, PathBuf};

use super::{FOLDER, Journal, JournalError, JournalLimits, Segment};
use crate::pipeline::ports::Log;
use crate::store::storage::Folder;

fn limits(segment_bytes: u64) -> JournalLimits {
    JournalLimits { segment_bytes, ..JournalLimits::default() }
}

fn open(data: &Path) -> Result<Journal, JournalError> {
    Journal::open(data, limits(200))
}

fn entries(journal: &Journal) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    journal
        .replay(0, |sequence, payload| {
            assert_eq!(sequence, all.len() as u64);
            all.push(payload.to_vec());
            Ok::<_, JournalError>(())
        })
        .expect("a whole journal");
    all
}

/// Appends some entries; nothing is flushed but what has to be at the end of a segment.
fn filled(data: &Path, count: u32) -> Vec<Vec<u8>> {
    let mut journal = open(data).expect("opens");
    let payloads: Vec<Vec<u8>> = (0..count).map(|n| format!("entry {n} {}", "x".repeat(n as usize)).into()).collect();
    for payload in &payloads {
        journal.append(payload).expect("appends");
    }
    payloads
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let folder = data.join(FOLDER);
    let all = Segment::all(&Folder::open(&folder).expect("a folder")).expect("segments");
    all.into_iter().map(|segment| folder.join(segment.name)).collect()
}

#[test]
fn what_was_appended_is_read_again_over_several_segments() {
    let data = tempfile::tempdir().expect("a folder");
    let payloads = filled(data.path(), 30);
    let journal = open(data.path()).expect("opens again");
    assert_eq!(journal.next_sequence(), 30);
    assert_eq!(entries(&journal), payloads);
    let files = segments(data.path());
    assert!(files.len() > 3);
    let bytes: u64 = files.iter().map(|file| file.metadata().expect("a file").len()).sum();
    assert_eq!(journal.bytes(), bytes);
}

#[test]
fn one_process_a_folder() {
    let data = tempfile::tempdir().expect("a folder");
    let _first = open(data.path()).expect("opens");
    assert!(matches!(open(data.path()), Err(JournalError::Locked { .. })));
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_entries_before_it_stay() {
    let data = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(data.path(), JournalLimits::default()).expect("opens");
    drop(journal);
    let mark = std::fs::read(data.path().join("watermark")).expect("reads");
    let mut journal = Journal::open(data.path(), JournalLimits::default()).expect("opens");
    let payloads = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
    for payload in &payloads {
        journal.append(payload).expect("appends");
    }
    drop(journal);
    let path = segments(data.path()).pop().expect("one");
    let whole = std::fs::read(&path).expect("reads");
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).expect("writes");
        std::fs::write(data.path().join("watermark"), &mark).expect("writes");
        let mut journal = Journal::open(data.path(), JournalLimits::default()).expect("a torn tail is no error");
        let kept = entries(&journal);
        assert_eq!(kept, payloads[..kept.len()], "cut at {cut}");
        journal.append(b"after").expect("goes on");
        assert_eq!(entries(&journal).last().map(Vec::as_slice), Some(b"after".as_slice()));
    }
}

#[test]
fn an_end_that_was_durable_must_be_there() {
    let data = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(data.path(), JournalLimits::default()).expect("opens");
    journal.append(b"one").expect("appends");
    journal.append(b"two").expect("appends");
    journal.flusher().flush().expect("flushes");
    journal.append(b"three").expect("appends");
    drop(journal);
    let path = segments(data.path()).pop().expect("one");
    let whole = std::fs::read(&path).expect("reads");
    for cut in 0..whole.len() - 1 {
        std::fs::write(&path, &whole[..cut]).expect("writes");
        match Journal::open(data.path(), JournalLimits::default()) {
            // Only the third was not flushed.
            Ok(journal) => {
                assert_eq!((journal.next_sequence(), journal.unsure_from()), (2, 2), "cut at {cut}");
                drop(journal);
            }
            Err(error) => {
                let said = error.to_string();
                assert!(cut < 24 + 2 * 27, "cut at {cut}: {said}");
                assert!(said.contains("00000000000000000000.journal"), "{said}");
            }
        }
    }
    std::fs::remove_file(&path).expect("removes");
    let error = Journal::open(data.path(), JournalLimits::default()).expect_err("nothing is left").to_string();
    assert!(error.contains("ends before entry 0, but 2 entries were durable"), "{error}");
    // The operator's word is enough.
    std::fs::remove_file(data.path().join("watermark")).expect("removes");
    assert_eq!(open(data.path()).expect("opens").next_sequence(), 0);
}

#[test]
fn damage_to_what_was_durable_is_refused_with_file_and_place() {
    let data = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(data.path(), JournalLimits::default()).expect("opens");
    for payload in [b"one", b"two", b"six"] {
        journal.append(payload).expect("appends");
        journal.flusher().flush().expect("flushes");
    }
    drop(journal);
    let path = segments(data.path()).pop().expect("one");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[24 + 26] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    // Also where the watermark is gone: the frames behind it know better.
    for _ in 0..2 {
        let error = open(data.path()).expect_err("damaged").to_string();
        assert!(error.contains("damaged at byte 24"), "{error}");
        let _ = std::fs::remove_file(data.path().join("watermark"));
    }
}

#[test]
fn a_segment_that_is_missing_is_noticed() {
    for missing in 0..3 {
        let data = tempfile::tempdir().expect("a folder");
        filled(data.path(), 30);
        std::fs::remove_file(&segments(data.path())[missing]).expect("removes");
        let journal = open(data.path()).expect("its end is there");
        let error = journal.replay(0, |_, _| Ok::<_, JournalError>(())).expect_err("a gap").to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}

#[test]
fn a_full_journal_takes_no_more_and_says_so() {
    let data = tempfile::tempdir().expect("a folder");
    let limits = JournalLimits { segment_bytes: 200, max_bytes: 1_000 };
    let mut journal = Journal::open(data.path(), limits).expect("opens");
    let error = loop {
        if let Err(error) = journal.append(&[7; 50]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("`durability.max_journal`"), "{error}");
    assert!((900..=1_000).contains(&journal.bytes()), "{}", journal.bytes());
    assert!(!journal.failed());
}
