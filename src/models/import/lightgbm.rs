//! LightGBM's text format, version 4 (and 3, which differs in nothing that is read here). The meaning of a
//! split is that of `Tree::NumericalDecision` and `Tree::CategoricalDecision` in its `tree.h`.

use super::grow::{self, Raw};
use super::{Foreign, Format, Refused, real_names};
use crate::models::compiled::{CategorySet, Ensemble, Form, Link, Rule, Side};
use std::collections::BTreeMap;
use std::str::FromStr;

type Fields<'a> = BTreeMap<&'a str, &'a str>;

pub(super) fn read(bytes: &[u8]) -> Result<Foreign, Refused> {
    let text = std::str::from_utf8(bytes).map_err(|why| Refused::new("the file", why.to_string()))?;
    let Some((text, _)) = text.split_once("\nend of trees") else {
        return Err(Refused::new("the file", "it has no `end of trees`: it was cut off, or is no LightGBM model"));
    };
    let mut parts = text.split("\nTree=");
    let head: Fields = fields(parts.next().unwrap_or_default());
    if !matches!(head.get("version"), Some(&("v3" | "v4"))) {
        let version = head.get("version").copied().unwrap_or_default();
        return Err(Refused::new("version", format!("`{version}`; v3 and v4 are read")));
    }
    for (field, expected) in [("num_class", "1"), ("num_tree_per_iteration", "1")] {
        let found = head.get(field).copied().unwrap_or("1");
        if found != expected {
            return Err(Refused::new(field, format!("{found}: a model of several classes")));
        }
    }
    let slope = slope(head.get("objective").copied().unwrap_or_default())?;
    let features = number::<usize>(&head, "max_feature_idx")?.saturating_add(1);
    let names: Vec<String> =
        head.get("feature_names").copied().unwrap_or_default().split(' ').map(str::to_owned).collect();
    if names.len() != features {
        return Err(Refused::new("feature_names", format!("{} names for {features} features", names.len())));
    }
    let (mut trees, mut sets) = (Vec::new(), Vec::new());
    for (at, part) in parts.enumerate() {
        let place = |refused: Refused| Refused { place: format!("tree {at}, {}", refused.place), ..refused };
        trees.push(tree(&fields(part), features, &mut sets).map_err(place)?);
    }
    if trees.is_empty() {
        return Err(Refused::new("the file", "it has no trees"));
    }
    // A random forest: a line of its own, without a value.
    let averaged = text.lines().take_while(|line| !line.is_empty()).any(|line| line == "average_output");
    let divisor = if averaged { u32::try_from(trees.len()).map_or(f64::NAN, f64::from) } else { 1.0 };
    let ensemble = Ensemble { trees, sets, base: 0.0, divisor, link: Link::Logistic { slope } };
    Ok(Foreign {
        format: Format::Lightgbm,
        features,
        names: real_names(names, &["Column_"]),
        form: Form::Ensemble(ensemble),
        notes: Vec::new(),
    })
}

/// Of the logistic link; other objectives give no probability.
fn slope(objective: &str) -> Result<f64, Refused> {
    let mut words = objective.split(' ');
    let name = words.next().unwrap_or_default();
    match name {
        "binary" => {
            let slope = words.find_map(|word| word.strip_prefix("sigmoid:")).unwrap_or("1");
            slope.parse().map_err(|_| Refused::new("objective", format!("`{objective}`")))
        }
        "cross_entropy" | "xentropy" => Ok(1.0),
        "" => Err(Refused::new(
            "objective",
            "none, or one of your own: it does not say how the sum becomes a probability",
        )),
        _ => Err(Refused::new("objective", format!("`{name}` gives no probability of one class"))
            .help("train with the objective `binary` or `cross_entropy`")),
    }
}

fn fields(part: &str) -> Fields<'_> {
    part.lines().filter_map(|line| line.trim_end_matches('\r').split_once('=')).collect()
}

fn number<T: FromStr>(fields: &Fields, field: &str) -> Result<T, Refused> {
    let text = fields.get(field).copied().unwrap_or_default();
    text.trim().parse().map_err(|_| Refused::new(field, format!("`{text}` is not a number")))
}

/// A list of `count` numbers.
fn list<T: FromStr>(fields: &Fields, field: &str, count: usize) -> Result<Vec<T>, Refused> {
    let text = fields.get(field).copied().unwrap_or_default();
    let numbers: Result<Vec<T>, Refused> = text
        .split_ascii_whitespace()
        .map(|word| word.parse().map_err(|_| Refused::new(field, format!("`{word}` is not a number"))))
        .collect();
    let numbers = numbers?;
    if numbers.len() != count {
        return Err(Refused::new(field, format!("{} numbers where {count} belong", numbers.len())));
    }
    Ok(numbers)
}

