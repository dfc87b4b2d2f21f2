//! Entity state, and the walk that turns a batch into features.

use std::sync::Arc;

use hashbrown::HashTable;

use super::aggregate::Aggregate;
use super::arena::Arena;
use super::entity::{Entity, Event, Events, Layout, NO_PLACE, Stats};
use super::geo;
use super::hash::{ABSENT, KeyedHasher, Prepared, low};
use super::labels::{LabelIndex, Labelled};
use super::save::Walk;
use super::set::{EntityFeature, EntitySpec, FeatureSet};
use super::{Admission, RowSink};
use crate::transaction::{EventTime, TransactionBatch, schema};

/// Sub-maps of one kind of entity: growing one of many stalls a batch for a moment, growing one for all
/// would stall it for seconds.
const SUB_MAPS: usize = 256;

/// Transactions whose entities are looked up ahead of their turn: the memory they are in is fetched for all
/// of them at once, not for one after the other.
const AHEAD: usize = 32;

/// Transactions that all kinds of entities are gone through for before the next are: their rows stay in the
/// cache meanwhile.
const STRIP: usize = 256;

/// A transaction of this worker's, and where its entity is if it was known when looked for.
#[derive(Debug, Clone, Copy)]
struct Mine {
    row: usize,
    key: u128,
    place: Option<u32>,
}

/// The entities that fall to one worker.
#[derive(Debug)]
pub struct FeatureShards {
    pub(super) set: Arc<FeatureSet>,
    pub(super) worker: usize,
    pub(super) workers: usize,
    lateness: i64,
    pub(super) kinds: Vec<Kind>,
    pub(super) labels: LabelIndex,
    pub(super) newest: EventTime,
    mine: Vec<Mine>,
    /// While a snapshot is taken: where.
    pub(super) walk: Option<Walk>,
    /// While the journal is followed after a snapshot: which entry, counted from where it began.
    pub(super) now: u32,
}

/// All entities of one kind.
#[derive(Debug)]
pub(super) struct Kind {
    pub layout: Layout,
    pub arena: Arena,
    pub maps: Vec<SubMap>,
    /// Where the sweep for expired entities goes on.
    sweep: (usize, usize),
}

#[derive(Debug, Default)]
pub(super) struct SubMap {
    index: HashTable<u32>,
    pub entities: Vec<Entity>,
}

/// The live features of one entity.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub events: u64,
    pub last_time: EventTime,
    /// Name and value, as a transaction at the time of the last one would find them, itself not counted.
    pub features: Vec<(String, f64)>,
    /// Features whose windows reach back to where events are kept in tiles only: see [`EXACT_EVENTS`](super::EXACT_EVENTS).
    pub approximate: Vec<String>,
}

/// What entity state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// The allocator's own overhead not counted.
    pub bytes: usize,
    pub entities: usize,
    /// Entities with events in tiles: see [`EXACT_EVENTS`](super::EXACT_EVENTS).
    pub approximate: usize,
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            entities: self.entities + other.entities,
            approximate: self.approximate + other.approximate,
        }
    }
}

