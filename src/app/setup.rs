//! From a configuration to what the service is made of; every mistake in every file it names is told.

use std::path::Path;
use std::sync::Arc;

use rust_embed::RustEmbed;

use crate::alerts::{Filter, Subscriber, WrongSubscriber};
use crate::config::{Config, Draft};
use crate::engine::{AdmissionSettings, Brain, EngineSettings};
use crate::features::FeatureSet;
use crate::mistake::{Mistake, Mistakes};
use crate::models::Model;
use crate::models::manifest::Manifest;
use crate::models::registry::{self, Registry, RegistryError, Wanted};
use crate::policy::{Policy, Thresholds};
use crate::sources::decode::{Mapping, Rates};
use crate::transaction::Schema;

/// What is shipped with Caddis: feature set, policy, and the registry with the baseline model.
#[derive(RustEmbed)]
#[folder = "models/"]
pub struct Shipped;

/// A configuration with all that it names loaded and checked.
#[derive(Clone)]
pub struct Setup {
    pub config: Config,
    pub schema: Arc<Schema>,
    pub mapping: Arc<Mapping>,
    pub brain: Brain,
    pub subscribers: Vec<Subscriber>,
}

impl Setup {
    /// # Errors
    /// As [`look_through`](Self::look_through).
    pub fn load(config: Config) -> Result<Self, Mistakes> {
        Self::look_through(Draft { config, mistakes: Vec::new(), absent: Vec::new() })
    }

    /// # Errors
    /// Every mistake in the configuration, its mapping, rates and subscribers, the feature set and the policy, and
    /// what keeps the model from loading: those of the configuration first, each file's in the order of its text.
    pub fn look_through(draft: Draft) -> Result<Self, Mistakes> {
        let Draft { config, mut mistakes, mut absent } = draft;
        mistakes.append(&mut absent);
        let mut elsewhere = Vec::new();
        let schema = Arc::new(config.schema.clone());
        let mapping = mapping(&config, &schema, &mut mistakes);
        let subscribers = subscribers(&config, &mut mistakes);
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.filter) {
            mistakes.push(config.wrong(&["log.filter"], format!("`log.filter`: {error}")));
        }
        let features = features(&config, &schema, &mut mistakes, &mut elsewhere);
        let model = features.as_ref().and_then(|features| {
            model(&config, features).map_err(|error| mistakes.push(wrong_model(&config, &error))).ok()
        });
        let policy =
            features.as_ref().and_then(|features| policy(&config, &schema, features, &mut mistakes, &mut elsewhere));
        let thresholds = model.as_ref().zip(policy.as_ref()).and_then(|(model, policy)| {
            let manifest = model.as_ref().map(|model| &model.manifest);
            thresholds(&policy.read, manifest).map_err(|wrong| elsewhere.push(policy.wrong_budget(wrong))).ok()
        });
        let sound = mistakes.is_empty() && elsewhere.is_empty();
        let (Some(mapping), Some(features), Some(model), Some(policy), Some(thresholds), true) =
            (mapping, features, model, policy, thresholds, sound)
        else {
            mistakes.sort();
            mistakes.append(&mut elsewhere);
            return Err(Mistakes(mistakes));
        };
        let (features, model, policy) = (Arc::new(features), model.map(Arc::new), Arc::new(policy.read));
        let brain = Brain { features, model, policy, thresholds };
        Ok(Self { config, schema, mapping: Arc::new(mapping), brain, subscribers })
    }

    /// How the engine is to work, with the key of this data folder.
    #[must_use]
    pub fn engine_settings(&self, key: [u8; 16]) -> EngineSettings {
        EngineSettings { threads: self.config.engine.threads, admission: admission(&self.config), key }
    }
}

/// How far out of order the stream may be.
#[must_use]
pub fn admission(config: &Config) -> AdmissionSettings {
    let stream = config.stream;
    AdmissionSettings {
        allowed_lateness: stream.allowed_lateness,
        max_future: stream.max_future,
        dedupe_horizon: stream.dedupe_horizon,
        dedupe_limit: stream.dedupe_limit,
    }
}

