//! Recent decisions by transaction id: written by the pipeline, read by the API.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dashmap::DashMap;

use crate::engine::Decision;
use crate::transaction::{EventTime, Position};

/// A decision as it is remembered.
#[derive(Debug, Clone)]
pub struct Recent {
    pub position: Position,
    pub event_time: EventTime,
    /// Which feature set, model and policy decided, as the journal says it.
    pub decided_by: u64,
    pub decision: Decision,
    /// What it was decided on, kept where it alerts.
    pub basis: Option<Arc<Basis>>,
}

/// What an alerting decision was made on.
#[derive(Debug)]
pub struct Basis {
    pub features: Box<[f64]>,
    /// Features and how much each raised the score, once somebody has worked it out: both the answer to a
    /// request and the alert say it.
    pub contributions: OnceLock<Vec<(usize, f64)>>,
}

impl Basis {
    #[must_use]
    pub fn new(features: Vec<f64>) -> Arc<Self> {
        Arc::new(Self { features: features.into_boxed_slice(), contributions: OnceLock::new() })
    }
}

/// The newest decisions, up to a limit. No guard of the map leaves this module.
#[derive(Debug)]
pub struct RecentDecisions {
    by_id: DashMap<u64, Recent, foldhash::fast::FixedState>,
    order: Mutex<VecDeque<u64>>,
    limit: usize,
}

impl RecentDecisions {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { by_id: DashMap::default(), order: Mutex::default(), limit }
    }

    /// `id` is the keyed hash of the transaction's id.
    pub fn insert(&self, id: u64, recent: Recent) {
        if self.limit == 0 {
            return;
        }
        if self.by_id.insert(id, recent).is_some() {
            // Brought back already: it keeps its turn.
            return;
        }
        let oldest = {
            let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            order.push_back(id);
            if order.len() > self.limit { order.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            self.by_id.remove(&oldest);
        }
    }

    #[must_use]
    pub fn get(&self, id: u64) -> Option<Recent> {
        self.by_id.get(&id).map(|recent| recent.clone())
    }

    /// All, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = (u64, Recent)> + use<'_> {
        let order: Vec<u64> = self.order.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        order.into_iter().filter_map(|id| Some((id, self.get(id)?)))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Recent, RecentDecisions};
    use crate::engine::{Decision, Fate};
    use crate::transaction::Position;

    #[test]
    fn the_oldest_gives_way() {
        let recent = RecentDecisions::new(2);
        for offset in 0..3 {
            let position = Position { partition: 0, offset };
            let decision = Decision::none(Fate::Decided);
            recent.insert(offset, Recent { position, event_time: 0, decided_by: 0, decision, basis: None });
        }
        assert!(recent.get(0).is_none());
        assert_eq!(recent.get(2).map(|found| found.position.offset), Some(2));
        assert_eq!(recent.len(), 2);
    }
}
