//! Snapshots of entity state: taken while the engine goes on, they bring back to the bit what an undisturbed run has.

#![expect(clippy::cast_possible_truncation, reason = "a test: its numbers are small")]

use std::sync::Arc;

use caddis::engine::{AdmissionSettings, Brain, Engine, EngineSettings, Part};
use caddis::features::FeatureSet;
use caddis::pipeline::label::Label;
use caddis::pipeline::ports::{NoLog, Records};
use caddis::pipeline::processor::{Intake, Processor};
use caddis::policy::{Policy, Thresholds};
use caddis::sources::decode::{JsonDecoder, Mapping, Rates};
use caddis::transaction::{Currency, Schema};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn from(&mut self, start: u64, end: u64) -> u64 {
        start + self.below(end - start)
    }

    fn chance(&mut self, of_a_hundred: u64) -> bool {
        self.below(100) < of_a_hundred
    }
}

/// Small, running and large entities, tiles, delays, fraud and places; ids are soon forgotten.
const SET: &str = r#"
[[entities]]
name = "account"
[[entities]]
name = "merchant"
exact_events = 64
"#;

fn set() -> Arc<FeatureSet> {
    let mut text = SET.to_owned();
    for (entity, windows) in [("account", "[\"10m\", \"2h\"]"), ("merchant", "[\"30m\", \"3h\"]")] {
        for is in ["count", "sum", "std", "min", "max", "fraud_rate"] {
            for (delay, name) in [("", "now"), ("delay = \"11m\"", "then")] {
                text += &format!(
                    "[[features]]\nname = \"{entity}_{is}_{{window}}_{name}\"\nentity = \"{entity}\"\nis = \"{is}\"\nwindows = {windows}\n{delay}\n"
                );
            }
        }
        for is in ["distinct", "share", "is_new", "first_seen"] {
            text += &format!(
                "[[features]]\nname = \"{entity}_{is}_{{window}}\"\nentity = \"{entity}\"\nis = \"{is}\"\nof = \"device\"\nwindows = {windows}\n"
            );
        }
        for is in ["last", "speed"] {
            text += &format!("[[features]]\nname = \"{entity}_{is}\"\nentity = \"{entity}\"\nis = \"{is}\"\n");
        }
    }
    Arc::new(FeatureSet::parse(&text, "snapshots.toml", &Schema::default()).unwrap_or_else(|wrong| panic!("{wrong}")))
}

fn processor(set: &Arc<FeatureSet>, threads: usize) -> Processor {
    let schema = Arc::new(Schema::default());
    let brain = Brain {
        features: Arc::clone(set),
        model: None,
        policy: Arc::new(Policy::none()),
        thresholds: Thresholds::default(),
    };
    let admission = AdmissionSettings {
        allowed_lateness: 120_000,
        dedupe_horizon: 900_000,
        dedupe_limit: 500,
        ..AdmissionSettings::default()
    };
    let settings = EngineSettings { threads, admission, key: *b"0123456789abcdef" };
    let rates = Rates::new(Currency::parse("EUR").expect("EUR"));
    let decoder = JsonDecoder::new(Arc::new(Mapping::own(Arc::clone(&schema), rates)));
    Processor::new(Engine::new(brain, settings), &decoder, schema, Box::new(NoLog::default()), 7)
}

/// What an entry of the journal has: payments, or labels.
enum Entry {
    Payments(Intake),
    Labels(Vec<Label>),
}

