//! Models that other tools trained: read here, never run by them, into the compiled form. What cannot be
//! represented is refused by name and place. A model's features are matched to a feature set's by name.

mod grow;
mod lightgbm;
mod onnx;
mod protobuf;
pub mod register;
mod single;
mod ubjson;
mod xgboost;

use super::compiled::{Calibration, Compiled, Ensemble, Form};
use std::collections::BTreeMap;
use std::fmt;

/// Reads a model file; the format is found from its first bytes where none is given.
///
/// # Errors
/// When it is of no known format, is damaged, or holds something that the compiled form has no place for.
pub fn read(bytes: &[u8], format: Option<Format>) -> Result<Foreign, Refused> {
    let format = match format {
        Some(format) => format,
        None => Format::detect(bytes)?,
    };
    match format {
        Format::Lightgbm => lightgbm::read(bytes),
        Format::Xgboost => xgboost::read(bytes),
        Format::Onnx => onnx::read(bytes),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `Booster.save_model` of LightGBM: text.
    Lightgbm,
    /// `Booster.save_model` of XGBoost: JSON, or UBJSON (told apart by their first bytes).
    Xgboost,
    /// scikit-learn's models come this way, by skl2onnx.
    Onnx,
}

impl Format {
    fn detect(bytes: &[u8]) -> Result<Self, Refused> {
        match bytes {
            [b't', b'r', b'e', b'e', b'\n' | b'\r', ..] => Ok(Self::Lightgbm),
            [b'{', ..] => Ok(Self::Xgboost),
            // The first field of an ONNX model is its version, a small number.
            [0x08, 1..=127, ..] => Ok(Self::Onnx),
            [0x80, ..] => Err(Refused::new("the file", "a Python pickle, which runs code where it is read")
                .help("save a LightGBM or XGBoost model with save_model, a scikit-learn one with skl2onnx")),
            [b'b', b'i', b'n', b'f', ..] | [b'b', b's', b'6', b'4', ..] => {
                Err(Refused::new("the file", "XGBoost's old binary format").help("save it again as .json or .ubj"))
            }
            _ => Err(Refused::new("the file", "none of LightGBM's text, XGBoost's JSON or UBJSON, or ONNX")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lightgbm => "lightgbm",
            Self::Xgboost => "xgboost",
            Self::Onnx => "onnx",
        })
    }
}

/// Why a model is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}{}{}", if self.help.is_empty() { "" } else { "\n  help: " }, self.help)]
pub struct Refused {
    /// Where in the model.
    pub place: String,
    pub what: String,
    /// How to mend it; may be empty.
    pub help: String,
}

impl Refused {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into(), help: String::new() }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// A model as its file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreign {
    pub format: Format,
    /// Features a row.
    pub features: usize,
    /// Their names; empty where the file has none, or only numbered ones.
    pub names: Vec<String>,
    /// Slots are the file's own, in its order.
    pub form: Form,
    /// What a reader should know about how it was taken.
    pub notes: Vec<String>,
}

