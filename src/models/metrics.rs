//! How good scores are. Names and definitions as in scikit-learn (ties share one threshold;
//! average precision is the step sum without interpolation), whose figures the tests compare
//! with; card precision after the Fraud Detection Handbook.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// All figures of one evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub rows: usize,
    pub frauds: usize,
    pub average_precision: f64,
    pub roc_auc: f64,
    pub brier: f64,
    pub log_loss: f64,
    /// At the review threshold.
    pub at_threshold: Confusion,
}

impl Metrics {
    #[must_use]
    pub fn of(scores: &[f64], labels: &[bool], threshold: f64) -> Self {
        Self {
            rows: labels.len(),
            frauds: labels.iter().filter(|fraud| **fraud).count(),
            average_precision: average_precision(scores, labels),
            roc_auc: roc_auc(scores, labels),
            brier: brier(scores, labels),
            log_loss: log_loss(scores, labels),
            at_threshold: Confusion::at(scores, labels, threshold),
        }
    }
}

/// Counts at a threshold: an alert is a score at or above it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    pub threshold: f64,
    pub true_positives: u64,
    pub false_positives: u64,
    pub true_negatives: u64,
    pub false_negatives: u64,
}

impl Confusion {
    #[must_use]
    pub fn at(scores: &[f64], labels: &[bool], threshold: f64) -> Self {
        let count = |alert: bool, fraud: bool| {
            scores
                .iter()
                .zip(labels)
                .filter(|(score, label)| (**score >= threshold) == alert && **label == fraud)
                .count() as u64
        };
        Self {
            threshold,
            true_positives: count(true, true),
            false_positives: count(true, false),
            true_negatives: count(false, false),
            false_negatives: count(false, true),
        }
    }

    /// Frauds among alerts; 0 without alerts.
    #[must_use]
    pub fn precision(&self) -> f64 {
        ratio(self.true_positives, self.true_positives + self.false_positives)
    }

    /// Alerts among frauds; 0 without frauds.
    #[must_use]
    pub fn recall(&self) -> f64 {
        ratio(self.true_positives, self.true_positives + self.false_negatives)
    }

    #[must_use]
    pub fn f1(&self) -> f64 {
        ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)
    }
}

#[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A point of the precision-recall curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    pub threshold: f64,
    pub alerts: u64,
    pub frauds: u64,
    pub precision: f64,
    pub recall: f64,
}

/// One point for each distinct score, highest first.
#[must_use]
pub fn curve(scores: &[f64], labels: &[bool]) -> Vec<CurvePoint> {
    let total = labels.iter().filter(|fraud| **fraud).count() as u64;
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut points, mut alerts, mut frauds) = (Vec::new(), 0, 0);
    for group in ranked.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        alerts += group.len() as u64;
        frauds += group.iter().filter(|(_, fraud)| *fraud).count() as u64;
        if let Some((threshold, _)) = group.first().copied() {
            let (precision, recall) = (ratio(frauds, alerts), ratio(frauds, total));
            points.push(CurvePoint { threshold, alerts, frauds, precision, recall });
        }
    }
    points
}

#[must_use]
pub fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let mut before = 0.0;
    curve(scores, labels)
        .iter()
        .map(|point| (point.recall - std::mem::replace(&mut before, point.recall)) * point.precision)
        .sum()
}

/// The chance that a fraud scores higher than a legitimate row, ties counting half; 0.5 where one class is missing.
#[must_use]
pub fn roc_auc(scores: &[f64], labels: &[bool]) -> f64 {
    let points = curve(scores, labels);
    let Some(last) = points.last() else { return 0.5 };
    let (frauds, legitimate) = (last.frauds, last.alerts - last.frauds);
    if frauds == 0 || legitimate == 0 {
        return 0.5;
    }
    let (mut area, mut before) = (0.0, (0.0, 0.0));
    for point in &points {
        let here = (ratio(point.alerts - point.frauds, legitimate), ratio(point.frauds, frauds));
        area += (here.0 - before.0) * (here.1 + before.1) / 2.0;
        before = here;
    }
    area
}

/// Mean squared difference of probability and outcome; 0 for no rows.
#[must_use]
pub fn brier(scores: &[f64], labels: &[bool]) -> f64 {
    mean(scores.iter().zip(labels).map(|(score, fraud)| (score - f64::from(u8::from(*fraud))).powi(2)))
}

/// Mean negative log-likelihood in nats, probabilities kept off 0 and 1 by the machine epsilon.
#[must_use]
pub fn log_loss(scores: &[f64], labels: &[bool]) -> f64 {
    mean(scores.iter().zip(labels).map(|(score, fraud)| {
        let p = score.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
        -(if *fraud { p } else { 1.0 - p }).ln()
    }))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u64);
    for value in values {
        sum += value;
        count += 1;
    }
    sum / ratio(count.max(1), 1)
}

/// Frauds among the `k` highest scores, earlier rows first among equals. Divided by `k`, or by the rows if fewer.
#[must_use]
pub fn precision_at(scores: &[f64], labels: &[bool], k: usize) -> f64 {
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(k);
    ratio(ranked.iter().filter(|(_, fraud)| *fraud).count() as u64, ranked.len() as u64)
}

