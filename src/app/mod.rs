//! The composition root: opens what is on disk, brings state back, starts the threads and the HTTP server,
//! and stops them in an order that loses nothing.

mod backend;
mod data;
mod explain;
mod projector;
mod setup;
mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{broadcast, watch};

pub use backend::new_secret;
pub use explain::{Explainer, rfc3339};
pub use setup::{Setup, Shipped, admission, decided_by, features, mapping, named_model, thresholds};
pub use sources::csv_reader;

use crate::alerts::{Deliverer, Outbox};
use crate::api::{self, Keys, Limits, RequestTimes};
use crate::clock;
use crate::config::DurabilityMode;
use crate::engine::{Decision, Engine};
use crate::features::KeyedHasher;
use crate::pipeline::entry;
use crate::pipeline::ports::{Log, NoLog};
use crate::pipeline::processor::Processor;
use crate::pipeline::recent::RecentDecisions;
use crate::pipeline::recovery::{Recovered, Recovery, RecoveryError, Resume};
use crate::pipeline::service::{Durability, Flusher, Inbox, Loop, Message, Shared};
use crate::pipeline::snapshots::{self, Ends, Identity, Saver, Snapshots as TakeSnapshots};
use crate::pipeline::status::Status;
use crate::sources::decode::JsonDecoder;
use crate::store::journal::{self, Journal, JournalError, JournalLimits};
use crate::store::quarantine::{self, QuarantineFile};
use crate::store::snapshot::Snapshots;
use projector::{Projector, ToProjector};
use sources::{RereadFiles, Switch};

/// The service, running.
pub struct Running {
    /// Where HTTP is answered.
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    pub outbox: Arc<Outbox>,
    pub explainer: Arc<Explainer>,
    pub live: broadcast::Sender<api::types::StreamedAlert>,
    inbox: Inbox,
    switch: Switch,
    stopping: watch::Sender<bool>,
    engine: JoinHandle<Processor>,
    flusher: JoinHandle<std::io::Result<()>>,
    projector: JoinHandle<()>,
    sources: Vec<JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    deliveries: tokio::task::JoinHandle<()>,
}

/// Why a service stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Asked,
    SourcesEnded,
    Failed,
}

/// Messages that wait for the engine, at most; senders beyond are told to come again.
const INBOX: usize = 1_024;
/// Batches that wait for the disk, at most.
const COMMITTED: usize = 64;
const LIVE_ALERTS: usize = 1_024;
/// Slices of a snapshot that wait for the disk, at most.
const SLICES: usize = 8;

