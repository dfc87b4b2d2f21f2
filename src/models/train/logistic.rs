//! Logistic regression by `linfa-logistic`, on standardised features, with a term of its own for
//! a feature's being missing.

use super::{Dataset, TrainError};
use crate::models::compiled::{Calibration, Compiled, Form, Term};
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogisticParameters {
    /// Weight of the squared weights in the loss, 0 or more.
    pub ridge: f64,
    pub iterations: u64,
    /// Share (0 to 1] of legitimate rows kept for training; corrected for in the probability.
    pub keep_legitimate: f64,
    pub seed: u64,
}

impl Default for LogisticParameters {
    fn default() -> Self {
        Self { ridge: 1.0, iterations: 200, keep_legitimate: 1.0, seed: 0 }
    }
}

/// Trains and compiles.
///
/// # Errors
/// When the data or a parameter is of no use, or the trainer fails.
pub fn train_logistic(data: &Dataset, parameters: &LogisticParameters) -> Result<Compiled, TrainError> {
    data.validate()?;
    let wrong = |name, value: f64, expected| Err(TrainError::Parameter { name, value: value.to_string(), expected });
    if !(parameters.ridge >= 0.0 && parameters.ridge.is_finite()) {
        return wrong("ridge", parameters.ridge, "0 or more");
    }
    if !(parameters.keep_legitimate > 0.0 && parameters.keep_legitimate <= 1.0) {
        return wrong("keep_legitimate", parameters.keep_legitimate, "more than 0, at most 1");
    }
    let (sample, share) = if parameters.keep_legitimate < 1.0 {
        data.down_sampled(parameters.keep_legitimate, parameters.seed)
    } else {
        (data.clone(), 1.0)
    };
    let means = sample.means();
    let deviations = deviations(&sample, &means);
    let (width, holes) = (sample.width(), with_holes(&sample));
    let x = design(&sample, &means, &deviations, &holes)?;
    let y = Array1::from_iter(sample.labels.iter().copied());
    let fitted = LogisticRegression::default()
        .alpha(parameters.ridge)
        .max_iterations(parameters.iterations)
        .fit(&DatasetBase::new(x, y))
        .map_err(failed)?;
    // The crate takes the more frequent class as its positive one: turn the signs where that is not fraud.
    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let weight = |column: usize| sign * fitted.params().get(column).copied().unwrap_or_default();
    let terms = means
        .iter()
        .zip(&deviations)
        .enumerate()
        .map(|(slot, (mean, deviation))| Term {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            mean: *mean,
            deviation: *deviation,
            weight: weight(slot),
            missing: holes.iter().position(|hole| *hole == slot).map_or(0.0, |at| weight(width + at)),
        })
        .collect();
    let model = Compiled {
        width: u32::try_from(width).unwrap_or(u32::MAX),
        imputed: means,
        form: Form::Logistic { intercept: sign * fitted.intercept(), terms },
        calibration: if share < 1.0 { Calibration::Kept { share } } else { Calibration::None },
    };
    model.validate()?;
    Ok(model)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn failed(why: impl ToString) -> TrainError {
    TrainError::Trainer { trainer: "logistic", why: why.to_string() }
}

/// Standard deviation of each feature's finite values; 1 for a constant.
fn deviations(sample: &Dataset, means: &[f64]) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0); sample.width()];
    for row in sample.features() {
        for ((value, mean), (sum, count)) in row.iter().zip(means).zip(&mut sums) {
            if value.is_finite() {
                *sum += (value - mean) * (value - mean);
                *count += 1.0;
            }
        }
    }
    let deviation = |(sum, count): (f64, f64)| if count > 0.0 { (sum / count).sqrt() } else { 0.0 };
    sums.into_iter().map(deviation).map(|d| if d > 1e-12 && d.is_finite() { d } else { 1.0 }).collect()
}

/// The slots that are missing in some row.
fn with_holes(sample: &Dataset) -> Vec<usize> {
    let mut missing = vec![false; sample.width()];
    for row in sample.features() {
        for (value, hole) in row.iter().zip(&mut missing) {
            *hole |= !value.is_finite();
        }
    }
    missing.iter().enumerate().filter(|(_, hole)| **hole).map(|(slot, _)| slot).collect()
}

/// Standardised features, then a 0/1 column for each slot with holes.
fn design(sample: &Dataset, means: &[f64], deviations: &[f64], holes: &[usize]) -> Result<Array2<f64>, TrainError> {
    let mut values = Vec::with_capacity(sample.len() * (sample.width() + holes.len()));
    for row in sample.features() {
        values.extend(
            row.iter()
                .zip(means.iter().zip(deviations))
                .map(|(value, (mean, deviation))| if value.is_finite() { (value - mean) / deviation } else { 0.0 }),
        );
        values.extend(holes.iter().map(|slot| f64::from(u8::from(!row.get(*slot).is_some_and(|v| v.is_finite())))));
    }
    Array2::from_shape_vec((sample.len(), sample.width() + holes.len()), values).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::example;
    use super::{LogisticParameters, design, deviations, train_logistic, with_holes};
    use crate::models::scorer::{Scorer, Scratch};
    use linfa::DatasetBase;
    use linfa::traits::Fit;
    use ndarray::Array1;

    fn scores(data: &super::Dataset, parameters: &LogisticParameters) -> Vec<f64> {
        let model = train_logistic(data, parameters).unwrap();
        let mut scores = vec![0.0; data.len()];
        Scorer::new(&model).unwrap().score(&data.rows, &mut scores, &mut Scratch::default());
        scores
    }

    #[test]
    fn compiled_scores_equal_the_trainers_own_whichever_class_is_more_frequent() {
        let mut data = example(800, 4);
        for _ in 0..2 {
            let ours = scores(&data, &LogisticParameters::default());
            let means = data.means();
            let x = design(&data, &means, &deviations(&data, &means), &with_holes(&data)).unwrap();
            let y = Array1::from_iter(data.labels.iter().copied());
            let fitted = linfa_logistic::LogisticRegression::default()
                .alpha(1.0)
                .max_iterations(200)
                .fit(&DatasetBase::new(x.clone(), y))
                .unwrap();
            let of_fraud = |p: f64| if fitted.labels().pos.class { p } else { 1.0 - p };
            let theirs = fitted.predict_probabilities(&x).mapv(of_fraud);
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-6));
            // Fraud scores higher than the rest, and the mean is the rate.
            let mean = |fraud: bool| {
                let of: Vec<f64> =
                    ours.iter().zip(&data.labels).filter(|(_, l)| **l == fraud).map(|(s, _)| *s).collect();
                of.iter().sum::<f64>() / of.len() as f64
            };
            assert!(mean(true) > mean(false) + 0.05);
            // Now fraud as the more frequent class.
            data.labels.iter_mut().for_each(|fraud| *fraud = !*fraud);
        }
    }

    #[test]
    fn training_again_gives_the_same_bytes() {
        let data = example(500, 2);
        let bytes = || train_logistic(&data, &LogisticParameters::default()).unwrap().encode().unwrap();
        assert_eq!(bytes(), bytes());
    }
}
