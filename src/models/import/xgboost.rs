//! XGBoost's JSON and UBJSON (schema of version 1.0 on). It keeps values, thresholds and leaves in single
//! precision, sends what is below a threshold left, and categories of a set right.

use super::grow::{self, Raw};
use super::{Foreign, Format, Refused, real_names, single, ubjson};
use crate::models::compiled::{CategorySet, Ensemble, Form, Link, Rule, Side, Term, Tree};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(super) fn read(bytes: &[u8]) -> Result<Foreign, Refused> {
    // In JSON a name in quotes or the end follows, in UBJSON the length of a name.
    let json = matches!(bytes, [b'{', b'"' | b' ' | b'\n' | b'\r' | b'\t' | b'}', ..]);
    let model: Value = if json {
        serde_json::from_slice(bytes).map_err(|why| Refused::new("the JSON", why.to_string()))?
    } else {
        ubjson::read(bytes)?
    };
    let File { learner } = serde_json::from_value(model).map_err(|why| Refused::new("the model", why.to_string()))?;
    let parameters = &learner.learner_model_param;
    for (field, value) in [("num_class", &parameters.num_class), ("num_target", &parameters.num_target)] {
        if !matches!(value.as_deref(), None | Some("0" | "1")) {
            return Err(Refused::new(field, format!("{}: a model of several outputs", value.as_deref().unwrap_or(""))));
        }
    }
    let objective = learner.objective.name.as_str();
    if !matches!(objective, "binary:logistic" | "reg:logistic") {
        return Err(Refused::new("objective", format!("`{objective}` gives no probability of one class"))
            .help("train with the objective `binary:logistic`"));
    }
    let features: usize = parse("num_feature", &parameters.num_feature)?;
    let base = margin(&parameters.base_score)?;
    if !(learner.feature_names.is_empty() || learner.feature_names.len() == features) {
        let what = format!("{} names for {features} features", learner.feature_names.len());
        return Err(Refused::new("feature_names", what));
    }
    let mut notes = Vec::new();
    let form = match learner.gradient_booster {
        Booster::Gbtree { model } => trees(&model, &[], features, base, &mut notes)?,
        Booster::Dart { gbtree, weight_drop } => trees(&gbtree.model, &weight_drop, features, base, &mut notes)?,
        Booster::Gblinear { model } => linear(&model.weights, features, base, &mut notes)?,
    };
    Ok(Foreign { format: Format::Xgboost, features, names: real_names(learner.feature_names, &["f"]), form, notes })
}

#[derive(Deserialize)]
struct File {
    learner: Learner,
}

#[derive(Deserialize)]
struct Learner {
    #[serde(default)]
    feature_names: Vec<String>,
    gradient_booster: Booster,
    learner_model_param: Parameters,
    objective: Objective,
}

#[derive(Deserialize)]
struct Objective {
    name: String,
}

/// Numbers are written as text.
#[derive(Deserialize)]
struct Parameters {
    base_score: String,
    num_class: Option<String>,
    num_feature: String,
    num_target: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
enum Booster {
    Gbtree { model: Model },
    Dart { gbtree: Inner, weight_drop: Vec<f64> },
    Gblinear { model: Weights },
}

#[derive(Deserialize)]
struct Inner {
    model: Model,
}

#[derive(Deserialize)]
struct Weights {
    weights: Vec<f64>,
}

#[derive(Deserialize)]
struct Model {
    trees: Vec<TheirTree>,
    #[serde(default)]
    cats: Option<Value>,
}

#[derive(Deserialize)]
struct TheirTree {
    left_children: Vec<i64>,
    right_children: Vec<i64>,
    split_indices: Vec<u32>,
    /// Thresholds, and the values of leaves.
    split_conditions: Vec<f64>,
    #[serde(deserialize_with = "truths")]
    default_left: Vec<bool>,
    #[serde(default)]
    sum_hessian: Vec<f64>,
    #[serde(default)]
    split_type: Vec<u8>,
    #[serde(default)]
    categories: Vec<u32>,
    #[serde(default)]
    categories_nodes: Vec<usize>,
    #[serde(default)]
    categories_segments: Vec<usize>,
    #[serde(default)]
    categories_sizes: Vec<usize>,
    #[serde(default)]
    tree_param: TreeParameters,
}

#[derive(Deserialize, Default)]
struct TreeParameters {
    size_leaf_vector: Option<String>,
}

/// Written as truths or as 0 and 1, by version.
fn truths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<bool>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    Ok(values.iter().map(|value| value.as_bool().unwrap_or_else(|| value.as_i64() == Some(1))).collect())
}

fn parse<T: std::str::FromStr>(field: &str, text: &str) -> Result<T, Refused> {
    text.parse().map_err(|_| Refused::new(field, format!("`{text}` is not a number")))
}

