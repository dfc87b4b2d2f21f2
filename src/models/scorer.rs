//! The one scorer: rows of features in, probabilities out, a block at a time. No I/O, no
//! allocation once its scratch has grown, no dependence on where a block begins: a row's score is
//! the same alone as among others.
//!
//! A row is first turned into one integer for each test of a feature that the model makes (`columns`),
//! in the order of `f64`: comparing them decides exactly as the trainer's comparison does. Then eight trees
//! descend side by side for one row, or one tree for eight rows (`forest`).
#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: every index is masked to a power of two or bounded by Compiled::validate"
)]

mod columns;
mod forest;

use super::compiled::{Calibration, CategorySet, Compiled, Ensemble, Form, Link, Tree, Unreadable, logistic};

/// Features a row at most.
pub const MAX_WIDTH: usize = 1024;
/// Rows whose keys are made at a time: 64 columns of them take half of a 32 KiB cache.
const GATHERED: usize = 32;

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
    Forest(Box<Forest>),
}

#[derive(Debug, Clone)]
struct Forest {
    columns: columns::Columns,
    trees: forest::Forest,
    base: f64,
    divisor: f64,
    link: Link,
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
    pub fn new(model: &Compiled) -> Result<Self, Unreadable> {
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
                let divisor = u32::try_from(trees.len()).map_or(f64::NAN, f64::from);
                Kernel::Forest(Box::new(Forest::new(trees, &model.imputed, &[], 0.0, divisor, Link::Identity)?))
            }
            Form::Ensemble(Ensemble { trees, sets, base, divisor, link }) => {
                Kernel::Forest(Box::new(Forest::new(trees, &[], sets, *base, *divisor, *link)?))
            }
        };
        Ok(Self { width, calibration: model.calibration, kernel })
    }

    /// Features a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Scores `out.len()` rows laid end to end. Missing values are those that are not finite; for an
    /// ensemble, which knows infinities, only NaN.
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
                257..=1024 => self.forest::<1024>(forest, rows, out, scratch),
                _ => self.forest::<{ columns::MOST }>(forest, rows, out, scratch),
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
                *score = forest.link.apply(forest.base + *score / forest.divisor);
            }
        }
    }
}

impl Forest {
    fn new(
        trees: &[Tree],
        imputed: &[f64],
        sets: &[CategorySet],
        base: f64,
        divisor: f64,
        link: Link,
    ) -> Result<Self, Unreadable> {
        let columns = columns::Columns::of(trees, imputed, sets);
        if columns.len() > columns::MOST {
            let what = format!("{} distinct tests of features; {} are possible", columns.len(), columns::MOST);
            return Err(Unreadable::Inconsistent(what));
        }
        Ok(Self { trees: forest::Forest::place(trees, &columns), columns, base, divisor, link })
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
    use super::super::compiled::{Calibration, Compiled, Ensemble, Form, Term, Tree};
    use super::super::synthetic::{ensemble, forest, rows};
    use super::{Scorer, Scratch};

    fn plainly(model: &Compiled, row: &[f64]) -> f64 {
        match &model.form {
            Form::Forest { trees } => {
                let imputed = row.iter().zip(&model.imputed).map(|(v, i)| if v.is_finite() { *v } else { *i });
                let row: Vec<f64> = imputed.collect();
                trees.iter().map(|tree| tree.predict(&row, &[])).sum::<f64>() / trees.len() as f64
            }
            Form::Ensemble(Ensemble { trees, sets, base, divisor, link }) => {
                let sum = trees.iter().map(|tree| tree.predict(row, sets)).sum::<f64>();
                model.calibration.apply(link.apply(base + sum / divisor))
            }
            Form::Logistic { .. } => panic!("trees"),
        }
    }

    #[test]
    fn a_forests_scores_are_those_of_walking_each_tree() {
        for (trees, depth, width) in
            [(1, 1, 1), (20, 7, 50), (9, 10, 70), (5, 12, 300), (3, 0, 2), (17, 9, 1), (40, 3, 260)]
        {
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

    /// Every rule, on every side, with every kind of strange value, shallow and deep, in many columns and few.
    #[test]
    fn an_ensembles_scores_are_those_of_walking_each_tree() {
        for (trees, depth, width) in [(3, 2, 2), (20, 5, 30), (6, 12, 90)] {
            let model = ensemble(4, trees, depth, width);
            let mut rows = rows(5, 90, width as usize);
            let strange = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-35, -1e-36, 2.0, -0.5, 1e300];
            for (at, value) in rows.iter_mut().enumerate().filter(|(at, _)| at % 3 == 0) {
                *value = strange[at / 3 % strange.len()];
            }
            let decoded = Compiled::decode(&model.encode().unwrap()).unwrap();
            assert_eq!(decoded, model);
            let scorer = Scorer::new(&decoded).unwrap();
            let (mut out, mut scratch) = (vec![0.0; 90], Scratch::default());
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
