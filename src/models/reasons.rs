//! Why a row scored as it did: exact Shapley values, one a feature. Trees by path-dependent
//! `TreeSHAP` (Lundberg et al. 2018, "Consistent individualized feature attribution for tree
//! ensembles", algorithm 2) with the training rows' cover; linear models in closed form (features taken as independent).
//! Forests are explained in probability before calibration, logistic models in log-odds. It costs
//! about a millisecond for 100 trees seven splits deep: for alerts only.
#![expect(clippy::indexing_slicing, reason = "a numeric kernel over structures that Compiled::validate has checked")]

use super::compiled::{Compiled, Form, MAX_DEPTH, Node, Tree, Unreadable};

#[derive(Debug, Clone)]
pub struct Reasons {
    model: Compiled,
    base: f64,
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
            Form::Forest { trees } => trees.iter().map(|tree| expected(tree, 0)).sum::<f64>() / count(trees),
        };
        Ok(Self { model, base })
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
                let mut walk = Walk { row: &row, contributions: &mut contributions, paths: Vec::new() };
                for tree in trees {
                    walk.visit(tree, 0, 0, Step { slot: u32::MAX, zero: 1.0, one: 1.0, weight: 0.0 });
                }
                let count = count(trees);
                contributions.iter_mut().for_each(|part| *part /= count);
            }
        }
        Explanation { base: self.base, contributions }
    }
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

/// One distinct feature on the way from the root: the share of training rows that would go this
/// way with the feature unknown (`zero`), whether this row does (`one`), and the summed
/// weight of all subsets of each size (`weight`).
#[derive(Debug, Clone, Copy)]
struct Step {
    slot: u32,
    zero: f64,
    one: f64,
    weight: f64,
}

struct Walk<'a> {
    row: &'a [f64],
    contributions: &'a mut [f64],
    /// The path at each depth, kept so that nothing is allocated after the first rows.
    paths: Vec<Vec<Step>>,
}

