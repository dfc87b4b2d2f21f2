//! The compiled form of a model: what is trained or imported ends here, what scores and explains
//! starts here. Plain data, the same bytes for the same model.

mod ensemble;

pub use ensemble::{CategorySet, Ensemble, Link, Rule, Side, ZERO};

use serde::{Deserialize, Serialize};

/// A model over feature rows of `width` slots, with a probability of fraud out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compiled {
    /// Features a row, in the order of the feature set.
    pub width: u32,
    /// What stands in for a missing (not finite) value, one a slot; trainer and scorer use the same.
    pub imputed: Vec<f64>,
    pub form: Form,
    pub calibration: Calibration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// The logistic function of `intercept + Σ weight · (value − mean) / deviation`.
    Logistic { intercept: f64, terms: Vec<Term> },
    /// The mean of the trees' leaf values, each a probability.
    Forest { trees: Vec<Tree> },
    /// Trees as other tools grow them.
    Ensemble(Ensemble),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Term {
    pub slot: u32,
    pub mean: f64,
    /// Greater than zero.
    pub deviation: f64,
    pub weight: f64,
    /// Added instead of the term where the value is missing.
    pub missing: f64,
}

/// Nodes with the root first and children after their parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    pub nodes: Vec<Node>,
}

/// A split sends what its rule says to `left`, the rest to `right`. `left == 0` marks a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub slot: u32,
    pub threshold: f64,
    pub left: u32,
    pub right: u32,
    /// The leaf's probability; not used in a split.
    pub value: f64,
    /// Training rows that came through here: the weights of `TreeSHAP`.
    pub cover: f64,
    /// Written only by an [`Ensemble`]; elsewhere it is always the same.
    #[serde(skip)]
    pub rule: Rule,
}

impl Node {
    #[must_use]
    pub const fn leaf(value: f64, cover: f64) -> Self {
        Self { slot: 0, threshold: 0.0, left: 0, right: 0, value, cover, rule: Rule::Imputed }
    }

    #[must_use]
    pub const fn split(slot: u32, threshold: f64, left: u32, right: u32, cover: f64) -> Self {
        Self { slot, threshold, left, right, value: 0.0, cover, rule: Rule::Imputed }
    }

    #[must_use]
    pub const fn is_leaf(&self) -> bool {
        self.left == 0
    }

    /// Whether a split sends this value left. `sets` are the ensemble's.
    #[must_use]
    pub fn goes_left(&self, value: f64, sets: &[CategorySet]) -> bool {
        let (missing, side) = match self.rule {
            Rule::Imputed => return value <= self.threshold,
            Rule::AtMost { missing } | Rule::Among { missing, .. } => (value.is_nan(), missing),
            Rule::ZeroMissing { missing } => (value.is_nan() || value.abs() <= ZERO, missing),
        };
        match self.rule {
            _ if missing => side == Side::Left,
            Rule::Among { set, .. } => sets.get(set as usize).is_some_and(|set| set.contains(value)),
            _ => value <= self.threshold,
        }
    }
}

/// From the form's own output to a probability over the whole stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Calibration {
    /// The output is the probability.
    None,
    /// Undoes down-sampling: only this share (0 to 1] of legitimate rows was trained on
    /// (Dal Pozzolo et al. 2015, equation 4).
    Kept { share: f64 },
    /// Platt (1999): the logistic function of `slope · logit(output) + offset`.
    Platt { slope: f64, offset: f64 },
}

impl Calibration {
    #[must_use]
    pub fn apply(&self, output: f64) -> f64 {
        let probability = match *self {
            Self::None => output,
            Self::Kept { share } => share * output / (share * output - output + 1.0),
            Self::Platt { slope, offset } => logistic(slope.mul_add(logit(output), offset)),
        };
        probability.clamp(0.0, 1.0)
    }
}

#[must_use]
pub fn logistic(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// Bounded, so that an output of exactly 0 or 1 stays finite.
#[must_use]
pub fn logit(probability: f64) -> f64 {
    let p = probability.clamp(1e-9, 1.0 - 1e-9);
    (p / (1.0 - p)).ln()
}

/// Why bytes are not a model of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("not a compiled model (its first bytes are not `CADDISM`)")]
    NotAModel,
    #[error("compiled model of format {0}; this build reads formats up to {NEWEST}")]
    Format(u8),
    #[error("the checksum of the compiled model does not match its content")]
    Checksum,
    #[error("the compiled model does not decode: {0}")]
    Malformed(String),
    #[error("the compiled model contradicts itself: {0}")]
    Inconsistent(String),
}