/// Starts everything. `progress` is told of journal entries read and to read while state is brought back.
///
/// # Errors
/// The data folder, the address, a source or the model cannot be used; the message says which and why.
#[expect(clippy::too_many_lines, reason = "a list of what is put together, in order")]
pub fn start(setup: &Setup, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<Running> {
    let config = &setup.config;
    let folder = &config.data;
    std::fs::create_dir_all(folder).with_context(|| format!("data folder {}", folder.display()))?;
    let limits = JournalLimits { max_bytes: config.durability.max_journal, ..JournalLimits::default() };
    let journal = Journal::open(folder, limits)?;
    let key = data::key(folder)?;
    let decided_by = decided_by(&setup.brain);
    let brains = data::brains(folder, decided_by, &setup.brain)?;
    let partitions = data::partitions(folder, config.sources.iter().map(|source| source.name.as_str()))?;
    let outbox = Arc::new(open_outbox(folder)?);
    for (name, waiting) in outbox.configure(&setup.subscribers)? {
        tracing::warn!(subscriber = name, waiting, "removed: the configuration has it no more");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("caddis-http")
        .enable_all()
        .build()
        .context("the async runtime")?;
    let deliverer = Arc::new(Deliverer::new(Arc::clone(&outbox), clock::now_ms).context("the webhook client")?);
    let (live, _) = broadcast::channel(LIVE_ALERTS);
    let explainer = Explainer {
        brain: setup.brain.clone(),
        decided_by,
        brains: Arc::new(brains),
        base: config.base_currency,
        reasons: config.alerts.reasons,
    };
    let switch = Switch::default();
    let outbox_trouble: Arc<Mutex<Option<String>>> = Arc::default();
    let projector = Projector {
        outbox: Arc::clone(&outbox),
        explainer: explainer.clone(),
        deliverer: Arc::clone(&deliverer),
        live: live.clone(),
        trouble: Arc::clone(&outbox_trouble),
        most: (config.alerts.max_waiting, config.alerts.max_dead),
        stop: Arc::clone(&switch.stop),
    };
    let hasher = KeyedHasher::new(key);
    let decoder = JsonDecoder::new(Arc::clone(&setup.mapping));
    let reread = RereadFiles::new(&config.sources, &partitions, &setup.mapping);
    let quarantine = QuarantineFile::open(&folder.join(quarantine::FOLDER), config.quarantine.max_bytes);
    let shared = Shared {
        recent: RecentDecisions::new(config.engine.recent_decisions),
        quarantine: Mutex::new(Box::new(quarantine.context("the quarantine")?)),
        status: Status::default(),
    };
    let snapshots = Snapshots::open(folder, config.snapshots.keep).context("the snapshots")?;
    let identity = identity(setup, key);
    let fresh = || {
        let engine = Engine::new(setup.brain.clone(), setup.engine_settings(key));
        Processor::new(engine, &decoder, Arc::clone(&setup.schema), Box::new(NoLog::default()), decided_by)
    };
    let loaded = load_snapshot(&snapshots, &identity, &fresh, &shared, &journal, outbox.cursor()?)?;
    let (mut processor, from) = loaded.map_or_else(|| (fresh(), None), |(processor, from)| (processor, Some(from)));
    let recovered = recover(&mut processor, from, &journal, &projector, reread, &shared, &mut progress)?;
    let (bytes_of, entries) = (folder.join(journal::FOLDER), journal.next_sequence());
    processor.commit_to(Box::new(journal));
    // What recovery counted was counted before the restart.
    let shared = Arc::new(Shared { status: Status::default(), ..shared });
    shared.status.journalled(entries);

    let opened = sources::open(&config.sources, &partitions, &recovered, &setup.mapping)?;
    let bound = api::bind(config.http.listen).with_context(|| format!("listening on {}", config.http.listen))?;
    let address = bound.address;
    let durability = match config.durability.mode {
        DurabilityMode::Flush => Durability::Flush,
        DurabilityMode::Interval => Durability::Interval(config.durability.interval),
        DurabilityMode::Os => Durability::Os,
    };
    let (sender, to_engine) = sync_channel(INBOX);
    let inbox = Inbox::new(sender, Arc::clone(&shared));
    let (committed, to_flusher) = sync_channel(COMMITTED);
    let (to_saver, to_save) = sync_channel(SLICES);
    let (alerts, to_projector) = sync_channel(COMMITTED);
    let engine = Loop {
        processor,
        inbox: to_engine,
        committed,
        shared: Arc::clone(&shared),
        durability,
        max_batch: config.engine.max_batch,
        next_offsets: sources::next_offsets(&recovered),
        now_ms: clock::now_ms,
        wait: waiting_unless(Arc::clone(&switch.stop)),
        snapshots: (config.snapshots.every > 0)
            .then(|| TakeSnapshots::new(to_saver, identity, config.snapshots.every, recovered.resume.clone())),
    };
    let saver = Saver { jobs: to_save, store: Box::new(snapshots), shared: Arc::clone(&shared) };
    let flusher = Flusher::new(to_flusher, durability, Box::new(ToProjector(alerts)), Arc::clone(&shared));
    let thread = |name: &str| Builder::new().name(format!("caddis-{name}"));
    let engine = thread("engine").spawn(move || engine.run())?;
    let flusher = thread("flusher").spawn(move || flusher.run())?;
    thread("snapshots").spawn(move || saver.run())?;
    let projector = thread("alerts").spawn(move || projector.run(&to_projector))?;
    switch.running.store(opened.len(), Ordering::Release);
    let mut threads = Vec::new();
    for (name, source) in opened {
        let (inbox, switch) = (inbox.clone(), switch.clone());
        let run = move || sources::feed(&name, source, &inbox, &switch.stop, &switch.running);
        threads.push(thread("source").spawn(run)?);
    }

    let (stopping, stopped) = watch::channel(false);
    let explainer = Arc::new(explainer);
    let service = backend::Service {
        inbox: inbox.clone(),
        shared: Arc::clone(&shared),
        outbox: Arc::clone(&outbox),
        deliverer: Arc::clone(&deliverer),
        explainer: Arc::clone(&explainer),
        mapping: Arc::clone(&setup.mapping),
        schema: Arc::clone(&setup.schema),
        hasher,
        live: live.clone(),
        stopping: stopped.clone(),
        outbox_trouble,
        allow_private: config.alerts.allow_private,
        journal_bytes: Box::new(move || folder_bytes(&bytes_of)),
        waiting: backend::waiting(),
        overload: config.http.overload,
        degrading: backend::degrading(),
        times: RequestTimes::default(),
    };
    let mut keys = Keys::default();
    for key in &config.http.keys {
        keys.add(key.key.reveal(), key.write);
    }
    let http = &config.http;
    let limits =
        Limits { max_body: http.max_body, request_timeout: http.request_timeout, body_timeout: http.body_timeout };
    let router = api::router(Arc::new(service), keys, limits);
    let server = runtime.spawn(bound.serve(router, config.http.max_connections, stopped.clone()));
    let deliveries = runtime.spawn(Arc::clone(&deliverer).run(stopped.clone()));
    runtime.spawn(prune(Arc::clone(&outbox), config.alerts.keep, stopped));
    Ok(Running {
        address,
        shared,
        outbox,
        explainer,
        live,
        inbox,
        switch,
        stopping,
        engine,
        flusher,
        projector,
        sources: threads,
        runtime,
        server,
        deliveries,
    })
}

/// Waits before the disk is tried again, but not once all is to stop.
fn waiting_unless(stop: Arc<AtomicBool>) -> Box<dyn FnMut(Duration) -> bool + Send> {
    Box::new(move |duration| {
        std::thread::sleep(duration);
        !stop.load(Ordering::Acquire)
    })
}

fn open_outbox(folder: &Path) -> anyhow::Result<Outbox> {
    let path = folder.join("outbox.db");
    let outbox = Outbox::open(&path).with_context(|| path.display().to_string())?;
    // It holds account names and webhook secrets.
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .with_context(|| path.display().to_string())?;
    Ok(outbox)
}

/// What state depends on besides the journal.
fn identity(setup: &Setup, key: [u8; 16]) -> Identity {
    let settings = setup.engine_settings(key);
    let key = blake3::derive_key("caddis snapshot: which key identifiers are hashed with", &key);
    let settings = format!("{:?} {}", settings.admission, blake3::hash(&key).to_hex());
    Identity { features: setup.brain.features.fingerprint().to_owned(), settings }
}

/// A processor with the state of the newest snapshot that can be used, and where that begins and ends with where
/// partitions went on; `None` where the journal must be followed from its start.
fn load_snapshot(
    snapshots: &Snapshots,
    identity: &Identity,
    fresh: &dyn Fn() -> Processor,
    shared: &Shared,
    journal: &Journal,
    alerts_from: u64,
) -> anyhow::Result<Option<(Processor, FromSnapshot)>> {
    for begin in snapshots.all().context("the snapshots")? {
        let file = snapshots.place(begin);
        let started = clock::Stopwatch::start();
        let mut ends = Ends::default();
        let seen = snapshots.read(begin, |kind, payload| {
            ends.see(kind, payload);
            true
        });
        let (Some(head), Some(end)) = (ends.head, ends.end) else {
            let error = seen.err().map_or_else(|| "it has no head".to_owned(), |error| error.to_string());
            tracing::warn!(%error, "a snapshot cannot be used; the one before is tried");
            continue;
        };
        let why_not = if head.identity != *identity {
            Some("it was taken with another feature set, stream setting or key")
        } else if end > journal.next_sequence() {
            Some("the journal ends before it")
        } else if alert_between(journal, alerts_from, end)? {
            Some("alerts of entries that it holds are not in the outbox yet")
        } else if end > journal.unsure_from() {
            Some("the power may have gone before all of its entries were durable")
        } else {
            None
        };
        if let Some(why) = why_not {
            tracing::info!(file = %file.display(), why, "a snapshot is passed over; the one before is tried");
            continue;
        }
        let mut processor = fresh();
        let mut wrong = None;
        let read = snapshots.read(begin, |kind, payload| {
            wrong = snapshots::load(kind, payload, &mut processor, shared).err();
            wrong.is_none()
        });
        if let Some(error) = wrong.map(str::to_owned).or_else(|| read.err().map(|error| error.to_string())) {
            tracing::warn!(file = %file.display(), error, "a snapshot cannot be used; the one before is tried");
            continue;
        }
        tracing::info!(entry = begin, seconds = started.seconds(), "snapshot loaded");
        let resume = head.resume.into_iter();
        let resume = resume.map(|(partition, offset, cursor)| (partition, Resume { offset, cursor })).collect();
        return Ok(Some((processor, FromSnapshot { begin, end, resume })));
    }
    Ok(None)
}

/// Whether any decision of entries from `from` up to `to` alerts, by the journal. The outbox's cursor moves with alerts
/// only: behind it there may be many entries without.
fn alert_between(journal: &Journal, from: u64, to: u64) -> anyhow::Result<bool> {
    if from >= to {
        return Ok(false);
    }
    let found = journal.replay(from, |sequence, payload| {
        if sequence >= to {
            return Err(Look::Over(false));
        }
        let (_, sections) = entry::read(payload).map_err(|error| RecoveryError::Entry { sequence, error })?;
        let alerts = sections.iter().flat_map(|section| &section.decisions).any(Decision::alerts);
        if alerts { Err(Look::Over(true)) } else { Ok(()) }
    });
    match found {
        Ok(()) => Ok(false),
        Err(Look::Over(found)) => Ok(found),
        Err(Look::Replay(error)) => Err(error.into()),
    }
}

/// What ends a look at the journal.
enum Look {
    Over(bool),
    Replay(ReplayError),
}

impl<E: Into<ReplayError>> From<E> for Look {
    fn from(error: E) -> Self {
        Self::Replay(error.into())
    }
}

/// Where a loaded snapshot begins and ends in the journal, and where partitions went on at its beginning.
struct FromSnapshot {
    begin: u64,
    end: u64,
    resume: BTreeMap<u32, Resume>,
}

/// Follows the journal from its start, or from a snapshot; alerts that the outbox lacks are put in on the way.
fn recover(
    processor: &mut Processor,
    from: Option<FromSnapshot>,
    journal: &Journal,
    projector: &Projector,
    mut reread: RereadFiles,
    shared: &Shared,
    progress: &mut impl FnMut(u64, u64),
) -> anyhow::Result<Recovered> {
    let alerts_from = projector.outbox.cursor()?;
    let entries = journal.next_sequence();
    anyhow::ensure!(
        alerts_from <= entries,
        "the outbox knows alerts up to journal entry {alerts_from}, but the journal ends at {entries}: its end was lost. \
         Restore the journal from a backup, or move the data folder aside to start afresh"
    );
    if journal.torn() > 0 {
        tracing::warn!(bytes = journal.torn(), "cut an unfinished entry from the journal's end");
    }
    let started = clock::Stopwatch::start();
    let mut recovery = Recovery {
        processor,
        shared,
        reread: &mut reread,
        alerts_from,
        refused_from: journal.unsure_from(),
        snapshot: from.as_ref().map(|from| (from.begin, from.end)),
        recovered: Recovered::default(),
    };
    let begin = from.as_ref().map_or(0, |from| from.begin);
    recovery.recovered.resume = from.map(|from| from.resume).unwrap_or_default();
    journal.replay(begin, |sequence, payload| -> Result<(), ReplayError> {
        recovery.entry(sequence, payload)?;
        if recovery.recovered.candidates.len() >= 1_024 {
            let candidates = std::mem::take(&mut recovery.recovered.candidates);
            projector.store(&candidates, sequence + 1)?;
        }
        progress(sequence + 1, entries);
        Ok(())
    })?;
    let recovered = recovery.recovered;
    processor.engine_mut().replay(None);
    let quarantine = shared.quarantine.lock().unwrap_or_else(PoisonError::into_inner).flusher();
    quarantine.flush().and_then(|()| journal.settle()).context("the disk failed to flush")?;
    if !recovered.candidates.is_empty() {
        projector.store(&recovered.candidates, entries)?;
    }
    if entries > 0 {
        tracing::info!(
            entries,
            records = recovered.records,
            labels = recovered.labels,
            by_another_brain = recovered.by_another_brain,
            seconds = started.seconds(),
            "state is back"
        );
    }
    if recovered.differences > 0 {
        tracing::error!(
            decisions = recovered.differences,
            "decided otherwise than recorded: the mapping, rates or stream settings were changed since; the recorded decisions stand"
        );
    }
    Ok(recovered)
}

#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal cannot be followed: {0}")]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Outbox(#[from] crate::alerts::OutboxError),
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Forgets alerts that were stored long ago and that nobody waits for, once an hour.
async fn prune(outbox: Arc<Outbox>, keep: Duration, mut stop: watch::Receiver<bool>) {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    while !*stop.borrow() {
        let outbox = Arc::clone(&outbox);
        let before = clock::now_ms().saturating_sub(keep);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || outbox.prune(before)).await {
            tracing::warn!(%error, "old alerts cannot be forgotten now");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(3_600)) => {}
            _ = stop.changed() => {}
        }
    }
}

