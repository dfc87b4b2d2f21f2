//! ONNX, as skl2onnx writes scikit-learn's models: one operator that is a tree ensemble or a linear model, and
//! around it only operators that change nothing about the probability. Their meaning is that of the
//! `ai.onnx.ml` operators' description and of ONNX Runtime, which computes in single precision.

mod graph;
mod trees;

use super::{Foreign, Format, Refused};
use crate::models::compiled::{Form, Term};
use graph::{DOUBLE, Graph, Operator, SINGLE};

pub(super) fn read(bytes: &[u8]) -> Result<Foreign, Refused> {
    let graph = graph::read(bytes)?;
    let is_model = |operator: &&Operator| {
        ["TreeEnsembleClassifier", "TreeEnsembleRegressor", "LinearClassifier"].contains(&operator.kind.as_str())
    };
    let mut models = graph.nodes.iter().filter(is_model);
    let Some(model) = models.next() else {
        let kinds: Vec<&str> = graph.nodes.iter().map(|operator| operator.kind.as_str()).collect();
        let what = format!(
            "none of TreeEnsembleClassifier, TreeEnsembleRegressor, LinearClassifier among {}",
            kinds.join(", ")
        );
        return Err(Refused::new("the graph", what));
    };
    if let Some(other) = models.next() {
        return Err(Refused::new(place(other), "a second model in the same graph"));
    }
    let before = Before::of(&graph, model)?;
    after(&graph, model, &before)?;
    let mut notes = Vec::new();
    let (form, least) = if model.kind == "LinearClassifier" {
        linear(model, &before, &graph, &mut notes)?
    } else {
        if before.scaler.is_some() {
            return Err(Refused::new(
                "operator Scaler",
                "a scaler before trees is rounded in a way that cannot be kept",
            )
            .help("trees need no scaling: train without it"));
        }
        notes.push(
            "the file does not say how many rows came through its nodes: reasons take both sides of a split as even"
                .to_owned(),
        );
        trees::read(model, before.single)?
    };
    let features = before.width.max(before.names.len()).max(least);
    if !before.names.is_empty() && before.names.len() != features {
        let what = format!("{} inputs for {features} features", before.names.len());
        return Err(Refused::new("the graph", what));
    }
    Ok(Foreign { format: Format::Onnx, features, names: before.names, form, notes })
}

fn place(operator: &Operator) -> String {
    if operator.name.is_empty() {
        format!("operator {}", operator.kind)
    } else {
        format!("operator {} (`{}`)", operator.kind, operator.name)
    }
}

/// What comes between the rows and the model.
#[derive(Default)]
struct Before<'a> {
    /// Values are rounded to single precision on the way.
    single: bool,
    scaler: Option<&'a Operator>,
    /// Of inputs with one feature each.
    names: Vec<String>,
    width: usize,
    outputs: Vec<&'a str>,
}

impl<'a> Before<'a> {
    fn of(graph: &'a Graph, model: &'a Operator) -> Result<Self, Refused> {
        let mut before = Self::default();
        let mut name = only_input(model)?;
        // A chain is no longer than the graph.
        for _ in 0..=graph.nodes.len() {
            let Some(operator) = producer(graph, name) else {
                let input = before.input(graph, name)?;
                before.width = input;
                return Ok(before);
            };
            before.outputs.extend(operator.outputs.iter().map(String::as_str));
            match operator.kind.as_str() {
                "Identity" => name = only_input(operator)?,
                "Cast" => {
                    let to = operator.attributes.get("to").map_or(0, |attribute| attribute.integer);
                    if to == SINGLE.cast_signed() {
                        before.single = true;
                    } else if to != DOUBLE.cast_signed() {
                        return Err(Refused::new(place(operator), format!("a cast to the type {to}")));
                    }
                    name = only_input(operator)?;
                }
                "Scaler" if before.scaler.is_none() => {
                    before.scaler = Some(operator);
                    name = only_input(operator)?;
                }
                "Concat" => {
                    for input in &operator.inputs {
                        if before.input(graph, input)? != 1 {
                            return Err(Refused::new(place(operator), format!("`{input}` is more than one feature")));
                        }
                        before.names.push(input.clone());
                    }
                    return Ok(before);
                }
                _ => {
                    return Err(Refused::new(place(operator), "it changes the features before the model sees them")
                        .help("make such features in the feature set, and train on them"));
                }
            }
        }
        Err(Refused::new("the graph", "it goes in a circle"))
    }

    /// The features of a graph's input.
    fn input(&mut self, graph: &Graph, name: &str) -> Result<usize, Refused> {
        let Some(input) = graph.inputs.iter().find(|input| input.name == name) else {
            return Err(Refused::new(format!("`{name}`"), "nothing makes it"));
        };
        match input.element {
            SINGLE => self.single = true,
            DOUBLE => {}
            other => return Err(Refused::new(format!("input `{name}`"), format!("values of the type {other}"))),
        }
        Ok(input.width)
    }
}

