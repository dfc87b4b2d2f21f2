//! `TreeEnsembleClassifier` and `TreeEnsembleRegressor`: every attribute is a list with one entry a node.

use super::graph::Operator;
use super::{numbers, place, post_transform, two_classes};
use crate::models::compiled::{Ensemble, Form, Link, Rule, Side};
use crate::models::import::grow::{self, Raw};
use crate::models::import::{Refused, single};
use hashbrown::HashMap;

type ByNode<T> = HashMap<(i64, i64), T, foldhash::fast::FixedState>;

/// The form, and how many features it has at least. `rounded` says that values are singles.
pub(super) fn read(model: &Operator, rounded: bool) -> Result<(Form, usize), Refused> {
    let nodes = Nodes::of(model)?;
    let outputs = if model.kind == "TreeEnsembleClassifier" { classes(model)? } else { target(model)? };
    let mut trees = Vec::new();
    for (at, (tree, root)) in nodes.roots().into_iter().enumerate() {
        let get = |node: usize| nodes.node(tree, node, &outputs.leaves, rounded);
        let grown = grow::tree(root, nodes.modes.len(), get);
        trees.push(grown.map_err(|why| Refused::new(format!("{}, tree {at}", place(model)), why))?);
    }
    if trees.is_empty() {
        return Err(Refused::new(place(model), "it has no trees"));
    }
    let count = u32::try_from(trees.len()).map_or(f64::NAN, f64::from);
    let divisor = if outputs.mean { count } else { 1.0 };
    let Outputs { base, link, .. } = outputs;
    let least = nodes.features.iter().max().map_or(0, |slot| usize::try_from(*slot).unwrap_or_default() + 1);
    Ok((Form::Ensemble(Ensemble { trees, sets: Vec::new(), base, divisor, link }), least))
}

struct Nodes<'a> {
    by_id: ByNode<usize>,
    trees: &'a [i64],
    ids: &'a [i64],
    modes: &'a [String],
    features: &'a [i64],
    values: &'a [f64],
    trues: &'a [i64],
    falses: &'a [i64],
    /// Empty for none.
    missing_is_true: &'a [i64],
}

impl<'a> Nodes<'a> {
    fn of(model: &'a Operator) -> Result<Self, Refused> {
        let integers = |name: &str| integers(model, name);
        let values = match numbers(model, "nodes_values") {
            [] => numbers(model, "nodes_values_as_tensor"),
            values => values,
        };
        let found = Self {
            by_id: HashMap::default(),
            trees: integers("nodes_treeids"),
            ids: integers("nodes_nodeids"),
            modes: model.attributes.get("nodes_modes").map_or(&[], |attribute| &attribute.texts),
            features: integers("nodes_featureids"),
            values,
            trues: integers("nodes_truenodeids"),
            falses: integers("nodes_falsenodeids"),
            missing_is_true: integers("nodes_missing_value_tracks_true"),
        };
        let count = found.modes.len();
        let lists = [found.trees, found.ids, found.features, found.trues, found.falses];
        if lists.iter().any(|list| list.len() != count)
            || found.values.len() != count
            || !(found.missing_is_true.is_empty() || found.missing_is_true.len() == count)
        {
            return Err(Refused::new(place(model), "its lists of nodes differ in length"));
        }
        let by_id = found.trees.iter().copied().zip(found.ids.iter().copied()).zip(0..).collect();
        Ok(Self { by_id, ..found })
    }

    /// The trees in their order, each with the first of its nodes.
    fn roots(&self) -> Vec<(i64, usize)> {
        let starts = self.trees.iter().enumerate();
        let first = |at: usize| at.checked_sub(1).and_then(|before| self.trees.get(before));
        starts.filter(|(at, tree)| first(*at) != Some(*tree)).map(|(at, tree)| (*tree, at)).collect()
    }

    fn node(&self, tree: i64, at: usize, leaves: &ByNode<f64>, rounded: bool) -> Result<Raw, String> {
        let none = || "it is not there".to_owned();
        let (mode, id) = (self.modes.get(at).ok_or_else(none)?, *self.ids.get(at).ok_or_else(none)?);
        if mode == "LEAF" {
            // A leaf without weight adds nothing.
            return Ok(Raw::Leaf { value: leaves.get(&(tree, id)).copied().unwrap_or_default(), cover: 0.0 });
        }
        let child = |children: &[i64]| {
            let id = *children.get(at).ok_or_else(none)?;
            self.by_id.get(&(tree, id)).copied().ok_or_else(|| format!("child {id} is not there"))
        };
        let (yes, no) = (child(self.trues)?, child(self.falses)?);
        let feature = *self.features.get(at).ok_or_else(none)?;
        let slot = u32::try_from(feature).map_err(|_| format!("feature {feature}"))?;
        let value = *self.values.get(at).ok_or_else(none)?;
        if !value.is_finite() {
            return Err(format!("a threshold of {value}"));
        }
        let missing_is_true = self.missing_is_true.get(at) == Some(&1);
        // Whether what is at most (or below) the threshold is the true side, and whether below is meant.
        let (left_is_true, below) = match mode.as_str() {
            "BRANCH_LEQ" => (true, false),
            "BRANCH_LT" => (true, true),
            "BRANCH_GT" => (false, false),
            "BRANCH_GTE" => (false, true),
            other => return Err(format!("a split by {other}; BRANCH_LEQ, LT, GT and GTE are read")),
        };
        #[expect(clippy::cast_possible_truncation, reason = "it was single in the file")]
        let threshold = match (rounded, below) {
            (true, _) => single::greatest(value as f32, below),
            (false, true) => value.next_down(),
            (false, false) => value,
        };
        let missing = if missing_is_true == left_is_true { Side::Left } else { Side::Right };
        let (left, right) = if left_is_true { (yes, no) } else { (no, yes) };
        Ok(Raw::Split { slot, threshold, rule: Rule::AtMost { missing }, left, right, cover: 0.0 })
    }
}

