//! Entity state, and the walk that turns a batch into features.

use std::sync::Arc;

use hashbrown::{HashMap, HashTable};

use super::aggregate::Aggregate;
use super::entity::{Entity, Event, Layout, NO_PLACE, Stats};
use super::hash::{ABSENT, KeyedHasher, Prepared, low};
use super::set::{EntityFeature, EntitySpec, FeatureSet};
use super::{Admission, RowSink};
use crate::transaction::{EventTime, TransactionBatch, schema};

/// Sub-maps of one kind of entity: growing one of many stalls a batch for a moment, growing one for all
/// would stall it for seconds.
const SUB_MAPS: usize = 256;

/// The entities that fall to one worker.
#[derive(Debug)]
pub struct FeatureShards {
    set: Arc<FeatureSet>,
    worker: usize,
    workers: usize,
    lateness: i64,
    kinds: Vec<Kind>,
    labels: LabelIndex,
    newest: EventTime,
    stats: Vec<Stats>,
}

/// All entities of one kind.
#[derive(Debug)]
struct Kind {
    layout: Layout,
    maps: Vec<SubMap>,
    /// Where the sweep for expired entities goes on.
    sweep: (usize, usize),
}

#[derive(Debug, Default)]
struct SubMap {
    index: HashTable<u32>,
    entities: Vec<Entity>,
}

/// The live features of one entity.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub events: usize,
    pub last_time: EventTime,
    /// Name and value, as a transaction at the time of the last one would find them, itself not counted.
    pub features: Vec<(String, f64)>,
}

/// Which event a transaction's label belongs to.
#[derive(Debug, Default)]
struct LabelIndex {
    by_id: HashMap<u64, EventTime, foldhash::fast::FixedState>,
    order: std::collections::VecDeque<(EventTime, u64)>,
    /// Keys of the entities with fraud features that each transaction touched.
    keys: HashMap<u64, Vec<(u16, u128)>, foldhash::fast::FixedState>,
}

impl FeatureShards {
    /// The share of worker `worker` of `workers`. `lateness` is how far out of order a transaction may be,
    /// milliseconds.
    #[must_use]
    pub fn new(set: Arc<FeatureSet>, worker: usize, workers: usize, lateness: i64) -> Self {
        let kinds = set
            .entities
            .iter()
            .map(|spec| Kind {
                layout: Layout::new(spec),
                maps: (0..SUB_MAPS).map(|_| SubMap::default()).collect(),
                sweep: (0, 0),
            })
            .collect();
        Self {
            set,
            worker,
            workers: workers.max(1),
            lateness,
            kinds,
            labels: LabelIndex::default(),
            newest: EventTime::MIN,
            stats: Vec::new(),
        }
    }

    /// Walks the batch in order: works out the features of this worker's entities and remembers what is
    /// admitted.
    pub fn apply(
        &mut self,
        batch: &TransactionBatch,
        prepared: &Prepared,
        admissions: &[Admission],
        sink: &mut impl RowSink,
    ) {
        let set = Arc::clone(&self.set);
        for (at, (spec, kind)) in set.entities.iter().zip(&mut self.kinds).enumerate() {
            let keys = prepared.keys(at);
            for (row, (key, admission)) in keys.iter().zip(admissions).enumerate() {
                if *key == ABSENT || *admission == Admission::Skip || sub_map(*key) % self.workers != self.worker {
                    continue;
                }
                let transaction = batch.get(row);
                let mut event = Event {
                    time: transaction.event_time(),
                    amount: transaction.base_amount(),
                    id: prepared.id_hash(row),
                    place: if spec.keeps_place {
                        place(transaction.number(schema::LATITUDE), transaction.number(schema::LONGITUDE))
                    } else {
                        NO_PLACE
                    },
                    values: [0; 8],
                };
                for (value, column) in event.values.iter_mut().zip(&spec.columns) {
                    *value = prepared.value(*column, row);
                }
                let admitted = *admission == Admission::Admit;
                let Some(map) = kind.maps.get_mut(sub_map(*key)) else { continue };
                let Some(entity) = map.find_or_add(*key, admitted) else {
                    let nothing = Entity::new(*key);
                    features(spec, &kind.layout, &nothing, &event, false, &mut self.stats, row, sink);
                    continue;
                };
                let in_order = entity.events(&kind.layout).last_time().is_none_or(|last| last <= event.time);
                if in_order && admitted {
                    let until = event.time - spec.reach - self.lateness;
                    entity.advance(spec, &kind.layout, until, event.time);
                }
                features(spec, &kind.layout, entity, &event, in_order && admitted, &mut self.stats, row, sink);
                if admitted {
                    entity.insert(spec, &kind.layout, &event);
                    if spec.keeps_id {
                        self.labels.add(event.id, event.time, at, *key);
                    }
                    self.newest = self.newest.max(event.time);
                }
            }
        }
        self.expire(batch.len());
    }