const MAGIC: &[u8; 7] = b"CADDISM";
/// Linear models and forests.
const FIRST: u8 = 1;
/// Ensembles as well. The others are still written in the first format: their bytes do not change.
const NEWEST: u8 = 2;
const HEAD: usize = MAGIC.len() + 1 + blake3::OUT_LEN;

impl Compiled {
    /// Magic, format, BLAKE3 of the rest, then postcard.
    ///
    /// # Errors
    /// When the model contradicts itself.
    pub fn encode(&self) -> Result<Vec<u8>, Unreadable> {
        self.validate()?;
        let body = postcard::to_allocvec(self).map_err(|e| Unreadable::Malformed(e.to_string()))?;
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(self.format());
        bytes.extend_from_slice(blake3::hash(&body).as_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// # Errors
    /// When the bytes are damaged, of another format, or describe no usable model.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or(Unreadable::NotAModel)?;
        let (format, rest) = rest.split_first().ok_or(Unreadable::NotAModel)?;
        if !(FIRST..=NEWEST).contains(format) {
            return Err(Unreadable::Format(*format));
        }
        let (sum, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or(Unreadable::Checksum)?;
        if blake3::hash(body).as_bytes().as_slice() != sum {
            return Err(Unreadable::Checksum);
        }
        let model: Self = postcard::from_bytes(body).map_err(|e| Unreadable::Malformed(e.to_string()))?;
        if model.format() != *format {
            return Err(Unreadable::Malformed(format!("format {format} has no such form")));
        }
        model.validate()?;
        Ok(model)
    }

    const fn format(&self) -> u8 {
        match self.form {
            Form::Logistic { .. } | Form::Forest { .. } => FIRST,
            Form::Ensemble(_) => NEWEST,
        }
    }

    /// Everything that the scorer and `TreeSHAP` rely on.
    ///
    /// # Errors
    /// Names the first thing that does not hold.
    pub fn validate(&self) -> Result<(), Unreadable> {
        let wrong = |what: String| Err(Unreadable::Inconsistent(what));
        if self.imputed.len() != self.width as usize {
            return wrong(format!("{} imputed values for {} features", self.imputed.len(), self.width));
        }
        if self.width == 0 || self.width as usize > super::scorer::MAX_WIDTH {
            return wrong(format!("{} features; from 1 to {} are possible", self.width, super::scorer::MAX_WIDTH));
        }
        if !self.imputed.iter().all(|value| value.is_finite()) {
            return wrong("an imputed value that is not finite".into());
        }
        let sound = match self.calibration {
            Calibration::None => true,
            Calibration::Kept { share } => share > 0.0 && share <= 1.0,
            Calibration::Platt { slope, offset } => slope.is_finite() && offset.is_finite(),
        };
        if !sound {
            return wrong(format!("calibration {:?}", self.calibration));
        }
        match &self.form {
            Form::Logistic { intercept, terms } => {
                let finite = |t: &Term| [t.mean, t.deviation, t.weight, t.missing].iter().all(|v| v.is_finite());
                if !intercept.is_finite() {
                    return wrong("an intercept that is not finite".into());
                }
                for (at, term) in terms.iter().enumerate() {
                    if term.slot >= self.width || !finite(term) || term.deviation <= 0.0 {
                        return wrong(format!("linear term {at}"));
                    }
                }
                // One term a slot at most, in the order of slots: the scorer lays them out densely.
                if !terms.is_sorted_by(|a, b| a.slot < b.slot) {
                    return wrong("linear terms out of order".into());
                }
            }
            Form::Forest { trees } => {
                if trees.is_empty() {
                    return wrong("a forest without trees".into());
                }
                for (at, tree) in trees.iter().enumerate() {
                    if let Err(why) = tree.validate(self.width) {
                        return wrong(format!("tree {at}: {why}"));
                    }
                    if tree.nodes.iter().any(|node| node.rule != Rule::Imputed) {
                        return wrong(format!("tree {at}: a rule that only an ensemble has"));
                    }
                }
            }
            Form::Ensemble(ensemble) => {
                if let Err(why) = ensemble.validate(self.width) {
                    return wrong(why);
                }
            }
        }
        Ok(())
    }
}

/// Deep enough for any useful tree, shallow enough for recursion.
pub const MAX_DEPTH: usize = 64;

impl Tree {
    fn validate(&self, width: u32) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("no nodes".into());
        }
        let mut depths = vec![usize::MAX; self.nodes.len()];
        depths.iter_mut().take(1).for_each(|root| *root = 0);
        for (at, node) in self.nodes.iter().enumerate() {
            let depth = depths.get(at).copied().unwrap_or(usize::MAX);
            if depth > MAX_DEPTH {
                return Err(format!("node {at} is deeper than {MAX_DEPTH} or hangs on nothing"));
            }
            if !node.value.is_finite() || !node.cover.is_finite() || node.cover < 0.0 {
                return Err(format!("node {at} has a value or cover that is not a number"));
            }
            if node.is_leaf() {
                continue;
            }
            if node.slot >= width || !node.threshold.is_finite() {
                return Err(format!("node {at} splits on feature {} at {}", node.slot, node.threshold));
            }
            for child in [node.left as usize, node.right as usize] {
                match depths.get_mut(child) {
                    // Each child has one parent, before it: a tree, and a walk that ends.
                    Some(unset) if child > at && *unset == usize::MAX => *unset = depth + 1,
                    _ => return Err(format!("node {at} has child {child}")),
                }
            }
        }
        Ok(())
    }

