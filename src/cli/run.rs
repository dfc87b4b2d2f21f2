//! `caddis run`, and `caddis check` before it

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::{Ended, Progress, print_json, say};
use crate::app::{self, Setup, Why};
use crate::config::Config;
use crate::telemetry::{LogFormat, init_logs};

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// The configuration; `caddis.toml` here if there is one, otherwise all defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArguments {
    pub fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.path())?)
    }

    fn setup(&self) -> anyhow::Result<Setup> {
        Ok(Setup::look_through(Config::load_draft(self.path())?)?)
    }

    fn path(&self) -> Option<&Path> {
        let here = Path::new("caddis.toml");
        self.config.as_deref().or_else(|| here.exists().then_some(here))
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Stop once every file and standard input were read to their end.
    #[arg(long)]
    until_end: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// What the configuration comes to, as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &RunArguments) -> anyhow::Result<Ended> {
    let setup = arguments.config.setup()?;
    let log = &setup.config.log;
    let format = if log.json { LogFormat::Json } else { LogFormat::Text };
    init_logs(format, &log.filter).map_err(anyhow::Error::msg)?;
    let mut progress: Option<Progress> = None;
    let running = app::start(&setup, |done, all| {
        progress.get_or_insert_with(|| Progress::start("journal entries", Some(all), false)).at(done);
    })?;
    if let Some(progress) = &mut progress {
        progress.finish();
    }
    let model = setup.brain.model.as_ref();
    tracing::info!(
        address = %running.address,
        data = %setup.config.data.display(),
        model = model.map_or("none: rules only", |model| model.name()),
        version = model.map_or("", |model| model.version()),
        features = setup.brain.features.len(),
        rules = setup.brain.policy.rules().len(),
        threads = setup.config.engine.threads,
        "ready"
    );
    if setup.config.http.keys.is_empty() && !running.address.ip().is_loopback() {
        tracing::warn!("anybody who reaches {} may use the API: set [[http.keys]]", running.address);
    }
    let why = running.wait(arguments.until_end)?;
    tracing::info!(
        reason = match why {
            Why::Asked => "asked to",
            Why::SourcesEnded => "all sources were read",
            Why::Failed => "a part of it failed",
        },
        "stopping"
    );
    let shared = Arc::clone(&running.shared);
    running.stop()?;
    // Only now is all decided that was taken.
    let decided = shared.status.transactions();
    let refused = shared.status.quarantined.load(std::sync::atomic::Ordering::Relaxed);
    anyhow::ensure!(why != Why::Failed, "a part of Caddis failed; the log has more");
    tracing::info!(decided, refused, "stopped");
    Ok(if arguments.until_end && refused > 0 { Ended::SomeRefused } else { Ended::Done })
}

pub(super) fn check(arguments: &CheckArguments) -> anyhow::Result<Ended> {
    let setup = arguments.config.setup()?;
    let brain = &setup.brain;
    let model = brain.model.as_ref();
    // What is asked for, and what it came to on the transactions the model was tested on.
    let budget = brain.policy.alert_budget().map(|budget| budget.alerts_a_day);
    let expected = budget.zip(model).and_then(|(budget, model)| model.manifest.operating_point(budget));
    if arguments.json {
        print_json(&serde_json::json!({
            "configuration": setup.config.file,
            "data": setup.config.data,
            "listen": setup.config.http.listen,
            "features": brain.features.len(),
            "feature_set": brain.features.fingerprint(),
            "model": model.map(|model| model.name()),
            "model_version": model.map(|model| model.version()),
            "rules": brain.policy.rules().len(),
            "policy": brain.policy.fingerprint(),
            "alert_budget": budget,
            "expected": expected,
            "review_from": finite(brain.thresholds.review),
            "block_from": finite(brain.thresholds.block),
            "sources": setup.config.sources.len(),
            "subscribers": setup.subscribers.len(),
        }))?;
        return Ok(Ended::Done);
    }
    say(format_args!("{}: good", setup.config.file));
    say(format_args!(
        "  features     {} over {}",
        brain.features.len(),
        brain.features.entity_names().collect::<Vec<_>>().join(", ")
    ));
    say(match model {
        Some(model) => format!("  model        {} {}", model.name(), model.version()),
        None => "  model        none: rules alone decide".to_owned(),
    });
    let threshold = |value: f64| finite(value).map_or("never".to_owned(), |value| format!("from {value:.4}"));
    say(format_args!(
        "  by score     review {}, block {}",
        threshold(brain.thresholds.review),
        threshold(brain.thresholds.block)
    ));
    if let Some((budget, expected)) = budget.zip(expected) {
        say(format_args!(
            "  budget       {budget} alerts a day; the model's test had {:.1}, precision {:.3}, recall {:.3}",
            expected.alerts_a_day, expected.precision, expected.recall
        ));
    }
    say(format_args!("  rules        {}", brain.policy.rules().len()));
    say(format_args!("  sources      HTTP on {}, and {} more", setup.config.http.listen, setup.config.sources.len()));
    say(format_args!("  subscribers  {}", setup.subscribers.len()));
    Ok(Ended::Done)
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
