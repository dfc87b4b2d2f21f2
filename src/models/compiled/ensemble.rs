//! Trees as other tools grow them: each split says where a missing value goes, may ask for a set of
//! categories, and leaves are added up before a link makes a probability of their sum.

use super::{Tree, logistic};
use serde::{Deserialize, Serialize};

/// Trees whose leaves add up; infinities are numbers like others, only NaN is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ensemble {
    #[serde(with = "ruled")]
    pub trees: Vec<Tree>,
    /// What [`Rule::Among`] refers to.
    pub sets: Vec<CategorySet>,
    /// Added to the leaves' sum.
    pub base: f64,
    /// The leaves' sum is divided by it: 1 for a sum, the number of trees for a mean. Greater than zero.
    pub divisor: f64,
    pub link: Link,
}

/// From the sum to a probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Link {
    /// The sum is the probability.
    Identity,
    /// The logistic function of `slope` times the sum.
    Logistic { slope: f64 },
}

impl Link {
    #[must_use]
    pub fn apply(self, sum: f64) -> f64 {
        match self {
            Self::Identity => sum,
            Self::Logistic { slope } => logistic(slope * sum),
        }
    }
}

/// What a split asks of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Rule {
    /// Left where `value <= threshold`; a value that is not finite was imputed before. The only rule of a
    /// [`Form::Forest`](super::Form::Forest), and none of an [`Ensemble`]'s.
    #[default]
    Imputed,
    /// Left where `value <= threshold`.
    AtMost { missing: Side },
    /// The same, but a zero is missing too: LightGBM's `zero_as_missing`.
    ZeroMissing { missing: Side },
    /// Left where the value is in the set of this number.
    Among { set: u32, missing: Side },
}

/// Where a missing value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    Left,
    Right,
}

/// What LightGBM takes for zero: this or less, either way. It writes the number in single precision.
pub const ZERO: f64 = 1e-35_f32 as f64;

/// Category numbers, as bits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CategorySet {
    pub bits: Vec<u32>,
    /// The value is rounded to single precision first, and no negative value is a category (XGBoost).
    /// Otherwise a fraction is cut off, and what is above -1 counts as 0 (LightGBM).
    pub single: bool,
}

impl CategorySet {
    /// Bits in a set at most.
    pub const LARGEST: usize = 1 << 20;

    #[must_use]
    pub fn of(categories: impl Iterator<Item = u32>, single: bool) -> Self {
        let mut bits = Vec::new();
        for category in categories {
            let word = category as usize / 32;
            if bits.len() <= word {
                bits.resize(word + 1, 0);
            }
            if let Some(found) = bits.get_mut(word) {
                *found |= 1 << (category % 32);
            }
        }
        Self { bits, single }
    }

    /// False for NaN.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounding is meant; the rest is bounded"
    )]
    pub fn contains(&self, value: f64) -> bool {
        let value = if self.single { f64::from(value as f32) } else { value };
        let category = value.trunc();
        if !(0.0..4_294_967_296.0).contains(&category) || (self.single && value < 0.0) {
            return false;
        }
        let category = category as usize;
        self.bits.get(category / 32).is_some_and(|word| word >> (category % 32) & 1 == 1)
    }
}

impl Ensemble {
    pub(super) fn validate(&self, width: u32) -> Result<(), String> {
        if self.trees.is_empty() {
            return Err("an ensemble without trees".into());
        }
        let slope = if let Link::Logistic { slope } = self.link { slope } else { 1.0 };
        if !self.base.is_finite() || !slope.is_finite() || !self.divisor.is_finite() || self.divisor <= 0.0 {
            return Err(format!("base {}, divisor {} and link {:?}", self.base, self.divisor, self.link));
        }
        for (at, tree) in self.trees.iter().enumerate() {
            tree.validate(width).map_err(|why| format!("tree {at}: {why}"))?;
            let sound = |rule: Rule| match rule {
                Rule::Imputed => false,
                Rule::AtMost { .. } | Rule::ZeroMissing { .. } => true,
                Rule::Among { set, .. } => (set as usize) < self.sets.len(),
            };
            if let Some(node) = tree.nodes.iter().position(|node| !node.is_leaf() && !sound(node.rule)) {
                return Err(format!("tree {at}: node {node} has a rule that an ensemble does not"));
            }
        }
        Ok(())
    }
}

/// Nodes are written as those of a forest, then the rules of all of them.
mod ruled {
    use super::{Rule, Tree};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(trees: &[Tree], serializer: S) -> Result<S::Ok, S::Error> {
        let rules: Vec<Rule> = trees.iter().flat_map(|tree| &tree.nodes).map(|node| node.rule).collect();
        (trees, rules).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Tree>, D::Error> {
        let (mut trees, rules) = <(Vec<Tree>, Vec<Rule>)>::deserialize(deserializer)?;
        let nodes = trees.iter().map(|tree| tree.nodes.len()).sum::<usize>();
        if nodes != rules.len() {
            return Err(D::Error::custom(format!("{} rules for {nodes} nodes", rules.len())));
        }
        for (node, rule) in trees.iter_mut().flat_map(|tree| &mut tree.nodes).zip(rules) {
            node.rule = rule;
        }
        Ok(trees)
    }
}

#[cfg(test)]
mod tests {
    use super::CategorySet;

    #[test]
    fn categories_are_cut_as_each_tool_cuts_them() {
        let ours = CategorySet::of([0, 3, 40].into_iter(), false);
        for (value, inside) in [(0.0, true), (-0.5, true), (-1.0, false), (3.9, true), (40.0, true), (41.0, false)] {
            assert_eq!(ours.contains(value), inside, "{value}");
        }
        let single = CategorySet { single: true, ..ours.clone() };
        assert!(!single.contains(-0.5) && single.contains(2.999_999_999) && !ours.contains(2.999_999_999));
        for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 4e9] {
            assert!(!ours.contains(strange) && !single.contains(strange));
        }
    }
}
