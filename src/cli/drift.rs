//! `caddis drift`

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::stream::{StreamArguments, Totals, WarmRows};
use super::{Ended, print_json, say};
use crate::app;
use crate::drift::{Binned, Comparison, Limits, compare, judge};
use crate::mistake::{Mistake, Mistakes};
use crate::models::Model;
use crate::models::manifest::Histogram;
use crate::transaction::EventTime;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stream: StreamArguments,
    /// The model whose training is compared with: NAME for the version in force, or NAME/VERSION.
    #[arg(long, value_name = "NAME[/VERSION]", default_value = "baseline")]
    model: String,
    /// Its registry; without it the one shipped.
    #[arg(long, value_name = "FOLDER")]
    registry: Option<PathBuf>,
    /// The first days are left out: windows have not filled yet.
    #[arg(long, default_value_t = 7)]
    warm_up_days: u16,
    /// Compare the last days of the stream (UTC): whole weeks, for weekends are no drift.
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    last_days: u16,
    /// An alarm needs a PSI above this.
    #[arg(long, default_value_t = Limits::default().psi)]
    psi: f64,
    /// And a KS p-value, adjusted by Holm over all features and the score, below this.
    #[arg(long, default_value_t = Limits::default().alpha)]
    alpha: f64,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

const DAY_MS: i64 = 86_400_000;
/// Days that are kept apart; older ones are taken together, so that memory is bounded.
const MOST_DAYS: usize = 400;
const SCORE: &str = "(score)";

/// A feature, or the score, against its reference.
#[derive(Debug, Serialize)]
struct Row {
    feature: String,
    alarm: bool,
    /// Of an alarm: the first day, UTC, from which on every day's PSI is above the limit.
    since: Option<String>,
    /// Bins of the reference. With one, only what is missing can be seen.
    bins: usize,
    /// The p-value after Holm.
    ks_p_adjusted: f64,
    #[serde(flatten)]
    comparison: Comparison,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    model: &'a str,
    version: &'a str,
    limits: Limits,
    compared: u64,
    from: String,
    to: String,
    alarms: usize,
    features: Vec<Row>,
    stream: Totals,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    let mut reading = arguments.stream.reading()?;
    let model = Arc::new(model(arguments, reading.set.fingerprint())?);
    reading.model = Some(Arc::clone(&model));
    let mut watch = Watch::new(&model)?;
    let mut rows = WarmRows::after(arguments.warm_up_days.into());
    let totals = arguments.stream.run(&reading, |step| {
        rows.each(step, |transaction, values, decision| {
            values.push(decision.score);
            watch.add(transaction.event_time(), values);
        });
        Ok(())
    })?;
    report(arguments, &model, &watch, totals)?;
    Ok(if totals.quarantined > 0 { Ended::SomeRefused } else { Ended::Done })
}

/// The model that is named. What is wrong with it is a mistake of whoever named it.
fn model(arguments: &Arguments, feature_set: &str) -> Result<Model, Mistakes> {
    let (name, version) = match arguments.model.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (arguments.model.as_str(), None),
    };
    let mistaken =
        |message: String| Mistake::in_file("command line", format!("--model {}: {message}", arguments.model));
    let model = app::named_model(arguments.registry.as_deref(), name, version, feature_set)
        .map_err(|error| mistaken(error.to_string()).help("--registry, --set or --config name others"))?;
    let manifest = &model.manifest;
    if manifest.feature_histograms.len() == manifest.feature_names.len() {
        return Ok(model);
    }
    // An imported model knows nothing of its training.
    Err(mistaken("its manifest has no distributions to compare with".into())
        .help("train one with `caddis train`, whose manifest has them")
        .into())
}

/// What the stream holds, day by day, in the order of the references.
struct Watch {
    names: Vec<String>,
    references: Vec<Binned>,
    days: BTreeMap<i64, Vec<Binned>>,
}

impl Watch {
    fn new(model: &Model) -> anyhow::Result<Self> {
        let manifest = &model.manifest;
        let names: Vec<String> = manifest.feature_names.iter().cloned().chain([SCORE.to_owned()]).collect();
        let histograms = manifest.feature_histograms.iter().chain([&manifest.score_histogram]);
        let binned = |(name, histogram): (&String, &Histogram)| {
            Binned::new(histogram.edges.clone(), &histogram.counts, histogram.missing)
                .with_context(|| format!("the manifest's histogram of {name}"))
        };
        let references = names.iter().zip(histograms).map(binned).collect::<anyhow::Result<_>>()?;
        Ok(Self { names, references, days: BTreeMap::new() })
    }

