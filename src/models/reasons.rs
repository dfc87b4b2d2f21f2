//! Why a row scored as it did: exact Shapley values, one a feature. Trees by path-dependent
//! `TreeSHAP` (Lundberg et al. 2018, "Consistent individualized feature attribution for tree
//! ensembles") with the training rows' cover, summed as in "Linear `TreeSHAP`" (Yu et al. 2022) but by
//! Gauss-Legendre points, which need no division of polynomials; linear models in closed form (features
//! taken as independent). Forests are explained in probability before calibration, logistic models in
//! log-odds, ensembles in their sum before its link. For alerts only: it costs hundreds of times what the score does.
#![expect(clippy::indexing_slicing, reason = "a numeric kernel over structures that Compiled::validate has checked")]

use super::compiled::{CategorySet, Compiled, Ensemble, Form, MAX_DEPTH, Node, Tree, Unreadable};

#[derive(Debug, Clone)]
pub struct Reasons {
    model: Compiled,
    base: f64,
    /// Splits between a root and a leaf, at most.
    depth: usize,
}

/// A row's contributions: `base` plus all of `contributions` is the form's output.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub base: f64,
    /// One a slot.
    pub contributions: Vec<f64>,
}

impl Reasons {
    /// # Errors
    /// When the model contradicts itself.
    pub fn new(model: Compiled) -> Result<Self, Unreadable> {
        model.validate()?;
        let base = match &model.form {
            Form::Logistic { intercept, .. } => *intercept,
            Form::Forest { trees } => mean(trees, count(trees)),
            Form::Ensemble(ensemble) => ensemble.base + mean(&ensemble.trees, ensemble.divisor),
        };
        let depth = match &model.form {
            Form::Logistic { .. } => 0,
            Form::Forest { trees } | Form::Ensemble(Ensemble { trees, .. }) => depth(trees),
        };
        Ok(Self { model, base, depth })
    }

    /// The `k` slots that raised the score most, greatest first; ties go to the lower slot. Slots
    /// that lowered it or did nothing are no reason for an alert and left out.
    #[must_use]
    pub fn top(&self, row: &[f64], k: usize) -> Vec<(usize, f64)> {
        let mut ranked: Vec<(usize, f64)> =
            self.explain(row).contributions.into_iter().enumerate().filter(|(_, part)| *part > 0.0).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.truncate(k);
        ranked
    }

    /// Mean absolute contribution of each slot over some rows; zeros for none.
    #[must_use]
    pub fn importance<'a>(&self, rows: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
        let (mut sums, mut count) = (vec![0.0; self.model.width as usize], 0.0_f64);
        for row in rows {
            for (sum, part) in sums.iter_mut().zip(self.explain(row).contributions) {
                *sum += part.abs();
            }
            count += 1.0;
        }
        sums.iter_mut().for_each(|sum| *sum /= count.max(1.0));
        sums
    }

    #[must_use]
    pub fn explain(&self, row: &[f64]) -> Explanation {
        let mut contributions = vec![0.0; self.model.width as usize];
        match &self.model.form {
            Form::Logistic { terms, .. } => {
                for term in terms {
                    let value = row.get(term.slot as usize).copied().unwrap_or(f64::NAN);
                    contributions[term.slot as usize] = if value.is_finite() {
                        (value - term.mean) * (term.weight / term.deviation)
                    } else {
                        term.missing
                    };
                }
            }
            Form::Forest { trees } => {
                let row: Vec<f64> = self
                    .model
                    .imputed
                    .iter()
                    .enumerate()
                    .map(|(slot, imputed)| row.get(slot).copied().filter(|v| v.is_finite()).unwrap_or(*imputed))
                    .collect();
                self.explain_trees(trees, &[], &row, count(trees), &mut contributions);
            }
            Form::Ensemble(Ensemble { trees, sets, divisor, .. }) => {
                let width = self.model.width as usize;
                let row: Vec<f64> = (0..width).map(|slot| row.get(slot).copied().unwrap_or(f64::NAN)).collect();
                self.explain_trees(trees, sets, &row, *divisor, &mut contributions);
            }
        }
        Explanation { base: self.base, contributions }
    }

    fn explain_trees(&self, trees: &[Tree], sets: &[CategorySet], row: &[f64], divisor: f64, parts: &mut [f64]) {
        // A path of d splits has at most d features: a polynomial of degree d - 1.
        match self.depth {
            0..=8 => explain_forest::<4>(trees, sets, row, parts),
            9..=16 => explain_forest::<8>(trees, sets, row, parts),
            _ => explain_forest::<{ MAX_DEPTH / 2 }>(trees, sets, row, parts),
        }
        parts.iter_mut().for_each(|part| *part /= divisor);
    }
}

fn mean(trees: &[Tree], divisor: f64) -> f64 {
    trees.iter().map(|tree| expected(tree, 0)).sum::<f64>() / divisor
}

fn count(trees: &[Tree]) -> f64 {
    u32::try_from(trees.len()).map_or(f64::NAN, f64::from)
}

