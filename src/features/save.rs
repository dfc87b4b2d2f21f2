//! Entity state as bytes, for snapshots taken while the engine goes on.
//!
//! State is walked some entities at a time, between batches, so that a snapshot holds each entity as it was after
//! so many entries of the journal, another after more. An entity depends on its own transactions only: whoever
//! loads it and follows the journal from where the snapshot began leaves out, entity by entity, what it has seen
//! already.
//!
//! A slice of entities: after how many entries it was made (u32), the entity's kind (u32), then words of 64 bits, all
//! little endian. An entity: key (two words), time of the newest event, flags, events, tiles; the events' words; the
//! tiles, one after the other.

#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "words hold the bits of what was saved"
)]

use super::blocks::Blocks;
use super::entity::{Entity, Layout};
use super::labels::Labelled;
use super::set::EntitySpec;
use super::shards::{FeatureShards, sub_map};
use super::sketch::Registers;
use super::tiles::Tile;

/// Where a walk over all entities goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walk {
    pub kind: usize,
    pub map: usize,
    pub place: usize,
}

/// The transactions that labels can still reach, as they were when a snapshot began.
#[derive(Debug, Clone)]
pub struct SavedLabels(pub(super) Blocks<Labelled>);

const LABEL_WORDS: usize = 5;

impl SavedLabels {
    /// Calls `each` with parts of the rows, in order.
    ///
    /// # Errors
    /// What `each` returns.
    pub fn write<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut bytes = Vec::new();
        for row in self.0.iter() {
            put(&mut bytes, row.time as u64);
            put(&mut bytes, row.id);
            put(&mut bytes, u64::from(row.entity) | u64::from(row.fraud) << 32);
            put_wide(&mut bytes, row.key);
            if bytes.len() >= 1 << 19 {
                each(&bytes)?;
                bytes.clear();
            }
        }
        if bytes.is_empty() { Ok(()) } else { each(&bytes) }
    }
}

/// Whether a worker of so many has the entity of this key.
fn is_ours(key: u128, worker: usize, workers: usize) -> bool {
    sub_map(key) % workers == worker
}

impl FeatureShards {
    /// The journal is followed up to entry `now`, counted from where a snapshot began: entities that have seen it
    /// already are left alone. `None` when all is live.
    pub fn replay(&mut self, now: Option<u32>) {
        self.now = now.unwrap_or(u32::MAX);
    }

    /// Begins a walk; nothing is forgotten before it [ends](Self::end_walk).
    pub fn begin_walk(&mut self) -> SavedLabels {
        self.walk = Some(Walk::default());
        SavedLabels(self.labels.rows())
    }

    pub fn end_walk(&mut self) {
        self.walk = None;
    }

    /// Adds a slice of entities to `out`, about `budget` bytes; says whether there are more. `at` is how many
    /// entries, counted from where the walk began, are in the state by now.
    pub fn walk(&mut self, at: u32, budget: usize, out: &mut Vec<u8>) -> bool {
        let Some(walk) = &mut self.walk else { return false };
        let Some((kind, spec)) = self.kinds.get(walk.kind).zip(self.set.entities.get(walk.kind)) else { return false };
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&(walk.kind as u32).to_le_bytes());
        let end = out.len() + budget;
        while out.len() < end {
            let Some(map) = kind.maps.get(walk.map) else {
                *walk = Walk { kind: walk.kind + 1, ..Walk::default() };
                break;
            };
            match map.entities.get(walk.place) {
                Some(entity) => {
                    save(entity, spec, &kind.layout, &kind.arena, out);
                    walk.place += 1;
                }
                None => *walk = Walk { map: walk.map + 1, place: 0, ..*walk },
            }
        }
        walk.kind < self.kinds.len()
    }

    /// Loads those entities of a slice that are this worker's.
    ///
    /// # Errors
    /// It is no slice of this feature set's entities.
    pub fn load_entities(&mut self, slice: &[u8]) -> Result<(), &'static str> {
        let (at, rest) = slice.split_first_chunk::<4>().ok_or("ends in the middle")?;
        let (kind, rest) = rest.split_first_chunk::<4>().ok_or("ends in the middle")?;
        let (at, at_kind) = (u32::from_le_bytes(*at), u32::from_le_bytes(*kind) as usize);
        let spec = self.set.entities.get(at_kind).ok_or("has an entity of an unknown kind")?;
        let kind = self.kinds.get_mut(at_kind).ok_or("has an entity of an unknown kind")?;
        let mut words = Words(rest);
        while !words.0.is_empty() {
            let key = words.wide()?;
            let ours = is_ours(key, self.worker, self.workers);
            let entity = load(key, &mut words, spec, &kind.layout, ours.then_some(&mut kind.arena))?;
            if let Some(mut entity) = entity {
                entity.saved_at = at;
                self.newest = self.newest.max(entity.last);
                let map = kind.maps.get_mut(sub_map(key)).ok_or("has no such map")?;
                if let Some(before) = map.put(entity) {
                    before.give_back(&mut kind.arena);
                }
            }
        }
        Ok(())
    }

    /// Loads those of the transactions that labels can reach that are this worker's.
    ///
    /// # Errors
    /// They are none.
    pub fn load_labels(&mut self, rows: &[u8]) -> Result<(), &'static str> {
        let mut words = Words(rows);
        while !words.0.is_empty() {
            let [time, id, flags] = [words.next()?, words.next()?, words.next()?];
            let key = words.wide()?;
            if is_ours(key, self.worker, self.workers) {
                let (entity, fraud) = (flags as u16, flags >> 32 & 1 == 1);
                self.labels.push(Labelled { time: time as i64, id, entity, fraud, key });
            }
        }
        debug_assert!(rows.len().is_multiple_of(LABEL_WORDS * 8));
        Ok(())
    }
}