/// The names of features over windows that reach back to `tiles_to`, where the newest tile ends.
fn approximate(set: &FeatureSet, spec: &EntitySpec, tiles_to: Option<EventTime>, now: EventTime) -> Vec<String> {
    let Some(tiles_to) = tiles_to else { return Vec::new() };
    let reaches = |feature: &&EntityFeature| {
        let window = spec.windows.get(feature.window).filter(|_| !feature.aggregate.is_previous());
        window.is_some_and(|window| now - window.delay - window.length < tiles_to)
    };
    let name = |feature: &EntityFeature| set.names().get(feature.slot).cloned();
    spec.features.iter().filter(reaches).filter_map(name).collect()
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
                arena: Arena::default(),
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
            mine: Vec::new(),
            walk: None,
            now: u32::MAX,
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
        for first in (0..batch.len()).step_by(STRIP) {
            self.apply_strip(batch, prepared, admissions, first, sink);
        }
        self.expire(batch.len());
    }

    fn apply_strip(
        &mut self,
        batch: &TransactionBatch,
        prepared: &Prepared,
        admissions: &[Admission],
        first: usize,
        sink: &mut impl RowSink,
    ) {
        let set = Arc::clone(&self.set);
        for (at, (spec, kind)) in set.entities.iter().zip(&mut self.kinds).enumerate() {
            let keys = prepared.keys(at);
            self.mine.clear();
            let ours = |key: u128| key != ABSENT && sub_map(key) % self.workers == self.worker;
            let rows = keys.iter().zip(admissions).enumerate().skip(first).take(STRIP);
            self.mine.extend(
                rows.filter(|(_, (key, admission))| **admission != Admission::Skip && ours(**key))
                    .map(|(row, (key, _))| Mine { row, key: *key, place: None }),
            );
            for block in self.mine.chunks_mut(AHEAD) {
                kind.look_ahead(spec, prepared, block);
                for Mine { row, key, place } in block.iter().copied() {
                    let transaction = batch.get(row);
                    let event = Event {
                        time: transaction.event_time(),
                        amount: transaction.base_amount(),
                        id: prepared.id_hash(row),
                        place: if spec.keeps_place {
                            geo::place(transaction.number(schema::LATITUDE), transaction.number(schema::LONGITUDE))
                        } else {
                            NO_PLACE
                        },
                        values: values(spec, prepared, row),
                    };
                    let admitted = admissions.get(row) == Some(&Admission::Admit);
                    let Kind { layout, arena, maps, .. } = &mut *kind;
                    let Some(map) = maps.get_mut(sub_map(key)) else { continue };
                    let Some(entity) = map.find_or_add(key, place, admitted) else {
                        let mut nothing = Entity::new(key);
                        features(spec, layout, arena, &mut nothing, &event, false, &mut |slot, value| {
                            sink.put(row, slot, value)
                        });
                        continue;
                    };
                    if entity.saved_at > self.now {
                        // It has seen this transaction already.
                        if admitted && spec.keeps_id {
                            self.labels.add(event.id, event.time, at, key);
                        }
                        continue;
                    }
                    let in_order = admitted && entity.last <= event.time;
                    if in_order {
                        let until = event.time - spec.reach - self.lateness;
                        entity.advance(spec, layout, arena, until, event.time);
                    }
                    features(spec, layout, arena, entity, &event, in_order, &mut |slot, value| {
                        sink.put(row, slot, value)
                    });
                    if admitted {
                        entity.insert(spec, layout, arena, &event);
                        if spec.keeps_id {
                            self.labels.add(event.id, event.time, at, key);
                        }
                        self.newest = self.newest.max(event.time);
                    }
                }
            }
        }
    }

    /// Marks a transaction as fraud, or takes the mark back. Says whether it is known here.
    pub fn label(&mut self, id: u64, fraud: bool) -> bool {
        let mut known = false;
        for Labelled { time, entity, key, fraud: was, .. } in self.labels.label(id, fraud) {
            let Some(kind) = self.kinds.get_mut(usize::from(entity)) else { continue };
            let Kind { layout, arena, maps, .. } = kind;
            let found = maps.get_mut(sub_map(key)).and_then(|map| map.find(key));
            known |= found
                .is_some_and(|entity| entity.saved_at > self.now || entity.mark(layout, arena, time, id, was, fraud));
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
        let events = entity.events(&state.layout, &state.arena);
        let last_time = events.last_time()?;
        let event = Event { time: last_time, place: NO_PLACE, ..Event::default() };
        let mut stats = Vec::new();
        scan(spec, entity, &events, &event, |window| stats.push(*window));
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
                let totals = Totals::new(stats, &event);
                let value = totals.value(feature.aggregate, stats, feature.column, &event, false);
                Some((self.set.names().get(feature.slot)?.clone(), value))
            })
            .collect();
        let tiles = entity.large.as_ref().map_or(&[][..], |large| large.tiles());
        let approximate = approximate(&self.set, spec, tiles.last().map(|tile| tile.last), last_time);
        let in_tiles: u64 = tiles.iter().map(|tile| tile.count).sum();
        Some(Profile { events: events.len() as u64 + in_tiles, last_time, features, approximate })
    }

    /// What is held in memory, in one walk over all entities.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let mut memory = Memory { bytes: self.labels.memory_bytes(), ..Memory::default() };
        memory.bytes += self.kinds.iter().map(|kind| kind.arena.memory_bytes()).sum::<usize>();
        for map in self.kinds.iter().flat_map(|kind| &kind.maps) {
            memory.bytes += map.index.capacity() * 5 + map.entities.capacity() * size_of::<Entity>();
            memory.entities += map.entities.len();
            for entity in &map.entities {
                memory.bytes += entity.memory_bytes();
                memory.approximate += usize::from(entity.large.as_ref().is_some_and(|l| !l.tiles().is_empty()));
            }
        }
        memory
    }

    /// Looks at a few entities for each transaction and forgets those that no feature can see any more:
    /// it changes no feature, so when it happens does not matter.
    fn expire(&mut self, transactions: usize) {
        let (newest, lateness) = (self.newest, self.lateness);
        if newest == EventTime::MIN || self.walk.is_some() || self.now != u32::MAX {
            return;
        }
        let mut reach = 0;
        for (spec, kind) in self.set.entities.iter().zip(&mut self.kinds) {
            if spec.keeps_id {
                reach = reach.max(spec.reach);
            }
            kind.sweep(newest - spec.reach - lateness, transactions.div_ceil(2));
        }
        self.labels.forget(newest.saturating_sub(reach).saturating_sub(lateness));
    }
}

