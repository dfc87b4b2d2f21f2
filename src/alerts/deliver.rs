//! Sends alerts: one task a subscriber, so that a slow or dead one delays nobody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Notify, watch};

use super::egress::{check_host, resolver};
use super::outbox::{Due, Outbox, Outcome};
use super::sign::sign;
use super::subscriber::Subscriber;
use crate::clock::Stopwatch;
use crate::tally::{Reading, Tally};

/// Deliveries under way to one subscriber at a time.
const AT_ONCE: usize = 8;
/// Deliveries taken from the outbox at a time.
const TAKEN: u32 = 64;
/// After this many failures in a row a subscriber is only probed, one delivery at a time.
const TROUBLED_AFTER: u32 = 5;
/// Subscribers and dead letters may be changed by another process: looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A subscriber's answer is read up to this many bytes.
const ANSWER_BYTES: usize = 4_096;
const LONGEST_RETRY_AFTER_MS: i64 = 86_400_000;

/// The outcome of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it does not count as delivered.
    pub error: Option<String>,
    retry_after_ms: Option<i64>,
}

/// What a test message came to, for whoever asked for it.
pub type Probe = Attempt;

/// Sends to every subscriber of an outbox until told to stop.
pub struct Deliverer {
    outbox: Arc<Outbox>,
    /// For subscribers on the public internet.
    guarded: reqwest::Client,
    /// For those allowed to be at private addresses.
    open: reqwest::Client,
    /// Something new is in the outbox, or somebody subscribed.
    news: Notify,
    now_ms: fn() -> i64,
    /// How long attempts took, by subscriber.
    times: Mutex<BTreeMap<String, Arc<Tally>>>,
}

impl Deliverer {
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn new(outbox: Arc<Outbox>, now_ms: fn() -> i64) -> Result<Self, reqwest::Error> {
        let builder = || {
            reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(Duration::from_secs(5))
                .timeout(Duration::from_secs(15))
                .user_agent(concat!("caddis/", env!("CARGO_PKG_VERSION")))
        };
        let guarded = builder().dns_resolver(resolver()).build()?;
        let open = builder().build()?;
        Ok(Self { outbox, guarded, open, news: Notify::new(), now_ms, times: Mutex::default() })
    }

    /// Says that there is something to send.
    pub fn wake(&self) {
        self.news.notify_waiters();
    }

