//! The projector thread: works out the reasons of alerts and puts them into the outbox, so that neither the
//! engine nor the flusher waits for it, unless it falls far behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

use super::explain::Explainer;
use crate::alerts::{Deliverer, Outbox, OutboxError};
use crate::api::types::StreamedAlert;
use crate::clock;
use crate::pipeline::service::{Candidate, Notify};

/// Hands alerts from the flusher to the projector thread.
pub struct ToProjector(pub SyncSender<(Vec<Candidate>, u64)>);

impl Notify for ToProjector {
    fn notify(&mut self, candidates: Vec<Candidate>, cursor: u64) {
        // It ends only after the flusher.
        let _ = self.0.send((candidates, cursor));
    }
}

/// What turns candidates into stored alerts.
pub struct Projector {
    pub outbox: Arc<Outbox>,
    pub explainer: Explainer,
    pub deliverer: Arc<Deliverer>,
    pub live: broadcast::Sender<StreamedAlert>,
    /// Why alerts cannot be stored now, for `/readyz`.
    pub trouble: Arc<Mutex<Option<String>>>,
    /// Deliveries that may wait, and those that may have been given up.
    pub most: (u64, u64),
    /// All is to stop.
    pub stop: Arc<AtomicBool>,
}

/// Entries whose alerts are put in together, at most.
const TOGETHER: usize = 1_024;

impl Projector {
    /// Runs until the flusher is gone. A full disk makes it wait, and so in the end the engine: no alert is
    /// dropped. The cursor need not be moved for entries without alerts, but is, now and then.
    pub fn run(&self, inbox: &Receiver<(Vec<Candidate>, u64)>) {
        let mut quiet = 0;
        let mut stored_to = 0;
        let mut last = 0;
        while let Ok((mut candidates, mut cursor)) = inbox.recv() {
            while candidates.len() < TOGETHER
                && let Ok((more, next)) = inbox.try_recv()
            {
                candidates.extend(more);
                cursor = next;
            }
            last = cursor;
            quiet += 1;
            if !candidates.is_empty() || quiet >= TOGETHER {
                if !self.store_until_done(&candidates, cursor) {
                    // They are made again from the journal at the next start, from the outbox's own cursor on.
                    while inbox.recv().is_ok() {}
                    return;
                }
                (quiet, stored_to) = (0, cursor);
            }
        }
        if last > stored_to {
            self.store_until_done(&[], last);
        }
    }

    /// `false` when it was given up, since all is to stop.
    fn store_until_done(&self, candidates: &[Candidate], cursor: u64) -> bool {
        let (max_waiting, max_dead) = self.most;
        let room = || if candidates.is_empty() { Ok(()) } else { self.outbox.room(max_waiting, max_dead) };
        while let Err(error) = room().and_then(|()| self.store(candidates, cursor)) {
            if self.stop.load(Ordering::Acquire) {
                return false;
            }
            let mut trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if trouble.is_none() {
                tracing::error!(%error, "alerts cannot be stored: paused until they can");
            }
            *trouble = Some(format!("alerts cannot be stored: {error}"));
            drop(trouble);
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        let trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if trouble.is_some() {
            tracing::info!("alerts can be stored again: going on");
        }
        true
    }

    /// Stores the alerts of candidates and moves the cursor.
    ///
    /// # Errors
    /// The outbox did not take them; nothing of them is in it.
    pub fn store(&self, candidates: &[Candidate], cursor: u64) -> Result<(), OutboxError> {
        let alerts = candidates.iter().map(|candidate| self.explainer.alert(candidate)).collect();
        let stored = self.outbox.put(alerts, cursor, clock::now_ms())?;
        if !stored.is_empty() {
            self.deliverer.wake();
        }
        for new in stored {
            let alert = new.alert;
            // An error means that nobody watches.
            let _ = self.live.send(StreamedAlert {
                number: new.number,
                verdict: alert.verdict,
                account: alert.account,
                score: alert.score,
                body: alert.body,
            });
        }
        Ok(())
    }
}