    /// Marks a transaction as fraud, or takes the mark back. Says whether it is known here.
    pub fn label(&mut self, id: u64, fraud: bool) -> bool {
        let (Some(time), Some(keys)) = (self.labels.by_id.get(&id), self.labels.keys.get(&id)) else { return false };
        let mut known = false;
        for (at, key) in keys {
            let at = usize::from(*at);
            let (Some(spec), Some(kind)) = (self.set.entities.get(at), self.kinds.get_mut(at)) else { continue };
            let found = kind.maps.get_mut(sub_map(*key)).and_then(|map| map.find(*key));
            known |= found.is_some_and(|entity| entity.mark(spec, &kind.layout, *time, id, fraud));
        }
        known
    }

    /// The live features of one entity; `None` if it is not known here.
    #[must_use]
    pub fn profile(&self, hasher: &KeyedHasher, kind: &str, id: &[&str]) -> Option<Profile> {
        let at = self.set.entities.iter().position(|spec| spec.name == kind)?;
        let (spec, state) = (self.set.entities.get(at)?, self.kinds.get(at)?);
        let names: Vec<&str> = spec.field_names.iter().map(String::as_str).collect();
        let key = hasher.entity(&names, id)?;
        let map = state.maps.get(sub_map(key))?;
        let entity = map.get(key)?;
        let events = entity.events(&state.layout);
        let last_time = events.last_time()?;
        let event = Event { time: last_time, place: NO_PLACE, ..Event::default() };
        let mut stats = Vec::new();
        events.scan(&spec.windows, entity.large.is_none(), &event, &mut stats);
        let features = spec
            .features
            .iter()
            // What compares a transaction with the past means nothing without one.
            .filter(|feature| {
                let about_current = feature.aggregate.is_previous() || feature.aggregate.is_comparison();
                !about_current && feature.aggregate != Aggregate::Share
            })
            .filter_map(|feature| {
                let stats = stats.get(feature.window)?;
                let value = window_value(feature.aggregate, stats, feature.column, &event, false);
                Some((self.set.names().get(feature.slot)?.clone(), value))
            })
            .collect();
        Some(Profile { events: events.len(), last_time, features })
    }

    /// Entities with state.
    #[must_use]
    pub fn entities(&self) -> usize {
        self.kinds.iter().flat_map(|kind| &kind.maps).map(|map| map.entities.len()).sum()
    }

    /// Bytes of memory held, the allocator's own overhead not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let maps = self.kinds.iter().flat_map(|kind| &kind.maps).map(|map| {
            map.index.capacity() * 5
                + map.entities.capacity() * size_of::<Entity>()
                + map.entities.iter().map(Entity::memory_bytes).sum::<usize>()
        });
        maps.sum::<usize>() + self.labels.memory_bytes()
    }

    /// Looks at a few entities for each transaction and forgets those that no feature can see any more:
    /// it changes no feature, so when it happens does not matter.
    fn expire(&mut self, transactions: usize) {
        let (newest, lateness) = (self.newest, self.lateness);
        if newest == EventTime::MIN {
            return;
        }
        let mut reach = 0;
        for (spec, kind) in self.set.entities.iter().zip(&mut self.kinds) {
            if spec.keeps_id {
                reach = reach.max(spec.reach);
            }
            kind.sweep(newest - spec.reach - lateness, 2 * transactions);
        }
        self.labels.forget(newest.saturating_sub(reach).saturating_sub(lateness));
    }
}

impl Kind {
    fn sweep(&mut self, until: EventTime, steps: usize) {
        let (mut at, mut place) = self.sweep;
        for _ in 0..steps {
            let Some(map) = self.maps.get_mut(at) else { break };
            match map.entities.get(place) {
                None => {
                    at = (at + 1) % SUB_MAPS;
                    place = 0;
                }
                Some(entity) if entity.events(&self.layout).last_time().is_none_or(|last| last <= until) => {
                    map.remove(place);
                }
                Some(_) => place += 1,
            }
        }
        self.sweep = (at, place);
    }
}

impl SubMap {
    fn position(&self, key: u128) -> Option<usize> {
        let entities = &self.entities;
        let found = self.index.find(low(key), |at| entities.get(*at as usize).is_some_and(|e| e.key == key))?;
        Some(*found as usize)
    }