impl Kind {
    /// Finds the entities of some transactions and reads the memory that deciding will need. Each pass reads
    /// what does not depend on the others, so that the processor waits for all of it together.
    fn look_ahead(&self, spec: &EntitySpec, prepared: &Prepared, block: &mut [Mine]) {
        let map = |key: u128| self.maps.get(sub_map(key));
        for mine in block.iter_mut() {
            mine.place = map(mine.key).and_then(|map| map.position(mine.key));
        }
        let known = || {
            let entity = |mine: &Mine| Some((mine.row, map(mine.key)?.entities.get(mine.place? as usize)?));
            block.iter().filter_map(entity)
        };
        std::hint::black_box(known().fold(0, |all, (_, entity)| all ^ entity.touch_events(&self.layout, &self.arena)));
        std::hint::black_box(known().fold(0, |all, (_, entity)| all ^ entity.touch_windows(&self.layout, &self.arena)));
        if spec.windows.iter().any(|window| window.counted != 0) {
            let counts = known().fold(0, |all, (row, entity)| {
                let Some(large) = &entity.large else { return all };
                all ^ large.touch_counts(&entity.events(&self.layout, &self.arena), &values(spec, prepared, row))
            });
            std::hint::black_box(counts);
        }
    }

    fn sweep(&mut self, until: EventTime, steps: usize) {
        let (mut at, mut place) = self.sweep;
        for _ in 0..steps {
            let Some(map) = self.maps.get_mut(at) else { break };
            match map.entities.get(place) {
                None => {
                    at = (at + 1) % SUB_MAPS;
                    place = 0;
                }
                Some(entity) if entity.last <= until => {
                    if let Some(gone) = map.remove(place) {
                        gone.give_back(&mut self.arena);
                    }
                }
                Some(_) => place += 1,
            }
        }
        self.sweep = (at, place);
    }
}

impl SubMap {
    fn position(&self, key: u128) -> Option<u32> {
        let entities = &self.entities;
        self.index.find(low(key), |at| entities.get(*at as usize).is_some_and(|e| e.key == key)).copied()
    }

    fn get(&self, key: u128) -> Option<&Entity> {
        self.entities.get(self.position(key)? as usize)
    }

    fn find(&mut self, key: u128) -> Option<&mut Entity> {
        let at = self.position(key)?;
        self.entities.get_mut(at as usize)
    }

