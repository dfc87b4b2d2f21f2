//! `caddis models`: the registry

mod import;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Ended, print_json, say};
use crate::models::compiled::{Compiled, Ensemble, Form};
use crate::models::manifest::Manifest;
use crate::models::registry::Registry;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Args)]
struct Place {
    /// The registry.
    #[arg(long, value_name = "FOLDER", default_value = "models")]
    registry: PathBuf,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All models and their versions; the one in force is marked.
    List {
        #[command(flatten)]
        place: Place,
        /// Of this model only.
        name: Option<String>,
    },
    /// What is known of a version: the one in force if none is named.
    Show {
        #[command(flatten)]
        place: Place,
        name: String,
        version: Option<String>,
    },
    /// Take a model that LightGBM, XGBoost or, by way of ONNX, scikit-learn trained.
    Import(import::ImportArguments),
    /// Look whether versions are as they were made, and load.
    Verify {
        #[command(flatten)]
        place: Place,
        /// Of this model only.
        name: Option<String>,
    },
    /// In what two versions differ.
    Diff {
        #[command(flatten)]
        place: Place,
        name: String,
        /// The older one.
        from: String,
        /// The one in force if none is named.
        to: Option<String>,
    },
    /// Put a version into force.
    Promote {
        #[command(flatten)]
        place: Place,
        name: String,
        version: String,
    },
    /// Put the version into force that the present one replaced.
    Rollback {
        #[command(flatten)]
        place: Place,
        name: String,
    },
    /// Remove versions that are neither in force nor what one would roll back to.
    Prune {
        #[command(flatten)]
        place: Place,
        name: String,
        /// Remove them; without it they are only told.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    match &arguments.what {
        What::List { place, name } => list(place, name.as_deref()),
        What::Show { place, name, version } => show(place, name, version.as_deref()),
        What::Import(arguments) => import::run(arguments),
        What::Verify { place, name } => verify(place, name.as_deref()),
        What::Diff { place, name, from, to } => diff(place, name, from, to.as_deref()),
        What::Promote { place, name, version } => promote(place, name, version),
        What::Rollback { place, name } => {
            let registry = place.registry();
            let current = registry.current(name)?;
            let (_, manifest) = registry.read(name, &current)?;
            let parent = manifest.parent.with_context(|| {
                format!("version {current} of `{name}` replaced none; `caddis models promote {name} VERSION` names one")
            })?;
            promote(place, name, &parent)
        }
        What::Prune { place, name, yes } => prune(place, name, *yes),
    }
}

impl Place {
    fn registry(&self) -> Registry {
        Registry::new(&self.registry)
    }

    /// All models, or the one that was named.
    fn names(&self, name: Option<&str>) -> anyhow::Result<Vec<String>> {
        let names = self.registry().names()?;
        let Some(name) = name else { return Ok(names) };
        anyhow::ensure!(
            names.iter().any(|known| known == name),
            "no model `{name}` in {}; there are: {}",
            self.registry.display(),
            names.join(", ")
        );
        Ok(vec![name.to_owned()])
    }
}

fn list(place: &Place, name: Option<&str>) -> anyhow::Result<Ended> {
    let registry = place.registry();
    for name in place.names(name)? {
        let current = registry.current(&name).ok();
        for version in registry.list(&name)? {
            let in_force = current.as_ref() == Some(&version);
            let (compiled, manifest) = registry.read(&name, &version)?;
            if place.json {
                print_json(&serde_json::json!({
                    "name": name, "version": version, "in_force": in_force, "kind": manifest.kind,
                    "feature_set": manifest.feature_set, "parent": manifest.parent,
                    "imported": manifest.imported.as_ref().map(|imported| &imported.format),
                    "average_precision": measured(&manifest).then_some(manifest.metrics.average_precision),
                }))?;
            } else {
                let mark = if in_force { "*" } else { " " };
                say(format_args!("{mark} {name} {version}  {}", summary(&compiled, &manifest)));
            }
        }
    }
    Ok(Ended::Done)
}

/// An imported model was not measured here.
const fn measured(manifest: &Manifest) -> bool {
    manifest.metrics.rows > 0
}

fn summary(compiled: &Compiled, manifest: &Manifest) -> String {
    let mut line = shape(compiled);
    // Writing into a `String` cannot fail.
    if let Some(imported) = &manifest.imported {
        let _ = write!(line, ", imported from {}", imported.format);
    }
    if measured(manifest) {
        let _ = write!(line, ", average precision {:.4}", manifest.metrics.average_precision);
    }
    line
}

fn shape(compiled: &Compiled) -> String {
    match &compiled.form {
        Form::Logistic { terms, .. } => format!("logistic, {} terms", terms.len()),
        Form::Forest { trees } | Form::Ensemble(Ensemble { trees, .. }) => {
            let nodes: usize = trees.iter().map(|tree| tree.nodes.len()).sum();
            let depth = trees.iter().map(crate::models::compiled::Tree::depth).max().unwrap_or_default();
            let kind = if let Form::Forest { .. } = compiled.form { "forest" } else { "ensemble" };
            format!("{kind} of {} trees, {nodes} nodes, {depth} splits deep", trees.len())
        }
    }
}