    /// Counts a row: the features, then the score.
    fn add(&mut self, time: EventTime, values: &[f64]) {
        let empty = || self.references.iter().map(Binned::emptied).collect();
        let day = self.days.entry(time.div_euclid(DAY_MS)).or_insert_with(empty);
        day.iter_mut().zip(values).for_each(|(binned, value)| binned.add(*value));
        if self.days.len() > MOST_DAYS
            && let Some((_, oldest)) = self.days.pop_first()
            && let Some(mut next) = self.days.first_entry()
        {
            // Both have the references' edges.
            next.get_mut().iter_mut().zip(&oldest).for_each(|(into, from)| {
                let _ = into.merge(from);
            });
        }
    }

    /// A row for each reference, the gravest first; and the days compared.
    fn rows(&self, limits: Limits, last_days: u16) -> anyhow::Result<(Vec<Row>, i64, i64)> {
        let none = "nothing to compare: the stream is no longer than its warm-up";
        let last = *self.days.last_key_value().context(none)?.0;
        let from = last - i64::from(last_days) + 1;
        let mut comparisons = Vec::new();
        for (at, reference) in self.references.iter().enumerate() {
            let mut now = reference.emptied();
            for binned in self.days.range(from..).filter_map(|(_, day)| day.get(at)) {
                now.merge(binned)?;
            }
            comparisons.push(compare(reference, &now)?.context("the manifest has an empty distribution")?);
        }
        let judged = judge(&comparisons, limits);
        let mut rows = Vec::new();
        for (at, ((name, reference), (comparison, (ks_p_adjusted, alarm)))) in
            self.names.iter().zip(&self.references).zip(comparisons.into_iter().zip(judged)).enumerate()
        {
            let beyond = |day: &Vec<Binned>| {
                let found = day.get(at).and_then(|now| compare(reference, now).ok().flatten());
                found.is_some_and(|found| found.psi > limits.psi)
            };
            // Beyond the days compared, too: that is when it began.
            let since = self.days.iter().rev().take_while(|(_, day)| alarm && beyond(day)).last();
            rows.push(Row {
                feature: name.clone(),
                alarm,
                since: since.map(|(day, _)| date(*day)),
                bins: reference.bins(),
                ks_p_adjusted,
                comparison,
            });
        }
        rows.sort_by(|a, b| {
            Reverse(a.alarm).cmp(&Reverse(b.alarm)).then(b.comparison.psi.total_cmp(&a.comparison.psi))
        });
        let first = self.days.range(from..).next().map_or(last, |(day, _)| *day);
        Ok((rows, first, last))
    }
}

fn report(arguments: &Arguments, model: &Model, watch: &Watch, stream: Totals) -> anyhow::Result<()> {
    let limits = Limits { psi: arguments.psi, alpha: arguments.alpha };
    let (features, from, to) = watch.rows(limits, arguments.last_days)?;
    let days = watch.days.range(from..).filter_map(|(_, day)| day.first());
    let report = Report {
        model: model.name(),
        version: model.version(),
        limits,
        compared: days.map(Binned::total).sum(),
        from: date(from),
        to: date(to),
        alarms: features.iter().filter(|row| row.alarm).count(),
        features,
        stream,
    };
    if arguments.json {
        return print_json(&report);
    }
    let Report { model, version, compared, from, to, alarms, .. } = &report;
    say(format_args!("{compared} transactions of {from} to {to} against the training of {model} {version}"));
    let widest = report.features.iter().map(|row| row.feature.len()).max().unwrap_or_default();
    say(format_args!(
        "{:7} {:widest$} {:>8} {:>7} {:>9} {:>9} {:>9}  since",
        "", "feature", "PSI", "KS", "p (Holm)", "missing", "then"
    ));
    for row in &report.features {
        let Comparison { psi, ks, missing_then, missing_now, .. } = row.comparison;
        let (alarm, p) = (if row.alarm { "ALARM" } else { "" }, p_value(row.ks_p_adjusted));
        let line = format!(
            "{alarm:7} {:widest$} {psi:>8.4} {ks:>7.4} {p:>9} {:>8.2}% {:>8.2}%  {}",
            row.feature,
            missing_now * 100.0,
            missing_then * 100.0,
            row.since.as_deref().unwrap_or(if row.bins == 1 { "(only what is missing can be seen)" } else { "" })
        );
        say(line.trim_end());
    }
    say(format_args!("{alarms} alarms among {}", report.features.len()));
    Ok(())
}

fn p_value(p: f64) -> String {
    match p {
        0.0 => "<1e-300".to_owned(),
        ..1e-4 => format!("{p:.0e}"),
        _ => format!("{p:.4}"),
    }
}

fn date(day: i64) -> String {
    let midnight = jiff::Timestamp::from_millisecond(day * DAY_MS);
    midnight.map_or_else(|_| day.to_string(), |time| time.to_string().chars().take(10).collect())
}
