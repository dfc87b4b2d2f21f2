//! From a trained model to its manifest: scores a later slice of time, solves the thresholds and
//! gathers what drift and the model card need.

use super::{Dataset, TrainError};
use crate::models::compiled::{Compiled, Form};
use crate::models::manifest::{Histogram, Manifest, OperatingPoint, Thresholds};
use crate::models::metrics::{self, CurvePoint, Metrics};
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
/// Numbers people ask for.
const ROUND: &[f64] = &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];

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
    let curve = metrics::curve(&scores, &test.labels);
    let block = curve
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
            Form::Ensemble(_) => "ensemble",
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
        operating_points: operating_points(&curve, metrics::days(&test.event_times), about.alert_budget),
        metrics: Metrics::of(&scores, &test.labels, review),
        further,
        importance: Reasons::new(model.clone())?.importance(test.features().step_by(every)),
        feature_histograms: (0..width).map(|slot| Histogram::of(column(slot), FEATURE_BINS)).collect(),
        score_histogram: Histogram::of(scores.iter().copied(), SCORE_BINS),
        parent: about.parent,
        imported: None,
    };
    Ok((manifest, scores))
}

/// What budgets come to, the fewest alerts first: the round numbers from 1 a day up to all, about a dozen for
/// each power of ten, and the budget of the model's own threshold, so that asking for it gives that threshold.
/// The first point is the highest score, so that above it there is nothing.
fn operating_points(curve: &[CurvePoint], days: f64, own: f64) -> Vec<OperatingPoint> {
    let all = curve.last().map_or(0.0, |point| point.alerts as f64 / days);
    let mut budgets = vec![own, all];
    let mut decade = 1.0;
    while decade < all {
        budgets.extend(ROUND.iter().map(|round| round * decade).filter(|budget| *budget < all));
        decade *= 10.0;
    }
    budgets.sort_by(f64::total_cmp);
    let chosen = budgets.into_iter().filter_map(|budget| metrics::within(curve, budget * days));
    let mut points: Vec<OperatingPoint> = curve
        .first()
        .into_iter()
        .chain(chosen)
        .map(|point| OperatingPoint {
            alerts_a_day: point.alerts as f64 / days,
            threshold: point.threshold,
            precision: point.precision,
            recall: point.recall,
        })
        .collect();
    // Equal thresholds stand side by side: both the budgets and the curve are in order.
    points.dedup_by(|a, b| a.threshold.total_cmp(&b.threshold).is_eq());
    points
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::example;
    use super::super::{ForestParameters, Split, train_forest};
    use super::{About, evaluate, operating_points};
    use crate::models::metrics;
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
        // 2,000 minutes are not two days.
        assert!((1..=138).contains(&alerts));
        assert!(manifest.thresholds.block >= manifest.thresholds.review);
        // The features that fraud hangs on lead.
        assert!(
            manifest.importance[0].min(manifest.importance[1]) > manifest.importance[2].max(manifest.importance[3])
        );

        let own = manifest.operating_point(100.0).unwrap();
        assert_eq!(own.threshold, manifest.thresholds.review);
        assert!(
            (own.precision, own.recall)
                == (manifest.metrics.at_threshold.precision(), manifest.metrics.at_threshold.recall())
        );

        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let version = registry.add("baseline", &model, &manifest, &[]).unwrap();
        registry.promote("baseline", &version).unwrap();
        let loaded = registry.load("baseline", Wanted::Current, "set").unwrap();
        assert_eq!(loaded.manifest.thresholds, manifest.thresholds);
    }

    /// Every point and every budget against counting the alerts one by one.
    #[test]
    fn operating_points_are_the_best_within_their_budgets() {
        let data = example(3_000, 7);
        // Scores in steps, as a forest gives: many are equal.
        let scores: Vec<f64> = data.features().map(|row| (row[0] * 400.0).floor() / 400.0).collect();
        let days = 2.5;
        let curve = metrics::curve(&scores, &data.labels);
        let (_, mut manifest, _, _) = crate::models::card::tests::evaluated();
        manifest.operating_points = operating_points(&curve, days, 33.0);
        let points = &manifest.operating_points;
        assert!((25..=60).contains(&points.len()), "{}", points.len());
        assert!(points.is_sorted_by(|a, b| a.alerts_a_day < b.alerts_a_day && a.threshold > b.threshold));
        let alerts = |threshold: f64| scores.iter().filter(|score| **score >= threshold).count() as f64 / days;
        for point in points {
            let frauds =
                scores.iter().zip(&data.labels).filter(|(score, fraud)| **score >= point.threshold && **fraud).count();
            let all = data.labels.iter().filter(|fraud| **fraud).count();
            assert_eq!(point.alerts_a_day, alerts(point.threshold));
            assert_eq!(point.precision, frauds as f64 / (point.alerts_a_day * days).round());
            assert_eq!(point.recall, frauds as f64 / all as f64);
        }
        assert_eq!(points.last().unwrap().alerts_a_day, 1_200.0, "the last lets everything through");
        assert_eq!(alerts(points[0].threshold.next_up()), 0.0, "above the first is nothing");
        // A budget that is a point's own is met as well as any score could; another is not overrun.
        for budget in [1.0, 2.5, 10.0, 33.0, 50.0, 120.0, 1_000.0] {
            let best = scores.iter().copied().filter(|score| alerts(*score) <= budget).fold(f64::INFINITY, f64::min);
            let found = manifest.operating_point(budget).unwrap();
            if best.is_finite() {
                assert_eq!(found.threshold, best, "{budget}");
            } else {
                assert_eq!(alerts(found.threshold), 0.0, "{budget}");
            }
        }
        for budget in [0.1, 0.9, 3.3, 17.0, 71.0, 333.0, 5_000.0] {
            assert!(alerts(manifest.operating_point(budget).unwrap().threshold) <= budget, "{budget}");
        }
    }
}
