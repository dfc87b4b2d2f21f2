//! `caddis alerts`: the outbox of a data folder, whether or not Caddis runs

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::run::ConfigArguments;
use super::{Ended, print_json, say};
use crate::alerts::{AlertFilter, Outbox};
use crate::app::new_secret;
use crate::mistake::{Mistake, Mistakes};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Args)]
struct Where {
    #[command(flatten)]
    config: ConfigArguments,
    /// The data folder, if not the configuration's.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The newest alerts.
    List {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[arg(long)]
        account: Option<String>,
        #[arg(long, value_parser = ["review", "block"])]
        verdict: Option<String>,
    },
    /// Subscribers, and how deliveries to them go.
    Subscribers {
        #[command(flatten)]
        place: Where,
    },
    /// Deliveries that were given up.
    Dead {
        #[command(flatten)]
        place: Where,
        #[arg(long)]
        subscriber: Option<String>,
    },
    /// Send dead letters again; a running Caddis does so within seconds.
    Resend {
        #[command(flatten)]
        place: Where,
        #[arg(long)]
        subscriber: Option<String>,
        /// One alert only.
        #[arg(long)]
        alert: Option<String>,
        /// Also do not wait with deliveries whose next attempt is later.
        #[arg(long)]
        waiting: bool,
    },
    /// Give up dead letters for good.
    Discard {
        #[command(flatten)]
        place: Where,
        #[arg(long)]
        subscriber: Option<String>,
    },
    /// Print a fresh webhook secret.
    NewSecret,
}

impl Where {
    fn outbox(&self) -> anyhow::Result<Outbox> {
        let folder = match &self.data {
            Some(folder) => folder.clone(),
            None => self.config.load()?.data,
        };
        let path = folder.join("outbox.db");
        anyhow::ensure!(path.exists(), "{}: there is no outbox; has Caddis run with this data folder?", path.display());
        Ok(Outbox::open(&path)?)
    }
}

/// Makes sure that there is a subscriber of this name.
fn known(outbox: &Outbox, subscriber: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = subscriber else { return Ok(()) };
    let names: Vec<String> = outbox.subscribers()?.into_iter().map(|state| state.name).collect();
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let mistake = Mistake::in_file("command line", format!("--subscriber {name}: there is no such subscriber"));
    Err(Mistakes::from(mistake.nearest(name, names.iter().map(String::as_str))).into())
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    match &arguments.what {
        What::List { place, limit, account, verdict } => {
            let filter = AlertFilter {
                limit: *limit,
                account: account.clone(),
                verdict: verdict.clone(),
                ..AlertFilter::default()
            };
            for stored in place.outbox()?.alerts(&filter)? {
                if place.json {
                    say(stored.alert.body);
                } else {
                    let body: serde_json::Value = serde_json::from_str(&stored.alert.body).unwrap_or_default();
                    let text =
                        |pointer: &str| body.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
                    say(format_args!(
                        "{}  {}  {}",
                        text("/data/event_time"),
                        stored.alert.transaction_id,
                        text("/data/summary")
                    ));
                }
            }
        }
        What::Subscribers { place } => {
            for state in place.outbox()?.subscribers()? {
                if place.json {
                    print_json(&state)?;
                } else {
                    say(format_args!(
                        "{}{}  {}: {} delivered, {} waiting, {} dead, {} attempts failed{}",
                        state.name,
                        if state.paused { " (paused)" } else { "" },
                        state.url,
                        state.delivered,
                        state.waiting,
                        state.dead,
                        state.failed,
                        state.last_error.map(|error| format!("; last: {error}")).unwrap_or_default()
                    ));
                }
            }
        }
        What::Dead { place, subscriber } => {
            let outbox = place.outbox()?;
            known(&outbox, subscriber.as_deref())?;
            for letter in outbox.dead_letters(subscriber.as_deref())? {
                if place.json {
                    print_json(&letter)?;
                } else {
                    say(format_args!(
                        "{}  {}  transaction {}, {} attempts, last: {}",
                        letter.subscriber, letter.alert_id, letter.transaction_id, letter.attempts, letter.last_error
                    ));
                }
            }
        }
        What::Resend { place, subscriber, alert, waiting } => {
            let outbox = place.outbox()?;
            known(&outbox, subscriber.as_deref())?;
            let count = outbox.resend(subscriber.as_deref(), alert.as_deref(), *waiting)?;
            if place.json {
                print_json(&serde_json::json!({ "to_be_sent": count }))?;
            } else {
                say(format_args!("{count} deliveries are to be made again"));
            }
        }
        What::Discard { place, subscriber } => {
            let outbox = place.outbox()?;
            known(&outbox, subscriber.as_deref())?;
            let count = outbox.discard(subscriber.as_deref())?;
            if place.json {
                print_json(&serde_json::json!({ "discarded": count }))?;
            } else {
                say(format_args!("{count} dead letters were given up for good"));
            }
        }
        What::NewSecret => say(new_secret().map_err(|failure| anyhow::anyhow!("{failure:?}"))?),
    }
    Ok(Ended::Done)
}
