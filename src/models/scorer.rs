//! The one scorer: rows of features in, probabilities out, a block at a time. No I/O, no
//! allocation once its scratch has grown, no dependence on where a block begins: a row's score is
//! the same alone as among others.
//!
//! Trees up to `COMPLETE` splits deep are laid out as complete binary trees of thresholds, slots
//! and leaves; a group of rows descends one tree together, so that the loads of one row hide the
//! latency of another's, with no branch taken on data. Values are compared as integers in the order of
//! `f64` (`key`), which decides exactly as the trainer's comparison does, and took a sixth less time than
//! comparing floats. Binning each value to a small integer was not tried: it adds a search of a
//! few hundred thresholds a feature. Deeper trees are walked node by node.
#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: every index is masked to a power of two or bounded by Compiled::validate"
)]

mod columns;
mod forest;

use super::compiled::{Calibration, Compiled, Form, logistic};

/// Features a row at most.
pub const MAX_WIDTH: usize = 1024;
/// Splits from root to leaf up to which a tree is laid out as a complete one.
const COMPLETE: usize = 10;
/// Rows gathered at a time: with 64 features they take half of a 32 KiB cache.
const GATHERED: usize = 32;
/// Rows that descend a tree side by side: 8 measured best; 4 took 40 % longer, 16 as long or longer.
const ABREAST: usize = 8;

/// A compiled model made ready to run.
#[derive(Debug, Clone)]
pub struct Scorer {
    width: usize,
    calibration: Calibration,
    kernel: Kernel,
}

#[derive(Debug, Clone)]
enum Kernel {
    Linear { intercept: f64, dense: Vec<Dense> },
    Forest(Forest),
}

#[derive(Debug, Clone)]
struct Forest {
    columns: columns::Columns,
    trees: forest::Forest,
    count: f64,
}

/// One slot's part of a linear sum; slots without a term weigh nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Dense {
    mean: f64,
    slope: f64,
    missing: f64,
}

/// Reused between blocks; one a thread.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    keys: Vec<u64>,
}

impl Scorer {
    /// # Errors
    /// When the model contradicts itself (see [`Compiled::validate`]).
    pub fn new(model: &Compiled) -> Result<Self, super::compiled::Unreadable> {
        model.validate()?;
        let width = model.width as usize;
        let kernel = match &model.form {
            Form::Logistic { intercept, terms } => {
                let mut dense = vec![Dense::default(); width];
                for term in terms {
                    dense[term.slot as usize] =
                        Dense { mean: term.mean, slope: term.weight / term.deviation, missing: term.missing };
                }
                Kernel::Linear { intercept: *intercept, dense }
            }
            Form::Forest { trees } => {
                let columns = columns::Columns::of(trees, &model.imputed);
                let count = u32::try_from(trees.len()).map_or(f64::NAN, f64::from);
                Kernel::Forest(Forest { trees: forest::Forest::place(trees, &columns), columns, count })
            }
        };
        Ok(Self { width, calibration: model.calibration, kernel })
    }

    /// Features a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Scores `out.len()` rows laid end to end. Missing values are those that are not finite.
    ///
    /// # Panics
    /// When `rows` does not hold `out.len()` rows of this model's width: a mistake of the caller.
    pub fn score(&self, rows: &[f64], out: &mut [f64], scratch: &mut Scratch) {
        assert_eq!(rows.len(), out.len() * self.width, "rows must be {} features wide", self.width);
        match &self.kernel {
            Kernel::Linear { intercept, dense } => {
                for (row, score) in rows.chunks_exact(self.width).zip(out.iter_mut()) {
                    *score = linear(*intercept, dense, row);
                }
            }
            Kernel::Forest(forest) => match forest.columns.len() {
                ..=64 => self.forest::<64>(forest, rows, out, scratch),
                65..=256 => self.forest::<256>(forest, rows, out, scratch),
                _ => self.forest::<MAX_WIDTH>(forest, rows, out, scratch),
            },
        }
        for score in out.iter_mut() {
            *score = self.calibration.apply(*score);
        }
    }

    /// One row.
    #[must_use]
    pub fn score_one(&self, row: &[f64], scratch: &mut Scratch) -> f64 {
        let mut out = [0.0];
        self.score(row, &mut out, scratch);
        out[0]
    }

