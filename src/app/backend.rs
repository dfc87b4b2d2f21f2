//! What the API needs of the service: turns its words into the engine's and back.

use std::sync::atomic::Ordering;
use std::sync::mpsc::TrySendError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot, watch};

use super::data::{HTTP_PARTITION, LABEL_PARTITION};
use super::explain::{Explainer, rfc3339};
use crate::alerts::{
    AlertFilter, Deliverer, Filter, Outbox, OutboxError, SigningKey, Subscriber as Recipient, SubscriberState,
};
use crate::api::types::{
    AlertPage, AlertQuery, Decision, LabelResult, NewSubscriber, Position, Profile, RecordResult, RecordStatus,
    Refusal, StreamedAlert, Subscriber, TestResult,
};
use crate::api::{Backend, BodyKind, Failure, RequestTimes};
use crate::clock;
use crate::config::Overload;
use crate::engine::{Engine, Fate};
use crate::features::KeyedHasher;
use crate::pipeline::ports::{Decode, Records};
use crate::pipeline::processor::Intake;
use crate::pipeline::service::{Inbox, Message, RecordReply, Shared};
use crate::sources::decode::body::{Body, split, split_csv};
use crate::sources::decode::{CsvReader, JsonDecoder, Mapping};
use crate::telemetry::{EngineSnapshot, Snapshot, SubscriberSnapshot};
use crate::transaction::{Schema, TransactionBatch};

/// Bytes of bodies that wait to be decided, at most; beyond it senders are told to come again.
const WAITING_BYTES: usize = 64 << 20;

pub struct Service {
    pub inbox: Inbox,
    pub shared: Arc<Shared>,
    pub outbox: Arc<Outbox>,
    pub deliverer: Arc<Deliverer>,
    pub explainer: Arc<Explainer>,
    pub mapping: Arc<Mapping>,
    pub schema: Arc<Schema>,
    pub hasher: KeyedHasher,
    pub live: broadcast::Sender<StreamedAlert>,
    pub stopping: watch::Receiver<bool>,
    /// Why alerts cannot be stored.
    pub outbox_trouble: Arc<Mutex<Option<String>>>,
    pub allow_private: bool,
    pub journal_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    pub waiting: Arc<Semaphore>,
    pub overload: Overload,
    /// Bodies that are given degraded verdicts at a time.
    pub degrading: Arc<Semaphore>,
    pub times: RequestTimes,
}

/// The permits of a [`Service`].
#[must_use]
pub fn waiting() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WAITING_BYTES))
}

/// The permits of a [`Service`] for degraded verdicts: they must not take the machine from the engine.
#[must_use]
pub fn degrading() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(2))
}

type Replies = oneshot::Receiver<Vec<RecordReply>>;

impl Service {
    /// Why nothing can be taken now, if so.
    fn open(&self) -> Result<(), Failure> {
        self.trouble().map_or(Ok(()), |why| Err(Failure::Unavailable { why, retry_after: 2 }))
    }

    /// Hands records to the engine; gives them back where it does not take them.
    #[expect(clippy::result_large_err, reason = "the records come back to whoever hands them over")]
    fn hand_over(&self, mut records: Records, bytes: usize) -> Result<Replies, (Failure, Records)> {
        let room = match self.open().and_then(|()| self.room(bytes)) {
            Ok(room) => room,
            Err(failure) => return Err((failure, records)),
        };
        records.partition = HTTP_PARTITION;
        let (answer, answered) = oneshot::channel();
        let reply = Box::new(move |replies: Vec<RecordReply>| {
            drop(room);
            // An error means that the sender has hung up; its records are decided all the same.
            let _ = answer.send(replies);
        });
        let intake = Intake { records, keep: true };
        let message = Message::Records { intake, assign: true, reply: Some(reply) };
        match self.inbox.try_send(message) {
            Ok(()) => Ok(answered),
            Err(TrySendError::Full(Message::Records { intake, .. })) => {
                Err((Failure::Busy { retry_after: 1 }, intake.records))
            }
            Err(_) => Err((Failure::Internal("Caddis is stopping".into()), Records::default())),
        }
    }

