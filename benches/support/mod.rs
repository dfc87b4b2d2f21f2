//! What the benches have in common: simulated payments, and a processor over them.
#![allow(dead_code, reason = "each bench uses some of it")]

use std::sync::Arc;

use caddis::engine::{AdmissionSettings, Brain, Engine, EngineSettings};
use caddis::features::FeatureSet;
use caddis::models::Model;
use caddis::models::compiled::Compiled;
use caddis::models::manifest::{Histogram, Manifest, Thresholds as ModelThresholds};
use caddis::models::metrics::Metrics;
use caddis::models::synthetic;
use caddis::pipeline::ports::{Log, Records};
use caddis::pipeline::processor::{Intake, Processor};
use caddis::policy::{Policy, Thresholds};
use caddis::simulate::{Scenario, write};
use caddis::sources::decode::{JsonDecoder, Mapping, Rates};
use caddis::transaction::{Currency, EventTime, Schema};

/// Records in a block, as sources hand them on.
pub const BLOCK: usize = 4_096;

pub fn shipped() -> Arc<FeatureSet> {
    set(include_str!("../../models/features.toml"))
}

pub fn set(text: &str) -> Arc<FeatureSet> {
    Arc::new(FeatureSet::parse(text, "bench", &Schema::default()).unwrap_or_else(|mistakes| panic!("{mistakes}")))
}

/// Payments of so many accounts and days, in blocks.
pub fn payments(accounts: u32, days: u32) -> Vec<Intake> {
    let scenario = Scenario { accounts, terminals: accounts / 2, days, ..Scenario::default() };
    let mut bytes = Vec::new();
    write(&scenario, &mut bytes, None, |_| true).expect("memory takes it");
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut offset = 0;
    let block = |lines: &[&[u8]]| {
        let mut records = Records { first_offset: offset, ..Records::default() };
        lines.iter().for_each(|line| records.push(line));
        offset += lines.len() as u64;
        Intake { records, keep: false }
    };
    lines.chunks(BLOCK).map(block).collect()
}

pub fn decoder() -> JsonDecoder {
    let schema = Arc::new(Schema::default());
    JsonDecoder::new(Arc::new(Mapping::own(schema, Rates::new(Currency::EUR))))
}

/// A made-up forest of 100 trees of depth 6 over the set's features.
pub fn forest(set: &FeatureSet) -> Model {
    let width = u32::try_from(set.len()).expect("few features");
    let compiled: Compiled = synthetic::forest(1, 100, 6, width);
    let manifest = Manifest {
        kind: "forest".into(),
        feature_set: set.fingerprint().into(),
        feature_names: set.names().to_vec(),
        training_data: String::new(),
        training_rows: 0,
        training_frauds: 0,
        code_version: String::new(),
        command: String::new(),
        parameters: std::collections::BTreeMap::new(),
        seed: 1,
        thresholds: ModelThresholds { review: 0.95, block: 0.99 },
        alert_budget: None,
        operating_points: Vec::new(),
        metrics: Metrics::of(&[], &[], 0.5),
        further: std::collections::BTreeMap::new(),
        importance: Vec::new(),
        feature_histograms: Vec::new(),
        score_histogram: Histogram::default(),
        parent: None,
        imported: None,
    };
    Model::new("bench", "0000000000000000", compiled, manifest).expect("a sound model")
}

/// A processor over the set, with the forest and the shipped policy if they are wanted.
pub fn processor(set: &Arc<FeatureSet>, decides: bool, threads: usize, log: Box<dyn Log>) -> Processor {
    let schema = Arc::new(Schema::default());
    let policy = include_str!("../../models/policy.toml");
    let policy =
        if decides { Policy::parse(policy, "policy.toml", &schema, set.names(), 2) } else { Ok(Policy::none()) };
    let brain = Brain {
        features: Arc::clone(set),
        model: decides.then(|| Arc::new(forest(set))),
        policy: Arc::new(policy.unwrap_or_else(|mistakes| panic!("{mistakes}"))),
        thresholds: Thresholds { review: 0.95, block: 0.99 },
    };
    let settings = EngineSettings { threads, admission: AdmissionSettings::default(), key: *b"0123456789abcdef" };
    Processor::new(Engine::new(brain, settings), &decoder(), schema, log, 1)
}

/// Decides all blocks.
pub fn decide(processor: &mut Processor, blocks: &[Intake]) {
    for block in blocks {
        processor.process(std::slice::from_ref(block), EventTime::MAX).expect("the log takes it");
    }
}

pub fn records(blocks: &[Intake]) -> u64 {
    blocks.iter().map(|block| block.records.len() as u64).sum()
}