/// The shares of a split's rows that went left and right. A split that no training row reached is
/// taken as even, so that the shares always sum to one.
fn shares(tree: &Tree, node: &Node) -> (f64, f64) {
    let (left, right) = (tree.nodes[node.left as usize].cover, tree.nodes[node.right as usize].cover);
    if left + right > 0.0 { (left / (left + right), right / (left + right)) } else { (0.5, 0.5) }
}

fn expected(tree: &Tree, at: u32) -> f64 {
    let node = &tree.nodes[at as usize];
    if node.is_leaf() {
        return node.value;
    }
    let (left, right) = shares(tree, node);
    left * expected(tree, node.left) + right * expected(tree, node.right)
}

/// Gauss-Legendre points and weights on (0, 1): `N` of them integrate polynomials up to degree `2N - 1`
/// exactly.
#[derive(Debug, Clone)]
struct Quadrature<const N: usize> {
    points: [f64; N],
    weights: [f64; N],
}

impl<const N: usize> Quadrature<N> {
    /// The roots of the Legendre polynomial by Newton's method from Tricomi's estimate.
    fn new() -> Self {
        let (mut points, mut weights) = ([0.0; N], [0.0; N]);
        for (index, (point, weight)) in points.iter_mut().zip(&mut weights).enumerate() {
            let mut x = (std::f64::consts::PI * (real(index) + 0.75) / (real(N) + 0.5)).cos();
            let mut slope = 1.0;
            for _ in 0..20 {
                let (mut before, mut here) = (1.0, x);
                for degree in 2..=N {
                    let n = real(degree);
                    (before, here) = (here, ((2.0 * n - 1.0) * x * here - (n - 1.0) * before) / n);
                }
                slope = real(N) * (x * here - before) / (x * x - 1.0);
                x -= here / slope;
            }
            *point = f64::midpoint(1.0, x);
            *weight = 1.0 / ((1.0 - x * x) * slope * slope);
        }
        Self { points, weights }
    }
}

/// What is known of a feature on the way from the root: the share of training rows that would go this way
/// with it unknown (`zero`), whether this row does (`one`), and 1 over its factor at each point.
#[derive(Clone, Copy)]
struct Passed<const N: usize> {
    zero: f64,
    one: bool,
    inverse: [f64; N],
}

/// A feature's Shapley value is the integral over t from 0 to 1 of what knowing it changes when each other
/// feature is known with probability t (Owen's multilinear extension). For one leaf that is its value times
/// the product of t + (1 - t) zero over the features this row passes and of (1 - t) zero over the others:
/// a polynomial, so a few points integrate it exactly, and one walk over the tree does it for all leaves.
struct Walk<'a, const N: usize> {
    tree: &'a Tree,
    sets: &'a [CategorySet],
    row: &'a [f64],
    quadrature: &'a Quadrature<N>,
    /// By slot.
    passed: &'a mut [Passed<N>],
    contributions: &'a mut [f64],
}

impl<const N: usize> Walk<'_, N> {
    /// The sum over the leaves below of value times product, by point.
    fn visit(&mut self, at: u32, product: &[f64; N]) -> [f64; N] {
        let node = &self.tree.nodes[at as usize];
        if node.is_leaf() {
            return product.map(|part| part * node.value);
        }
        let slot = node.slot as usize;
        let goes_left = node.goes_left(self.row[slot], self.sets);
        let (left, right) = shares(self.tree, node);
        let before = self.passed[slot];
        let mut below = [0.0; N];
        for (child, share, taken) in [(node.left, left, goes_left), (node.right, right, !goes_left)] {
            let (zero, one) = (before.zero * share, before.one && taken);
            // Neither with nor without the feature does any weight come here.
            if zero <= 0.0 && !one {
                continue;
            }
            let mut after = Passed { zero, one, inverse: [0.0; N] };
            let mut inner = [0.0; N];
            for q in 0..N {
                let t = self.quadrature.points[q];
                let factor = (1.0 - t) * zero + if one { t } else { 0.0 };
                after.inverse[q] = 1.0 / factor;
                inner[q] = product[q] * before.inverse[q] * factor;
            }
            self.passed[slot] = after;
            let found = self.visit(child, &inner);
            let (mut here, mut above) = (0.0, 0.0);
            for q in 0..N {
                let part = self.quadrature.weights[q] * found[q];
                here += part * after.inverse[q];
                above += part * before.inverse[q];
                below[q] += found[q];
            }
            // What this split says of the feature takes the place of what one further up said.
            self.contributions[slot] += here * (truth(one) - zero) - above * (truth(before.one) - before.zero);
        }
        self.passed[slot] = before;
        below
    }
}

fn truth(known: bool) -> f64 {
    if known { 1.0 } else { 0.0 }
}

fn explain_forest<const N: usize>(trees: &[Tree], sets: &[CategorySet], row: &[f64], contributions: &mut [f64]) {
    let quadrature = Quadrature::<N>::new();
    let mut passed = vec![Passed { zero: 1.0, one: true, inverse: [1.0; N] }; row.len()];
    for tree in trees {
        Walk { tree, sets, row, quadrature: &quadrature, passed: &mut passed, contributions: &mut *contributions }
            .visit(0, &[1.0; N]);
    }
}

