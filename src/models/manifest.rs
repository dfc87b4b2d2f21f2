//! What is known about a model besides its compiled form. No time of making is in it, so that the
//! same data and command give the same bytes.

use super::metrics::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `logistic`, `forest` or `ensemble`.
    pub kind: String,
    /// Fingerprint of the feature set that rows must come from.
    pub feature_set: String,
    pub feature_names: Vec<String>,
    /// Fingerprint of the rows and labels it was trained on.
    pub training_data: String,
    pub training_rows: usize,
    pub training_frauds: usize,
    /// Version of the code that trained it.
    pub code_version: String,
    /// The command that makes it again.
    pub command: String,
    /// The trainer's parameters as given.
    pub parameters: BTreeMap<String, String>,
    pub seed: u64,
    pub thresholds: Thresholds,
    /// Alerts a day that the review threshold was solved for.
    pub alert_budget: Option<f64>,
    /// What other budgets come to, the fewest alerts first. A model that was trained before there were any has none.
    #[serde(default)]
    pub operating_points: Vec<OperatingPoint>,
    /// On the later slice of time that was kept from training.
    pub metrics: Metrics,
    /// Further figures by name, such as `card_precision_at_100`.
    pub further: BTreeMap<String, f64>,
    /// Mean absolute contribution of each feature, in the order of `feature_names`.
    #[serde(deserialize_with = "all_exact")]
    pub importance: Vec<f64>,
    /// Each feature's distribution in training, in the order of `feature_names`: what drift is measured from.
    pub feature_histograms: Vec<Histogram>,
    pub score_histogram: Histogram,
    /// The version in force when it was first made.
    pub parent: Option<String>,
    /// Of a model that another tool trained. What Caddis does not know of it is zero or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
}

/// Where an imported model comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// `lightgbm`, `xgboost` or `onnx`.
    pub format: String,
    /// Of the file it was read from.
    pub sha256: String,
    /// What is worth knowing about how it was taken.
    pub notes: Vec<String>,
    /// How it compares with the original's own predictions, where they were given.
    pub checked: Option<Checked>,
}

/// A comparison with the original's predictions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    pub rows: usize,
    pub largest_difference: f64,
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} predictions of the original, ", self.rows)?;
        if self.largest_difference > 0.0 {
            write!(f, "at most {:.1e} apart", self.largest_difference)
        } else {
            f.write_str("all met to the last digit")
        }
    }
}

/// A score at or above `block` is blocked, at or above `review` reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    #[serde(deserialize_with = "exact")]
    pub review: f64,
    #[serde(deserialize_with = "exact")]
    pub block: f64,
}

/// What a review threshold came to on the later slice of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    #[serde(deserialize_with = "exact")]
    pub alerts_a_day: f64,
    #[serde(deserialize_with = "exact")]
    pub threshold: f64,
    pub precision: f64,
    pub recall: f64,
}

impl Manifest {
    /// The operating point with the most alerts that are not more than `alerts_a_day`. Below the first, the one
    /// just above its threshold, which nothing reached. `None` for a model without operating points.
    #[must_use]
    pub fn operating_point(&self, alerts_a_day: f64) -> Option<OperatingPoint> {
        let count = self.operating_points.partition_point(|point| point.alerts_a_day <= alerts_a_day);
        let found = self.operating_points.get(..count)?.last().copied();
        found.or_else(|| {
            let first = self.operating_points.first()?;
            let nothing =
                OperatingPoint { alerts_a_day: 0.0, threshold: first.threshold.next_up(), precision: 0.0, recall: 0.0 };
            Some(nothing)
        })
    }
}

/// `serde_json` reads long decimals to within one unit in the last place; a threshold equal to a
/// score must come back as it was, so its digits are read by the standard library.
fn exact<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
    let value: f64 =
        raw.get().parse().map_err(|_| serde::de::Error::custom(format!("{} is not a number", raw.get())))?;
    if value.is_finite() { Ok(value) } else { Err(serde::de::Error::custom(format!("{} is too large", raw.get()))) }
}

