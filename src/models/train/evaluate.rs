//! From a trained model to its manifest: scores a later slice of time, solves the thresholds and
//! gathers what drift and the model card need.

use super::{Dataset, TrainError};
use crate::models::compiled::{Compiled, Form};
use crate::models::manifest::{Histogram, Manifest, Thresholds};
use crate::models::metrics::{self, Metrics};
use crate::models::reasons::Reasons;
use crate::models::scorer::{Scorer, Scratch};
use std::collections::BTreeMap;

/// What only the caller knows.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// The command that makes the model again.
    pub command: String,
    pub code_version: String,
    /// The trainer's parameters by name.
    pub parameters: BTreeMap<String, String>,
    pub seed: u64,
    pub parent: Option<String>,
    /// Alerts a day that the review threshold is solved for.
    pub alert_budget: f64,
    /// Precision that blocking needs; nothing is blocked where no threshold reaches it.
    pub block_precision: f64,
}

/// Rows explained for the importance of features: enough for a ranking, and quick.
const EXPLAINED: usize = 500;
const FEATURE_BINS: usize = 10;
const SCORE_BINS: usize = 20;

/// The manifest, and the scores of `test` for the card's plots.
///
/// # Errors
/// When `test` is of no use or has another width than the model.
pub fn evaluate(
    model: &Compiled,
    train: &Dataset,
    test: &Dataset,
    about: About,
) -> Result<(Manifest, Vec<f64>), TrainError> {
    test.validate()?;
    let width = test.width();
    if model.width as usize != width || train.width() != width {
        let (name, value) = ("features", format!("{width} in the test rows"));
        return Err(TrainError::Parameter { name, value, expected: "as many as the model has" });
    }
    let scorer = Scorer::new(model)?;
    let mut scores = vec![0.0; test.len()];
    scorer.score(&test.rows, &mut scores, &mut Scratch::default());
    let review = metrics::threshold_for_budget(&scores, &test.event_times, about.alert_budget);
    let block = metrics::curve(&scores, &test.labels)
        .iter()
        .take_while(|point| point.threshold >= review)
        .filter(|point| point.precision >= about.block_precision)
        .last()
        // Above every probability: never.
        .map_or(2.0, |point| point.threshold);
    let mut further = BTreeMap::new();
    further.insert("precision_at_100".to_owned(), metrics::precision_at(&scores, &test.labels, 100));
    if !test.cards.is_empty() {
        let found = metrics::card_precision_at(&scores, &test.labels, &test.cards, &test.event_times, 100);
        further.extend(found.map(|value| ("card_precision_at_100".to_owned(), value)));
    }
    let every = test.len().div_ceil(EXPLAINED).max(1);
    let column = |slot: usize| train.features().filter_map(move |row| row.get(slot).copied());
    let manifest = Manifest {
        kind: match &model.form {
            Form::Logistic { .. } => "logistic",
            Form::Forest { .. } => "forest",
        }
        .to_owned(),
        feature_set: train.fingerprint.clone(),
        feature_names: train.names.clone(),
        training_data: train.data_fingerprint(),
        training_rows: train.len(),
        training_frauds: train.frauds(),
        code_version: about.code_version,
        command: about.command,
        parameters: about.parameters,
        seed: about.seed,
        thresholds: Thresholds { review, block },
        alert_budget: Some(about.alert_budget),
        metrics: Metrics::of(&scores, &test.labels, review),
        further,
        importance: Reasons::new(model.clone())?.importance(test.features().step_by(every)),
        feature_histograms: (0..width).map(|slot| Histogram::of(column(slot), FEATURE_BINS)).collect(),
        score_histogram: Histogram::of(scores.iter().copied(), SCORE_BINS),
        parent: about.parent,
    };
    Ok((manifest, scores))
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::example;
    use super::super::{ForestParameters, Split, train_forest};
    use super::{About, evaluate};
    use crate::models::registry::{Registry, Wanted};

    #[test]
    fn a_trained_model_is_evaluated_later_in_time_and_registered() {
        let data = example(6_000, 31);
        let minute = 60_000;
        let parts = data.split(Split { train_end: 3_000 * minute, test_start: 4_000 * minute });
        let parameters = ForestParameters { trees: 20, depth: 5, ..ForestParameters::default() };
        let model = train_forest(&parts.train, &parameters).unwrap();
        let about = About {
            command: "caddis train".into(),
            code_version: "0".into(),
            parameters: [("trees".to_owned(), "20".to_owned())].into(),
            seed: 0,
            parent: None,
            alert_budget: 100.0,
            block_precision: 0.6,
        };
        let (manifest, scores) = evaluate(&model, &parts.train, &parts.test, about).unwrap();
        assert!(manifest.metrics.average_precision > 0.3 && manifest.metrics.roc_auc > 0.65, "{:?}", manifest.metrics);
        let alerts = scores.iter().filter(|score| **score >= manifest.thresholds.review).count();
        // 2,000 minutes touch two or three days.
        assert!((1..=300).contains(&alerts));
        assert!(manifest.thresholds.block >= manifest.thresholds.review);
        // The features that fraud hangs on lead.
        assert!(
            manifest.importance[0].min(manifest.importance[1]) > manifest.importance[2].max(manifest.importance[3])
        );

        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let version = registry.add("baseline", &model, &manifest, &[]).unwrap();
        registry.promote("baseline", &version).unwrap();
        let loaded = registry.load("baseline", Wanted::Current, "set").unwrap();
        assert_eq!(loaded.manifest.thresholds, manifest.thresholds);
    }
}
