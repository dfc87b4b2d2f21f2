//! Source threads, and reading files again at recovery.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::config::{RecordFormat, SourceConfig, SourceKind};
use crate::pipeline::ports::{Polled, Records, Source};
use crate::pipeline::processor::Intake;
use crate::pipeline::recovery::{Recovered, Reread};
use crate::pipeline::service::{Inbox, Message};
use crate::sources::decode::{CsvReader, Mapping};
use crate::sources::file::LineSource;
use crate::transaction::Position;

/// A configured source, ready to be read.
pub enum Opened {
    File(LineSource<File>),
    StandardInput(LineSource<std::io::Stdin>),
}

/// Opens every source where the journal left it.
pub fn open(
    sources: &[SourceConfig],
    partitions: &BTreeMap<String, u32>,
    recovered: &Recovered,
    mapping: &Arc<Mapping>,
) -> anyhow::Result<Vec<(String, Opened)>> {
    let mut opened = Vec::new();
    for source in sources {
        let partition = partitions.get(&source.name).copied().unwrap_or_default();
        let (next, cursor) = recovered.resume(partition);
        let csv = csv_reader(source.format, mapping);
        let ready = match &source.from {
            SourceKind::File { path, follow } => {
                let lines = LineSource::open(path, partition).with_context(|| format!("source `{}`", source.name))?;
                let mut lines = lines.read_by(csv);
                if *follow {
                    lines = lines.following();
                }
                if next.offset > 0 {
                    lines.seek(next, cursor).with_context(|| format!("source `{}`", source.name))?;
                } else {
                    // A header that will not do is told before anything starts.
                    lines.read_header().with_context(|| format!("source `{}`", source.name))?;
                }
                Opened::File(lines)
            }
            SourceKind::StandardInput => Opened::StandardInput(LineSource::stdin(partition).read_by(csv)),
        };
        opened.push((source.name.clone(), ready));
    }
    Ok(opened)
}

/// What reads records of a format that are no lines of JSON.
pub fn csv_reader(format: RecordFormat, mapping: &Arc<Mapping>) -> Option<CsvReader> {
    match format {
        RecordFormat::Ndjson => None,
        RecordFormat::Csv { separator } => Some(CsvReader::new(Arc::clone(mapping), separator)),
    }
}

/// Reads a source to its end, or until told to stop, and counts `running` down.
pub fn feed(name: &str, source: Opened, inbox: &Inbox, stop: &AtomicBool, running: &AtomicUsize) {
    let ended = match source {
        Opened::File(mut source) => feed_file(&mut source, inbox, stop),
        Opened::StandardInput(source) => feed_stdin(source, inbox, stop),
    };
    match ended {
        Ok(records) => tracing::info!(source = name, records, "read"),
        Err(error) => tracing::error!(source = name, %error, "cannot be read on"),
    }
    running.fetch_sub(1, Ordering::AcqRel);
}

fn feed_file(source: &mut LineSource<File>, inbox: &Inbox, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut read = 0;
    let mut records = Records::default();
    while !stop.load(Ordering::Acquire) {
        match source.poll(&mut records)? {
            Polled::End => break,
            Polled::Idle => std::thread::sleep(Duration::from_millis(20)),
            Polled::Records => {
                read += records.len() as u64;
                let intake = Intake { records: std::mem::take(&mut records), keep: false };
                // A full inbox makes this wait: that is how a source is paused.
                if inbox.send(Message::Records { intake, assign: false, reply: None }).is_err() {
                    break;
                }
            }
        }
    }
    Ok(read)
}

/// Standard input cannot be read again: its records are kept in the journal, under offsets given there.
fn feed_stdin(mut source: LineSource<std::io::Stdin>, inbox: &Inbox, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut read = 0;
    let mut records = Records::default();
    while !stop.load(Ordering::Acquire) && source.next_records(&mut records)? {
        read += records.len() as u64;
        let intake = Intake { records: std::mem::take(&mut records), keep: true };
        if inbox.send(Message::Records { intake, assign: true, reply: None }).is_err() {
            break;
        }
    }
    Ok(read)
}

/// Reads records of files again that the journal does not keep.
pub struct RereadFiles {
    files: BTreeMap<u32, (PathBuf, RecordFormat, Option<Reading>)>,
    mapping: Arc<Mapping>,
}

struct Reading {
    source: LineSource<File>,
    block: Records,
    /// Records of the block that were given already.
    given: usize,
}

impl RereadFiles {
    pub fn new(sources: &[SourceConfig], partitions: &BTreeMap<String, u32>, mapping: &Arc<Mapping>) -> Self {
        let files = sources.iter().filter_map(|source| match &source.from {
            SourceKind::File { path, .. } => {
                Some((*partitions.get(&source.name)?, (path.clone(), source.format, None)))
            }
            SourceKind::StandardInput => None,
        });
        Self { files: files.collect(), mapping: Arc::clone(mapping) }
    }
}

impl Reread for RereadFiles {
    fn reread(&mut self, partition: u32, offset: u64, count: u64) -> Result<Records, String> {
        let (path, format, reading) = self
            .files
            .get_mut(&partition)
            .ok_or("its source is not configured any more: put it back, or move the data folder aside")?;
        let shown = path.display().to_string();
        if reading.is_none() {
            let source = LineSource::open(path, partition).map_err(|error| format!("{shown}: {error}"))?;
            let source = source.read_by(csv_reader(*format, &self.mapping));
            *reading = Some(Reading { source, block: Records::default(), given: 0 });
        }
        let Some(reading) = reading else { return Err(shown) };
        let mut records = Records { partition, first_offset: offset, ..Records::default() };
        while (records.len() as u64) < count {
            if reading.given >= reading.block.len() {
                reading.given = 0;
                if !reading.source.next_records(&mut reading.block).map_err(|error| format!("{shown}: {error}"))? {
                    return Err(format!("{shown} ends before it: it was truncated or replaced"));
                }
            }
            let here = reading.block.first_offset + reading.given as u64;
            if here >= offset {
                match reading.block.records.get(reading.given) {
                    Some(Err(refusal)) => records.records.push(Err(refusal.clone())),
                    _ => records.push(reading.block.record(reading.given)),
                }
            }
            reading.given += 1;
        }
        Ok(records)
    }
}

/// Where partitions go on whose offsets the engine gives.
pub fn next_offsets(recovered: &Recovered) -> hashbrown::HashMap<u32, u64, foldhash::fast::FixedState> {
    recovered.resume.keys().map(|partition| (*partition, position_of(recovered, *partition).offset)).collect()
}

fn position_of(recovered: &Recovered, partition: u32) -> Position {
    recovered.resume(partition).0
}

/// What the source threads share with the rest.
#[derive(Clone, Default)]
pub struct Switch {
    pub stop: Arc<AtomicBool>,
    pub running: Arc<AtomicUsize>,
}