fn tree(
    fields: &Fields,
    features: usize,
    sets: &mut Vec<CategorySet>,
) -> Result<crate::models::compiled::Tree, Refused> {
    let leaves = number::<usize>(fields, "num_leaves")?;
    let splits = leaves.checked_sub(1).ok_or_else(|| Refused::new("num_leaves", "0"))?;
    if !matches!(fields.get("is_linear").map(|text| text.trim()), None | Some("0")) {
        return Err(Refused::new("is_linear", "leaves that are linear models (linear_tree) are not read"));
    }
    let values: Vec<f64> = list(fields, "leaf_value", leaves)?;
    // A tree of a single leaf has nothing else.
    let counts: Vec<f64> = if fields.get("leaf_count").is_some_and(|text| !text.trim().is_empty()) {
        list(fields, "leaf_count", leaves)?
    } else {
        vec![0.0; leaves]
    };
    let slots: Vec<u32> = list(fields, "split_feature", splits)?;
    let thresholds: Vec<f64> = list(fields, "threshold", splits)?;
    let kinds: Vec<u8> = list(fields, "decision_type", splits)?;
    let lefts: Vec<i64> = list(fields, "left_child", splits)?;
    let rights: Vec<i64> = list(fields, "right_child", splits)?;
    let split_counts: Vec<f64> = list(fields, "internal_count", splits)?;
    let categories = categories(fields)?;
    let first_set = sets.len();
    sets.extend(categories);
    let set_count = sets.len();

    // Splits keep their numbers; leaves follow them. In the file a leaf's number is its complement.
    let index = |child: i64| {
        let leaf = usize::try_from(!child).map(|leaf| splits + leaf);
        if child < 0 { leaf } else { usize::try_from(child) }.map_err(|_| format!("child {child}"))
    };
    let get = |at: usize| -> Result<Raw, String> {
        let none = || "it is not there".to_owned();
        if let Some(leaf) = at.checked_sub(splits) {
            let value = *values.get(leaf).ok_or_else(none)?;
            return Ok(Raw::Leaf { value, cover: counts.get(leaf).copied().unwrap_or_default() });
        }
        let of = |list: &[i64]| list.get(at).copied().ok_or_else(none);
        let (left, right) = (index(of(&lefts)?)?, index(of(&rights)?)?);
        let slot = *slots.get(at).ok_or_else(none)?;
        if slot as usize >= features {
            return Err(format!("feature {slot} of {features}"));
        }
        let threshold = *thresholds.get(at).ok_or_else(none)?;
        let kind = *kinds.get(at).ok_or_else(none)?;
        let (rule, threshold) = if kind & 1 == 1 {
            (among(threshold, first_set, set_count)?, 0.0)
        } else {
            (at_most(kind, threshold)?, threshold)
        };
        Ok(Raw::Split { slot, threshold, rule, left, right, cover: split_counts.get(at).copied().unwrap_or_default() })
    };
    grow::tree(0, splits + leaves, get).map_err(|why| Refused::new("nodes", why))
}

fn at_most(kind: u8, threshold: f64) -> Result<Rule, String> {
    let told = if kind & 2 == 2 { Side::Left } else { Side::Right };
    match kind >> 2 & 3 {
        // NaN counts as zero.
        0 => Ok(Rule::AtMost { missing: if 0.0 <= threshold { Side::Left } else { Side::Right } }),
        1 => Ok(Rule::ZeroMissing { missing: told }),
        2 => Ok(Rule::AtMost { missing: told }),
        _ => Err(format!("decision type {kind}")),
    }
}

/// The set's number stands where a threshold would. NaN is in no set.
fn among(number: f64, first: usize, end: usize) -> Result<Rule, String> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked by what follows")]
    let set = first + number as usize;
    if !(number >= 0.0 && number.fract().total_cmp(&0.0).is_eq() && set < end) {
        return Err(format!("category set {number}"));
    }
    let set = u32::try_from(set).map_err(|_| "too many category sets".to_owned())?;
    Ok(Rule::Among { set, missing: Side::Right })
}

fn categories(fields: &Fields) -> Result<Vec<CategorySet>, Refused> {
    let count = number::<usize>(fields, "num_cat").unwrap_or_default();
    if count == 0 {
        return Ok(Vec::new());
    }
    let bounds: Vec<usize> = list(fields, "cat_boundaries", count.saturating_add(1))?;
    let words: Vec<u32> = list(fields, "cat_threshold", bounds.last().copied().unwrap_or_default())?;
    let wrong = || Refused::new("cat_boundaries", "they are not in order");
    let sets = bounds.iter().zip(bounds.iter().skip(1)).map(|(from, to)| {
        let bits = words.get(*from..*to).ok_or_else(wrong)?.to_vec();
        Ok(CategorySet { bits, single: false })
    });
    sets.collect()
}
