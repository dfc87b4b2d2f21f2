//! From bytes to the journal: threads and batch cuts change no byte, recovery brings the same state back.

#![expect(clippy::indexing_slicing, reason = "a test: a wrong index is a failure")]

use std::sync::{Arc, Mutex};

use caddis::engine::{AdmissionSettings, Brain, Engine, EngineSettings};
use caddis::features::FeatureSet;
use caddis::pipeline::entry::{self, Section};
use caddis::pipeline::ports::{MemoryLog, NoQuarantine, Quarantine, Records};
use caddis::pipeline::processor::{Intake, Processor};
use caddis::pipeline::recent::RecentDecisions;
use caddis::pipeline::recovery::{NothingToReread, Recovered, Recovery};
use caddis::pipeline::service::Shared;
use caddis::pipeline::status::Status;
use caddis::policy::{Policy, Thresholds, Verdict};
use caddis::simulate::{Scenario, write};
use caddis::sources::decode::{JsonDecoder, Mapping, Rates};
use caddis::transaction::{Currency, Schema};

const ARRIVAL: i64 = 1_800_000_000_000;

/// A few thousand simulated payments, with duplicates, disorder and lines that are no payments.
fn lines() -> Vec<Vec<u8>> {
    let scenario = Scenario { accounts: 300, terminals: 300, days: 5, campaigns: 100.0, ..Scenario::default() };
    let mut bytes = Vec::new();
    write(&scenario, &mut bytes, None, |_| true).expect("memory takes it");
    let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect();
    for at in (97..lines.len()).step_by(97) {
        let again = lines[lines.len() - 1 - at / 97].clone();
        lines.push(again);
        lines.swap(at, at - 3);
        lines[at].truncate(if at % 2 == 0 { 40 } else { 4_000 });
    }
    assert!(lines.len() > 2_000, "{} lines", lines.len());
    lines
}

fn processor(threads: usize, log: &MemoryLog) -> Processor {
    let schema = Arc::new(Schema::default());
    let text = include_str!("../../models/features.toml");
    let set = Arc::new(FeatureSet::parse(text, "models/features.toml", &schema).expect("the shipped set"));
    let rules = r#"
        [[rules]]
        name = "many"
        when = "account_count_1h > 6 || device_accounts_24h > 3"
        verdict = "review"
        [[rules]]
        name = "too_fast"
        when = "account_speed > 1000.0 && account_distance > 500.0"
        verdict = "block"
    "#;
    let policy = Policy::parse(rules, "policy.toml", &schema, set.names(), 2).expect("a policy");
    let brain = Brain { features: set, model: None, policy: Arc::new(policy), thresholds: Thresholds::default() };
    let settings = EngineSettings { threads, admission: AdmissionSettings::default(), key: *b"0123456789abcdef" };
    let rates = Rates::new(Currency::parse("EUR").expect("EUR"));
    let decoder = JsonDecoder::new(Arc::new(Mapping::own(Arc::clone(&schema), rates)));
    Processor::new(Engine::new(brain, settings), &decoder, schema, Box::new(log.clone()), 7)
}

/// Feeds all lines in batches whose sizes come from `cuts`, over and over.
fn run(lines: &[Vec<u8>], threads: usize, cuts: &[usize]) -> MemoryLog {
    let log = MemoryLog::default();
    let mut processor = processor(threads, &log);
    let mut cuts = cuts.iter().cycle();
    let mut offset = 0;
    while offset < lines.len() {
        let size = *cuts.next().expect("a cut");
        let mut intakes = Vec::new();
        // Two intakes a batch: pieces of one partition join across them.
        for part in lines[offset..(offset + size).min(lines.len())].chunks(size.div_ceil(2)) {
            let mut records = Records { first_offset: offset as u64, ..Records::default() };
            part.iter().for_each(|line| records.push(line));
            offset += part.len();
            intakes.push(Intake { records, keep: true });
        }
        processor.process(&intakes, ARRIVAL).expect("memory takes it");
    }
    log
}

