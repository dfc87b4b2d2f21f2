//! A recorded stream through the engine: what `features`, `train` and `drift` have in common.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::Progress;
use crate::app::{self, csv_reader};
use crate::config::{Config, RecordFormat, separator};
use crate::engine::{AdmissionSettings, Brain, Decision, Engine, EngineSettings, Fate};
use crate::features::FeatureSet;
use crate::mistake::{Mistake, Mistakes};
use crate::models::Model;
use crate::pipeline::label::Label;
use crate::pipeline::ports::{NoLog, Records};
use crate::pipeline::processor::{Intake, Outcome, Processor, Step};
use crate::policy::{Policy, Thresholds};
use crate::sources::decode::{JsonDecoder, Mapping, Rates};
use crate::sources::file::LineSource;
use crate::transaction::{Currency, EventTime, Refusal, Schema, TransactionRef};

/// What is read, and how.
#[derive(Debug, Args)]
pub(super) struct StreamArguments {
    /// The feature set; by default the configuration's, models/features.toml if it is there, or the shipped one.
    #[arg(long = "set", value_name = "FILE")]
    set: Option<PathBuf>,
    /// A configuration of `caddis run`, for its fields, mapping, rates, feature set and order of the stream.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mapping", "base_currency"])]
    config: Option<PathBuf>,
    /// Where a transaction's fields are in the records; without it Caddis's own names.
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// The recorded stream, NDJSON, or CSV with a header; `-` is standard input.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// How it is written; by default what its name says (.csv and .tsv are CSV).
    #[arg(long, value_parser = ["ndjson", "csv"])]
    format: Option<String>,
    /// What stands between the columns of CSV: `,`, `;`, `|` or `tab`.
    #[arg(long, value_parser = |text: &str| separator(text))]
    separator: Option<u8>,
    /// Labels, NDJSON in the order of their `label_time`; each takes effect when the stream has come so far.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// The currency that amounts are converted to: EUR where this does not say.
    #[arg(long, value_name = "CODE")]
    base_currency: Option<String>,
    /// Threads to decide with.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// The rows of a stream once its windows had time to fill: what models are trained on and compared over.
pub(super) struct WarmRows {
    /// Milliseconds.
    warm_up: i64,
    first: Option<EventTime>,
    values: Vec<f64>,
}

impl WarmRows {
    pub fn after(warm_up_days: u32) -> Self {
        Self { warm_up: i64::from(warm_up_days) * 86_400_000, first: None, values: Vec::new() }
    }