    /// Verdicts by rules alone, for records that the engine did not take.
    fn degraded(&self, records: Records, failure: Failure) -> BoxFuture<'static, Result<Vec<RecordResult>, Failure>> {
        let Ok(permit) = Arc::clone(&self.degrading).try_acquire_owned() else {
            return Box::pin(std::future::ready(Err(failure)));
        };
        let (explainer, shared) = (Arc::clone(&self.explainer), Arc::clone(&self.shared));
        let (mut decoder, schema) = (JsonDecoder::new(Arc::clone(&self.mapping)), Arc::clone(&self.schema));
        let work = move || {
            let _permit = permit;
            let mut batch = TransactionBatch::new(schema);
            let judge = |index: usize| {
                batch.clear();
                let decoded = match records.records.get(index) {
                    Some(Err(why)) => Err(why.clone()),
                    _ => decoder.decode(records.record(index), &mut batch),
                };
                let (status, error, decision) = match decoded {
                    Ok(()) => (RecordStatus::Degraded, None, Some(explainer.degraded(batch.get(0)))),
                    Err(why) => (RecordStatus::Refused, Some(refusal(why)), None),
                };
                shared.status.degraded.fetch_add(u64::from(decision.is_some()), Ordering::Relaxed);
                RecordResult { position: None, status, error, decision }
            };
            (0..records.len()).map(judge).collect()
        };
        Box::pin(async move {
            tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Internal(error.to_string()))
        })
    }

    fn send(&self, message: Message) -> Result<(), Failure> {
        self.inbox.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => Failure::Busy { retry_after: 1 },
            TrySendError::Disconnected(_) => Failure::Internal("Caddis is stopping".into()),
        })
    }

    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let permits = u32::try_from(bytes.clamp(1, WAITING_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.waiting).try_acquire_many_owned(permits);
        room.map_err(|_| Failure::Busy { retry_after: 1 })
    }

    /// Asks the engine something between two batches.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Failure> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Ask(Box::new(move |engine| {
            // An error means that the one who asked has left.
            let _ = answer.send(question(engine));
        })))?;
        Ok(answered)
    }

    /// Runs something on the outbox, off the async threads.
    fn with_outbox<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Outbox) -> Result<T, OutboxError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failure>> {
        let outbox = Arc::clone(&self.outbox);
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || work(&outbox)).await {
                Ok(done) => done.map_err(failure),
                Err(error) => Err(Failure::Internal(error.to_string())),
            }
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn failure(error: OutboxError) -> Failure {
    let said = error.to_string();
    match error {
        OutboxError::NoSubscriber(_) => Failure::NotFound(said),
        OutboxError::Taken(_) | OutboxError::Configured(_) => Failure::Conflict(said),
        OutboxError::Subscriber(_) => Failure::Wrong(said),
        OutboxError::Sqlite(_) | OutboxError::Newer(_) | OutboxError::Full { .. } => {
            tracing::error!(error = said, "the outbox failed a request");
            Failure::Internal("the outbox failed; the log has more".into())
        }
    }
}

/// Records of CSV become JSON objects here: the journal keeps each by itself, and a row means nothing without
/// its header.
fn cut(body: Vec<u8>, kind: BodyKind, mapping: &Arc<Mapping>) -> Result<Records, Failure> {
    match kind {
        BodyKind::Json => Ok(split(body, Body::Json)),
        BodyKind::Ndjson => Ok(split(body, Body::Lines)),
        BodyKind::Csv => split_csv(&body, CsvReader::new(Arc::clone(mapping), b','))
            .map_err(|wrong| Failure::Wrong(wrong.to_string())),
    }
}

fn stopped<T>(_: T) -> Failure {
    Failure::Internal("Caddis stopped before this was answered".into())
}

fn position(position: crate::transaction::Position) -> Position {
    Position { partition: position.partition, offset: position.offset }
}

fn refusal(refusal: crate::transaction::Refusal) -> Refusal {
    let message = refusal.to_string();
    let why = refusal.into_why();
    Refusal { field: why.field, value: why.value, expected: why.expected, message }
}