/// The base score is a probability; newer versions write it as a list of one.
fn margin(text: &str) -> Result<f64, Refused> {
    let base: f32 = parse("base_score", text.trim_start_matches('[').trim_end_matches(']'))?;
    let base = f64::from(base);
    if !(base > 0.0 && base < 1.0) {
        return Err(Refused::new("base_score", format!("{base} is no probability between 0 and 1")));
    }
    Ok(-(1.0 / base - 1.0).ln())
}

#[expect(clippy::cast_possible_truncation, reason = "they are single in the original")]
const fn to_single(value: f64) -> f32 {
    value as f32
}

fn trees(model: &Model, dropped: &[f64], features: usize, base: f64, notes: &mut Vec<String>) -> Result<Form, Refused> {
    let encoded = |cats: &Value| cats.get("enc").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if model.cats.as_ref().is_some_and(encoded) {
        notes.push("its categories had names when it was trained; here they are their numbers (0 and up)".to_owned());
    }
    if !dropped.is_empty() && dropped.len() != model.trees.len() {
        let what = format!("{} weights for {} trees", dropped.len(), model.trees.len());
        return Err(Refused::new("weight_drop", what));
    }
    let (mut trees, mut sets) = (Vec::new(), Vec::new());
    for (at, theirs) in model.trees.iter().enumerate() {
        let weight = to_single(dropped.get(at).copied().unwrap_or(1.0));
        let tree = tree(theirs, weight, features, &mut sets);
        trees.push(tree.map_err(|why| Refused::new(format!("tree {at}"), why))?);
    }
    if trees.is_empty() {
        return Err(Refused::new("the model", "it has no trees"));
    }
    Ok(Form::Ensemble(Ensemble { trees, sets, base, divisor: 1.0, link: Link::Logistic { slope: 1.0 } }))
}

fn tree(theirs: &TheirTree, weight: f32, features: usize, sets: &mut Vec<CategorySet>) -> Result<Tree, String> {
    if !matches!(theirs.tree_param.size_leaf_vector.as_deref(), None | Some("0" | "1")) {
        return Err("leaves of several outputs".to_owned());
    }
    let first_set = sets.len();
    let segments = theirs.categories_segments.iter().zip(&theirs.categories_sizes);
    for (start, size) in segments {
        let end = start.checked_add(*size);
        let found = end.and_then(|end| theirs.categories.get(*start..end)).ok_or("categories that are not there")?;
        if found.iter().any(|category| *category as usize >= CategorySet::LARGEST) {
            return Err(format!("a category of {} or more", CategorySet::LARGEST));
        }
        sets.push(CategorySet::of(found.iter().copied(), true));
    }
    let get = |at: usize| -> Result<Raw, String> {
        let none = || "it is not there".to_owned();
        let cover = f64::from(to_single(theirs.sum_hessian.get(at).copied().unwrap_or_default())).max(0.0);
        let left = *theirs.left_children.get(at).ok_or_else(none)?;
        let right = *theirs.right_children.get(at).ok_or_else(none)?;
        let number = to_single(*theirs.split_conditions.get(at).ok_or_else(none)?);
        if left == -1 {
            return Ok(Raw::Leaf { value: f64::from(number * weight), cover });
        }
        let child = |child: i64| usize::try_from(child).map_err(|_| format!("child {child}"));
        let (left, right) = (child(left)?, child(right)?);
        let slot = *theirs.split_indices.get(at).ok_or_else(none)?;
        if slot as usize >= features {
            return Err(format!("feature {slot} of {features}"));
        }
        let default_left = *theirs.default_left.get(at).ok_or_else(none)?;
        if theirs.split_type.get(at) == Some(&1) {
            let set =
                theirs.categories_nodes.iter().position(|node| *node == at).ok_or("a split without categories")?;
            let set = u32::try_from(first_set + set).map_err(|_| "too many category sets".to_owned())?;
            // A category of the set goes right: the children change places.
            let missing = if default_left { Side::Right } else { Side::Left };
            let rule = Rule::Among { set, missing };
            return Ok(Raw::Split { slot, threshold: 0.0, rule, left: right, right: left, cover });
        }
        if !number.is_finite() {
            return Err(format!("a threshold of {number}"));
        }
        let rule = Rule::AtMost { missing: if default_left { Side::Left } else { Side::Right } };
        Ok(Raw::Split { slot, threshold: single::greatest(number, true), rule, left, right, cover })
    };
    grow::tree(0, theirs.left_children.len(), get)
}

fn linear(weights: &[f64], features: usize, base: f64, notes: &mut Vec<String>) -> Result<Form, Refused> {
    let Some((bias, weights)) = weights.split_last().filter(|(_, weights)| weights.len() == features) else {
        let what = format!("{} weights for {features} features and a bias", weights.len());
        return Err(Refused::new("weights", what));
    };
    notes.push("a missing or infinite value adds nothing to the sum".to_owned());
    let terms = (0..).zip(weights).map(|(slot, weight)| {
        let weight = f64::from(to_single(*weight));
        Term { slot, mean: 0.0, deviation: 1.0, weight, missing: 0.0 }
    });
    Ok(Form::Logistic { intercept: base + f64::from(to_single(*bias)), terms: terms.collect() })
}