    /// Tells `each` of the decided transactions of a batch, their features and decisions: not of late ones and
    /// duplicates.
    pub fn each(&mut self, step: &Step<'_>, mut each: impl FnMut(TransactionRef<'_>, &mut Vec<f64>, &Decision)) {
        let mut decisions = step.batch.decisions.iter().enumerate();
        for piece in &step.batch.pieces {
            for (transaction, (row, decision)) in piece.transactions.iter().zip(decisions.by_ref()) {
                let time = transaction.event_time();
                let begin = *self.first.get_or_insert(time) + self.warm_up;
                if decision.fate == Fate::Decided && time >= begin {
                    step.batch.features.copy_rows(row..row + 1, &mut self.values);
                    each(transaction, &mut self.values, decision);
                }
            }
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(super) struct Totals {
    pub transactions: u64,
    pub duplicates: u64,
    pub late: u64,
    pub quarantined: u64,
    pub labels: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub peak_memory_bytes: u64,
}

/// What records are read by, and what is worked out for them.
pub(super) struct Reading {
    pub set: Arc<FeatureSet>,
    /// Scores them, where there is one: of this set's fingerprint.
    pub model: Option<Arc<Model>>,
    schema: Arc<Schema>,
    mapping: Arc<Mapping>,
    admission: AdmissionSettings,
}

impl StreamArguments {
    /// Reads the files that say how the stream is to be read, and makes sure that the others are there.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn reading(&self) -> anyhow::Result<Reading> {
        let mut mistakes = Vec::new();
        for (flag, path) in [("--in", Some(&self.input)), ("--labels", self.labels.as_ref())] {
            let path = path.filter(|path| path.as_os_str() != "-");
            if let Some(error) = path.and_then(|path| File::open(path).err()) {
                let message = format!("{flag} {}: {error}", path.map_or("".into(), |path| path.display().to_string()));
                mistakes.push(Mistake::in_file("command line", message));
            }
        }
        if let Err(wrong) = self.record_format() {
            mistakes.push(wrong);
        }
        let config = match &self.config {
            // Secrets are of no use here, so none need be there.
            Some(path) => match Config::load_draft(Some(path)) {
                Ok(draft) => {
                    mistakes.extend(draft.mistakes);
                    Some(draft.config)
                }
                Err(wrong) => {
                    mistakes.extend(wrong.0);
                    return Err(Mistakes(mistakes).into());
                }
            },
            None => None,
        };
        let schema = Arc::new(config.as_ref().map_or_else(Schema::default, |config| config.schema.clone()));
        let mapping = match &config {
            Some(config) => app::mapping(config, &schema, &mut mistakes),
            None => self.mapping(&schema).map_err(|wrong| mistakes.extend(wrong.0)).ok(),
        };
        let mut elsewhere = Vec::new();
        let set = self.feature_set(config.as_ref(), &schema, &mut mistakes, &mut elsewhere);
        let (Some(mapping), Some(set), true) = (mapping, set, mistakes.is_empty()) else {
            mistakes.append(&mut elsewhere);
            return Err(Mistakes(mistakes).into());
        };
        let admission = config.as_ref().map_or_else(AdmissionSettings::default, app::admission);
        Ok(Reading { set: Arc::new(set), model: None, schema, mapping: Arc::new(mapping), admission })
    }

    fn feature_set(
        &self,
        config: Option<&Config>,
        schema: &Schema,
        mistakes: &mut Vec<Mistake>,
        elsewhere: &mut Vec<Mistake>,
    ) -> Option<FeatureSet> {
        let here = Path::new("models/features.toml");
        let path = match (&self.set, config) {
            (Some(path), _) => path,
            (None, Some(config)) => return app::features(config, schema, mistakes, elsewhere),
            (None, None) if here.exists() => here,
            (None, None) => {
                let shipped = Config::parse("", "defaults", &[]).ok()?;
                return app::features(&shipped, schema, mistakes, elsewhere);
            }
        };
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| mistakes.push(Mistake::in_file("command line", format!("--set {file}: {error}"))))
            .ok()?;
        FeatureSet::parse(&text, &file, schema).map_err(|wrong| elsewhere.extend(wrong.0)).ok()
    }

    /// Runs the stream through the engine; `each` is told of every batch, with the refusals of its records.
    pub fn run(
        &self,
        reading: &Reading,
        mut each: impl FnMut(&Step<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Totals> {
        let Reading { set, model, schema, mapping, admission } = reading;
        let decoder = JsonDecoder::new(Arc::clone(mapping));
        let brain = Brain {
            features: Arc::clone(set),
            model: model.clone(),
            policy: Arc::new(Policy::none()),
            thresholds: Thresholds::default(),
        };
        // Recorded runs need no secret key: their state is gone at the end.
        let settings =
            EngineSettings { threads: self.threads.clamp(1, 64), admission: *admission, key: *b"a recorded run's" };
        let mut processor =
            Processor::new(Engine::new(brain, settings), &decoder, Arc::clone(schema), Box::new(NoLog::default()), 0);
        let mut labels = Labels::open(self.labels.as_deref())?;
        let (reader, length) = open(&self.input)?;
        let csv = csv_reader(self.record_format().map_err(Mistakes::from)?, mapping);
        let mut source = LineSource::new(self.input.display().to_string(), reader, 0, false).read_by(csv);
        let mut progress = Progress::start(if length.is_some() { "bytes" } else { "records" }, length, false);
        let mut totals = Totals::default();
        let mut intake = Intake { records: Records::default(), keep: false };
        let mut records = 0;
        while source.next_records(&mut intake.records).with_context(|| self.input.display().to_string())? {
            let mut from = 0;
            while from < intake.records.len() {
                let (decided, now) = processor.decide_until(&intake, from, labels.due(), EventTime::MAX);
                let step = processor.step(0);
                each(&step)?;
                for (record, outcome) in (records + from as u64 + 1..).zip(step.outcomes) {
                    if let Outcome::Refused(refusal) = outcome {
                        totals.quarantined += 1;
                        tell(record, totals.quarantined, refusal);
                    }
                }
                from += decided;
                if let Some(now) = now {
                    totals.labels += labels.until(now, &mut processor)?;
                }
            }
            records += intake.records.len() as u64;
            progress.at(if length.is_some() { intake.records.cursor } else { records });
        }
        progress.finish();
        let counts = processor.engine().counts();
        totals.transactions = counts.admitted + counts.late;
        totals.duplicates = counts.duplicates;
        totals.late = counts.late;
        totals.seconds = progress.seconds();
        totals.per_second = totals.transactions as f64 / totals.seconds.max(1e-9);
        totals.peak_memory_bytes = peak_memory();
        Ok(totals)
    }

    fn record_format(&self) -> Result<RecordFormat, Mistake> {
        let by_name = RecordFormat::of(&self.input);
        let csv = self.format.as_deref().map_or(by_name != RecordFormat::Ndjson, |format| format == "csv");
        match (csv, self.separator) {
            (true, separator) => Ok(by_name.as_csv(separator)),
            (false, None) => Ok(RecordFormat::Ndjson),
            (false, Some(_)) => {
                Err(Mistake::in_file("command line", "--separator is for CSV").help("add --format csv"))
            }
        }
    }

    fn mapping(&self, schema: &Arc<Schema>) -> Result<Mapping, Mistakes> {
        let code = self.base_currency.as_deref().unwrap_or("EUR");
        let base = Currency::parse(code).ok_or_else(|| {
            Mistake::in_file("command line", format!("--base-currency {code}: no ISO 4217 currency code"))
        })?;
        let rates = Rates::new(base);
        let Some(path) = &self.mapping else { return Ok(Mapping::own(Arc::clone(schema), rates)) };
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Mistake::in_file("command line", format!("--mapping {file}: {error}")))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            Mistakes::from(Mistake::at(&file, &text, at, error.message().to_owned()))
        })?;
        Mapping::from_table(&table, schema, rates).map_err(|wrong| {
            let mut mistakes: Vec<Mistake> = wrong
                .into_iter()
                .map(|(key, message)| Mistake::at(&file, &text, key_at(&text, &key), message))
                .collect();
            mistakes.sort();
            Mistakes(mistakes)
        })
    }
}

