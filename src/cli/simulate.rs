//! `caddis simulate`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{Ended, Progress, print_json, read_text, say};
use crate::mistake::{Mistake, Mistakes};
use crate::simulate::{Scenario, Summary, write};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A TOML file with a scenario; the options below change it.
    #[arg(long)]
    scenario: Option<PathBuf>,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long)]
    accounts: Option<u32>,
    #[arg(long)]
    terminals: Option<u32>,
    #[arg(long)]
    days: Option<u32>,
    /// Where the payments go, as NDJSON; `-` is standard output.
    #[arg(long, default_value = "-")]
    out: PathBuf,
    /// Where the labels go: frauds, each when it becomes known.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// A summary as JSON on standard output (needs --out FILE).
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    let scenario = scenario(arguments)?;
    let to_stdout = arguments.out.as_os_str() == "-";
    anyhow::ensure!(
        !(to_stdout && arguments.json),
        "--json and the payments cannot both go to standard output: give --out FILE"
    );
    let mut payments: Box<dyn Write> =
        if to_stdout { Box::new(io::stdout().lock()) } else { Box::new(create(&arguments.out)?) };
    let mut labels = arguments.labels.as_ref().map(create).transpose()?.map(BufWriter::new);
    let mut progress = Progress::start("payments", Some(scenario.expected()), false);
    let summary = write(&scenario, &mut *payments, labels.as_mut().map(|labels| labels as &mut dyn Write), |done| {
        progress.at(done);
        true
    });
    progress.finish();
    let summary = match summary {
        // The reader (`head`) has seen enough.
        Err(error) if to_stdout && error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ended::Done),
        other => other.context("the payments cannot be written")?,
    };
    report(arguments, &summary, &progress, to_stdout)?;
    Ok(Ended::Done)
}

fn report(arguments: &Arguments, summary: &Summary, progress: &Progress, to_stdout: bool) -> anyhow::Result<()> {
    let seconds = progress.seconds();
    let rate = summary.transactions as f64 / seconds.max(1e-9);
    if arguments.json {
        return print_json(&serde_json::json!({ "summary": summary, "seconds": seconds, "per_second": rate }));
    }
    if !to_stdout {
        say(format_args!(
            "{} payments, {} of them fraud, in {seconds:.1} s ({rate:.0}/s)",
            summary.transactions, summary.frauds
        ));
        for (name, count) in summary.by_typology.iter().filter(|(_, count)| *count > 0) {
            say(format_args!("  {name:22} {count}"));
        }
    }
    Ok(())
}

fn scenario(arguments: &Arguments) -> anyhow::Result<Scenario> {
    let mut scenario = match &arguments.scenario {
        None => Scenario::default(),
        Some(path) => {
            let (text, file) = (read_text(path)?, path.display().to_string());
            toml::from_str(&text).map_err(|error| {
                let at = error.span().map_or(0, |span| span.start);
                Mistakes::from(Mistake::at(&file, &text, at, error.message().to_owned()))
            })?
        }
    };
    scenario.seed = arguments.seed.unwrap_or(scenario.seed);
    scenario.accounts = arguments.accounts.unwrap_or(scenario.accounts);
    scenario.terminals = arguments.terminals.unwrap_or(scenario.terminals);
    scenario.days = arguments.days.unwrap_or(scenario.days);
    let file = arguments.scenario.as_ref().map_or("command line".to_owned(), |path| path.display().to_string());
    scenario.check().map_err(|message| Mistakes::from(Mistake::in_file(&file, message)))?;
    Ok(scenario)
}

fn create(path: &PathBuf) -> anyhow::Result<File> {
    File::create(path).with_context(|| path.display().to_string())
}
