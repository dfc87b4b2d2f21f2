//! The demo's own subscriber: receives alerts over HTTP and checks their signatures, as a user's would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::sync::watch;

use crate::alerts::{Outbox, SigningKey, sign};
use crate::api;
use crate::clock::Stopwatch;

/// A listening subscriber.
pub(super) struct Desk {
    pub url: String,
    received: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Inside {
    key: SigningKey,
    alerts: Sender<serde_json::Value>,
    received: Arc<AtomicU64>,
}

impl Desk {
    pub fn open(secret: &str, alerts: Sender<serde_json::Value>) -> anyhow::Result<Self> {
        let key = SigningKey::parse(secret).map_err(anyhow::Error::msg)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bound = api::bind(([127, 0, 0, 1], 0).into()).context("the desk's socket")?;
        let url = format!("http://{}/alerts", bound.address);
        let received = Arc::new(AtomicU64::new(0));
        let inside = Inside { key, alerts, received: Arc::clone(&received) };
        let router = Router::new().route("/alerts", post(receive)).with_state(inside);
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(bound.serve(router, 64, stopped));
        Ok(Self { url, received, stop, runtime: Some(runtime) })
    }

    /// Waits until nothing waits for the desk any more.
    pub fn settle(&self, outbox: &Outbox) -> anyhow::Result<()> {
        let started = Stopwatch::start();
        let mut quiet = 0;
        // Alerts reach the outbox a moment after their decision: quiet for a while is done.
        while quiet < 10 {
            let before = self.received.load(Ordering::Acquire);
            std::thread::sleep(Duration::from_millis(50));
            let waiting: u64 = outbox.subscribers()?.iter().map(|subscriber| subscriber.waiting).sum();
            quiet = if waiting == 0 && self.received.load(Ordering::Acquire) == before { quiet + 1 } else { 0 };
            anyhow::ensure!(started.seconds() < 60.0, "{waiting} alerts were not delivered within a minute");
        }
        Ok(())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // An error means that it stopped listening already.
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

async fn receive(State(desk): State<Inside>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let timestamp = header("webhook-timestamp").parse().unwrap_or_default();
    let expected = sign(&desk.key, header("webhook-id"), timestamp, &body);
    let same: bool = subtle::ConstantTimeEq::ct_eq(expected.as_bytes(), header("webhook-signature").as_bytes()).into();
    if !same {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(alert) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST };
    desk.received.fetch_add(1, Ordering::Release);
    // An error means that nobody watches any more.
    let _ = desk.alerts.send(alert);
    StatusCode::NO_CONTENT
}