    fn get(&self, key: u128) -> Option<&Entity> {
        self.entities.get(self.position(key)?)
    }

    fn find(&mut self, key: u128) -> Option<&mut Entity> {
        let at = self.position(key)?;
        self.entities.get_mut(at)
    }

    /// The entity; a new one if it is not known and `add` says so.
    fn find_or_add(&mut self, key: u128, add: bool) -> Option<&mut Entity> {
        if let Some(at) = self.position(key) {
            return self.entities.get_mut(at);
        }
        if !add {
            return None;
        }
        let at = u32::try_from(self.entities.len()).ok()?;
        if self.entities.len() == self.entities.capacity() {
            self.entities.reserve_exact((self.entities.len() / 8).max(8));
        }
        self.entities.push(Entity::new(key));
        let entities = &self.entities;
        self.index.insert_unique(low(key), at, |at| entities.get(*at as usize).map_or(0, |e| low(e.key)));
        self.entities.last_mut()
    }

    fn remove(&mut self, place: usize) {
        let (Some(key), Some(last)) =
            (self.entities.get(place).map(|entity| entity.key), self.entities.last().map(|entity| entity.key))
        else {
            return;
        };
        let from = self.entities.len() - 1;
        if let Ok(found) = self.index.find_entry(low(key), |at| *at as usize == place) {
            found.remove();
        }
        if from != place
            && let Some(moved) = self.index.find_mut(low(last), |at| *at as usize == from)
            && let Ok(place) = u32::try_from(place)
        {
            *moved = place;
        }
        self.entities.swap_remove(place);
    }
}

impl LabelIndex {
    fn add(&mut self, id: u64, time: EventTime, entity: usize, key: u128) {
        if self.by_id.insert(id, time).is_none() {
            self.order.push_back((time, id));
        }
        if let Ok(entity) = u16::try_from(entity) {
            self.keys.entry(id).or_default().push((entity, key));
        }
    }

    fn forget(&mut self, until: EventTime) {
        while let Some((_, id)) = self.order.front().filter(|(time, _)| *time <= until) {
            self.by_id.remove(id);
            self.keys.remove(id);
            self.order.pop_front();
        }
    }

    fn memory_bytes(&self) -> usize {
        self.by_id.capacity() * 17 + self.order.capacity() * 16 + self.keys.capacity() * 33 + self.keys.len() * 64
    }
}

/// Which sub-map an entity falls to: the high byte of its key, which the index does not use.
fn sub_map(key: u128) -> usize {
    usize::from(key.to_be_bytes().first().copied().unwrap_or_default())
}

#[expect(clippy::too_many_arguments, reason = "the inner step of one walk")]
fn features(
    spec: &EntitySpec,
    layout: &Layout,
    entity: &Entity,
    event: &Event,
    advanced: bool,
    stats: &mut Vec<Stats>,
    row: usize,
    sink: &mut impl RowSink,
) {
    let events = entity.events(layout);
    match &entity.large {
        Some(large) if advanced => large.stats(&spec.windows, &events, event, stats),
        large => events.scan(&spec.windows, large.is_none(), event, stats),
    }
    for feature in &spec.features {
        let EntityFeature { slot, aggregate, window, column, include } = *feature;
        let value = if aggregate.is_previous() {
            previous(spec, &events, aggregate, event)
        } else {
            let include = include && spec.windows.get(window).is_some_and(|window| window.delay == 0);
            stats.get(window).map_or(f64::NAN, |stats| window_value(aggregate, stats, column, event, include))
        };
        sink.put(row, slot, value);
    }
}