/// A stream of entries; accounts from seldom to very busy, disorder, late payments, duplicates, labels old and new.
fn entries(random: &mut Random) -> Vec<Entry> {
    let (mut entries, mut time, mut number) = (Vec::new(), 1_700_000_000_000_u64, 0_u64);
    for _ in 0..120 {
        if number > 0 && random.chance(30) {
            let label = |random: &mut Random| {
                let id = random.below(number);
                let line = format!(r#"{{"transaction_id":"t{id}","fraud":{}}}"#, random.chance(70));
                Label::parse(line.as_bytes()).expect("a label")
            };
            entries.push(Entry::Labels((0..random.from(1, 6)).map(|_| label(random)).collect()));
            continue;
        }
        let mut records = Records { first_offset: number, ..Records::default() };
        for _ in 0..random.from(1, 60) {
            time += random.below(9_000);
            let id = if random.chance(3) { number / 2 } else { number };
            let at = time - if random.chance(20) { random.below(200_000) } else { 0 };
            let account = random.below(8) * random.below(8) * random.below(2);
            let (merchant, device) = (random.below(3), random.below(9));
            let place = format!(r#","latitude":{}.5,"longitude":{}.25"#, random.from(40, 50), account % 9);
            records.push(
                format!(
                    r#"{{"transaction_id":"t{id}","event_time":{at},"amount":"{}.50","currency":"EUR","account":"a{account}","merchant":"m{merchant}","device":"d{device}"{}}}"#,
                    random.from(1, 900),
                    if random.chance(50) { place.as_str() } else { "" }
                )
                .as_bytes(),
            );
            number += 1;
        }
        entries.push(Entry::Payments(Intake { records, keep: true }));
    }
    entries
}

/// Decides an entry; the features of its payments, bit by bit, and what became of each.
fn decide(processor: &mut Processor, entry: &Entry) -> Vec<(String, Vec<u64>)> {
    match entry {
        Entry::Labels(labels) => {
            let known = processor.apply_labels(labels);
            vec![(format!("{known:?}"), Vec::new())]
        }
        Entry::Payments(intake) => {
            processor.process(std::slice::from_ref(intake), i64::MAX).expect("no log refuses");
            let batch = processor.step(0).batch;
            let row = |(row, decision)| {
                (format!("{decision:?}"), batch.features.row(row).into_iter().map(f64::to_bits).collect())
            };
            batch.decisions.iter().enumerate().map(row).collect()
        }
    }
}

#[test]
fn a_snapshot_and_the_journal_after_it_bring_back_an_undisturbed_run_to_the_bit() {
    let set = set();
    for seed in 0..12 {
        let random = &mut Random(seed);
        let entries = entries(random);
        let (begin, budget) = (random.from(5, 70) as usize, random.from(1_000, 30_000) as usize);
        let mut live = processor(&set, 1 + seed as usize % 3);
        let (mut expected, mut slices, mut frozen, mut end) = (Vec::new(), Vec::new(), None, entries.len());
        for (at, entry) in entries.iter().enumerate() {
            if at == begin {
                frozen = Some(live.engine_mut().freeze());
            }
            if at >= begin && end == entries.len() {
                let mut slice = Vec::new();
                let more = live.engine_mut().save_entities(u32::try_from(at - begin).expect("few"), budget, &mut slice);
                slices.push(slice);
                if !more {
                    live.engine_mut().thaw();
                    end = at;
                }
            }
            expected.push(decide(&mut live, entry));
        }
        assert!(end < entries.len(), "seed {seed}: the walk from {begin} ended");
        let mut back = processor(&set, 1 + (seed as usize + 1) % 3);
        let engine = back.engine_mut();
        let load = |part: Part, bytes: &[u8]| engine.load(part, bytes);
        frozen.expect("begun").write(load).expect("loads");
        for slice in &slices {
            back.engine_mut().load(Part::Entities, slice).expect("loads");
        }
        for (at, entry) in entries.iter().enumerate().skip(begin) {
            let replay = (at < end).then(|| u32::try_from(at - begin).expect("few"));
            back.engine_mut().replay(replay);
            let found = decide(&mut back, entry);
            if at >= end {
                assert!(found == expected[at], "seed {seed}: entry {at} after a snapshot from {begin} to {end}");
            }
        }
        assert_eq!(back.engine().counts(), live.engine().counts(), "seed {seed}");
    }
}

#[test]
fn a_slice_that_is_none_is_refused() {
    let set = set();
    let mut live = processor(&set, 1);
    let random = &mut Random(1);
    entries(random).iter().for_each(|entry| drop(decide(&mut live, entry)));
    live.engine_mut().freeze();
    let mut slice = Vec::new();
    live.engine_mut().save_entities(0, 100_000, &mut slice);
    for _ in 0..300 {
        let mut damaged = slice.clone();
        let at = random.below(damaged.len() as u64);
        damaged[at as usize] ^= 1 << random.below(8);
        damaged.truncate(random.below(damaged.len() as u64 + 1) as usize);
        // Whatever it says: no panic, no endless memory.
        let _ = processor(&set, 2).engine_mut().load(Part::Entities, &damaged);
    }
}