/// What the leaves hold, and what becomes of their sum.
struct Outputs {
    leaves: ByNode<f64>,
    base: f64,
    mean: bool,
    link: Link,
}

fn integers<'a>(model: &'a Operator, name: &str) -> &'a [i64] {
    model.attributes.get(name).map_or(&[], |attribute| &attribute.integers)
}

/// The second class's sum, or what stands for it where the file has one sum only.
fn classes(model: &Operator) -> Result<Outputs, Refused> {
    let wrong = |what: String| Refused::new(place(model), what);
    two_classes(model)?;
    let ids = integers(model, "class_ids");
    let weights = weights(model, "class");
    let several = ids.iter().any(|id| Some(id) != ids.first());
    if ids.iter().any(|id| !(0..2).contains(id)) {
        return Err(wrong("a class other than 0 and 1".into()));
    }
    let base = match (numbers(model, "base_values"), several) {
        ([], _) => 0.0,
        ([one], false) => *one,
        ([first, second], true) => {
            if post_transform(model) == "SOFTMAX" {
                second - first
            } else {
                *second
            }
        }
        (values, _) => return Err(wrong(format!("{} base values", values.len()))),
    };
    // How much each class's weight counts.
    let (link, share): (Link, [f64; 2]) = match (post_transform(model), several) {
        ("NONE", false) => (Link::Identity, [1.0, 1.0]),
        ("NONE", true) => (Link::Identity, [0.0, 1.0]),
        ("LOGISTIC", false) => (Link::Logistic { slope: 1.0 }, [1.0, 1.0]),
        ("LOGISTIC", true) => (Link::Logistic { slope: 1.0 }, [0.0, 1.0]),
        ("SOFTMAX", true) => (Link::Logistic { slope: 1.0 }, [-1.0, 1.0]),
        (other, _) => return Err(wrong(format!("post_transform {other}"))),
    };
    let leaves = leaves(model, "class", weights, |at| {
        let class = ids.get(at).copied().and_then(|id| usize::try_from(id).ok()).unwrap_or_default();
        share.get(class).copied().unwrap_or_default()
    })?;
    Ok(Outputs { leaves, base, mean: false, link })
}

fn target(model: &Operator) -> Result<Outputs, Refused> {
    let wrong = |what: String| Refused::new(place(model), what);
    if model.attributes.get("n_targets").is_some_and(|attribute| attribute.integer != 1) {
        return Err(wrong("several targets".into()));
    }
    let mean = match model.attributes.get("aggregate_function").map_or("SUM", |attribute| &attribute.text) {
        "SUM" => false,
        "AVERAGE" => true,
        other => return Err(wrong(format!("aggregate_function {other}"))),
    };
    let link = match post_transform(model) {
        "NONE" => Link::Identity,
        "LOGISTIC" => Link::Logistic { slope: 1.0 },
        other => return Err(wrong(format!("post_transform {other}"))),
    };
    let base = match numbers(model, "base_values") {
        [] => 0.0,
        [one] => *one,
        values => return Err(wrong(format!("{} base values", values.len()))),
    };
    let leaves = leaves(model, "target", weights(model, "target"), |_| 1.0)?;
    Ok(Outputs { leaves, base, mean, link })
}

fn weights<'a>(model: &'a Operator, kind: &str) -> &'a [f64] {
    match numbers(model, &format!("{kind}_weights")) {
        [] => numbers(model, &format!("{kind}_weights_as_tensor")),
        weights => weights,
    }
}

fn leaves(model: &Operator, kind: &str, weights: &[f64], share: impl Fn(usize) -> f64) -> Result<ByNode<f64>, Refused> {
    let (trees, nodes) = (integers(model, &format!("{kind}_treeids")), integers(model, &format!("{kind}_nodeids")));
    if trees.len() != weights.len() || nodes.len() != weights.len() {
        return Err(Refused::new(place(model), format!("its lists of {kind} weights differ in length")));
    }
    let mut leaves = ByNode::default();
    for (at, ((tree, node), weight)) in trees.iter().zip(nodes).zip(weights).enumerate() {
        *leaves.entry((*tree, *node)).or_insert(0.0) += weight * share(at);
    }
    Ok(leaves)
}