/// The same for a list: a value equal to an edge must stay in its bin.
fn all_exact<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    struct Exact(#[serde(deserialize_with = "exact")] f64);
    Ok(Vec::<Exact>::deserialize(deserializer)?.into_iter().map(|value| value.0).collect())
}

/// Counts between edges: below the first, from each edge up to the next, from the last up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Histogram {
    /// Strictly increasing.
    #[serde(deserialize_with = "all_exact")]
    pub edges: Vec<f64>,
    /// One more than edges.
    pub counts: Vec<u64>,
    /// Values that were not finite.
    pub missing: u64,
}

impl Histogram {
    /// Edges at the values' own quantiles, `bins` at most; equal quantiles fall together.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>, bins: usize) -> Self {
        let all: Vec<f64> = values.collect();
        let mut sorted: Vec<f64> = all.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let mut edges: Vec<f64> =
            (1..bins).filter_map(|bin| sorted.get(bin * sorted.len() / bins.max(1)).copied()).collect();
        edges.dedup();
        // An edge at the least value would leave the first bin empty for ever.
        edges.retain(|edge| sorted.first().is_some_and(|least| edge > least));
        let mut histogram = Self { counts: vec![0; edges.len() + 1], edges, missing: 0 };
        all.into_iter().for_each(|value| histogram.add(value));
        histogram
    }

    pub fn add(&mut self, value: f64) {
        let bin = self.edges.partition_point(|edge| *edge <= value);
        match self.counts.get_mut(bin).filter(|_| value.is_finite()) {
            Some(count) => *count += 1,
            None => self.missing += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, OperatingPoint, Thresholds};

    #[test]
    fn a_histogram_has_even_bins_over_its_own_values() {
        let values = (0..100).map(f64::from).chain([f64::NAN]);
        let histogram = Histogram::of(values, 10);
        assert_eq!((histogram.counts, histogram.missing), (vec![10; 10], 1));
        let mostly_zero = Histogram::of([0.0; 90].into_iter().chain((0..10).map(f64::from)), 10);
        assert_eq!(mostly_zero.counts.iter().sum::<u64>(), 100);
        assert_eq!(Histogram::of([3.0; 5].into_iter(), 10).counts, [5]);
        assert_eq!(Histogram::of(std::iter::empty(), 10).counts, [0]);
    }

    #[test]
    fn a_budget_is_never_overrun() {
        let (_, mut manifest, _, _) = crate::models::card::tests::evaluated();
        let point =
            |alerts_a_day: f64, threshold: f64| OperatingPoint { alerts_a_day, threshold, precision: 0.5, recall: 0.5 };
        manifest.operating_points = vec![point(0.5, 0.99), point(2.0, 0.9), point(9.75, 0.8), point(50.0, 0.1)];
        let found = |budget: f64| manifest.operating_point(budget).map(|point| (point.threshold, point.alerts_a_day));
        for (budget, expected) in [
            (0.5, (0.99, 0.5)),
            (1.99, (0.99, 0.5)),
            (2.0, (0.9, 2.0)),
            (10.0, (0.8, 9.75)),
            (1e9, (0.1, 50.0)),
            (0.4, (0.99_f64.next_up(), 0.0)),
        ] {
            assert_eq!(found(budget), Some(expected), "{budget}");
        }
        manifest.operating_points.clear();
        assert_eq!(manifest.operating_point(10.0), None);
    }

    #[test]
    fn thresholds_come_back_to_the_last_digit() {
        for (at, value) in crate::models::synthetic::rows(1, 2_000, 1).into_iter().enumerate() {
            let value = value / 3.0 / (at as f64 + 1.0);
            let thresholds = Thresholds { review: value, block: value.next_up() };
            let text = serde_json::to_string(&thresholds).unwrap();
            assert_eq!(serde_json::from_str::<Thresholds>(&text).unwrap(), thresholds);
            let point =
                OperatingPoint { alerts_a_day: value.next_down(), threshold: value, precision: 0.0, recall: 0.0 };
            let text = serde_json::to_string(&point).unwrap();
            assert_eq!(serde_json::from_str::<OperatingPoint>(&text).unwrap(), point);
        }
    }
}