/// Where a key of a table without sections stands; its start for none.
fn key_at(text: &str, key: &str) -> usize {
    let begins = |line: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'']);
        line.strip_prefix(key)
            .is_some_and(|rest| !key.is_empty() && rest.trim_start().starts_with(['=', '.', '"', '\'']))
    };
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if begins(line) {
            return at + line.len() - line.trim_start().len();
        }
        at += line.len();
    }
    0
}

/// The first refusals are shown, the others counted. Records count from 1.
#[expect(clippy::print_stderr, reason = "refusals belong on standard error")]
fn tell(record: u64, count: u64, refusal: &Refusal) {
    if count <= 10 {
        eprintln!("record {record} is refused: {refusal}");
    } else if count == 11 {
        eprintln!("more records are refused; they are counted");
    }
}

fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let length = file.metadata().map(|metadata| metadata.len()).ok();
    Ok((Box::new(file), length))
}

/// Labels that take effect before the first record whose event time is at or after theirs: never earlier than
/// they were known, and at the same record however the stream is cut into blocks.
struct Labels {
    lines: Option<io::Lines<BufReader<File>>>,
    next: Option<Label>,
    /// The newest event time that made labels due. Records between were older than the label that waited.
    newest: EventTime,
    path: PathBuf,
}

impl Labels {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let lines = path.map(|path| File::open(path).with_context(|| path.display().to_string())).transpose()?;
        let lines = lines.map(|file| BufReader::new(file).lines());
        let mut labels =
            Self { lines, next: None, newest: EventTime::MIN, path: path.unwrap_or(Path::new("")).to_owned() };
        labels.advance()?;
        Ok(labels)
    }

    fn advance(&mut self) -> anyhow::Result<()> {
        self.next = None;
        while let Some(line) = self.lines.as_mut().and_then(Iterator::next) {
            let line = line.with_context(|| self.path.display().to_string())?;
            if !line.trim().is_empty() {
                let label = Label::parse(line.as_bytes())
                    .map_err(|refusal| anyhow::anyhow!("{}: {refusal}", self.path.display()))?;
                anyhow::ensure!(
                    label.label_time.is_some(),
                    "{}: label of {} has no label_time",
                    self.path.display(),
                    label.transaction_id
                );
                self.next = Some(label);
                break;
            }
        }
        Ok(())
    }

    /// When the next one takes effect: before the first record that is as new.
    fn due(&self) -> EventTime {
        self.next.as_ref().and_then(|label| label.label_time).unwrap_or(EventTime::MAX)
    }

    fn until(&mut self, now: EventTime, processor: &mut Processor) -> anyhow::Result<u64> {
        self.newest = self.newest.max(now);
        let mut due = Vec::new();
        while let Some(label) = self.next.take_if(|label| label.label_time <= Some(self.newest)) {
            due.push(label);
            self.advance()?;
        }
        processor.apply_labels(&due);
        Ok(due.len() as u64)
    }
}

/// The most memory this process ever held, where the system tells.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or_default() * 1_024
}
