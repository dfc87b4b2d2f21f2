//! `caddis train`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use hashbrown::HashSet;

use super::stream::{StreamArguments, WarmRows};
use super::{Ended, print_json, read_text, say};
use crate::mistake::{Mistake, Mistakes};
use crate::models::registry::Registry;
use crate::models::train::{
    About, Dataset, ForestParameters, LogisticParameters, Split, evaluate, train_forest, train_logistic,
};
use crate::models::{card, metrics::Metrics};
use crate::pipeline::label::Label;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stream: StreamArguments,
    /// What is trained.
    #[arg(long, value_enum, default_value_t = Kind::Forest)]
    kind: Kind,
    /// Its name in the registry.
    #[arg(long, default_value = "baseline")]
    name: String,
    /// The registry.
    #[arg(long, default_value = "models")]
    registry: PathBuf,
    /// The last days of the stream are for testing.
    #[arg(long, default_value_t = 7)]
    test_days: u32,
    /// Days left out before them: what happened there is not labelled yet when the model would be trained.
    #[arg(long, default_value_t = 7)]
    gap_days: u32,
    /// The first days are left out: windows have not filled yet.
    #[arg(long, default_value_t = 7)]
    warm_up_days: u32,
    #[arg(long, default_value_t = 100)]
    trees: u16,
    #[arg(long, default_value_t = 7)]
    depth: u16,
    /// The part of the legitimate transactions that is trained on; scores are corrected for it.
    #[arg(long, default_value_t = 0.2)]
    keep_legitimate: f64,
    /// Alerts a day that can be looked into: it sets the threshold.
    #[arg(long, default_value_t = 100.0)]
    alert_budget: f64,
    /// Block where at least this part of the alerts is fraud.
    #[arg(long, default_value_t = 0.95)]
    block_precision: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Put it into force.
    #[arg(long)]
    promote: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Forest,
    Logistic,
}

const DAY_MS: i64 = 86_400_000;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    let registry = Registry::new(&arguments.registry);
    // What takes no time is looked at before what takes minutes.
    let mistaken = |message: String| Mistakes::from(Mistake::in_file("command line", message));
    registry.check_name(&arguments.name).map_err(|error| mistaken(format!("--name: {error}")))?;
    let labels = arguments.stream.labels.as_ref().ok_or_else(|| mistaken("training needs --labels FILE".into()))?;
    let reading = arguments.stream.reading()?;
    let frauds = frauds(&read_text(labels)?)?;
    let set = &reading.set;
    let mut data = Dataset {
        names: set.names().to_vec(),
        fingerprint: set.fingerprint().to_owned(),
        rows: Vec::new(),
        labels: Vec::new(),
        event_times: Vec::new(),
        cards: Vec::new(),
    };
    let mut rows = WarmRows::after(arguments.warm_up_days);
    let totals = arguments.stream.run(&reading, |step| {
        rows.each(step, |transaction, values, _| {
            data.rows.extend_from_slice(values);
            data.labels.push(frauds.contains(transaction.id()));
            data.event_times.push(transaction.event_time());
        });
        Ok(())
    })?;
    let last = data.event_times.iter().copied().max().context("the stream is no longer than its warm-up")?;
    let test_start = last - i64::from(arguments.test_days) * DAY_MS;
    let train_end = test_start - i64::from(arguments.gap_days) * DAY_MS;
    let parts = data.split(Split { train_end, test_start });
    say_unless(
        arguments.json,
        format_args!(
            "{} transactions: {} to train on ({} fraud), {} left out, {} to test on ({} fraud)",
            totals.transactions,
            parts.train.labels.len(),
            parts.train.frauds(),
            parts.left_out,
            parts.test.labels.len(),
            parts.test.frauds()
        ),
    );
    let (seed, keep_legitimate) = (arguments.seed, arguments.keep_legitimate);
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    let mut note = |name: &str, value: String| parameters.insert(name.to_owned(), value);
    note("keep_legitimate", keep_legitimate.to_string());
    let compiled = match arguments.kind {
        Kind::Forest => {
            let (trees, depth) = (arguments.trees, arguments.depth);
            note("trees", trees.to_string());
            note("depth", depth.to_string());
            let parameters = ForestParameters { trees, depth, keep_legitimate, seed, ..ForestParameters::default() };
            train_forest(&parts.train, &parameters)?
        }
        Kind::Logistic => train_logistic(
            &parts.train,
            &LogisticParameters { keep_legitimate, seed, ..LogisticParameters::default() },
        )?,
    };
    let about = About {
        command: command(arguments),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        parameters,
        seed,
        parent: registry.current(&arguments.name).ok(),
        alert_budget: arguments.alert_budget,
        block_precision: arguments.block_precision,
    };
    let (manifest, scores) = evaluate(&compiled, &parts.train, &parts.test, about)?;
    let card = card::make(&arguments.name, &manifest, &scores, &parts.test.labels)
        .map_err(|error| anyhow::anyhow!("the model card: {error}"))?;
    let version = registry.add(&arguments.name, &compiled, &manifest, &card)?;
    if arguments.promote {
        registry.promote(&arguments.name, &version)?;
    }
    let metrics: &Metrics = &manifest.metrics;
    if arguments.json {
        print_json(&serde_json::json!({
            "name": arguments.name, "version": version, "metrics": metrics,
            "thresholds": manifest.thresholds, "promoted": arguments.promote,
        }))?;
    } else {
        say(format_args!("{} {version}: {}", arguments.name, serde_json::to_string(metrics)?));
        say(format_args!(
            "its card: {}",
            arguments.registry.join(&arguments.name).join(&version).join("card.md").display()
        ));
    }
    Ok(if totals.quarantined > 0 { Ended::SomeRefused } else { Ended::Done })
}

fn say_unless(json: bool, line: impl std::fmt::Display) {
    if !json {
        say(line);
    }
}

/// The ids that the labels call fraud in the end: a later label corrects an earlier one.
fn frauds(text: &str) -> anyhow::Result<HashSet<String, foldhash::fast::FixedState>> {
    let mut frauds = HashSet::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let label =
            Label::parse(line.as_bytes()).map_err(|refusal| anyhow::anyhow!("label {}: {refusal}", number + 1))?;
        if label.fraud {
            frauds.insert(label.transaction_id);
        } else {
            frauds.remove(&label.transaction_id);
        }
    }
    Ok(frauds)
}

/// The command that makes this model again, for its card.
fn command(arguments: &Arguments) -> String {
    let quoted = |argument: String| if argument.contains(' ') { format!("'{argument}'") } else { argument };
    let given = std::env::args().skip(1).map(quoted).collect::<Vec<_>>().join(" ");
    if given.is_empty() { format!("caddis train --name {}", arguments.name) } else { format!("caddis {given}") }
}