fn show(place: &Place, name: &str, version: Option<&str>) -> anyhow::Result<Ended> {
    let registry = place.registry();
    let version = version.map_or_else(|| registry.current(name), |version| Ok(version.to_owned()))?;
    let (compiled, manifest) = registry.read(name, &version)?;
    if place.json {
        print_json(&manifest)?;
        return Ok(Ended::Done);
    }
    say(format_args!("{name} {version}: {}", summary(&compiled, &manifest)));
    say(format_args!("feature set  {} ({} features)", manifest.feature_set, manifest.feature_names.len()));
    say(format_args!("thresholds   review {}, block {}", manifest.thresholds.review, manifest.thresholds.block));
    say(format_args!("made with    {}", manifest.command));
    if let Some(parent) = &manifest.parent {
        say(format_args!("replaces     {parent}"));
    }
    if let Some(imported) = &manifest.imported {
        say(format_args!("source       {}, sha256 {}", imported.format, imported.sha256));
        match imported.checked {
            Some(checked) => say(format_args!("checked      {checked}")),
            None => say("checked      not against the original's predictions"),
        }
        imported.notes.iter().for_each(|note| say(format_args!("note         {note}")));
    }
    if measured(&manifest) {
        say(format_args!("metrics      {}", serde_json::to_string(&manifest.metrics)?));
    }
    let card = place.registry.join(name).join(&version).join("card.md");
    if card.exists() {
        say(format_args!("card         {}", card.display()));
    }
    Ok(Ended::Done)
}

fn verify(place: &Place, name: Option<&str>) -> anyhow::Result<Ended> {
    let registry = place.registry();
    let mut wrong = 0;
    for name in place.names(name)? {
        for version in registry.list(&name)? {
            let found = registry.read(&name, &version).map_err(|why| why.to_string()).and_then(|(compiled, _)| {
                crate::models::scorer::Scorer::new(&compiled).map(drop).map_err(|why| why.to_string())
            });
            wrong += usize::from(found.is_err());
            if place.json {
                print_json(&serde_json::json!({"name": name, "version": version, "wrong": found.err()}))?;
            } else {
                say(format_args!("{name} {version}  {}", found.map_or_else(|why| why, |()| "sound".to_owned())));
            }
        }
        // A pointer to a version that is not there would only be noticed when the service starts.
        if let Ok(current) = registry.current(&name)
            && !registry.list(&name)?.contains(&current)
        {
            wrong += 1;
            say(format_args!("{name}  the version in force, {current}, is not there"));
        }
    }
    anyhow::ensure!(wrong == 0, "{wrong} of the versions cannot be used");
    Ok(Ended::Done)
}

fn diff(place: &Place, name: &str, from: &str, to: Option<&str>) -> anyhow::Result<Ended> {
    let registry = place.registry();
    let to = to.map_or_else(|| registry.current(name), |version| Ok(version.to_owned()))?;
    let read = |version: &str| -> anyhow::Result<Value> {
        let (compiled, manifest) = registry.read(name, version)?;
        let mut value = serde_json::to_value(&manifest)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("shape".to_owned(), shape(&compiled).into());
            // Distributions are too long to read side by side.
            ["feature_histograms", "score_histogram", "operating_points"].iter().for_each(|field| {
                fields.remove(*field);
            });
        }
        Ok(value)
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    flatten("", &read(from)?, &mut before);
    flatten("", &read(&to)?, &mut after);
    let fields: BTreeSet<&String> = before.iter().chain(&after).map(|(field, _)| field).collect();
    for field in fields {
        let value = |all: &[(String, Value)]| {
            all.iter().find(|(name, _)| name == field).map_or(Value::Null, |(_, v)| v.clone())
        };
        let (was, is) = (value(&before), value(&after));
        if was == is {
            continue;
        }
        if place.json {
            print_json(&serde_json::json!({"field": field, "from": was, "to": is}))?;
        } else {
            say(format_args!("{field}: {was} -> {is}"));
        }
    }
    Ok(Ended::Done)
}

/// Fields by their path.
fn flatten(path: &str, value: &Value, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, into);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                flatten(&format!("{path}[{at}]"), value, into);
            }
        }
        other => into.push((path.to_owned(), other.clone())),
    }
}

fn promote(place: &Place, name: &str, version: &str) -> anyhow::Result<Ended> {
    let registry = place.registry();
    let before = registry.current(name).ok();
    registry.promote(name, version)?;
    if place.json {
        print_json(&serde_json::json!({"name": name, "version": version, "before": before}))?;
    } else {
        let before = before.unwrap_or_else(|| "none".to_owned());
        say(format_args!(
            "{name}: {version} is in force (before: {before}); a running service takes it when it starts again"
        ));
    }
    Ok(Ended::Done)
}

fn prune(place: &Place, name: &str, yes: bool) -> anyhow::Result<Ended> {
    let registry = place.registry();
    let mut kept = BTreeSet::new();
    let mut next = registry.current(name).ok();
    // The one in force, what it replaced, and so on.
    while let Some(version) = next.filter(|version| kept.insert(version.clone())) {
        next = registry.read(name, &version).ok().and_then(|(_, manifest)| manifest.parent);
    }
    for version in registry.list(name)?.into_iter().filter(|version| !kept.contains(version)) {
        if yes {
            registry.remove(name, &version)?;
        }
        if place.json {
            print_json(&serde_json::json!({"name": name, "version": version, "removed": yes}))?;
        } else {
            say(format_args!("{name} {version}  {}", if yes { "removed" } else { "would be removed (--yes)" }));
        }
    }
    Ok(Ended::Done)
}