impl Walk<'_> {
    fn visit(&mut self, tree: &Tree, at: u32, depth: usize, step: Step) {
        if self.paths.len() <= depth {
            self.paths.resize_with(depth + 1, Vec::new);
        }
        let mut path = std::mem::take(&mut self.paths[depth]);
        path.clear();
        if depth > 0 {
            path.extend_from_slice(&self.paths[depth - 1]);
        }
        // The feature was met further up: its two splits are one.
        let (mut zero, mut one) = (step.zero, step.one);
        if let Some(found) = path.iter().position(|other| other.slot == step.slot) {
            zero *= path[found].zero;
            one *= path[found].one;
            unwind(&mut path, found);
        }
        // Neither with nor without the feature does any weight come here.
        if zero > 0.0 || one > 0.0 {
            extend(&mut path, Step { zero, one, ..step });
            let node = &tree.nodes[at as usize];
            if node.is_leaf() {
                // What a feature that this row fails takes away is the same for all such features:
                // its share cancels out of the unwound weights.
                let last = path.len() - 1;
                let failed: f64 = (0..last).map(|j| path[j].weight * INVERSE[last - j]).sum::<f64>() * real(last + 1);
                for index in 1..path.len() {
                    let Step { slot, zero, one, .. } = path[index];
                    let part = if one > 0.0 { unwound(&path, zero) * (1.0 - zero) } else { -failed };
                    self.contributions[slot as usize] += part * node.value;
                }
                self.paths[depth] = path;
            } else {
                self.paths[depth] = path;
                let goes_left = self.row[node.slot as usize] <= node.threshold;
                let (left, right) = shares(tree, node);
                let towards = |zero: f64, taken: bool| Step {
                    slot: node.slot,
                    zero,
                    one: f64::from(u8::from(taken)),
                    weight: 0.0,
                };
                self.visit(tree, node.left, depth + 1, towards(left, goes_left));
                self.visit(tree, node.right, depth + 1, towards(right, !goes_left));
            }
        } else {
            self.paths[depth] = path;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a path's length")]
fn real(index: usize) -> f64 {
    index as f64
}

fn extend(path: &mut Vec<Step>, step: Step) {
    let length = path.len();
    path.push(Step { weight: if length == 0 { 1.0 } else { 0.0 }, ..step });
    for i in (0..length).rev() {
        let part = path[i].weight * INVERSE[length + 1];
        path[i + 1].weight += step.one * part * real(i + 1);
        path[i].weight = step.zero * part * real(length - i);
    }
}

fn unwind(path: &mut Vec<Step>, index: usize) {
    let last = path.len() - 1;
    let Step { zero, one, .. } = path[index];
    let mut next = path[last].weight;
    for j in (0..last).rev() {
        if one == 0.0 {
            path[j].weight = path[j].weight * real(last + 1) / (zero * real(last - j));
        } else {
            let before = path[j].weight;
            path[j].weight = next * real(last + 1) / (real(j + 1) * one);
            next = before - path[j].weight * zero * real(last - j) / real(last + 1);
        }
    }
    for j in index..last {
        let Step { slot, zero, one, .. } = path[j + 1];
        path[j] = Step { slot, zero, one, weight: path[j].weight };
    }
    path.pop();
}

/// The sum of the weights that `unwind` would leave, for a feature that this row passes.
fn unwound(path: &[Step], zero: f64) -> f64 {
    let last = path.len() - 1;
    let (size, part) = (real(last + 1), zero * INVERSE[last + 1]);
    let mut next = path[last].weight;
    let mut total = 0.0;
    for j in (0..last).rev() {
        let weight = next * size * INVERSE[j + 1];
        total += weight;
        next = path[j].weight - weight * part * real(last - j);
    }
    total
}

/// 1/n; a path has a step for each split at most, and the root's.
const INVERSE: [f64; MAX_DEPTH + 3] = {
    let mut table = [0.0; MAX_DEPTH + 3];
    let (mut index, mut number) = (1, 1.0);
    while index < table.len() {
        table[index] = 1.0 / number;
        number += 1.0;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::super::compiled::{Compiled, Form, Tree};
    use super::super::scorer::{Scorer, Scratch};
    use super::super::synthetic::{forest, rows};
    use super::{Reasons, shares};

    /// The tree's expectation where only the features in `known` (a bit mask) are known.
    fn conditional(tree: &Tree, at: u32, row: &[f64], known: u32) -> f64 {
        let node = &tree.nodes[at as usize];
        if node.is_leaf() {
            return node.value;
        }
        if known >> node.slot & 1 == 1 {
            let next = if row[node.slot as usize] <= node.threshold { node.left } else { node.right };
            return conditional(tree, next, row, known);
        }
        let (left, right) = shares(tree, node);
        left * conditional(tree, node.left, row, known) + right * conditional(tree, node.right, row, known)
    }

    fn shapley(model: &Compiled, row: &[f64]) -> Vec<f64> {
        let Form::Forest { trees } = &model.form else { panic!("a forest") };
        let value = |known| trees.iter().map(|tree| conditional(tree, 0, row, known)).sum::<f64>() / trees.len() as f64;
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
        for (seed, width) in [(1, 2), (2, 4), (3, 8), (4, 6)] {
            let mut model = forest(seed, 3, 5, width);
            if seed == 4 {
                // Covers counted from few rows leave some branches empty.
                let Form::Forest { trees } = &mut model.form else { panic!("a forest") };
                let few = rows(9, 6, width as usize);
                trees.iter_mut().for_each(|tree| tree.count_cover(few.chunks(width as usize)));
            }
            let reasons = Reasons::new(model.clone()).unwrap();
            for row in rows(seed + 100, 5, width as usize).chunks(width as usize) {
                let explained = reasons.explain(row).contributions;
                for (ours, exact) in explained.iter().zip(shapley(&model, row)) {
                    assert!((ours - exact).abs() < 1e-9, "{ours} {exact}");
                }
            }
        }
    }

    #[test]
    fn base_and_contributions_add_up_to_the_score() {
        let model = forest(8, 30, 7, 40);
        let (scorer, reasons) = (Scorer::new(&model).unwrap(), Reasons::new(model).unwrap());
        let mut rows = rows(3, 20, 40);
        rows[3] = f64::NAN;
        for row in rows.chunks(40) {
            let explained = reasons.explain(row);
            let sum = explained.base + explained.contributions.iter().sum::<f64>();
            assert!((sum - scorer.score_one(row, &mut Scratch::default())).abs() < 1e-9);
            let top = reasons.top(row, 3);
            assert!(top.len() <= 3 && top.is_sorted_by(|a, b| a.1 >= b.1) && top.iter().all(|(_, part)| *part > 0.0));
        }
    }
}