impl Running {
    /// Sends records or questions to the engine, as the API does.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Waits for SIGTERM, SIGINT or a failure; with `until_end` also for the end of every source.
    ///
    /// # Errors
    /// Signals cannot be listened for.
    pub fn wait(&self, until_end: bool) -> std::io::Result<Why> {
        use tokio::signal::unix::{SignalKind, signal};
        self.runtime.block_on(async {
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let mut look = tokio::time::interval(Duration::from_millis(50));
            loop {
                tokio::select! {
                    _ = terminate.recv() => return Ok(Why::Asked),
                    _ = interrupt.recv() => return Ok(Why::Asked),
                    _ = look.tick() => {
                        if self.failed() {
                            return Ok(Why::Failed);
                        }
                        if until_end && self.sources_ended() {
                            return Ok(Why::SourcesEnded);
                        }
                    }
                }
            }
        })
    }

    /// Whether every configured source has come to its end.
    #[must_use]
    pub fn sources_ended(&self) -> bool {
        self.switch.running.load(Ordering::Acquire) == 0
    }

    /// Whether a thread ended that never should: the process must stop.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.engine.is_finished()
            || self.flusher.is_finished()
            || self.projector.is_finished()
            || self.server.is_finished()
    }

    /// Stops taking requests, decides what was taken, makes it durable, stores its alerts and stops.
    /// Deliveries that were not made stay in the outbox.
    ///
    /// # Errors
    /// The disk failed to flush, or a thread panicked.
    pub fn stop(self) -> anyhow::Result<Processor> {
        self.switch.stop.store(true, Ordering::Release);
        // An error means that nobody listens any more.
        let _ = self.stopping.send(true);
        let served = self.runtime.block_on(self.server);
        for source in self.sources {
            // Standard input may be silent for ever; it is let go with the process.
            if self.switch.running.load(Ordering::Acquire) == 0 || source.is_finished() {
                let _ = source.join();
            }
        }
        let _ = self.inbox.send(Message::Stop);
        let processor = self.engine.join().map_err(|_| anyhow::anyhow!("the engine thread panicked"))?;
        drop(self.inbox);
        let flushed = self.flusher.join().map_err(|_| anyhow::anyhow!("the flusher thread panicked"))?;
        self.projector.join().map_err(|_| anyhow::anyhow!("the alerts thread panicked"))?;
        let waited = async { tokio::time::timeout(Duration::from_secs(20), self.deliveries).await };
        if self.runtime.block_on(waited).is_err() {
            tracing::warn!("a subscriber did not answer in time; its delivery is made again at the next start");
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        flushed
            .and_then(|()| processor.log().settle())
            .context("the journal failed to flush: what was decided since the last flush may be lost")?;
        served.context("the HTTP server")?.context("the HTTP server")?;
        Ok(processor)
    }
}