    /// The most splits from root to leaf.
    #[must_use]
    pub fn depth(&self) -> usize {
        let mut depths = vec![0_usize; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_leaf()) {
            let below = depths.get(at).copied().unwrap_or_default() + 1;
            for child in [node.left as usize, node.right as usize] {
                if let Some(depth) = depths.get_mut(child) {
                    *depth = below;
                }
            }
        }
        depths.into_iter().max().unwrap_or_default()
    }

    /// The leaf's value for a row, imputed where the rule is: the plain way, against which the scorer is
    /// checked.
    #[must_use]
    pub fn predict(&self, row: &[f64], sets: &[CategorySet]) -> f64 {
        let mut node = self.nodes.first();
        while let Some(split) = node.filter(|node| !node.is_leaf()) {
            let goes_left = row.get(split.slot as usize).is_some_and(|value| split.goes_left(*value, sets));
            node = self.nodes.get(if goes_left { split.left } else { split.right } as usize);
        }
        node.map_or(0.0, |leaf| leaf.value)
    }

    /// Counts which training rows (imputed) come through each node.
    pub fn count_cover<'a>(&mut self, rows: impl Iterator<Item = &'a [f64]>) {
        for node in &mut self.nodes {
            node.cover = 0.0;
        }
        for row in rows {
            let mut at = 0;
            while let Some(node) = self.nodes.get_mut(at) {
                node.cover += 1.0;
                if node.is_leaf() {
                    break;
                }
                let goes_left = row.get(node.slot as usize).is_some_and(|value| *value <= node.threshold);
                at = if goes_left { node.left } else { node.right } as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::forest;
    use super::{Calibration, Compiled, Unreadable};

    #[test]
    fn a_model_comes_back_as_it_was_and_damage_is_noticed() {
        let model = forest(7, 5, 4, 10);
        let bytes = model.encode().unwrap();
        assert_eq!(Compiled::decode(&bytes).unwrap(), model);
        for at in (0..bytes.len()).step_by(37) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Compiled::decode(&damaged).is_err(), "byte {at}");
            assert!(Compiled::decode(&bytes[..at]).is_err());
        }
        assert_eq!(Compiled::decode(b"{}"), Err(Unreadable::NotAModel));
    }

    #[test]
    fn a_tree_that_loops_or_points_outside_is_refused() {
        let mut model = forest(7, 1, 3, 4);
        let super::Form::Forest { trees } = &mut model.form else { panic!("a forest") };
        trees[0].nodes[1].left = 0;
        trees[0].nodes[0].left = 10_000;
        assert!(matches!(model.encode(), Err(Unreadable::Inconsistent(_))));
    }

    #[test]
    fn down_sampling_is_undone_by_bayes_rule() {
        // 1 fraud to 9 legitimate; one in three legitimate kept: the sample has 1 to 3.
        let kept = Calibration::Kept { share: 1.0 / 3.0 };
        assert!((kept.apply(0.25) - 0.1).abs() < 1e-12);
        assert_eq!((kept.apply(0.0), kept.apply(1.0)), (0.0, 1.0));
    }
}