fn result(reply: RecordReply, explainer: Option<&Explainer>) -> RecordResult {
    match reply {
        RecordReply::Refused { position: at, refusal: why } => RecordResult {
            position: Some(position(at)),
            status: RecordStatus::Refused,
            error: Some(refusal(why)),
            decision: None,
        },
        RecordReply::Decided(answer) => {
            let status = match answer.recent.decision.fate {
                Fate::Late => RecordStatus::Late,
                Fate::Duplicate { .. } => RecordStatus::Duplicate,
                _ => RecordStatus::Accepted,
            };
            RecordResult {
                position: Some(position(answer.recent.position)),
                status,
                error: None,
                decision: explainer.map(|explainer| explainer.decision(answer.transaction_id, &answer.recent)),
            }
        }
    }
}

fn time(name: &str, text: Option<&str>) -> Result<Option<i64>, Failure> {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    text.map(parse)
        .transpose()
        .map_err(|_| Failure::Wrong(format!("`{name}`: a time such as 2026-01-31T12:00:00Z is expected")))
}

fn shown(state: SubscriberState) -> Subscriber {
    Subscriber {
        name: state.name,
        url: state.url,
        secret: None,
        verdicts: state.filter.verdicts,
        min_score: state.filter.min_score,
        paused: state.paused,
        configured: state.configured,
        delivered: state.delivered,
        failed_attempts: state.failed,
        waiting: state.waiting,
        dead: state.dead,
        last_error: state.last_error,
    }
}

