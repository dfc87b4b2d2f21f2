//! `caddis demo`: fraud being caught, from simulated payments to signed webhooks, in one process

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hashbrown::{HashMap, HashSet};
use hdrhistogram::Histogram;

use super::desk::Desk;
use super::{Ended, Progress, print_json, say};
use crate::app::{self, Running, Setup, new_secret};
use crate::clock::Stopwatch;
use crate::config::{Config, DurabilityMode, Secret, SubscriberConfig};
use crate::pipeline::label::Label;
use crate::pipeline::ports::Records;
use crate::pipeline::processor::Intake;
use crate::pipeline::service::{Message, RecordReply};
use crate::policy::Verdict;
use crate::simulate::{Scenario, write};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Payments a second in the live part.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Days that are lived through quickly first, so that accounts have a past.
    #[arg(long, default_value_t = 28)]
    history_days: u32,
    /// Days that are live.
    #[arg(long, default_value_t = 7)]
    live_days: u32,
    #[arg(long, default_value_t = 2_000)]
    accounts: u32,
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Alerts shown as they come; the others are counted.
    #[arg(long, default_value_t = 25)]
    show: usize,
    /// Keep everything that was decided in this folder, to look at it with `caddis alerts --data`.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The summary as JSON, and nothing else on standard output.
    #[arg(long)]
    json: bool,
}

const DAY_MS: i64 = 86_400_000;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Ended> {
    anyhow::ensure!((1.0..=1_000_000.0).contains(&arguments.rate), "--rate is from 1 to 1000000");
    let stream = Stream::simulate(arguments)?;
    let folder = Folder::new(arguments.data.clone())?;
    let secret = new_secret().map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let (alerts, arrived) = mpsc::channel();
    let desk = Desk::open(&secret, alerts)?;
    let mut config = Config::parse("", "demo", &[])?;
    config.data = folder.path.clone();
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.durability.mode = DurabilityMode::Interval;
    config.subscribers.push(SubscriberConfig {
        name: "desk".into(),
        url: desk.url.clone(),
        secret: Secret::new(secret),
        verdicts: Vec::new(),
        min_score: 0.0,
        allow_private: true,
        table: String::new(),
    });
    let setup = Setup::load(config)?;
    let running = app::start(&setup, |_, _| {})?;
    let quiet = arguments.json;
    if !quiet {
        say(format_args!(
            "{} payments of {} accounts over {} days, {} of them fraud. Model {} {}, {} features, {} rules.",
            stream.lines.len(),
            arguments.accounts,
            arguments.history_days + arguments.live_days,
            stream.frauds.len(),
            setup.brain.model.as_ref().map_or("none", |model| model.name()),
            setup.brain.model.as_ref().map_or("", |model| model.version()),
            setup.brain.features.len(),
            setup.brain.policy.rules().len()
        ));
    }
    let live_from =
        stream.lines.partition_point(|line| line.time < stream.start + i64::from(arguments.history_days) * DAY_MS);
    let history = stream.lines.get(..live_from).unwrap_or_default();
    let live = stream.lines.get(live_from..).unwrap_or_default();
    anyhow::ensure!(!live.is_empty(), "no day is live: --live-days is 0");
    let mut labels = stream.labels.iter().peekable();

    let started = Stopwatch::start();
    let mut progress = Progress::start("payments of history", Some(history.len() as u64), false);
    for (index, block) in history.chunks(1_000).enumerate() {
        feed_labels(&running, &mut labels, block.first().map_or(0, |line| line.time))?;
        let mut records = Records::default();
        block.iter().for_each(|line| records.push(stream.line(line)));
        send(&running, records, None)?;
        progress.at(index as u64 * 1_000);
    }
    settle(&running)?;
    progress.finish();
    let history_seconds = started.seconds();
    // What history raised is stored; the desk is told of the live part only once those are counted out.
    let before = running.shared.status.transactions();
    if !quiet {
        say(format_args!(
            "{} payments of history decided in {history_seconds:.2} s ({:.0}/s). Now {} live ones at {:.0} a second:\n",
            history.len(),
            history.len() as f64 / history_seconds,
            live.len(),
            arguments.rate
        ));
    }
    let watch = Watch::new(live.iter().map(|line| line.id.as_str()), &stream.frauds, arguments.show, quiet);
    let shown = std::thread::Builder::new().name("caddis-desk".into()).spawn(move || watch.run(&arrived))?;
    let tally = pace(&running, &stream, live, &mut labels, arguments.rate)?;
    settle(&running)?;
    desk.settle(&running.outbox)?;
    let decided = running.shared.status.transactions() - before;
    running.stop()?;
    drop(desk);
    let watched = shown.join().map_err(|_| anyhow::anyhow!("the watching thread panicked"))?;
    let days = f64::from(arguments.live_days.max(1));
    Summary::new(&stream, live, &tally, &watched, decided, days, history_seconds, history.len()).tell(quiet)?;
    Ok(Ended::Done)
}