const LARGE: u64 = 1;

fn save(entity: &Entity, spec: &EntitySpec, layout: &Layout, arena: &super::arena::Arena, out: &mut Vec<u8>) {
    let events = entity.events(layout, arena);
    let tiles = entity.large.as_ref().map_or(&[][..], |large| large.tiles());
    put_wide(out, entity.key);
    put(out, entity.last as u64);
    put(out, if entity.large.is_some() { LARGE } else { 0 });
    put(out, events.len() as u64);
    put(out, tiles.len() as u64);
    events.rows().iter().for_each(|word| put(out, *word));
    for tile in tiles {
        for word in [tile.first as u64, tile.last as u64, tile.count, tile.fraud, tile.min as u64, tile.max as u64] {
            put(out, word);
        }
        put_wide(out, tile.sum as u128);
        put_wide(out, tile.squares);
        let has = |(column, values): (usize, &Option<Registers>)| u64::from(values.is_some()) << column;
        put(out, u64::from(tile.size) | tile.values.iter().enumerate().map(has).sum::<u64>() << 32);
        tile.values.iter().flatten().for_each(|values| out.extend_from_slice(values.bytes()));
    }
    debug_assert_eq!(spec.columns.len(), layout.column_count);
}

/// Reads an entity; `None` where there is no arena for it.
fn load(
    key: u128,
    words: &mut Words<'_>,
    spec: &EntitySpec,
    layout: &Layout,
    arena: Option<&mut super::arena::Arena>,
) -> Result<Option<Entity>, &'static str> {
    let last = words.next()? as i64;
    let flags = words.next()?;
    let (events, tiles) = (words.next()? as usize, words.next()? as usize);
    let rows = words.take(events.checked_mul(layout.stride).ok_or("has too many events")?)?;
    let mut loaded = Vec::new();
    for _ in 0..tiles {
        let [first, last, count, fraud, min, max] =
            [words.next()?, words.next()?, words.next()?, words.next()?, words.next()?, words.next()?];
        let (sum, squares, size) = (words.wide()? as i128, words.wide()?, words.next()?);
        let mut values = Vec::new();
        for column in 0..spec.columns.len() {
            let has = size >> (32 + column) & 1 == 1;
            values.push(if has { Some(Registers::from_bytes(words.bytes(Registers::BYTES)?)) } else { None });
        }
        loaded.push(Tile {
            first: first as i64,
            last: last as i64,
            count,
            sum,
            squares,
            fraud,
            min: min as i64,
            max: max as i64,
            values,
            size: size as u8,
        });
    }
    let Some(arena) = arena else { return Ok(None) };
    let rows = rows.chunks_exact(8).filter_map(|word| word.first_chunk::<8>()).map(|word| u64::from_le_bytes(*word));
    Ok(Some(if flags & LARGE != 0 {
        Entity::large(key, last, rows.collect(), loaded, spec, layout)
    } else {
        Entity::small(key, last, events, rows, spec, layout, arena).ok_or("has an entity that is too large")?
    }))
}

fn put(out: &mut Vec<u8>, word: u64) {
    out.extend_from_slice(&word.to_le_bytes());
}

fn put_wide(out: &mut Vec<u8>, words: u128) {
    out.extend_from_slice(&words.to_le_bytes());
}

/// Words that are read one after the other.
struct Words<'a>(&'a [u8]);

const SHORT: &str = "ends in the middle";

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<u64, &'static str> {
        let (word, rest) = self.0.split_first_chunk::<8>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*word))
    }

    fn wide(&mut self) -> Result<u128, &'static str> {
        Ok(u128::from(self.next()?) | u128::from(self.next()?) << 64)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn take(&mut self, words: usize) -> Result<&'a [u8], &'static str> {
        self.bytes(words.checked_mul(8).ok_or(SHORT)?)
    }
}