fn producer<'a>(graph: &'a Graph, name: &str) -> Option<&'a Operator> {
    graph.nodes.iter().find(|operator| operator.outputs.iter().any(|output| output == name))
}

fn only_input(operator: &Operator) -> Result<&str, Refused> {
    match operator.inputs.as_slice() {
        [one] => Ok(one),
        several => Err(Refused::new(place(operator), format!("{} inputs", several.len()))),
    }
}

/// What comes after the model may only put the same probability in another form.
fn after(graph: &Graph, model: &Operator, before: &Before) -> Result<(), Refused> {
    for operator in &graph.nodes {
        let known = operator.outputs.iter().all(|output| before.outputs.contains(&output.as_str()))
            || operator.outputs == model.outputs;
        let harmless = match operator.kind.as_str() {
            "Cast" | "Identity" | "ZipMap" => true,
            // Of two shares that add up to one already.
            "Normalizer" => operator.attributes.get("norm").is_some_and(|norm| norm.text == "L1"),
            _ => false,
        };
        if !known && !harmless {
            return Err(Refused::new(place(operator), "an operator whose effect on the probability is not known"));
        }
    }
    Ok(())
}

fn numbers<'a>(operator: &'a Operator, name: &str) -> &'a [f64] {
    operator.attributes.get(name).map_or(&[], |attribute| &attribute.numbers)
}

fn post_transform(operator: &Operator) -> &str {
    operator.attributes.get("post_transform").map_or("NONE", |attribute| &attribute.text)
}

/// Two classes; fraud is the second.
fn two_classes(operator: &Operator) -> Result<(), Refused> {
    let count = |name: &str| operator.attributes.get(name).map_or(0, |a| a.integers.len().max(a.texts.len()));
    let names = ["classlabels_int64s", "classlabels_ints", "classlabels_strings"];
    match names.into_iter().map(count).max() {
        Some(2) => Ok(()),
        other => Err(Refused::new(place(operator), format!("{} classes; two are read", other.unwrap_or_default()))),
    }
}

fn linear(model: &Operator, before: &Before, graph: &Graph, notes: &mut Vec<String>) -> Result<(Form, usize), Refused> {
    let wrong = |what: String| Refused::new(place(model), what);
    two_classes(model)?;
    let (all, intercepts) = (numbers(model, "coefficients"), numbers(model, "intercepts"));
    let rows = intercepts.len().max(1);
    if rows > 2 || all.is_empty() || all.len() % rows != 0 {
        return Err(wrong(format!("{} coefficients and {} intercepts", all.len(), intercepts.len())));
    }
    let (first, second) = all.split_at(all.len() - all.len() / rows);
    let at = |index: usize| intercepts.get(index).copied().unwrap_or_default();
    // The second class's sum, or how much more it is than the first's.
    let (weights, intercept): (Vec<f64>, f64) = match (post_transform(model), rows) {
        ("LOGISTIC", 1) => (second.to_vec(), at(0)),
        ("LOGISTIC", 2) => {
            let mirrored = first.iter().zip(second).all(|(a, b)| a.total_cmp(&-b).is_eq() || a + b == 0.0);
            let normalized = graph.nodes.iter().any(|operator| operator.kind == "Normalizer");
            if normalized && !(mirrored && at(0) + at(1) == 0.0) {
                return Err(wrong("two classes with sums of their own, made to add up afterwards".into()));
            }
            (second.to_vec(), at(1))
        }
        ("SOFTMAX", 2) => (first.iter().zip(second).map(|(a, b)| b - a).collect(), at(1) - at(0)),
        (other, _) => return Err(wrong(format!("post_transform {other} gives no probability"))),
    };
    let part = |name: &str, otherwise: f64| -> Result<Vec<f64>, Refused> {
        let found = before.scaler.map_or(&[][..], |scaler| numbers(scaler, name));
        match found {
            [] => Ok(vec![otherwise; weights.len()]),
            [one] => Ok(vec![*one; weights.len()]),
            several if several.len() == weights.len() => Ok(several.to_vec()),
            several => Err(wrong(format!("{} of the scaler's {name} for {} features", several.len(), weights.len()))),
        }
    };
    let (offsets, scales) = (part("offset", 0.0)?, part("scale", 1.0)?);
    let terms: Vec<Term> = (0..)
        .zip(weights.iter().zip(offsets.iter().zip(&scales)))
        .map(|(slot, (weight, (mean, scale)))| Term {
            slot,
            mean: *mean,
            deviation: 1.0,
            weight: weight * scale,
            missing: 0.0,
        })
        .collect();
    let stands = if before.scaler.is_some() { "the scaler's mean" } else { "zero" };
    notes.push(format!("a missing or infinite value, which the original does not take, counts as {stands}"));
    Ok((Form::Logistic { intercept, terms }, weights.len()))
}
