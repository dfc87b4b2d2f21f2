//! Labelled feature rows, and how they are cut: by time, with a gap for labels that come late.

use super::TrainError;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// Rows in the order of the stream.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// The feature set's names, one a column.
    pub names: Vec<String>,
    /// The feature set's fingerprint.
    pub fingerprint: String,
    /// Row-major; a missing value is not finite.
    pub rows: Vec<f64>,
    /// True for fraud.
    pub labels: Vec<bool>,
    /// Milliseconds since 1970, UTC.
    pub event_times: Vec<i64>,
    /// The card (or account) of each row as any stable number; for card precision. May be empty.
    pub cards: Vec<u64>,
}

/// Train on [.., `train_end`), leave out [`train_end`, `test_start`) because its labels would not yet have
/// been known, test on [`test_start`, ..). Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Split {
    pub train_end: i64,
    pub test_start: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    pub train: Dataset,
    pub test: Dataset,
    /// Rows that fell in the gap.
    pub left_out: usize,
}

impl Dataset {
    #[must_use]
    pub const fn width(&self) -> usize {
        self.names.len()
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.labels.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    #[must_use]
    pub fn frauds(&self) -> usize {
        self.labels.iter().filter(|fraud| **fraud).count()
    }

    /// The features of each row.
    pub fn features(&self) -> impl Iterator<Item = &[f64]> {
        self.rows.chunks_exact(self.width().max(1))
    }

    /// # Errors
    /// When the columns disagree about the number of rows, or one class is missing.
    pub fn validate(&self) -> Result<(), TrainError> {
        let (rows, width, cards) = (self.len(), self.width(), self.cards.len());
        let fits = self.rows.len() == rows * width && self.event_times.len() == rows && width > 0;
        if !fits || (cards != 0 && cards != rows) {
            let (values, labels, times) = (self.rows.len(), rows, self.event_times.len());
            return Err(TrainError::Shape { rows, width, values, labels, times });
        }
        let frauds = self.frauds();
        if frauds == 0 || frauds == rows {
            return Err(TrainError::OneClass { frauds, rows });
        }
        Ok(())
    }

    /// Cuts by event time; see [`Split`].
    #[must_use]
    pub fn split(&self, split: Split) -> Parts {
        let train = self.filtered(|at| self.event_times.get(at).is_some_and(|time| *time < split.train_end));
        let test = self
            .filtered(|at| self.event_times.get(at).is_some_and(|time| *time >= split.test_start.max(split.train_end)));
        let left_out = self.len() - train.len() - test.len();
        Parts { train, test, left_out }
    }

    /// Keeps every fraud and about `share` (0 to 1] of the legitimate rows, chosen by `seed`. The model trained
    /// on it needs `Calibration::Kept` with the share given back, which is the one really kept.
    #[must_use]
    pub fn down_sampled(&self, share: f64, seed: u64) -> (Self, f64) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let unit = |bits: u64| f64::from(u32::try_from(bits >> 32).unwrap_or_default()) / 4_294_967_296.0;
        let kept: Vec<bool> = self.labels.iter().map(|fraud| unit(random.next_u64()) < share || *fraud).collect();
        let sample = self.filtered(|at| kept.get(at).copied().unwrap_or_default());
        let legitimate = |of: &Self| u32::try_from(of.len() - of.frauds()).map_or(f64::NAN, f64::from);
        let real = legitimate(&sample) / legitimate(self);
        (sample, if real > 0.0 { real } else { 1.0 })
    }

    fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        fn pick<T: Clone>(of: &[T], keep: impl Fn(usize) -> bool) -> Vec<T> {
            of.iter().enumerate().filter(|(at, _)| keep(*at)).map(|(_, value)| value.clone()).collect()
        }
        let rows = self.features().enumerate().filter(|(at, _)| keep(*at)).flat_map(|(_, row)| row).copied().collect();
        Self {
            names: self.names.clone(),
            fingerprint: self.fingerprint.clone(),
            rows,
            labels: pick(&self.labels, &keep),
            event_times: pick(&self.event_times, &keep),
            cards: pick(&self.cards, &keep),
        }
    }

    /// Mean of each feature's finite values; 0 where there is none. Stands in for missing values.
    #[must_use]
    pub fn means(&self) -> Vec<f64> {
        let mut sums = vec![(0.0, 0.0); self.width()];
        for row in self.features() {
            for (value, (sum, count)) in row.iter().zip(&mut sums).filter(|(value, _)| value.is_finite()) {
                *sum += *value;
                *count += 1.0;
            }
        }
        sums.into_iter()
            .map(|(sum, count)| if count > 0.0 { sum / count } else { 0.0_f64 })
            .map(|m| if m.is_finite() { m } else { 0.0 })
            .collect()
    }

    /// The rows with missing values filled in.
    #[must_use]
    pub fn imputed(&self, with: &[f64]) -> Vec<f64> {
        self.features()
            .flat_map(|row| row.iter().zip(with).map(|(value, mean)| if value.is_finite() { *value } else { *mean }))
            .collect()
    }

    /// BLAKE3 of names, rows, labels and times: what a model was trained on.
    #[must_use]
    pub fn data_fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for name in self.names.iter().chain([&self.fingerprint]) {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        }
        hasher.update(&(self.len() as u64).to_le_bytes());
        self.rows.iter().for_each(|value| {
            hasher.update(&value.to_bits().to_le_bytes());
        });
        self.labels.iter().for_each(|fraud| {
            hasher.update(&[u8::from(*fraud)]);
        });
        self.event_times.iter().for_each(|time| {
            hasher.update(&time.to_le_bytes());
        });
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Dataset, Split};
    use crate::models::synthetic;

    /// Fraud is likelier where feature 0 is high and feature 1 low; feature 2 has holes.
    pub fn example(rows: usize, seed: u64) -> Dataset {
        let mut values = synthetic::rows(seed, rows, 4);
        let luck = synthetic::rows(seed + 1, rows, 1);
        let labels = values
            .chunks(4)
            .zip(&luck)
            .map(|(row, luck)| *luck < if row[0] > 0.8 && row[1] < 0.4 { 0.7 } else { 0.03 })
            .collect();
        for row in values.chunks_mut(4) {
            if row[2] < 0.2 {
                row[2] = f64::NAN;
            }
            row[3] = (row[3] * 5.0).floor();
        }
        Dataset {
            names: ["amount", "age", "gap", "mcc"].map(String::from).to_vec(),
            fingerprint: "set".into(),
            rows: values,
            labels,
            event_times: (0..).step_by(60_000).take(rows).collect(),
            cards: (0..rows as u64).map(|at| at % 97).collect(),
        }
    }

    #[test]
    fn a_split_keeps_the_gap_out_of_both_parts() {
        let data = example(100, 1);
        let parts = data.split(Split { train_end: 50 * 60_000, test_start: 70 * 60_000 });
        assert_eq!((parts.train.len(), parts.test.len(), parts.left_out), (50, 30, 20));
        assert_eq!(parts.test.event_times[0], 70 * 60_000);
        assert_eq!(parts.test.rows.len(), 30 * 4);
        assert!(parts.train.validate().is_ok());
    }

    #[test]
    fn down_sampling_keeps_every_fraud_and_tells_its_real_share() {
        let data = example(2_000, 3);
        let (sample, share) = data.down_sampled(0.25, 9);
        assert_eq!(sample.frauds(), data.frauds());
        assert!((share - 0.25).abs() < 0.04);
        assert_eq!(sample.data_fingerprint(), data.down_sampled(0.25, 9).0.data_fingerprint());
        assert_ne!(sample.data_fingerprint(), data.down_sampled(0.25, 10).0.data_fingerprint());
    }
}