/// The simulated payments and what is known of them later.
struct Stream {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    labels: Vec<(i64, String)>,
    /// Fraudulent transactions and their kind.
    frauds: HashMap<String, String, foldhash::fast::FixedState>,
    start: i64,
}

struct Line {
    start: usize,
    end: usize,
    time: i64,
    id: String,
}

#[derive(serde::Deserialize)]
struct Head {
    transaction_id: String,
    event_time: i64,
}

impl Stream {
    fn simulate(arguments: &Arguments) -> anyhow::Result<Self> {
        let scenario = Scenario {
            seed: arguments.seed,
            accounts: arguments.accounts,
            terminals: arguments.accounts.saturating_mul(2),
            days: arguments.history_days + arguments.live_days,
            ..Scenario::default()
        };
        scenario.check().map_err(anyhow::Error::msg)?;
        let (mut bytes, mut labels) = (Vec::new(), Vec::new());
        write(&scenario, &mut bytes, Some(&mut labels), |_| true)?;
        let mut lines = Vec::new();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &bytes) {
            let head: Head = serde_json::from_slice(bytes.get(start..end).unwrap_or_default())?;
            lines.push(Line { start, end, time: head.event_time, id: head.transaction_id });
            start = end + 1;
        }
        let mut stream = Self { bytes, lines, labels: Vec::new(), frauds: HashMap::default(), start: scenario.start };
        for line in String::from_utf8(labels)?.lines() {
            let label = Label::parse(line.as_bytes())?;
            stream.labels.push((label.label_time.unwrap_or_default(), line.to_owned()));
            stream.frauds.insert(label.transaction_id, label.typology.unwrap_or_default());
        }
        Ok(stream)
    }

    fn line(&self, line: &Line) -> &[u8] {
        self.bytes.get(line.start..line.end).unwrap_or_default()
    }
}

