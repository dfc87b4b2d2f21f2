//! From an imported model to its manifest: what is known of it, and how it compares with the original.

use super::{Format, Refused};
use crate::models::compiled::{Compiled, Form};
use crate::models::manifest::{Checked, Histogram, Imported, Manifest, Thresholds};
use crate::models::metrics::{Confusion, Metrics};
use crate::models::reasons::Reasons;
use crate::models::scorer::{Scorer, Scratch};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What only the caller knows.
#[derive(Debug, Clone, PartialEq)]
pub struct About<'a> {
    pub format: Format,
    /// The file's content.
    pub source: &'a [u8],
    pub notes: Vec<String>,
    /// Of the feature set.
    pub fingerprint: String,
    pub names: Vec<String>,
    pub thresholds: Thresholds,
    pub command: String,
    pub code_version: String,
    pub parent: Option<String>,
}

/// Rows of the feature set, end to end, and what the original made of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Predictions {
    pub rows: Vec<f64>,
    pub predictions: Vec<f64>,
}

/// Rows explained for the importance of features.
const EXPLAINED: usize = 500;
const FEATURE_BINS: usize = 10;
const SCORE_BINS: usize = 20;

/// The manifest. With the original's predictions it has the comparison, the features' importance, and the
/// distributions that drift is measured from.
///
/// # Errors
/// When a score is further than `tolerance` from the original's; the row is told, counted from 1.
pub fn manifest(
    model: &Compiled,
    about: About<'_>,
    theirs: Option<&Predictions>,
    tolerance: f64,
) -> Result<Manifest, Refused> {
    let unusable = |why: crate::models::compiled::Unreadable| Refused::new("the model", why.to_string());
    let width = model.width as usize;
    let given = Predictions::default();
    let Predictions { rows, predictions } = theirs.unwrap_or(&given);
    let mut scores = vec![0.0; predictions.len()];
    Scorer::new(model).map_err(unusable)?.score(rows, &mut scores, &mut Scratch::default());
    let checked = match theirs {
        None => None,
        Some(_) => Some(compare(&scores, predictions, tolerance)?),
    };
    let importance = if predictions.is_empty() {
        vec![0.0; width]
    } else {
        let every = predictions.len().div_ceil(EXPLAINED).max(1);
        Reasons::new(model.clone()).map_err(unusable)?.importance(rows.chunks_exact(width).step_by(every))
    };
    let column = |slot: usize| rows.chunks_exact(width).filter_map(move |row| row.get(slot).copied());
    let mut sha256 = String::new();
    for byte in Sha256::digest(about.source) {
        // Writing into a `String` cannot fail.
        let _ = write!(sha256, "{byte:02x}");
    }
    Ok(Manifest {
        kind: match &model.form {
            Form::Logistic { .. } => "logistic",
            Form::Forest { .. } => "forest",
            Form::Ensemble(_) => "ensemble",
        }
        .to_owned(),
        feature_set: about.fingerprint,
        feature_names: about.names,
        training_data: "not known: the model was imported".to_owned(),
        training_rows: 0,
        training_frauds: 0,
        code_version: about.code_version,
        command: about.command,
        parameters: BTreeMap::new(),
        seed: 0,
        thresholds: about.thresholds,
        alert_budget: None,
        operating_points: Vec::new(),
        metrics: unknown(about.thresholds.review),
        further: BTreeMap::new(),
        importance,
        feature_histograms: (0..width).map(|slot| Histogram::of(column(slot), FEATURE_BINS)).collect(),
        score_histogram: Histogram::of(scores.iter().copied(), SCORE_BINS),
        parent: about.parent,
        imported: Some(Imported { format: about.format.to_string(), sha256, notes: about.notes, checked }),
    })
}

fn compare(ours: &[f64], theirs: &[f64], tolerance: f64) -> Result<Checked, Refused> {
    let mut largest_difference = 0.0_f64;
    for (row, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let difference = (ours - theirs).abs();
        if difference.is_nan() || difference > tolerance {
            let what = format!("the original predicts {theirs}, the imported model {ours}");
            return Err(Refused::new(format!("row {} of the predictions", row + 1), what)
                .help("is it the same model, and are the columns the same features in the same units?"));
        }
        largest_difference = largest_difference.max(difference);
    }
    Ok(Checked { rows: ours.len(), largest_difference })
}

/// Of no rows at all.
const fn unknown(threshold: f64) -> Metrics {
    let at_threshold =
        Confusion { threshold, true_positives: 0, false_positives: 0, true_negatives: 0, false_negatives: 0 };
    Metrics { rows: 0, frauds: 0, average_precision: 0.0, roc_auc: 0.0, brier: 0.0, log_loss: 0.0, at_threshold }
}

/// The model card: where the model comes from, and what is not known of it.
#[must_use]
pub fn card(name: &str, manifest: &Manifest) -> String {
    let mut card =
        format!("# Model `{name}`: {}, imported\n\nMade with\n\n    {}\n\n", manifest.kind, manifest.command);
    let mut line = |text: String| {
        card.push_str(&text);
        card.push('\n');
    };
    if let Some(imported) = &manifest.imported {
        line(format!("- From a file of the format {}, SHA-256 `{}`", imported.format, imported.sha256));
        match imported.checked {
            Some(checked) => line(format!("- Compared with {checked}")),
            None => line("- Not compared with the original's predictions (`--check`)".to_owned()),
        }
        for note in &imported.notes {
            line(format!("- Note: {note}"));
        }
    }
    line(format!("- Feature set `{}`, {} features", manifest.feature_set, manifest.feature_names.len()));
    if let Some(parent) = &manifest.parent {
        line(format!("- Meant to replace version `{parent}`"));
    }
    line(format!("- Review from {}, block from {}", manifest.thresholds.review, manifest.thresholds.block));
    line(
        "\nHow good it is Caddis does not know: it was trained elsewhere. Put it beside the model in force before"
            .to_owned(),
    );
    line("you promote it, and solve its thresholds on your own stream.".to_owned());
    let mut ranked: Vec<(&String, f64)> = manifest
        .feature_names
        .iter()
        .zip(manifest.importance.iter().copied())
        .filter(|(_, part)| *part > 0.0)
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    if !ranked.is_empty() {
        line("\n## Features by mean absolute contribution\n\n| feature | contribution |\n|---|---|".to_owned());
        ranked.iter().take(15).for_each(|(name, part)| line(format!("| {name} | {part:.5} |")));
    }
    card
}