const DAY: i64 = 86_400_000;

/// Card precision at k: each UTC day, cards are ranked by their highest score; the share of
/// frauded cards among the first `k`, averaged over days. A card found frauded on one day is
/// off the list of later ones. `None` without rows.
#[must_use]
pub fn card_precision_at(scores: &[f64], labels: &[bool], cards: &[u64], event_times: &[i64], k: usize) -> Option<f64> {
    let mut days: BTreeMap<i64, BTreeMap<u64, (f64, bool)>> = BTreeMap::new();
    for (((score, fraud), card), time) in scores.iter().zip(labels).zip(cards).zip(event_times) {
        let best = days.entry(time.div_euclid(DAY)).or_default().entry(*card).or_insert((*score, *fraud));
        *best = (best.0.max(*score), best.1 || *fraud);
    }
    let mut known = BTreeSet::new();
    let mut precisions = Vec::new();
    for cards in days.values() {
        let mut ranked: Vec<_> = cards.iter().filter(|(card, _)| !known.contains(*card)).collect();
        ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        ranked.truncate(k);
        let found: Vec<u64> = ranked.iter().filter(|(_, (_, fraud))| *fraud).map(|(card, _)| **card).collect();
        precisions.push(ratio(found.len() as u64, k as u64));
        known.extend(found);
    }
    (!precisions.is_empty()).then(|| mean(precisions.into_iter()))
}

/// Days from the first to the last event, one at least: what alerts a day are counted over. Not calendar days,
/// for seven days from noon to noon touch eight of them, and a budget would be overrun by a seventh.
#[must_use]
pub fn days(event_times: &[i64]) -> f64 {
    let span = event_times.iter().max().zip(event_times.iter().min()).map_or(0, |(last, first)| last - first);
    (span as f64 / DAY as f64).max(1.0)
}

/// The lowest point of a [`curve`] that keeps alerts within `allowed`; `None` when even its first has more.
#[must_use]
pub fn within(curve: &[CurvePoint], allowed: f64) -> Option<&CurvePoint> {
    let count = curve.partition_point(|point| ratio(point.alerts, 1) <= allowed);
    curve.get(..count)?.last()
}

/// The lowest threshold that keeps alerts within `alerts_a_day` on average over the [`days`]. Just above the
/// highest score when even one group of equal scores is too many.
#[must_use]
pub fn threshold_for_budget(scores: &[f64], event_times: &[i64], alerts_a_day: f64) -> f64 {
    let points = curve(scores, &vec![false; scores.len()]);
    let found = within(&points, alerts_a_day * days(event_times));
    found.map_or_else(|| points.first().map_or(1.0, |point| point.threshold.next_up()), |point| point.threshold)
}

#[cfg(test)]
mod tests {
    use super::{Confusion, Metrics, card_precision_at, days, precision_at, threshold_for_budget};

    #[derive(serde::Deserialize)]
    struct Case {
        scores: Vec<f64>,
        labels: Vec<bool>,
        threshold: f64,
        average_precision: f64,
        roc_auc: f64,
        brier: f64,
        log_loss: f64,
        precision: f64,
        recall: f64,
        f1: f64,
    }

    #[test]
    fn figures_are_those_of_scikit_learn() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("testdata/metrics.json")).unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let ours = Metrics::of(&case.scores, &case.labels, case.threshold);
            let at = ours.at_threshold;
            for (ours, theirs) in [
                (ours.average_precision, case.average_precision),
                (ours.roc_auc, case.roc_auc),
                (ours.brier, case.brier),
                (ours.log_loss, case.log_loss),
                (at.precision(), case.precision),
                (at.recall(), case.recall),
                (at.f1(), case.f1),
            ] {
                assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
            }
        }
    }

    #[test]
    fn the_budgets_threshold_is_the_lowest_that_holds() {
        let day = 86_400_000;
        let (scores, times) = ([0.9, 0.8, 0.8, 0.7, 0.1, 0.2], [0, 1, 2, 3, day, 2 * day]);
        assert_eq!(threshold_for_budget(&scores, &times, 2.0), 0.7);
        assert_eq!(threshold_for_budget(&scores, &times, 1.0), 0.9, "the tie at 0.8 would make three");
        assert!(threshold_for_budget(&scores, &times, 0.4) > 0.9);
        assert_eq!((days(&times), days(&[7]), days(&[])), (2.0, 1.0, 1.0));
        assert_eq!(Confusion::at(&scores, &[true; 6], 0.7).true_positives, 4);
    }

    #[test]
    fn a_card_found_frauded_is_not_checked_again() {
        let day = 86_400_000;
        // Day 0: cards 1 (fraud) and 2 lead; day 1: card 1 is known, so 2 and 3 are checked.
        let scores = [0.9, 0.8, 0.1, 0.9, 0.5, 0.6];
        let labels = [true, false, false, true, true, false];
        let found = card_precision_at(&scores, &labels, &[1, 2, 3, 1, 2, 3], &[0, 1, 2, day, day, day], 2);
        assert_eq!(found, Some(0.5));
        assert_eq!(card_precision_at(&[], &[], &[], &[], 2), None);
        assert_eq!(precision_at(&scores, &labels, 3), 2.0 / 3.0);
    }
}