    /// The entity, at `place` if it was looked up already; a new one if it is not known and `add` says so.
    fn find_or_add(&mut self, key: u128, place: Option<u32>, add: bool) -> Option<&mut Entity> {
        // Not known when it was looked up, it may have been added since.
        if let Some(at) = place.or_else(|| self.position(key)) {
            return self.entities.get_mut(at as usize);
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

    /// Puts an entity in, in place of what stands under its key.
    pub fn put(&mut self, entity: Entity) -> Option<Entity> {
        let found = self.position(entity.key);
        let place = self.find_or_add(entity.key, found, true)?;
        let before = std::mem::replace(place, entity);
        found.map(|_| before)
    }

    fn remove(&mut self, place: usize) -> Option<Entity> {
        let (key, last) = (self.entities.get(place)?.key, self.entities.last()?.key);
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
        Some(self.entities.swap_remove(place))
    }
}

/// Which sub-map an entity falls to: the high byte of its key, which the index does not use.
pub(super) fn sub_map(key: u128) -> usize {
    usize::from(key.to_be_bytes().first().copied().unwrap_or_default())
}

/// A transaction's values of the columns that an entity keeps.
fn values(spec: &EntitySpec, prepared: &Prepared, row: usize) -> [u64; 8] {
    let mut values = [0; 8];
    for (value, column) in values.iter_mut().zip(&spec.columns) {
        *value = prepared.value(*column, row);
    }
    values
}

/// Works out an entity's features for `event` and tells `put` the value of each slot. `advanced` says that its events are those
/// in reach at the event's time, which is not before them: running windows may move there.
fn features(
    spec: &EntitySpec,
    layout: &Layout,
    arena: &mut Arena,
    entity: &mut Entity,
    event: &Event,
    advanced: bool,
    put: &mut impl FnMut(usize, f64),
) {
    if spec.previous > 0 {
        let before = Before::find(spec, entity, &entity.events(layout, arena), event);
        for feature in spec.features.get(..spec.previous).unwrap_or_default() {
            put(feature.slot, before.value(feature.aggregate));
        }
    }
    let mut windows = spec.windows.iter();
    let each = |stats: &Stats| {
        let Some(window) = windows.next() else { return };
        let totals = Totals::new(stats, event);
        let (from, to) = window.features;
        for feature in spec.features.get(from..to).unwrap_or_default() {
            let include = feature.include && window.delay == 0;
            put(feature.slot, totals.value(feature.aggregate, stats, feature.column, event, include));
        }
    };
    match &entity.large {
        Some(large) if advanced => large.stats(&spec.windows, &entity.events(layout, arena), event, each),
        None if advanced && entity.running => entity.stats(spec, layout, arena, event, each),
        _ => scan(spec, entity, &entity.events(layout, arena), event, each),
    }
}

/// What each window holds at the event's time, whatever the entity's running state stands at.
fn scan(spec: &EntitySpec, entity: &Entity, events: &Events<'_>, event: &Event, each: impl FnMut(&Stats)) {
    match &entity.large {
        None => events.scan(&spec.windows, true, event, each),
        Some(large) => large.scan(&spec.windows, events, event, each),
    }
}

/// What most features of a window are made of, without and with the current transaction.
struct Totals {
    count: [f64; 2],
    sum: [f64; 2],
}

impl Totals {
    #[inline]
    fn new(stats: &Stats, event: &Event) -> Self {
        let count = stats.count as f64;
        Self { count: [count, count + 1.0], sum: [real(stats.sum), real(stats.sum + i128::from(event.amount))] }
    }

    /// The value of a feature over a window.
    #[inline(always)]
    fn value(&self, aggregate: Aggregate, stats: &Stats, column: usize, event: &Event, include: bool) -> f64 {
        let [count, sum] = [self.count, self.sum].map(|[without, with]| if include { with } else { without });
        let if_any = |value: f64| if count == 0.0 { f64::NAN } else { value };
        let values = || stats.columns.get(column).copied().unwrap_or_default();
        let has_value = || event.values.get(column).is_some_and(|value| *value != 0);
        match aggregate {
            Aggregate::Count => count,
            Aggregate::Sum => sum,
            Aggregate::Mean => if_any(sum / count),
            Aggregate::Std => deviation(stats, event, include),
            Aggregate::Min => if_any(if include { stats.min.min(event.amount) } else { stats.min } as f64),
            Aggregate::Max => if_any(if include { stats.max.max(event.amount) } else { stats.max } as f64),
            Aggregate::Distinct => {
                let values = values();
                (values.distinct + u64::from(include && has_value() && values.matches == 0)) as f64
            }
            Aggregate::FraudCount => stats.fraud as f64,
            Aggregate::FraudRate => if_any(stats.fraud as f64 / count),
            Aggregate::Ratio => divided(event.amount as f64, if_any(sum / count)),
            Aggregate::ZScore => divided(event.amount as f64 - if_any(sum / count), deviation(stats, event, include)),
            Aggregate::Share if has_value() => {
                let own = u64::from(include);
                let (matches, all) = (values().matches + own, stats.told_apart + own);
                if all == 0 { f64::NAN } else { matches as f64 / all as f64 }
            }
            Aggregate::IsNew if has_value() => f64::from(u8::from(values().matches == 0)),
            Aggregate::FirstSeen if has_value() && values().matches > 0 => {
                (event.time - values().first) as f64 / 1_000.0
            }
            Aggregate::Share | Aggregate::IsNew | Aggregate::FirstSeen => f64::NAN,
            Aggregate::Last | Aggregate::SinceLast | Aggregate::Distance | Aggregate::Speed => f64::NAN,
        }
    }
}

/// The nearest `f64`; most sums need no wide arithmetic.
#[inline]
fn real(sum: i128) -> f64 {
    i64::try_from(sum).map_or_else(|_| wide(sum), |sum| sum as f64)
}

/// Kept apart, or the compiler takes this slow way for every sum.
#[cold]
#[inline(never)]
fn wide(sum: i128) -> f64 {
    sum as f64
}

/// Missing where there is nothing to divide by: an infinite ratio would say more than is known.
fn divided(value: f64, by: f64) -> f64 {
    if by > 0.0 { value / by } else { f64::NAN }
}

/// The standard deviation of a sample, from exact sums: nothing cancels before the one division.
#[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
fn deviation(stats: &Stats, event: &Event, include: bool) -> f64 {
    let amount = if include { i128::from(event.amount) } else { 0 };
    let (count, sum) = (stats.count + u64::from(include), stats.sum + amount);
    let squares = stats.squares.wrapping_add((amount * amount) as u128);
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

/// What is known of the transaction before, NaN where it is not.
struct Before {
    amount: f64,
    seconds: f64,
    kilometres: f64,
    /// Since the last transaction with a place.
    hours: f64,
}

impl Before {
    fn find(spec: &EntitySpec, entity: &Entity, events: &Events<'_>, event: &Event) -> Self {
        let mut found = Self { amount: f64::NAN, seconds: f64::NAN, kilometres: f64::NAN, hours: f64::NAN };
        let oldest = event.time - spec.previous_reach();
        let before = if entity.last <= event.time { events.len() } else { events.upper(event.time) };
        let Some(last) = before.checked_sub(1).filter(|last| events.time(*last) > oldest) else { return found };
        found.amount = events.amount(last) as f64;
        found.seconds = (event.time - events.time(last)) as f64 / 1_000.0;
        if event.place != NO_PLACE {
            let mut places = (0..before).rev().take_while(|at| events.time(*at) > oldest);
            if let Some(last) = places.find(|at| events.place(*at) != NO_PLACE) {
                found.kilometres = geo::kilometres(events.place(last), event.place);
                // Two places in the same second: as if a second had passed.
                found.hours = (event.time - events.time(last)).max(1_000) as f64 / 3_600_000.0;
            }
        }
        found
    }

    fn value(&self, aggregate: Aggregate) -> f64 {
        match aggregate {
            Aggregate::Last => self.amount,
            Aggregate::SinceLast => self.seconds,
            Aggregate::Distance => self.kilometres,
            Aggregate::Speed => self.kilometres / self.hours,
            _ => f64::NAN,
        }
    }
}