impl Backend for Service {
    fn submit(
        &self,
        body: Vec<u8>,
        kind: BodyKind,
        explain: bool,
    ) -> BoxFuture<'static, Result<Vec<RecordResult>, Failure>> {
        let bytes = body.len();
        let handed = cut(body, kind, &self.mapping).and_then(|records| {
            if records.is_empty() {
                return Err(Failure::Wrong("the body holds no record".into()));
            }
            Ok(self.hand_over(records, bytes))
        });
        let answered = match handed {
            Ok(Ok(answered)) => answered,
            Ok(Err((failure @ (Failure::Busy { .. } | Failure::Unavailable { .. }), records)))
                if explain && self.overload == Overload::RulesOnly =>
            {
                return self.degraded(records, failure);
            }
            Ok(Err((failure, _))) | Err(failure) => return Box::pin(std::future::ready(Err(failure))),
        };
        let explainer = explain.then(|| Arc::clone(&self.explainer));
        Box::pin(async move {
            let replies = answered.await.map_err(stopped)?;
            Ok(replies.into_iter().map(|reply| result(reply, explainer.as_deref())).collect())
        })
    }

    fn label(&self, body: Vec<u8>, kind: BodyKind) -> BoxFuture<'static, Result<Vec<LabelResult>, Failure>> {
        let submit = || {
            self.open()?;
            let room = self.room(body.len())?;
            if kind == BodyKind::Csv {
                return Err(Failure::Wrong("labels are sent as JSON or NDJSON".into()));
            }
            let mut records = cut(body, kind, &self.mapping)?;
            if records.is_empty() {
                return Err(Failure::Wrong("the body holds no label".into()));
            }
            records.partition = LABEL_PARTITION;
            let (answer, answered) = oneshot::channel();
            let reply = Box::new(move |known| {
                drop(room);
                let _ = answer.send(known);
            });
            self.send(Message::Labels { records, reply: Some(reply) })?;
            Ok(answered)
        };
        let submitted = submit();
        Box::pin(async move {
            let known = submitted?.await.map_err(stopped)?;
            let result = |known: Result<bool, crate::transaction::Refusal>| match known {
                Ok(known) => LabelResult { known: Some(known), error: None },
                Err(why) => LabelResult { known: None, error: Some(refusal(why)) },
            };
            Ok(known.into_iter().map(result).collect())
        })
    }

    fn decision(&self, transaction_id: &str) -> Option<Decision> {
        let recent = self.shared.recent.get(self.hasher.transaction_id(transaction_id))?;
        Some(self.explainer.decision(transaction_id.to_owned(), &recent))
    }

    fn alerts(&self, query: AlertQuery) -> BoxFuture<'static, Result<AlertPage, Failure>> {
        let limit = query.limit.unwrap_or(100).clamp(1, 1_000);
        let times =
            time("since", query.since.as_deref()).and_then(|since| Ok((since, time("until", query.until.as_deref())?)));
        let (since, until) = match times {
            Ok(times) => times,
            Err(failure) => return Box::pin(std::future::ready(Err(failure))),
        };
        let AlertQuery { verdict, account, min_score, before, .. } = query;
        // One more than asked for tells whether there is another page.
        let filter = AlertFilter { verdict, account, min_score, since, until, before, limit: limit + 1 };
        let found = self.with_outbox(move |outbox| outbox.alerts(&filter));
        Box::pin(async move {
            let mut found = found.await?;
            let more = found.len() > limit as usize;
            found.truncate(limit as usize);
            let next = found.last().filter(|_| more).map(|alert| alert.number);
            // As it was stored: to read and write it again would change the last digits of numbers.
            let body = |alert: crate::alerts::StoredAlert| {
                RawValue::from_string(alert.alert.body).unwrap_or_else(|_| RawValue::NULL.to_owned())
            };
            Ok(AlertPage { alerts: found.into_iter().map(body).collect(), next })
        })
    }

    fn alert_stream(&self) -> broadcast::Receiver<StreamedAlert> {
        self.live.subscribe()
    }

    fn profile(&self, kind: String, id: Vec<String>) -> BoxFuture<'static, Result<Profile, Failure>> {
        let set = &self.explainer.brain.features;
        if !set.entity_names().any(|known| known == kind) {
            let known: Vec<&str> = set.entity_names().collect();
            let message = format!("the feature set has no entity `{kind}`, but {}", known.join(", "));
            return Box::pin(std::future::ready(Err(Failure::NotFound(message))));
        }
        let asked = kind.clone();
        let answered = self.ask(move |engine| {
            let id: Vec<&str> = id.iter().map(String::as_str).collect();
            engine.profile(&asked, &id)
        });
        Box::pin(async move {
            let profile = answered?.await.map_err(stopped)?;
            let profile =
                profile.ok_or_else(|| Failure::NotFound(format!("no transactions of this {kind} are remembered")))?;
            let known = |(name, value): (String, f64)| (name, value.is_finite().then_some(value));
            Ok(Profile {
                kind,
                transactions: profile.events,
                last_transaction: rfc3339(profile.last_time),
                features: profile.features.into_iter().map(known).collect(),
                approximate: profile.approximate,
            })
        })
    }

    fn subscribers(&self) -> BoxFuture<'static, Result<Vec<Subscriber>, Failure>> {
        let found = self.with_outbox(Outbox::subscribers);
        Box::pin(async move { Ok(found.await?.into_iter().map(shown).collect()) })
    }

    fn subscribe(&self, new: NewSubscriber) -> BoxFuture<'static, Result<Subscriber, Failure>> {
        let NewSubscriber { name, url, secret, verdicts, min_score } = new;
        let filter = Filter { verdicts, min_score };
        let recipient = secret.map_or_else(new_secret, Ok).and_then(|secret| {
            Recipient::new(&name, &url, &secret, filter, self.allow_private)
                .map_err(|wrong| Failure::Wrong(wrong.to_string()))
        });
        let recipient = match recipient {
            Ok(recipient) => recipient,
            Err(failure) => return Box::pin(std::future::ready(Err(failure))),
        };
        let secret = recipient.key.reveal();
        let deliverer = Arc::clone(&self.deliverer);
        let added = self.with_outbox(move |outbox| {
            outbox.add(&recipient)?;
            outbox.subscribers()
        });
        Box::pin(async move {
            let state = added.await?.into_iter().find(|state| state.name == name);
            deliverer.wake();
            let state = state.ok_or_else(|| Failure::NotFound(format!("no subscriber `{name}`")))?;
            Ok(Subscriber { secret: Some(secret), ..shown(state) })
        })
    }

    fn pause(&self, name: String, paused: bool) -> BoxFuture<'static, Result<(), Failure>> {
        let done = self.with_outbox(move |outbox| outbox.pause(&name, paused));
        let deliverer = Arc::clone(&self.deliverer);
        Box::pin(async move {
            done.await?;
            deliverer.wake();
            Ok(())
        })
    }

    fn unsubscribe(&self, name: String) -> BoxFuture<'static, Result<(), Failure>> {
        self.with_outbox(move |outbox| outbox.remove(&name))
    }

    fn test(&self, name: String) -> BoxFuture<'static, Result<TestResult, Failure>> {
        let asked = name.clone();
        let found = self.with_outbox(move |outbox| outbox.subscriber(&asked));
        let deliverer = Arc::clone(&self.deliverer);
        Box::pin(async move {
            let found = found.await?;
            let (recipient, _) = found.ok_or_else(|| Failure::NotFound(format!("no subscriber `{name}`")))?;
            let id = format!("test_{}", clock::now_ms());
            let probe = deliverer.probe(&recipient, &id).await;
            Ok(TestResult { delivered: probe.error.is_none(), status: probe.status, error: probe.error })
        })
    }

    fn trouble(&self) -> Option<String> {
        let outbox = self.outbox_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.status.trouble().or(outbox).or_else(|| self.stopping.borrow().then(|| "stopping".to_owned()))
    }

    fn times(&self) -> &RequestTimes {
        &self.times
    }

    fn metrics(&self) -> BoxFuture<'static, Snapshot> {
        use std::sync::atomic::Ordering::Relaxed;
        // Read before the question below waits there too.
        let inbox_messages = self.shared.status.waiting();
        let engine = self.ask(|engine| (engine.memory(), engine.counts(), engine.newest()));
        let subscribers = self.with_outbox(Outbox::subscribers);
        let deliverer = Arc::clone(&self.deliverer);
        let status = &self.shared.status;
        let model = self.explainer.brain.model.as_ref();
        let mut snapshot = Snapshot {
            allowed: status.allowed.load(Relaxed),
            reviewed: status.reviewed.load(Relaxed),
            blocked: status.blocked.load(Relaxed),
            late: status.late.load(Relaxed),
            duplicates: status.duplicates.load(Relaxed),
            quarantined: status.quarantined.load(Relaxed),
            quarantine_failures: status.quarantine_failures.load(Relaxed),
            labels: status.labels.load(Relaxed),
            degraded: status.degraded.load(Relaxed),
            decision_seconds: self.times.readings(),
            batch_seconds: status.batch_seconds.reading(),
            batch_size: status.batch_size.reading(),
            flush_seconds: status.flush_seconds.reading(),
            inbox_messages,
            journal_entries: status.journal_entries.load(Relaxed),
            journal_bytes: (self.journal_bytes)(),
            snapshots: status.snapshots.load(Relaxed),
            snapshots_failed: status.snapshots_failed.load(Relaxed),
            snapshot_bytes: status.snapshot_bytes.load(Relaxed),
            snapshot_entry: status.snapshot_entry.load(Relaxed),
            ready: self.trouble().is_none(),
            version: env!("CARGO_PKG_VERSION"),
            model: model.map(|model| (model.name().to_owned(), model.version().to_owned())),
            engine: None,
            subscribers: Vec::new(),
        };
        Box::pin(async move {
            // A stalled engine must not keep its own metrics from being read.
            let answered = async { engine.ok()?.await.ok() };
            let answered = tokio::time::timeout(Duration::from_secs(1), answered).await.ok().flatten();
            snapshot.engine = answered.map(|(memory, counts, newest)| EngineSnapshot {
                state_bytes: memory.bytes as u64,
                entities: memory.entities as u64,
                approximate_entities: memory.approximate as u64,
                future: counts.future,
                ids_forgotten_early: counts.forgotten_early,
                newest_event_ms: newest,
            });
            let subscriber = |state: SubscriberState| SubscriberSnapshot {
                seconds: deliverer.times(&state.name),
                name: state.name,
                delivered: state.delivered,
                failed: state.failed,
                given_up: state.given_up,
                pending: state.waiting,
            };
            snapshot.subscribers = subscribers.await.unwrap_or_default().into_iter().map(subscriber).collect();
            snapshot
        })
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }
}

/// A fresh webhook secret.
pub fn new_secret() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Internal(format!("no random numbers: {error}")))?;
    Ok(SigningKey::from_bytes(&bytes).reveal())
}