/// Where the demo keeps its data: a folder of the user's, or one that goes with it.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(given: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(path) = given {
            anyhow::ensure!(!path.join("journal").exists(), "{}: there is a journal already", path.display());
            return Ok(Self { path, temporary: false });
        }
        let path = std::env::temp_dir().join(format!("caddis-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, temporary: true })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is the system's temporary folder's to clear.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn send(running: &Running, records: Records, reply: Option<crate::pipeline::service::ReplyTo>) -> anyhow::Result<()> {
    let message = Message::Records { intake: Intake { records, keep: true }, assign: true, reply };
    running.inbox().send(message).map_err(|_| anyhow::anyhow!("the engine stopped"))
}

type Labels<'a> = std::iter::Peekable<std::slice::Iter<'a, (i64, String)>>;

/// Labels that were known by `now`.
fn feed_labels(running: &Running, labels: &mut Labels<'_>, now: i64) -> anyhow::Result<()> {
    let mut records = Records { partition: 1, ..Records::default() };
    while let Some((_, label)) = labels.next_if(|(time, _)| *time <= now) {
        records.push(label.as_bytes());
    }
    if records.is_empty() {
        return Ok(());
    }
    running.inbox().send(Message::Labels { records, reply: None }).map_err(|_| anyhow::anyhow!("the engine stopped"))
}

/// Waits until everything sent before is decided.
fn settle(running: &Running) -> anyhow::Result<()> {
    let (done, waited) = mpsc::sync_channel(1);
    let question = Box::new(move |_: &crate::engine::Engine| {
        let _ = done.send(());
    });
    running.inbox().send(Message::Ask(question)).map_err(|_| anyhow::anyhow!("the engine stopped"))?;
    waited.recv().context("the engine stopped")
}

/// What the live part came to.
#[derive(Default)]
struct Tally {
    /// Nanoseconds from the intended moment to the decision.
    latencies: Option<Histogram<u64>>,
    /// Transactions that were not allowed.
    flagged: HashSet<String, foldhash::fast::FixedState>,
    seconds: f64,
}

/// Sends live payments one by one, each at its own moment.
fn pace(
    running: &Running,
    stream: &Stream,
    live: &[Line],
    labels: &mut Labels<'_>,
    rate: f64,
) -> anyhow::Result<Tally> {
    let histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3)?;
    let tally = Arc::new(Mutex::new(Tally { latencies: Some(histogram), ..Tally::default() }));
    let answered = Arc::new(AtomicU64::new(0));
    let started = Stopwatch::start();
    for (index, line) in live.iter().enumerate() {
        if labels.peek().is_some_and(|(time, _)| *time <= line.time) {
            feed_labels(running, labels, line.time)?;
        }
        let intended = Duration::from_secs_f64(index as f64 / rate);
        if let Some(wait) = intended.checked_sub(started.elapsed()) {
            std::thread::sleep(wait);
        }
        let mut records = Records::default();
        records.push(stream.line(line));
        let (tally, answered) = (Arc::clone(&tally), Arc::clone(&answered));
        let reply = move |replies: Vec<RecordReply>| {
            let latency = started.elapsed().saturating_sub(intended);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(latencies) = &mut tally.latencies {
                latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
            }
            for reply in replies {
                if let RecordReply::Decided(answer) = reply
                    && answer.recent.decision.verdict != Verdict::Allow
                {
                    tally.flagged.insert(answer.transaction_id);
                }
            }
            answered.fetch_add(1, Ordering::Release);
        };
        send(running, records, Some(Box::new(reply)))?;
    }
    while answered.load(Ordering::Acquire) < live.len() as u64 {
        anyhow::ensure!(!running.failed(), "a part of Caddis failed");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    tally.seconds = started.seconds();
    Ok(tally)
}

/// Shows alerts as the desk receives them.
struct Watch {
    live: HashSet<String, foldhash::fast::FixedState>,
    frauds: HashMap<String, String, foldhash::fast::FixedState>,
    show: usize,
    quiet: bool,
}

#[derive(Default)]
struct Watched {
    /// Alerts of the live part that came with a true signature, each counted once.
    delivered: usize,
    repeated: usize,
}

impl Watch {
    fn new<'a>(
        live: impl Iterator<Item = &'a str>,
        frauds: &HashMap<String, String, foldhash::fast::FixedState>,
        show: usize,
        quiet: bool,
    ) -> Self {
        Self { live: live.map(str::to_owned).collect(), frauds: frauds.clone(), show, quiet }
    }

    fn run(&self, arrived: &mpsc::Receiver<serde_json::Value>) -> Watched {
        let mut watched = Watched::default();
        let mut seen: HashSet<String, foldhash::fast::FixedState> = HashSet::default();
        while let Ok(body) = arrived.recv() {
            let text = |pointer: &str| body.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
            let id = text("/data/transaction_id");
            if !self.live.contains(id) {
                continue;
            }
            if !seen.insert(text("/data/alert_id").to_owned()) {
                watched.repeated += 1;
                continue;
            }
            watched.delivered += 1;
            if !self.quiet && watched.delivered <= self.show {
                let truth = self.frauds.get(id).map_or("false alarm".to_owned(), |kind| format!("fraud: {kind}"));
                say(format_args!("{}  {}\n    ({truth})", text("/data/event_time"), text("/data/summary")));
            }
            if !self.quiet && watched.delivered == self.show + 1 {
                say("(more alerts come; they are counted)");
            }
        }
        watched
    }
}