/// The value of a feature over a window.
fn window_value(aggregate: Aggregate, stats: &Stats, column: usize, event: &Event, include: bool) -> f64 {
    let own = u64::from(include);
    let count = stats.count + own;
    let sum = stats.sum + if include { i128::from(event.amount) } else { 0 };
    let mean = || if count == 0 { f64::NAN } else { sum as f64 / count as f64 };
    let values = stats.columns.get(column).copied().unwrap_or_default();
    let has_value = event.values.get(column).is_some_and(|value| *value != 0);
    let if_any = |value: f64| if count == 0 { f64::NAN } else { value };
    match aggregate {
        Aggregate::Count => count as f64,
        Aggregate::Sum => sum as f64,
        Aggregate::Mean => mean(),
        Aggregate::Std => deviation(count, sum, squares(stats, event, include)),
        Aggregate::Min => if_any(if include { stats.min.min(event.amount) } else { stats.min } as f64),
        Aggregate::Max => if_any(if include { stats.max.max(event.amount) } else { stats.max } as f64),
        Aggregate::Distinct => (values.distinct + u64::from(include && has_value && values.matches == 0)) as f64,
        Aggregate::FraudCount => stats.fraud as f64,
        Aggregate::FraudRate => if_any(stats.fraud as f64 / count as f64),
        Aggregate::Ratio => divided(event.amount as f64, mean()),
        Aggregate::ZScore => {
            divided(event.amount as f64 - mean(), deviation(count, sum, squares(stats, event, include)))
        }
        Aggregate::Share if has_value => if_any((values.matches + own) as f64 / count as f64),
        Aggregate::IsNew if has_value => f64::from(u8::from(values.matches == 0)),
        Aggregate::FirstSeen if has_value && values.matches > 0 => (event.time - values.first) as f64 / 1_000.0,
        Aggregate::Share | Aggregate::IsNew | Aggregate::FirstSeen => f64::NAN,
        Aggregate::Last | Aggregate::SinceLast | Aggregate::Distance | Aggregate::Speed => f64::NAN,
    }
}

/// Missing where there is nothing to divide by: an infinite ratio would say more than is known.
fn divided(value: f64, by: f64) -> f64 {
    if by > 0.0 { value / by } else { f64::NAN }
}

#[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
fn squares(stats: &Stats, event: &Event, include: bool) -> u128 {
    let own = i128::from(event.amount) * i128::from(event.amount);
    if include { stats.squares.wrapping_add(own as u128) } else { stats.squares }
}

/// The standard deviation of a sample, from exact sums: nothing cancels before the one division.
fn deviation(count: u64, sum: i128, squares: u128) -> f64 {
    if count < 2 {
        return f64::NAN;
    }
    let n = count as f64;
    let exact = squares
        .checked_mul(u128::from(count))
        .zip(sum.unsigned_abs().checked_mul(sum.unsigned_abs()))
        .map(|(all, square)| all.saturating_sub(square) as f64);
    let numerator = exact.unwrap_or(n * squares as f64 - sum as f64 * sum as f64);
    (numerator / n / (n - 1.0)).max(0.0).sqrt()
}

/// The value of a feature that looks at the transaction before.
fn previous(spec: &EntitySpec, events: &super::entity::Events<'_>, aggregate: Aggregate, event: &Event) -> f64 {
    let oldest = event.time - spec.previous_reach();
    let before = events.upper(event.time);
    let Some(last) = before.checked_sub(1).filter(|last| events.time(*last) > oldest) else { return f64::NAN };
    match aggregate {
        Aggregate::Last => events.amount(last) as f64,
        Aggregate::SinceLast => (event.time - events.time(last)) as f64 / 1_000.0,
        _ => {
            if event.place == NO_PLACE {
                return f64::NAN;
            }
            let mut places = (0..before).rev().take_while(|at| events.time(*at) > oldest);
            let Some(last) = places.find(|at| events.place(*at) != NO_PLACE) else { return f64::NAN };
            let distance = kilometres(events.place(last), event.place);
            if aggregate == Aggregate::Distance {
                return distance;
            }
            // Two places in the same second: as if a second had passed.
            let hours = (event.time - events.time(last)).max(1_000) as f64 / 3_600_000.0;
            distance / hours
        }
    }
}

/// A place in one word: latitude and longitude as two `f32`s (about a metre).
#[expect(clippy::cast_possible_truncation, reason = "a metre is enough")]
fn place(latitude: f64, longitude: f64) -> u64 {
    if latitude.is_nan() || longitude.is_nan() {
        return NO_PLACE;
    }
    u64::from((latitude as f32).to_bits()) << 32 | u64::from((longitude as f32).to_bits())
}

/// The great-circle distance (haversine) on a sphere of 6371.0088 km, the Earth's mean radius.
#[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
fn kilometres(from: u64, to: u64) -> f64 {
    let degrees =
        |place: u64| (f64::from(f32::from_bits((place >> 32) as u32)), f64::from(f32::from_bits(place as u32)));
    let ((lat_a, lon_a), (lat_b, lon_b)) = (degrees(from), degrees(to));
    let half = |a: f64, b: f64| ((b - a).to_radians() / 2.0).sin().powi(2);
    let h = half(lat_a, lat_b) + lat_a.to_radians().cos() * lat_b.to_radians().cos() * half(lon_a, lon_b);
    2.0 * 6_371.008_8 * h.sqrt().min(1.0).asin()
}
