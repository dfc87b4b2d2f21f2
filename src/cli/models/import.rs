//! `caddis models import`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::Place;
use crate::cli::{Ended, print_json, read_text, say};
use crate::features::FeatureSet;
use crate::mistake::{Mistake, Mistakes};
use crate::models::import::register::{self, About, Predictions};
use crate::models::import::{self, Format};
use crate::models::manifest::Thresholds;
use crate::transaction::Schema;

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    #[command(flatten)]
    place: Place,
    /// The model: LightGBM's text, XGBoost's JSON or UBJSON, or ONNX.
    file: PathBuf,
    /// Its name in the registry.
    #[arg(long)]
    name: String,
    /// The feature set whose rows it will score.
    #[arg(long, value_name = "FILE", default_value = "models/features.toml")]
    set: PathBuf,
    /// What the file is, if its first bytes should not decide.
    #[arg(long, value_enum)]
    format: Option<Kind>,
    /// A feature that the set has under another name; as often as needed.
    #[arg(long = "rename", value_name = "THEIRS=OURS", value_parser = renaming)]
    renamed: Vec<(String, String)>,
    /// Review from this probability on.
    #[arg(long, default_value_t = 0.5)]
    threshold: f64,
    /// Block from this probability on; never, if it is not given.
    #[arg(long)]
    block: Option<f64>,
    /// A CSV file of features by name and, as `prediction`, what the original makes of them: the import is
    /// refused where it differs.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// How far a score may be from the original's prediction: by default 1e-6 for LightGBM, 1e-5 for the others,
    /// which compute in single precision.
    #[arg(long)]
    tolerance: Option<f64>,
    /// Put it into force.
    #[arg(long)]
    promote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Lightgbm,
    Xgboost,
    Onnx,
}

fn renaming(text: &str) -> Result<(String, String), String> {
    let (theirs, ours) = text.split_once('=').ok_or("write it as THEIRS=OURS")?;
    Ok((theirs.to_owned(), ours.to_owned()))
}

pub(super) fn run(arguments: &ImportArguments) -> anyhow::Result<Ended> {
    let shown = arguments.file.display().to_string();
    let source = std::fs::read(&arguments.file).with_context(|| shown.clone())?;
    let set = FeatureSet::parse(&read_text(&arguments.set)?, &arguments.set.display().to_string(), &Schema::default())?;
    let thresholds = thresholds(arguments)?;
    let format = arguments.format.map(|kind| match kind {
        Kind::Lightgbm => Format::Lightgbm,
        Kind::Xgboost => Format::Xgboost,
        Kind::Onnx => Format::Onnx,
    });
    let renamed: BTreeMap<String, String> = arguments.renamed.iter().cloned().collect();
    let refused = |why: import::Refused| anyhow::anyhow!("{shown}: {why}");
    let model = import::read(&source, format).map_err(refused)?;
    let format = model.format;
    let (compiled, notes) = model.onto(set.names(), &renamed).map_err(refused)?;
    let predictions = arguments.check.as_deref().map(|file| predictions(file, set.names(), &renamed)).transpose()?;
    let registry = arguments.place.registry();
    let about = About {
        format,
        source: &source,
        notes: notes.clone(),
        fingerprint: set.fingerprint().to_owned(),
        names: set.names().to_vec(),
        thresholds,
        command: command(),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        parent: registry.current(&arguments.name).ok(),
    };
    let tolerance = arguments.tolerance.unwrap_or(if format == Format::Lightgbm { 1e-6 } else { 1e-5 });
    let manifest = register::manifest(&compiled, about, predictions.as_ref(), tolerance).map_err(refused)?;
    let card = [("card.md".to_owned(), register::card(&arguments.name, &manifest))];
    let version = registry.add(&arguments.name, &compiled, &manifest, &card)?;
    if arguments.promote {
        registry.promote(&arguments.name, &version)?;
    }
    if arguments.place.json {
        print_json(&serde_json::json!({
            "name": arguments.name, "version": version, "imported": manifest.imported,
            "thresholds": manifest.thresholds, "promoted": arguments.promote,
        }))?;
        return Ok(Ended::Done);
    }
    say(format_args!("{} {version}: {}", arguments.name, super::summary(&compiled, &manifest)));
    notes.iter().for_each(|note| say(format_args!("note: {note}")));
    match manifest.imported.as_ref().and_then(|imported| imported.checked) {
        Some(checked) => say(checked),
        None => say("not compared with the original's predictions: --check FILE does"),
    }
    if !arguments.promote {
        let registry = arguments.place.registry.display();
        say(format_args!(
            "put it into force with: caddis models promote {} {version} --registry {registry}",
            arguments.name
        ));
    }
    Ok(Ended::Done)
}

fn thresholds(arguments: &ImportArguments) -> anyhow::Result<Thresholds> {
    let probability = |name: &str, value: f64| {
        if (0.0..=1.0).contains(&value) {
            return Ok(value);
        }
        let mistake = Mistake::in_file("command line", format!("--{name} {value}")).help("a probability, 0 to 1");
        Err(anyhow::Error::from(Mistakes::from(mistake)))
    };
    let review = probability("threshold", arguments.threshold)?;
    // Above every probability: never.
    let block = arguments.block.map_or(Ok(2.0), |block| probability("block", block))?;
    if block < review {
        let message = format!("--block {block} is below --threshold {review}");
        return Err(Mistakes::from(Mistake::in_file("command line", message)).into());
    }
    Ok(Thresholds { review, block })
}

/// Rows in the set's order; features that the file does not have are missing.
fn predictions(file: &Path, names: &[String], renamed: &BTreeMap<String, String>) -> anyhow::Result<Predictions> {
    let shown = file.display().to_string();
    let mut reader = csv::Reader::from_path(file).with_context(|| shown.clone())?;
    let header = reader.headers().with_context(|| shown.clone())?.clone();
    let mut slots = Vec::new();
    let mut prediction = None;
    for (column, name) in header.iter().enumerate() {
        if name == "prediction" {
            prediction = Some(column);
            slots.push(None);
            continue;
        }
        let ours = renamed.get(name).map_or(name, String::as_str);
        let slot = names.iter().position(|known| known == ours);
        slots.push(Some(slot.with_context(|| format!("{shown}: column `{name}` is no feature of the set"))?));
    }
    let prediction = prediction.with_context(|| format!("{shown}: no column `prediction`"))?;
    let mut found = Predictions::default();
    for (number, record) in reader.records().enumerate() {
        let record = record.with_context(|| shown.clone())?;
        let mut row = vec![f64::NAN; names.len()];
        for (column, text) in record.iter().enumerate() {
            let value: f64 = match text.trim() {
                "" => f64::NAN,
                text => text.parse().with_context(|| format!("{shown}, row {}: `{text}`", number + 1))?,
            };
            if column == prediction {
                found.predictions.push(value);
            } else if let Some(place) = slots.get(column).copied().flatten().and_then(|slot| row.get_mut(slot)) {
                *place = value;
            }
        }
        found.rows.extend(row);
    }
    anyhow::ensure!(!found.predictions.is_empty(), "{shown}: no rows");
    Ok(found)
}

/// The command that makes this version again, for its manifest.
fn command() -> String {
    let quoted = |argument: String| if argument.contains(' ') { format!("'{argument}'") } else { argument };
    format!("caddis {}", std::env::args().skip(1).map(quoted).collect::<Vec<_>>().join(" "))
}