impl Foreign {
    /// The model over rows of a feature set with the names `ours`. `renamed` gives our name for one of theirs.
    /// Without names in the file features are matched by their order. With it, what to tell about the matching.
    ///
    /// # Errors
    /// When a feature that the model looks at is not in the set, two are the same, or their numbers differ.
    pub fn onto(
        mut self,
        ours: &[String],
        renamed: &BTreeMap<String, String>,
    ) -> Result<(Compiled, Vec<String>), Refused> {
        let mut notes = std::mem::take(&mut self.notes);
        let slots = if self.names.is_empty() {
            if let Some(name) = renamed.keys().next() {
                return Err(Refused::new(format!("feature `{name}`"), "the file has no names of features"));
            }
            if self.features != ours.len() {
                let what = format!(
                    "the file has {} features without names, the feature set {}: neither name nor order matches them",
                    self.features,
                    ours.len()
                );
                return Err(Refused::new("features", what).help("train with the feature set's names, in its order"));
            }
            notes.push("the file has no names of features: they were matched by their order".to_owned());
            (0..ours.len()).map(Some).collect()
        } else {
            self.by_name(ours, renamed, &mut notes)?
        };
        let place = |slot: u32| {
            slots.get(slot as usize).copied().flatten().and_then(|slot| u32::try_from(slot).ok()).unwrap_or_default()
        };
        match &mut self.form {
            Form::Logistic { terms, .. } => {
                terms.retain(|term| slots.get(term.slot as usize).is_some_and(Option::is_some));
                terms.iter_mut().for_each(|term| term.slot = place(term.slot));
                terms.sort_by_key(|term| term.slot);
            }
            Form::Forest { trees } | Form::Ensemble(Ensemble { trees, .. }) => {
                for node in trees.iter_mut().flat_map(|tree| &mut tree.nodes).filter(|node| !node.is_leaf()) {
                    node.slot = place(node.slot);
                }
            }
        }
        let width = u32::try_from(ours.len()).unwrap_or(u32::MAX);
        let compiled =
            Compiled { width, imputed: vec![0.0; ours.len()], form: self.form, calibration: Calibration::None };
        compiled.validate().map_err(|why| Refused::new("the model", why.to_string()))?;
        Ok((compiled, notes))
    }

    /// Our slot for each of their features; none for one that the model does not look at.
    fn by_name(
        &self,
        ours: &[String],
        renamed: &BTreeMap<String, String>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Option<usize>>, Refused> {
        if let Some(name) = renamed.keys().find(|name| !self.names.contains(name)) {
            let near = crate::mistake::nearest(name, self.names.iter().map(String::as_str));
            let help = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
            return Err(Refused::new(format!("feature `{name}`"), "the model has none of this name").help(help));
        }
        let used = self.used();
        let (mut slots, mut missing) = (Vec::new(), Vec::new());
        for (theirs, name) in self.names.iter().enumerate() {
            let wanted = renamed.get(name).unwrap_or(name);
            let found = ours.iter().position(|our| our == wanted);
            if let Some(twice) = found.filter(|found| slots.contains(&Some(*found))) {
                let what = format!("`{}` of the feature set is matched twice", ours.get(twice).map_or("", |n| n));
                return Err(Refused::new(format!("feature `{name}`"), what));
            }
            match found {
                None if used.get(theirs).copied().unwrap_or_default() => missing.push(wanted.as_str()),
                None => notes.push(format!("`{wanted}` is not in the feature set; the model does not look at it")),
                Some(_) => {}
            }
            slots.push(found);
        }
        let Some(first) = missing.first() else { return Ok(slots) };
        let near = crate::mistake::nearest(first, ours.iter().map(String::as_str))
            .map_or_else(String::new, |near| format!("; `{first}` may be `{near}`"));
        let what = format!("not in the feature set: {}", missing.join(", "));
        Err(Refused::new("features", what).help(format!("name ours with --rename theirs=ours{near}")))
    }

    /// Which features the model looks at.
    fn used(&self) -> Vec<bool> {
        let mut used = vec![false; self.features];
        let mut mark = |slot: u32| used.get_mut(slot as usize).into_iter().for_each(|used| *used = true);
        match &self.form {
            Form::Logistic { terms, .. } => terms.iter().for_each(|term| mark(term.slot)),
            Form::Forest { trees } | Form::Ensemble(Ensemble { trees, .. }) => {
                let nodes = trees.iter().flat_map(|tree| &tree.nodes);
                nodes.filter(|node| !node.is_leaf()).for_each(|node| mark(node.slot));
            }
        }
        used
    }
}

/// Names that a tool made up from a prefix and the feature's number are none.
fn real_names(names: Vec<String>, prefixes: &[&str]) -> Vec<String> {
    let numbered = |prefix: &&str| names.iter().enumerate().all(|(at, name)| *name == format!("{prefix}{at}"));
    if prefixes.iter().any(numbered) { Vec::new() } else { names }
}
