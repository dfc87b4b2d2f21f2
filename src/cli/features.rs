//! `caddis features`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::stream::StreamArguments;
use super::{Ended, print_json, say};
use crate::engine::Fate;
use crate::features::FeatureSet;
use crate::mistake::{Mistake, Mistakes};
use crate::store::rows::{RowFormat, RowWriter};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stream: StreamArguments,
    /// Where the rows go: a file ending in .parquet, .csv or .ndjson, or `none` to work them out only.
    #[arg(long)]
    out: PathBuf,
    /// The summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    let format = format(&arguments.out)?;
    let reading = arguments.stream.reading()?;
    let mut rows = match format {
        None => None,
        Some(format) => Some(writer(&arguments.out, format, &reading.set)?),
    };
    let mut values = Vec::new();
    let totals = arguments.stream.run(&reading, |step| {
        let Some(rows) = &mut rows else { return Ok(()) };
        let mut decisions = step.batch.decisions.iter().enumerate();
        for piece in &step.batch.pieces {
            for (transaction, (row, decision)) in piece.transactions.iter().zip(decisions.by_ref()) {
                if matches!(decision.fate, Fate::Decided | Fate::Late) {
                    step.batch.features.copy_rows(row..row + 1, &mut values);
                    rows.row(transaction.id(), transaction.event_time(), &values)?;
                }
            }
        }
        Ok(())
    })?;
    if let Some(rows) = rows {
        rows.finish()?;
    }
    if arguments.json {
        print_json(&totals)?;
    } else {
        say(format_args!(
            "{} transactions in {:.2} s ({:.0}/s); {} duplicates, {} late, {} refused, {} labels; at most {} MiB of memory",
            totals.transactions,
            totals.seconds,
            totals.per_second,
            totals.duplicates,
            totals.late,
            totals.quarantined,
            totals.labels,
            totals.peak_memory_bytes >> 20
        ));
    }
    Ok(if totals.quarantined > 0 { Ended::SomeRefused } else { Ended::Done })
}

fn format(out: &Path) -> anyhow::Result<Option<RowFormat>> {
    if out.as_os_str() == "none" {
        return Ok(None);
    }
    match out.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => Ok(Some(RowFormat::Parquet)),
        Some("csv") => Ok(Some(RowFormat::Csv)),
        Some("ndjson" | "jsonl") => Ok(Some(RowFormat::Ndjson)),
        _ => {
            let message = format!("--out {}: no known kind of file", out.display());
            let mistake =
                Mistake::in_file("command line", message).help("end it in .parquet, .csv or .ndjson, or say none");
            Err(Mistakes::from(mistake).into())
        }
    }
}

fn writer(out: &Path, format: RowFormat, set: &Arc<FeatureSet>) -> anyhow::Result<RowWriter<Box<dyn Write + Send>>> {
    let file: io::Result<File> = File::create(out);
    let file: Box<dyn Write + Send> =
        Box::new(BufWriter::with_capacity(1 << 18, file.with_context(|| out.display().to_string())?));
    let columns: Vec<(String, bool)> = set
        .names()
        .iter()
        .enumerate()
        .map(|(slot, name)| (name.clone(), set.kind(slot) == crate::features::FeatureKind::Integer))
        .collect();
    Ok(RowWriter::new(file, format, columns)?)
}