/// Every decision with its record, whatever the cuts were.
fn decided(log: &MemoryLog) -> Vec<(u64, String, Vec<u8>)> {
    let mut all = Vec::new();
    for payload in log.entries() {
        let (_, sections) = entry::read(&payload).expect("an entry");
        for Section { first_offset, decisions, records, .. } in sections {
            let records = records.expect("kept");
            for (at, (decision, record)) in decisions.iter().zip(records).enumerate() {
                all.push((first_offset + at as u64, format!("{decision:?}"), record));
            }
        }
    }
    all
}

#[test]
fn threads_and_batch_cuts_change_no_decision() {
    let lines = lines();
    let one = decided(&run(&lines, 1, &[1]));
    assert_eq!(one.len(), lines.len());
    assert!(one.iter().filter(|(_, decision, _)| decision.contains("Block")).count() > 3);
    assert!(one.iter().filter(|(_, decision, _)| decision.contains("Review")).count() > 20);
    assert!(one.iter().filter(|(_, decision, _)| decision.contains("Duplicate")).count() > 10);
    for (threads, cuts) in [(1, vec![1_000, 1, 37]), (2, vec![3_000]), (2, vec![700, 5, 600]), (4, vec![1_500, 999, 2])]
    {
        assert_eq!(decided(&run(&lines, threads, &cuts)), one, "{threads} threads, cuts {cuts:?}");
    }
}

#[test]
fn the_same_cuts_give_the_same_journal_bytes_with_any_number_of_threads() {
    let lines = lines();
    let cuts = [900, 1, 530];
    let one = run(&lines, 1, &cuts).entries();
    for threads in [2, 4] {
        assert_eq!(run(&lines, threads, &cuts).entries(), one, "{threads} threads");
    }
}

fn recovered(log: &MemoryLog, threads: usize) -> (Processor, Shared, Recovered) {
    let mut processor = processor(threads, &MemoryLog::default());
    let quarantine: Box<dyn Quarantine> = Box::new(NoQuarantine);
    let shared =
        Shared { recent: RecentDecisions::new(100_000), quarantine: Mutex::new(quarantine), status: Status::default() };
    let mut recovery = Recovery {
        processor: &mut processor,
        shared: &shared,
        reread: &mut NothingToReread,
        alerts_from: 0,
        refused_from: u64::MAX,
        snapshot: None,
        recovered: Recovered::default(),
    };
    for (sequence, payload) in log.entries().iter().enumerate() {
        recovery.entry(sequence as u64, payload).expect("an entry");
    }
    let recovered = recovery.recovered;
    (processor, shared, recovered)
}

/// State after recovery decides what follows just as the undisturbed run did.
#[test]
fn a_recovered_engine_goes_on_as_if_nothing_had_happened() {
    let lines = lines();
    let (before, after) = lines.split_at(lines.len() / 2);
    let whole = decided(&run(&lines, 1, &[400]));
    let log = run(before, 1, &[400]);
    let (mut processor, shared, recovered) = recovered(&log, 2);
    assert_eq!(recovered.records, before.len() as u64);
    assert_eq!((recovered.differences, recovered.by_another_brain), (0, 0));
    assert_eq!(recovered.resume(0).0.offset, before.len() as u64);
    let alerts = whole[..before.len()]
        .iter()
        .filter(|(_, d, _)| (d.contains("Review") || d.contains("Block")) && !d.contains("Duplicate"));
    assert_eq!(recovered.candidates.len(), alerts.count());
    assert!(recovered.candidates.iter().all(|candidate| candidate.decision.verdict > Verdict::Allow));
    assert!(shared.recent.len() > 500);

    let mut records = Records { first_offset: before.len() as u64, ..Records::default() };
    after.iter().for_each(|line| records.push(line));
    let sequence = processor.process(&[Intake { records, keep: true }], ARRIVAL).expect("memory takes it");
    let step = processor.step(sequence);
    let mut rows = step.batch.decisions.iter();
    let mut expected = whole[before.len()..].iter().filter(|(_, decision, _)| !decision.contains("Refused"));
    assert!(rows.by_ref().zip(expected.by_ref()).all(|(found, (_, wanted, _))| format!("{found:?}") == *wanted));
}
