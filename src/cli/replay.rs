//! `caddis replay`

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{Ended, Progress, print_json, read_text, say, secret};
use crate::clock::now_ms;
use crate::mistake::{Mistake, Mistakes};
use crate::replay::{Endpoint, LoadScenario, Records, Report, run as run_load};
use crate::simulate::{Scenario, write};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Drive a running service over HTTP at a set rate, and measure latency from the intended send time.
    Load(Load),
}

#[derive(Debug, Args)]
struct Load {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A TOML file with a scenario (replay/ has some); the options below change it.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Records a second.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long)]
    seconds: Option<f64>,
    #[arg(long)]
    warm_up: Option<f64>,
    #[arg(long)]
    connections: Option<usize>,
    #[arg(long)]
    records_per_request: Option<usize>,
    /// Send to `/v1/transactions` rather than `/v1/decisions`.
    #[arg(long)]
    transactions: bool,
    /// Recorded payments, NDJSON, sent as they are; without it simulated ones, of the days up to now.
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
    /// A key that may write, if the service wants one; also from `env:NAME` or `file:PATH`.
    #[arg(long)]
    key: Option<String>,
    /// Where the latency distribution goes, for HdrHistogram's plotter.
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    let What::Load(load) = &arguments.what;
    let scenario = scenario(load)?;
    let key = load.key.as_deref().map(secret).transpose()?;
    let records = match &load.input {
        Some(path) => Records::recorded(std::fs::read(path).with_context(|| path.display().to_string())?),
        None => simulated(&scenario)?,
    };
    ensure_not_late(&load.url, &records)?;
    let (_, total) = scenario.requests();
    let mut progress = Progress::start("requests", Some(total), false);
    let report: Report = run_load(&load.url, key, &scenario, &records, |done| progress.at(done))?;
    progress.finish();
    if let Some(path) = &load.hgrm {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        report.write_hgrm(&mut BufWriter::new(file)).with_context(|| path.display().to_string())?;
    }
    if load.json {
        print_json(&report.json())?;
    } else {
        say(&report);
    }
    anyhow::ensure!(report.clean(), "not every request was served");
    Ok(if report.refused_records > 0 { Ended::SomeRefused } else { Ended::Done })
}

fn scenario(load: &Load) -> anyhow::Result<LoadScenario> {
    let mut file = "command line".to_owned();
    let mut scenario = match &load.scenario {
        None => LoadScenario::default(),
        Some(path) => {
            let text = read_text(path)?;
            file = path.display().to_string();
            toml::from_str(&text).map_err(|error: toml::de::Error| {
                let at = error.span().map_or(0, |span| span.start);
                Mistakes::from(Mistake::at(&file, &text, at, error.message().to_owned()))
            })?
        }
    };
    scenario.rate = load.rate.unwrap_or(scenario.rate);
    scenario.seconds = load.seconds.unwrap_or(scenario.seconds);
    scenario.warm_up = load.warm_up.unwrap_or(scenario.warm_up);
    scenario.connections = load.connections.unwrap_or(scenario.connections);
    scenario.records_per_request = load.records_per_request.unwrap_or(scenario.records_per_request);
    if load.transactions {
        scenario.endpoint = Endpoint::Transactions;
    }
    scenario.check().map_err(|message| Mistakes::from(Mistake::in_file(&file, message)))?;
    Ok(scenario)
}

/// As many simulated payments as the run needs, with ids that no earlier run has used.
fn simulated(scenario: &LoadScenario) -> anyhow::Result<Records> {
    let (_, requests) = scenario.requests();
    let needed = requests * scenario.records_per_request as u64;
    let accounts = scenario.accounts.max(1);
    // Two payments an account and day, and some days more to be sure.
    let days = u32::try_from(needed / u64::from(accounts) + 2)?;
    let payments = Scenario { accounts, days, ..Scenario::default() };
    let mut bytes = Vec::new();
    write(&payments, &mut bytes, None, |done| done < needed + 10_000)?;
    let now = now_ms();
    Ok(Records::simulated(bytes, needed, format!("r{now}-"), now))
}

/// Payments behind the service's watermark would be late: decided, but in no window, which is not what is to
/// be measured.
fn ensure_not_late(url: &str, records: &Records) -> anyhow::Result<()> {
    let Some(first) = records.first_event_time() else { return Ok(()) };
    let address = format!("{}/metrics", url.trim_end_matches('/'));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let text = runtime.block_on(async { client.get(&address).send().await?.text().await });
    // Whatever is behind the URL may hide its metrics; the load itself says if it cannot be reached.
    let text = text.unwrap_or_default();
    let newest = text.lines().find_map(|line| line.strip_prefix("caddis_newest_event_seconds ")?.parse::<f64>().ok());
    anyhow::ensure!(
        newest.is_none_or(|newest| newest * 1_000.0 <= first as f64),
        "the service has decided payments newer than the first of this load, which would all be late: start it \
         with an empty data folder, or send recorded payments with --in"
    );
    Ok(())
}