/// Which brain decides, as journal entries say it: feature set, model, policy and thresholds.
#[must_use]
pub fn decided_by(brain: &Brain) -> u64 {
    let mut hasher = blake3::Hasher::new();
    let model = brain.model.as_ref().map_or("none", |model| model.version());
    for part in [brain.features.fingerprint(), model, brain.policy.fingerprint()] {
        hasher.update(part.as_bytes()).update(b"\n");
    }
    hasher.update(&brain.thresholds.review.to_le_bytes()).update(&brain.thresholds.block.to_le_bytes());
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The mapping of the configuration, with its rates; `None` where `mistakes` were found.
pub fn mapping(config: &Config, schema: &Arc<Schema>, mistakes: &mut Vec<Mistake>) -> Option<Mapping> {
    let mut rates = Rates::new(config.base_currency);
    for (currency, rate) in &config.rates {
        if let Err(expected) = rates.set(*currency, rate) {
            let key = format!("money.rates.{}", currency.code());
            mistakes.push(config.wrong(&[&key], format!("`{key}`: `{rate}` is not {expected}")));
        }
    }
    let Some(table) = &config.mapping else { return Some(Mapping::own(Arc::clone(schema), rates)) };
    Mapping::from_table(table, schema, rates)
        .map_err(|wrong| {
            mistakes.extend(wrong.into_iter().map(|(key, message)| {
                let key = format!("mapping.{key}");
                config.wrong(&[&key, "mapping"], format!("[mapping]: {message}"))
            }));
        })
        .ok()
}

fn subscribers(config: &Config, mistakes: &mut Vec<Mistake>) -> Vec<Subscriber> {
    let mut subscribers = Vec::new();
    for subscriber in &config.subscribers {
        let filter = Filter { verdicts: subscriber.verdicts.clone(), min_score: subscriber.min_score };
        let secret = subscriber.secret.reveal();
        match Subscriber::new(&subscriber.name, &subscriber.url, secret, filter, subscriber.allow_private) {
            Ok(subscriber) => subscribers.push(subscriber),
            Err(WrongSubscriber { name, wrong }) => mistakes.extend(wrong.into_iter().map(|(key, what)| {
                let key = format!("{}.{key}", subscriber.table);
                config.wrong(&[&key, &subscriber.table], format!("subscriber `{name}`: {what}"))
            })),
        }
    }
    subscribers
}

/// A file that the configuration names under `key`, or one of the shipped ones.
fn text_of(
    config: &Config,
    key: &str,
    named: Option<&Path>,
    shipped: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<(String, String)> {
    let Some(path) = named else {
        let file = Shipped::get(shipped)?;
        return Some((String::from_utf8_lossy(&file.data).into_owned(), format!("(shipped) {shipped}")));
    };
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Some((text, file)),
        Err(error) => {
            mistakes.push(config.wrong(&[key], format!("`{key}`: {file} cannot be read: {error}")));
            None
        }
    }
}

/// The feature set that the configuration names, or the shipped one. Mistakes in the set itself go `elsewhere`.
pub fn features(
    config: &Config,
    schema: &Schema,
    mistakes: &mut Vec<Mistake>,
    elsewhere: &mut Vec<Mistake>,
) -> Option<FeatureSet> {
    let (text, file) = text_of(config, "features.file", config.features.as_deref(), "features.toml", mistakes)?;
    FeatureSet::parse(&text, &file, schema).map_err(|wrong| elsewhere.extend(wrong.0)).ok()
}

/// A policy with the text it was read from.
struct PolicyFile {
    read: Policy,
    text: String,
    file: String,
}

impl PolicyFile {
    fn wrong_budget(&self, (message, help): (String, &str)) -> Mistake {
        let at = self.read.alert_budget().map_or(0, |budget| budget.at);
        Mistake::at(&self.file, &self.text, at, message).help(help)
    }
}

fn policy(
    config: &Config,
    schema: &Schema,
    features: &FeatureSet,
    mistakes: &mut Vec<Mistake>,
    elsewhere: &mut Vec<Mistake>,
) -> Option<PolicyFile> {
    // The shipped rules speak of the shipped features: with other features there are none but the user's.
    let names = features.names();
    if config.policy.is_none() && config.features.is_some() {
        return Some(PolicyFile { read: Policy::none(), text: String::new(), file: String::new() });
    }
    let (text, file) = text_of(config, "policy.file", config.policy.as_deref(), "policy.toml", mistakes)?;
    let exponent = config.base_currency.exponent();
    let read = Policy::parse(&text, &file, schema, names, exponent).map_err(|wrong| elsewhere.extend(wrong.0)).ok()?;
    Some(PolicyFile { read, text, file })
}

/// The thresholds in force: the policy's, those that its alert budget comes to, or the model's own.
///
/// # Errors
/// The budget comes to nothing with this model: what is wrong, and how to mend it.
pub fn thresholds(policy: &Policy, manifest: Option<&Manifest>) -> Result<Thresholds, (String, &'static str)> {
    let own = manifest.map_or_else(Thresholds::default, |manifest| {
        let thresholds = manifest.thresholds;
        Thresholds { review: thresholds.review, block: thresholds.block }
    });
    let Some(budget) = policy.alert_budget() else { return Ok(policy.thresholds().unwrap_or(own)) };
    let manifest = manifest.ok_or_else(|| {
        let message = "an alert budget needs a model, whose scores it is solved from; none is in force";
        (message.to_owned(), "set `[model]` in the configuration, or give `review` instead")
    })?;
    let point = manifest.operating_point(budget.alerts_a_day).ok_or_else(|| {
        let message = "the model does not say how many alerts a day its scores come to: it was trained before budgets";
        (message.to_owned(), "train it again with `caddis train`, or give `review` instead")
    })?;
    let review = point.threshold;
    match budget.block {
        // What is blocked alerts as well.
        Some(block) if block < review => Err((
            format!(
                "{} alerts a day come to a review from {review:.6}, but blocking from {block} alone makes more",
                budget.alerts_a_day
            ),
            "raise `block`, or the budget",
        )),
        block => Ok(Thresholds { review, block: block.unwrap_or(own.block.max(review)) }),
    }
}

fn model(config: &Config, features: &FeatureSet) -> Result<Option<Model>, RegistryError> {
    let wanted = &config.model;
    if !wanted.enabled {
        return Ok(None);
    }
    named_model(wanted.registry.as_deref(), &wanted.name, wanted.version.as_deref(), features.fingerprint()).map(Some)
}

/// A model of a registry, or of the shipped one; without a version the one in force.
///
/// # Errors
/// When it is not there, was changed, or was trained on another feature set.
pub fn named_model(
    registry: Option<&Path>,
    name: &str,
    version: Option<&str>,
    feature_set: &str,
) -> Result<Model, RegistryError> {
    match registry {
        Some(root) => Registry::new(root).load(name, version.map_or(Wanted::Current, Wanted::Version), feature_set),
        None => shipped_model(name, version, feature_set),
    }
}

fn shipped_model(name: &str, version: Option<&str>, feature_set: &str) -> Result<Model, RegistryError> {
    let root = || Path::new("(shipped)").to_owned();
    let file = |path: String| Shipped::get(&path).map(|file| file.data);
    let current = file(format!("{name}/current"))
        .ok_or_else(|| RegistryError::NoCurrent { root: root(), name: name.to_owned() })?;
    let current = String::from_utf8_lossy(&current).trim().to_owned();
    let version = version.map_or(current, str::to_owned);
    let files = file(format!("{name}/{version}/model.bin")).zip(file(format!("{name}/{version}/manifest.json")));
    let (bytes, manifest) = files.ok_or_else(|| RegistryError::NotFound {
        root: root(),
        name: name.to_owned(),
        version: version.clone(),
    })?;
    let decoded = registry::decode(name, &version, &bytes, &manifest)?;
    registry::model(name, &version, decoded, feature_set)
}

fn wrong_model(config: &Config, error: &RegistryError) -> Mistake {
    let keys: &[&str] = match error {
        RegistryError::Io { .. } => &["model.registry", "model", "features.file"],
        RegistryError::FeatureSet { .. } | RegistryError::NoCurrent { .. } | RegistryError::Name(_) => {
            &["model.name", "model.registry", "model", "features.file"]
        }
        _ => &["model.version", "model.name", "model.registry", "model", "features.file"],
    };
    let mistake = config.wrong(keys, format!("[model]: {error}"));
    match error {
        RegistryError::FeatureSet { .. } => mistake.help(
            "train one on this feature set with `caddis train`, or say `enabled = false` to decide by rules alone",
        ),
        RegistryError::NoCurrent { .. } => mistake.help("`caddis train --promote` puts a version in force"),
        _ => mistake,
    }
}