/// The most splits between a root and a leaf.
fn depth(trees: &[Tree]) -> usize {
    fn below(tree: &Tree, at: u32) -> usize {
        let node = &tree.nodes[at as usize];
        if node.is_leaf() { 0 } else { 1 + below(tree, node.left).max(below(tree, node.right)) }
    }
    trees.iter().map(|tree| below(tree, 0)).max().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn real(index: usize) -> f64 {
    index as f64
}

#[cfg(test)]
mod tests {
    use super::super::compiled::{CategorySet, Compiled, Form, Tree, logit};
    use super::super::scorer::{Scorer, Scratch};
    use super::super::synthetic::{ensemble, forest, rows};
    use super::{Reasons, shares};

    fn trees(model: &Compiled) -> (&[Tree], &[CategorySet], f64) {
        match &model.form {
            Form::Forest { trees } => (trees, &[], trees.len() as f64),
            Form::Ensemble(ensemble) => (&ensemble.trees, &ensemble.sets, ensemble.divisor),
            Form::Logistic { .. } => panic!("trees"),
        }
    }

    /// The tree's expectation where only the features in `known` (a bit mask) are known.
    fn conditional(tree: &Tree, sets: &[CategorySet], at: u32, row: &[f64], known: u32) -> f64 {
        let node = &tree.nodes[at as usize];
        if node.is_leaf() {
            return node.value;
        }
        if known >> node.slot & 1 == 1 {
            let next = if node.goes_left(row[node.slot as usize], sets) { node.left } else { node.right };
            return conditional(tree, sets, next, row, known);
        }
        let (left, right) = shares(tree, node);
        left * conditional(tree, sets, node.left, row, known) + right * conditional(tree, sets, node.right, row, known)
    }

    fn shapley(model: &Compiled, row: &[f64]) -> Vec<f64> {
        let (trees, sets, divisor) = trees(model);
        let value = |known| trees.iter().map(|tree| conditional(tree, sets, 0, row, known)).sum::<f64>() / divisor;
        let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
        (0..model.width)
            .map(|slot| {
                (0..1_u32 << model.width)
                    .filter(|known| known >> slot & 1 == 0)
                    .map(|known| {
                        let size = known.count_ones();
                        let weight = factorial(size) * factorial(model.width - size - 1) / factorial(model.width);
                        weight * (value(known | 1 << slot) - value(known))
                    })
                    .sum()
            })
            .collect()
    }

    #[test]
    fn contributions_are_shapley_values_by_brute_force() {
        for (seed, width) in [(1, 2), (2, 4), (3, 8), (4, 6), (5, 5)] {
            let mut model = if seed == 5 { ensemble(seed, 4, 6, width) } else { forest(seed, 3, 5, width) };
            if seed == 4 {
                // Covers counted from few rows leave some branches empty.
                let Form::Forest { trees } = &mut model.form else { panic!("a forest") };
                let few = rows(9, 6, width as usize);
                trees.iter_mut().for_each(|tree| tree.count_cover(few.chunks(width as usize)));
            }
            let reasons = Reasons::new(model.clone()).unwrap();
            let mut some = rows(seed + 100, 5, width as usize);
            if seed == 5 {
                some.iter_mut().step_by(4).for_each(|value| *value = f64::NAN);
                some.iter_mut().skip(1).step_by(3).for_each(|value| *value = f64::INFINITY);
                some.iter_mut().skip(2).step_by(5).for_each(|value| *value = 0.0);
            }
            for row in some.chunks(width as usize) {
                let explained = reasons.explain(row).contributions;
                for (ours, exact) in explained.iter().zip(shapley(&model, row)) {
                    assert!((ours - exact).abs() < 1e-9, "{ours} {exact}");
                }
            }
        }
    }

    #[test]
    fn base_and_contributions_add_up_to_the_score() {
        for (trees, depth) in [(30, 7), (3, 12), (1, 17)] {
            let model = forest(8, trees, depth, 40);
            let (scorer, reasons) = (Scorer::new(&model).unwrap(), Reasons::new(model).unwrap());
            let mut rows = rows(3, 20, 40);
            rows[3] = f64::NAN;
            for row in rows.chunks(40) {
                let explained = reasons.explain(row);
                let sum = explained.base + explained.contributions.iter().sum::<f64>();
                assert!((sum - scorer.score_one(row, &mut Scratch::default())).abs() < 1e-9);
                let top = reasons.top(row, 3);
                assert!(
                    top.len() <= 3 && top.is_sorted_by(|a, b| a.1 >= b.1) && top.iter().all(|(_, part)| *part > 0.0)
                );
            }
        }
        let model = ensemble(8, 20, 6, 12);
        let (scorer, reasons) = (Scorer::new(&model).unwrap(), Reasons::new(model).unwrap());
        for row in rows(3, 20, 12).chunks(12) {
            let explained = reasons.explain(row);
            let sum = explained.base + explained.contributions.iter().sum::<f64>();
            assert!((0.5 * sum - logit(scorer.score_one(row, &mut Scratch::default()))).abs() < 1e-9);
        }
    }
}
