//! `caddis quarantine`: refused records, to be looked at and fed again

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::run::ConfigArguments;
use super::{Ended, print_json, say};
use crate::app::rfc3339;
use crate::store::quarantine::{Refused, mark_fed, refused};

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
    /// Refused records and why, oldest first.
    List {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Write the records themselves, one a line, to be mended by hand.
    Export {
        #[command(flatten)]
        place: Where,
        /// `-` is standard output.
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
    },
    /// Send them to a running Caddis again, for when the mapping was at fault. Those that are taken are
    /// listed no more.
    Feed {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
        /// A key that may write, if the service wants one; also from `env:NAME` or `file:PATH`.
        #[arg(long)]
        key: Option<String>,
    },
    /// List them no more: they were dealt with elsewhere.
    Clear {
        #[command(flatten)]
        place: Where,
    },
}

impl Where {
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let data = match &self.data {
            Some(folder) => folder.clone(),
            None => self.config.load()?.data,
        };
        Ok(data.join("quarantine"))
    }

    fn records(&self) -> anyhow::Result<Vec<Refused>> {
        let folder = self.folder()?;
        refused(&folder).with_context(|| folder.display().to_string())
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    match &arguments.what {
        What::List { place, limit } => {
            let records = place.records()?;
            for record in records.iter().take(*limit) {
                if place.json {
                    print_json(record)?;
                } else {
                    say(format_args!("{}  {}  {}", record.id(), rfc3339(record.arrival), record.refusal));
                }
            }
            if !place.json {
                say(format_args!("{} in all", records.len()));
            }
        }
        What::Export { place, out } => {
            let records = place.records()?;
            let standard = out.as_os_str() == "-";
            let mut file: Box<dyn Write> = if standard {
                Box::new(std::io::stdout().lock())
            } else {
                Box::new(std::fs::File::create(out).with_context(|| out.display().to_string())?)
            };
            for record in &records {
                file.write_all(&record.bytes())?;
                file.write_all(b"\n")?;
            }
            if !standard {
                say(format_args!("{} records in {}", records.len(), out.display()));
            }
        }
        What::Feed { place, url, key } => return feed(place, url, key.as_deref()),
        What::Clear { place } => {
            let ids: Vec<String> = place.records()?.iter().map(Refused::id).collect();
            mark_fed(&place.folder()?, &ids)?;
            say(format_args!("{} cleared", ids.len()));
        }
    }
    Ok(Ended::Done)
}

fn feed(place: &Where, url: &str, key: Option<&str>) -> anyhow::Result<Ended> {
    let records = place.records()?;
    let key = key.map(super::secret).transpose()?;
    let address = format!("{}/v1/transactions", url.trim_end_matches('/'));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (mut taken, mut refused_again) = (0, 0);
    for some in records.chunks(500) {
        // One array would be cut by the very brackets that may be broken in them: one a request is sure.
        let mut done = Vec::new();
        for record in some {
            let mut request = client.post(&address).header("content-type", "application/json").body(record.bytes());
            if let Some(key) = &key {
                request = request.bearer_auth(key);
            }
            let answer = runtime.block_on(request.send()).with_context(|| address.clone())?;
            match answer.status().as_u16() {
                200 => {
                    taken += 1;
                    done.push(record.id());
                }
                // The service keeps it in the quarantine anew, under a new number.
                422 => {
                    refused_again += 1;
                    done.push(record.id());
                }
                status => {
                    mark_fed(&place.folder()?, &done)?;
                    anyhow::bail!("{address} answered HTTP {status}; {taken} records were taken before");
                }
            }
        }
        mark_fed(&place.folder()?, &done)?;
    }
    if place.json {
        print_json(&serde_json::json!({ "taken": taken, "refused_again": refused_again }))?;
    } else {
        say(format_args!("{taken} taken, {refused_again} refused again"));
    }
    Ok(if refused_again > 0 { Ended::SomeRefused } else { Ended::Done })
}