    fn forest<const W: usize>(&self, forest: &Forest, rows: &[f64], out: &mut [f64], scratch: &mut Scratch) {
        scratch.keys.resize(GATHERED * W, 0);
        let (keys, _) = scratch.keys.as_chunks_mut::<W>();
        for (rows, out) in rows.chunks(GATHERED * self.width).zip(out.chunks_mut(GATHERED)) {
            for (row, keys) in rows.chunks_exact(self.width).zip(keys.iter_mut()) {
                forest.columns.keys(row, keys);
            }
            out.fill(0.0);
            forest.trees.add(&keys[..out.len()], out);
            for score in out {
                *score /= forest.count;
            }
        }
    }
}

fn linear(intercept: f64, dense: &[Dense], row: &[f64]) -> f64 {
    // Four sums, so that one addition need not wait for another.
    let part = |term: &Dense, value: f64| {
        if value.is_finite() { (value - term.mean) * term.slope } else { term.missing }
    };
    let mut sums = [0.0; 4];
    let (terms, last_terms) = dense.as_chunks::<4>();
    let (values, last_values) = row.as_chunks::<4>();
    for (terms, values) in terms.iter().zip(values) {
        for lane in 0..4 {
            sums[lane] += part(&terms[lane], values[lane]);
        }
    }
    let rest: f64 = last_terms.iter().zip(last_values).map(|(term, value)| part(term, *value)).sum();
    logistic(intercept + ((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest)
}

#[cfg(test)]
mod tests {
    use super::super::compiled::{Calibration, Compiled, Form, Term, Tree};
    use super::super::synthetic::{forest, rows};
    use super::{Scorer, Scratch};

    fn plainly(model: &Compiled, row: &[f64]) -> f64 {
        let row: Vec<f64> = row.iter().zip(&model.imputed).map(|(v, i)| if v.is_finite() { *v } else { *i }).collect();
        let Form::Forest { trees } = &model.form else { panic!("a forest") };
        trees.iter().map(|tree| tree.predict(&row)).sum::<f64>() / trees.len() as f64
    }

    #[test]
    fn a_forests_scores_are_those_of_walking_each_tree() {
        for (trees, depth, width) in [(1, 1, 1), (20, 7, 50), (9, 10, 70), (5, 12, 300), (3, 0, 2)] {
            let model = forest(11, trees, depth, width);
            let mut rows = rows(5, 77, width as usize);
            // Values exactly at thresholds, next to them, missing and infinite.
            let Form::Forest { trees } = &model.form else { panic!("a forest") };
            let splits = trees.iter().flat_map(|tree: &Tree| &tree.nodes).filter(|node| !node.is_leaf());
            for (at, node) in splits.enumerate().take(70 * 3) {
                let value = [node.threshold, node.threshold.next_up(), node.threshold.next_down()][at % 3];
                rows[(at / 3) * width as usize + node.slot as usize] = value;
            }
            rows[1] = -0.0;
            rows[0] = f64::NAN;
            rows[width as usize] = f64::INFINITY;
            let scorer = Scorer::new(&model).unwrap();
            let (mut out, mut scratch) = (vec![0.0; 77], Scratch::default());
            scorer.score(&rows, &mut out, &mut scratch);
            for (row, score) in rows.chunks(width as usize).zip(&out) {
                assert_eq!(*score, plainly(&model, row));
                assert_eq!(*score, scorer.score_one(row, &mut scratch), "alone or among others");
            }
        }
    }

    #[test]
    fn a_linear_model_is_the_logistic_function_of_its_sum() {
        let terms = vec![
            Term { slot: 0, mean: 10.0, deviation: 2.0, weight: 0.5, missing: -0.25 },
            Term { slot: 5, mean: 0.0, deviation: 1.0, weight: -1.0, missing: 0.0 },
        ];
        let form = Form::Logistic { intercept: -1.0, terms };
        let model = Compiled { width: 6, imputed: vec![0.0; 6], form, calibration: Calibration::None };
        let scorer = Scorer::new(&model).unwrap();
        let mut scratch = Scratch::default();
        let score = scorer.score_one(&[14.0, f64::NAN, 9.0, 9.0, 9.0, 2.0], &mut scratch);
        assert!((score - 1.0 / (1.0 + 2.0_f64.exp())).abs() < 1e-15);
        let score = scorer.score_one(&[f64::NAN, 0.0, 0.0, 0.0, 0.0, 0.0], &mut scratch);
        assert!((score - 1.0 / (1.0 + 1.25_f64.exp())).abs() < 1e-15);
    }
}