/// The end of the demo.
#[derive(serde::Serialize)]
struct Summary {
    live_payments: usize,
    decided: u64,
    frauds: usize,
    frauds_caught: usize,
    recall: f64,
    precision: f64,
    alerts: usize,
    alerts_delivered_signed: usize,
    alerts_delivered_again: usize,
    false_alarms_a_day: f64,
    caught_by_typology: std::collections::BTreeMap<String, (usize, usize)>,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    latency_ms_p99_9: f64,
    latency_ms_max: f64,
    live_per_second: f64,
    history_per_second: f64,
}

impl Summary {
    #[expect(clippy::too_many_arguments, reason = "all that the demo found, put together once")]
    fn new(
        stream: &Stream,
        live: &[Line],
        tally: &Tally,
        watched: &Watched,
        decided: u64,
        days: f64,
        history_seconds: f64,
        history: usize,
    ) -> Self {
        let mut by: std::collections::BTreeMap<String, (usize, usize)> = std::collections::BTreeMap::new();
        let (mut frauds, mut caught) = (0, 0);
        for (line, kind) in live.iter().filter_map(|line| Some((line, stream.frauds.get(&line.id)?))) {
            let found = tally.flagged.contains(&line.id);
            frauds += 1;
            caught += usize::from(found);
            let entry = by.entry(kind.clone()).or_default();
            entry.0 += usize::from(found);
            entry.1 += 1;
        }
        let alerts = tally.flagged.len();
        let quantile = |quantile| tally.latencies.as_ref().map_or(0.0, |l| l.value_at_quantile(quantile) as f64 / 1e6);
        Self {
            live_payments: live.len(),
            decided,
            frauds,
            frauds_caught: caught,
            recall: caught as f64 / frauds.max(1) as f64,
            precision: caught as f64 / alerts.max(1) as f64,
            alerts,
            alerts_delivered_signed: watched.delivered,
            alerts_delivered_again: watched.repeated,
            false_alarms_a_day: (alerts - caught) as f64 / days,
            caught_by_typology: by,
            latency_ms_p50: quantile(0.5),
            latency_ms_p99: quantile(0.99),
            latency_ms_p99_9: quantile(0.999),
            latency_ms_max: quantile(1.0),
            live_per_second: live.len() as f64 / tally.seconds.max(1e-9),
            history_per_second: history as f64 / history_seconds.max(1e-9),
        }
    }

    fn tell(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print_json(self);
        }
        say(format_args!(
            "\n{} of {} frauds caught ({:.0} %), {:.1} false alarms a day; {:.0} % of the alerts were fraud",
            self.frauds_caught,
            self.frauds,
            self.recall * 100.0,
            self.false_alarms_a_day,
            self.precision * 100.0
        ));
        for (kind, (caught, all)) in &self.caught_by_typology {
            say(format_args!("  {kind:22} {caught:>4} of {all}"));
        }
        say(format_args!(
            "{} alerts delivered with a signature that the subscriber checked",
            self.alerts_delivered_signed
        ));
        say(format_args!(
            "decision latency at {:.0}/s: p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {:.3} ms (from the intended moment; answered before the flush)",
            self.live_per_second, self.latency_ms_p50, self.latency_ms_p99, self.latency_ms_p99_9, self.latency_ms_max
        ));
        say(format_args!("throughput on history: {:.0} payments a second", self.history_per_second));
        Ok(())
    }
}