    /// How long attempts to deliver to a subscriber took; `None` before its task has started.
    #[must_use]
    pub fn times(&self, subscriber: &str) -> Option<Reading> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(subscriber).map(|tally| tally.reading())
    }

    /// Runs until `stop` becomes true: deliveries under way are finished, the others stay in the outbox.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut running: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
        while !*stop.borrow() {
            let outbox = Arc::clone(&self.outbox);
            match tokio::task::spawn_blocking(move || outbox.subscribers()).await {
                Ok(Ok(subscribers)) => {
                    for subscriber in subscribers {
                        if running.insert(subscriber.name.clone()) {
                            tasks.spawn(Arc::clone(&self).serve(subscriber.name, stop.clone()));
                        }
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "the outbox cannot be read now"),
                Err(_) => break,
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => {}
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Ok(name) = ended {
                        self.times.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                        running.remove(&name);
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// One subscriber's task; ends when it is removed or everything stops.
    async fn serve(self: Arc<Self>, name: String, mut stop: watch::Receiver<bool>) -> String {
        let mut failures: u32 = 0;
        let times = Arc::new(Tally::of_times());
        self.times.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::clone(&times));
        while !*stop.borrow() {
            // From here on news are noticed, also those that come before the wait below.
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let now = (self.now_ms)();
            let troubled = failures >= TROUBLED_AFTER;
            let (outbox, asked) = (Arc::clone(&self.outbox), name.clone());
            let found = tokio::task::spawn_blocking(move || {
                let subscriber = outbox.subscriber(&asked)?;
                let due = outbox.due(&asked, now, if troubled { 1 } else { TAKEN })?;
                Ok::<_, super::OutboxError>((subscriber, due))
            });
            let (subscriber, due, next) = match found.await {
                Ok(Ok((None, _))) | Err(_) => return name,
                Ok(Ok((Some((_, true)), _))) => (None, Vec::new(), None),
                Ok(Ok((Some((subscriber, false)), (due, next)))) => (Some(subscriber), due, next),
                Ok(Err(error)) => {
                    tracing::warn!(subscriber = name, %error, "deliveries wait");
                    (None, Vec::new(), None)
                }
            };
            let mut wait = LOOK_EVERY;
            if let Some(next) = next {
                let left = u64::try_from(next - now).unwrap_or_default().max(1);
                wait = wait.min(Duration::from_millis(left));
            }
            if let Some(subscriber) = subscriber.filter(|_| !due.is_empty()) {
                let sent = self.send_all(&subscriber, due, &mut failures, &times).await;
                let (outbox, asked, now) = (Arc::clone(&self.outbox), name.clone(), (self.now_ms)());
                let recorded = tokio::task::spawn_blocking(move || outbox.record(&asked, &sent, now)).await;
                for (alert, error) in
                    recorded.as_ref().ok().and_then(|given_up| given_up.as_ref().ok()).into_iter().flatten()
                {
                    tracing::warn!(
                        subscriber = name,
                        alert,
                        error,
                        "a delivery is given up: `caddis alerts resend` makes it again"
                    );
                }
                if let Ok(Err(error)) = recorded {
                    tracing::warn!(subscriber = name, %error, "deliveries cannot be written down: they are made again");
                } else if failures < TROUBLED_AFTER {
                    continue;
                } else {
                    // A broken circuit: one probe, then ever longer pauses up to half a minute.
                    wait = Duration::from_secs(1 << (failures - TROUBLED_AFTER).min(5)).min(Duration::from_secs(30));
                }
            }
            tokio::select! {
                () = news, if failures < TROUBLED_AFTER => {}
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
        name
    }

    async fn send_all(
        &self,
        subscriber: &Subscriber,
        due: Vec<Due>,
        failures: &mut u32,
        times: &Tally,
    ) -> Vec<(Due, Outcome)> {
        let at_once = if *failures == 0 { AT_ONCE } else { 1 };
        let now = (self.now_ms)();
        let attempts = due.into_iter().map(|due| async move {
            let started = Stopwatch::start();
            let attempt = self.send(subscriber, &due.alert_id, now / 1_000, due.body.clone()).await;
            times.add_time(started.elapsed());
            (due, attempt)
        });
        let mut sent = Vec::new();
        let mut attempts = futures_util::stream::iter(attempts).buffered(at_once);
        while let Some((due, attempt)) = attempts.next().await {
            let outcome = match attempt.error {
                None => {
                    *failures = 0;
                    Outcome::Delivered
                }
                Some(error) => {
                    *failures = failures.saturating_add(1);
                    if *failures == 1 || *failures == TROUBLED_AFTER {
                        tracing::warn!(subscriber = subscriber.name, alert = due.alert_id, %error, "a delivery failed");
                    }
                    Outcome::Failed { error, retry_after_ms: attempt.retry_after_ms }
                }
            };
            let give_up = *failures >= TROUBLED_AFTER;
            sent.push((due, outcome));
            if give_up {
                // What was not tried keeps its attempts.
                break;
            }
        }
        sent
    }

    /// Sends a message that says it is a test, once.
    pub async fn probe(&self, subscriber: &Subscriber, id: &str) -> Probe {
        let now = (self.now_ms)();
        let body = serde_json::json!({ "type": "subscriber.test", "timestamp": now, "data": { "subscriber": subscriber.name } });
        self.send(subscriber, id, now / 1_000, body.to_string()).await
    }

    async fn send(&self, subscriber: &Subscriber, id: &str, timestamp: i64, body: String) -> Attempt {
        let failed = |error: String| Attempt { status: None, error: Some(error), retry_after_ms: None };
        if !subscriber.allow_private
            && let Err(why) = check_host(&subscriber.url)
        {
            return failed(why);
        }
        let client = if subscriber.allow_private { &self.open } else { &self.guarded };
        let signature = sign(&subscriber.key, id, timestamp, body.as_bytes());
        let request = client
            .post(subscriber.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature)
            .body(body);
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return failed(causes(&error.without_url())),
        };
        let status = answer.status();
        let retry_after =
            answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
        let retry_after_ms = retry_after.map(|seconds| seconds.saturating_mul(1_000).clamp(0, LONGEST_RETRY_AFTER_MS));
        // The answer is read so that the connection can be used again, but never more of it than this.
        let mut said = Vec::new();
        while said.len() < ANSWER_BYTES
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            said.extend_from_slice(chunk.get(..chunk.len().min(ANSWER_BYTES)).unwrap_or_default());
        }
        let error = (!status.is_success()).then(|| {
            let said: String = String::from_utf8_lossy(&said).chars().take(120).filter(|c| !c.is_control()).collect();
            format!("HTTP {}{}{said}", status.as_u16(), if said.is_empty() { "" } else { ": " })
        });
        Attempt { status: Some(status.as_u16()), error, retry_after_ms }
    }
}

/// An error with its causes: reqwest alone says only that sending failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
