//! Running state of an entity with many events: sums and counts by value for each window, and extremes in
//! chunks, so that an event costs O(windows) however many are in them.

#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: windows and chunks are made with the indices used here"
)]

use std::ops::Range;

use hashbrown::HashMap;

use super::entity::{ColumnStats, Event, Events, Stats};
use super::set::{EntitySpec, Window};
use super::sketch::{Registers, Sketch};
use super::tiles::{self, Tile};
use crate::transaction::EventTime;

type Counts = HashMap<u64, u32, foldhash::fast::FixedState>;

/// Events in a chunk of extremes.
const CHUNK: usize = 32;

/// A large entity's running state, and the tiles that stand for its oldest events.
///
/// Tiles and events are one row of *units* to the windows: the tiles first, then the events.
#[derive(Debug)]
pub(super) struct Large {
    /// The entity's events.
    pub rows: Vec<u64>,
    windows: Vec<Running>,
    tiles: Vec<Tile>,
    /// Extremes of each [`CHUNK`] events, counted from the first event ever kept, less `chunks_gone`.
    chunks: Vec<(i64, i64)>,
    chunks_gone: usize,
    /// Events dropped since the state was made: the place of event 0 in the count of chunks.
    dropped: usize,
    extremes: bool,
}

/// A window as it stands: it holds the units from `tail` up to `head`.
#[derive(Debug)]
struct Running {
    tail: usize,
    head: usize,
    count: u64,
    sum: i128,
    squares: u128,
    fraud: u64,
    /// By column, for those that are counted: how many events, not in tiles, have a value.
    counts: Vec<Option<Counts>>,
    /// By column, for those that are counted, while tiles are inside; made again when one has left.
    sketches: Option<Vec<Option<Sketch>>>,
}

/// Tiles, then events.
struct Units<'a> {
    tiles: &'a [Tile],
    events: &'a Events<'a>,
}

impl Units<'_> {
    fn len(&self) -> usize {
        self.tiles.len() + self.events.len()
    }

    fn first(&self, at: usize) -> EventTime {
        if at < self.tiles.len() { self.tiles[at].first } else { self.events.time(at - self.tiles.len()) }
    }

    fn last(&self, at: usize) -> EventTime {
        if at < self.tiles.len() { self.tiles[at].last } else { self.events.time(at - self.tiles.len()) }
    }
}

impl Large {
    /// Running state of no events, with tiles that stand for those before.
    pub fn empty(spec: &EntitySpec, tiles: Vec<Tile>) -> Self {
        let windows = spec
            .windows
            .iter()
            .map(|window| Running {
                tail: 0,
                head: 0,
                count: 0,
                sum: 0,
                squares: 0,
                fraud: 0,
                counts: (0..spec.columns.len()).map(|c| (window.counted & 1 << c != 0).then(Counts::default)).collect(),
                sketches: None,
            })
            .collect();
        let extremes = spec.windows.iter().any(|window| window.extremes);
        Self { rows: Vec::new(), windows, tiles, chunks: Vec::new(), chunks_gone: 0, dropped: 0, extremes }
    }

    /// Takes all events in; the newest is of time `last`.
    pub fn refill(&mut self, spec: &EntitySpec, events: &Events<'_>, last: EventTime) {
        self.rebuild_chunks(events, 0);
        self.advance(spec, events, last);
    }

    pub fn memory_bytes(&self) -> usize {
        let counts = self.windows.iter().flat_map(|window| window.counts.iter().flatten());
        let sketches = self.windows.iter().flat_map(|window| window.sketches.iter().flatten().flatten());
        size_of::<Self>()
            + self.rows.capacity() * 8
            + self.chunks.capacity() * 16
            + counts.map(|counts| counts.capacity() * 17).sum::<usize>()
            + self.tiles.iter().map(Tile::memory_bytes).sum::<usize>()
            + sketches.count() * (Registers::BYTES + size_of::<Sketch>())
    }

    /// Whether some of its events are in tiles: windows that reach so far are approximate.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// Reads what is kept of each window.
    pub fn touch(&self) -> u64 {
        self.windows.iter().fold(0, |all, window| all ^ window.head as u64)
    }

    /// The events that are next to leave or to enter.
    pub fn edges(&self) -> impl Iterator<Item = usize> {
        let tiles = self.tiles.len();
        self.windows.iter().flat_map(|window| [window.tail, window.head]).filter_map(move |at| at.checked_sub(tiles))
    }

    /// Looks up the values that are about to enter and to leave.
    pub fn touch_counts(&self, events: &Events<'_>, values: &[u64; 8]) -> u32 {
        let mut all = 0;
        for running in &self.windows {
            for (column, counts) in running.counts.iter().enumerate() {
                let Some(counts) = counts else { continue };
                all ^= counts.get(&values[column]).copied().unwrap_or_default();
                if let Some(tail) = running.tail.checked_sub(self.tiles.len())
                    && running.tail < running.head
                {
                    all ^= counts.get(&events.value(tail, column)).copied().unwrap_or_default();
                }
            }
        }
        all
    }

    /// Moves every window to where it is at `now`, which is not before the last event.
    pub fn advance(&mut self, spec: &EntitySpec, events: &Events<'_>, now: EventTime) {
        let units = Units { tiles: &self.tiles, events };
        for (running, window) in self.windows.iter_mut().zip(&spec.windows) {
            let until = now - window.delay;
            while running.head < units.len() && units.last(running.head) <= until {
                running.enter(&units, running.head);
                running.head += 1;
            }
            let after = until - window.length;
            while running.tail < running.head && units.first(running.tail) <= after {
                running.leave(&units, running.tail);
                running.tail += 1;
            }
            if !units.tiles.is_empty() && window.counted != 0 {
                running.sketch(&units);
            }
        }
    }

    /// Forgets tiles and then the first `out` events: they are in no window any more.
    pub fn forget(&mut self, until: EventTime, out: usize) {
        let tiles = self.tiles.partition_point(|tile| tile.last <= until);
        self.tiles.drain(..tiles);
        for window in &mut self.windows {
            window.tail = window.tail.saturating_sub(tiles + out);
            window.head = window.head.saturating_sub(tiles + out);
        }
        self.dropped(out);
    }

    /// The first `out` events stand no more among the events.
    fn dropped(&mut self, out: usize) {
        self.dropped += out;
        let gone = self.dropped / CHUNK;
        if gone >= self.chunks_gone + 64 {
            // There are none where no window asks for extremes.
            self.chunks.drain(..(gone - self.chunks_gone).min(self.chunks.len()));
            self.chunks_gone = gone;
        }
    }

    /// Puts the first `many` events into a tile; the caller takes them out of the events.
    pub fn fold(&mut self, spec: &EntitySpec, events: &Events<'_>, many: usize) {
        let at = self.tiles.len();
        let units = Units { tiles: &self.tiles, events };
        self.windows.iter_mut().for_each(|running| running.replace(&units, at, many));
        self.tiles.push(Tile::of(spec, events, many));
        self.dropped(many);
        while let Some(surplus) = tiles::surplus(&self.tiles) {
            let units = Units { tiles: &self.tiles, events };
            self.windows.iter_mut().for_each(|running| running.replace(&units, surplus, 2));
            tiles::join(&mut self.tiles, surplus);
        }
    }

    /// An event that came so late that its time is a tile's.
    pub fn absorb(&mut self, event: &Event) {
        let at = self.tiles.partition_point(|tile| tile.last < event.time);
        let Some(tile) = self.tiles.get_mut(at) else { return };
        tile.absorb(event.time, event.amount, &event.values);
        for running in self.windows.iter_mut().filter(|running| (running.tail..running.head).contains(&at)) {
            running.add(event.amount, false);
            for (column, sketch) in running.sketches.iter_mut().flatten().enumerate() {
                if let Some(sketch) = sketch {
                    sketch.add(event.values[column]);
                }
            }
        }
    }

    /// An event stands now at `place`, where the events are as they are after it came.
    pub fn inserted(&mut self, spec: &EntitySpec, events: &Events<'_>, place: usize, event: &Event) {
        if place + 1 == events.len() {
            self.add_to_chunk(place, event.amount);
        } else {
            self.rebuild_chunks(events, place);
        }
        let units = Units { tiles: &self.tiles, events };
        let at = units.tiles.len() + place;
        for (running, window) in self.windows.iter_mut().zip(&spec.windows) {
            // Behind the tail it is in no window; ahead of the head it is not yet, unless it is the newest: then
            // the window stands at its time. Its values were just looked up and are at hand still.
            let newest = window.delay == 0 && at == running.head && place + 1 == events.len();
            if at < running.tail {
                running.tail += 1;
                running.head += 1;
            } else if at < running.head || newest {
                running.enter(&units, at);
                running.head += 1;
            }
        }
    }

    /// The fraud mark of the event at `at` changed.
    pub fn marked(&mut self, at: usize, fraud: bool) {
        self.mark_unit(self.tiles.len() + at, fraud);
    }

    /// The fraud mark of an event at `time`, in a tile now, changed. Says whether there is such a tile.
    pub fn marked_in_tile(&mut self, time: EventTime, fraud: bool) -> bool {
        let from = self.tiles.partition_point(|tile| tile.last < time);
        let mut there = self.tiles.iter_mut().enumerate().skip(from).take_while(|(_, tile)| tile.first <= time);
        // Events of one moment may be in two tiles: a mark is taken back where there is one.
        let Some((at, tile)) = there.find(|(_, tile)| fraud || tile.fraud > 0) else { return false };
        tile.fraud = if fraud { tile.fraud + 1 } else { tile.fraud - 1 };
        self.mark_unit(at, fraud);
        true
    }

    fn mark_unit(&mut self, at: usize, fraud: bool) {
        for running in self.windows.iter_mut().filter(|running| (running.tail..running.head).contains(&at)) {
            running.fraud = if fraud { running.fraud + 1 } else { running.fraud.saturating_sub(1) };
        }
    }

    /// What each window holds, in order, for a transaction that is not before the last event.
    pub fn stats(&self, windows: &[Window], events: &Events<'_>, current: &Event, mut each: impl FnMut(&Stats)) {
        // Features ask for a column only in windows that count it: what another window left there is not read.
        let mut stats = Stats::default();
        let tiles = self.tiles.len();
        for (running, window) in self.windows.iter().zip(windows) {
            let tail = running.tail.max(tiles) - tiles;
            let head = running.head.max(tiles) - tiles;
            for (column, counts) in running.counts.iter().enumerate() {
                let Some(counts) = counts else { continue };
                let wanted = current.values[column];
                let matches = counts.get(&wanted).copied().unwrap_or_default();
                let first = if matches == 0 || !window.firsts {
                    0
                } else {
                    (tail..head).find(|at| events.value(*at, column) == wanted).map_or(0, |at| events.time(at))
                };
                let absent = u64::from(counts.contains_key(&0));
                let sketch = running.sketches.as_ref().and_then(|sketches| sketches.get(column)?.as_ref());
                let distinct = (counts.len() as u64 - absent).max(sketch.map_or(0, Sketch::estimate));
                stats.columns[column] = ColumnStats { distinct, matches: u64::from(matches), first };
            }
            (stats.min, stats.max) = if window.extremes {
                let inside = self.tiles.get(running.tail..running.head.min(tiles)).unwrap_or_default();
                inside.iter().fold(self.extremes(events, tail, head), |all, tile| wider(all, (tile.min, tile.max)))
            } else {
                NONE
            };
            stats.count = running.count;
            stats.sum = running.sum;
            stats.squares = running.squares;
            stats.fraud = running.fraud;
            // Of what is in tiles, values are not told apart: shares are of the events that are not.
            stats.told_apart = (head - tail) as u64;
            each(&stats);
        }
    }

    /// The same for a transaction that is before the last event: what the events give, and the tiles that are
    /// wholly inside.
    pub fn scan(&self, windows: &[Window], events: &Events<'_>, current: &Event, mut each: impl FnMut(&Stats)) {
        let mut rest = windows.iter();
        events.scan(windows, false, current, |of_events| {
            let Some(window) = rest.next() else { return };
            let (until, mut stats) = (current.time - window.delay, *of_events);
            stats.told_apart = stats.count;
            let after = until - window.length;
            let inside = || self.tiles.iter().filter(|tile| tile.first > after && tile.last <= until);
            for tile in inside() {
                stats.count += tile.count;
                stats.sum += tile.sum;
                stats.squares = stats.squares.wrapping_add(tile.squares);
                stats.fraud += tile.fraud;
                (stats.min, stats.max) = wider((stats.min, stats.max), (tile.min, tile.max));
            }
            let (tail, head) = (events.upper(after), events.upper(until));
            for (column, stats) in stats.columns.iter_mut().enumerate().filter(|(c, _)| window.counted & 1 << c != 0) {
                if inside().next().is_some() {
                    let of_tiles = inside().filter_map(|tile| tile.values.get(column)?.as_ref());
                    stats.distinct = stats.distinct.max(sketch(of_tiles, events, column, tail..head).estimate());
                }
            }
            each(&stats);
        });
    }

    fn extremes(&self, events: &Events<'_>, tail: usize, head: usize) -> (i64, i64) {
        let mut found = NONE;
        let mut at = tail;
        while at < head {
            let chunk = (self.dropped + at) / CHUNK;
            let next = (chunk + 1) * CHUNK - self.dropped;
            if (self.dropped + at).is_multiple_of(CHUNK) && next <= head {
                found = wider(found, self.chunks[chunk - self.chunks_gone]);
                at = next;
            } else {
                let amount = events.amount(at);
                found = wider(found, (amount, amount));
                at += 1;
            }
        }
        found
    }

    fn add_to_chunk(&mut self, at: usize, amount: i64) {
        if !self.extremes {
            return;
        }
        let chunk = (self.dropped + at) / CHUNK - self.chunks_gone;
        if chunk == self.chunks.len() {
            self.chunks.push(NONE);
        }
        self.chunks[chunk] = wider(self.chunks[chunk], (amount, amount));
    }

    /// Makes the chunks again from the one that holds event `from`.
    fn rebuild_chunks(&mut self, events: &Events<'_>, from: usize) {
        let chunk = (self.dropped + from) / CHUNK;
        self.chunks.truncate(chunk.saturating_sub(self.chunks_gone));
        let first = (chunk * CHUNK).saturating_sub(self.dropped);
        for at in first..events.len() {
            self.add_to_chunk(at, events.amount(at));
        }
    }
}

const NONE: (i64, i64) = (i64::MAX, i64::MIN);

fn wider(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// The values of some tiles and events.
fn sketch<'a>(
    tiles: impl Iterator<Item = &'a Registers>,
    events: &Events<'_>,
    column: usize,
    range: Range<usize>,
) -> Sketch {
    let mut registers = Registers::new();
    tiles.for_each(|tile| registers.merge(tile));
    range.for_each(|at| registers.add(events.value(at, column)));
    Sketch::new(registers)
}

impl Running {
    fn enter(&mut self, units: &Units<'_>, at: usize) {
        let Some(event) = at.checked_sub(units.tiles.len()) else {
            let tile = &units.tiles[at];
            self.count += tile.count;
            self.sum += tile.sum;
            self.squares = self.squares.wrapping_add(tile.squares);
            self.fraud += tile.fraud;
            self.sketches = None;
            return;
        };
        self.add(units.events.amount(event), units.events.is_fraud(event));
        for (column, counts) in self.counts.iter_mut().enumerate() {
            if let Some(counts) = counts {
                *counts.entry(units.events.value(event, column)).or_default() += 1;
            }
        }
        for (column, sketch) in self.sketches.iter_mut().flatten().enumerate() {
            if let Some(sketch) = sketch {
                sketch.add(units.events.value(event, column));
            }
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn add(&mut self, amount: i64, fraud: bool) {
        let amount = i128::from(amount);
        self.count += 1;
        self.sum += amount;
        self.squares = self.squares.wrapping_add((amount * amount) as u128);
        self.fraud += u64::from(fraud);
    }

    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn leave(&mut self, units: &Units<'_>, at: usize) {
        let Some(event) = at.checked_sub(units.tiles.len()) else {
            let tile = &units.tiles[at];
            self.count -= tile.count;
            self.sum -= tile.sum;
            self.squares = self.squares.wrapping_sub(tile.squares);
            self.fraud -= tile.fraud;
            self.sketches = None;
            return;
        };
        let amount = i128::from(units.events.amount(event));
        self.count -= 1;
        self.sum -= amount;
        self.squares = self.squares.wrapping_sub((amount * amount) as u128);
        self.fraud -= u64::from(units.events.is_fraud(event));
        self.forget_values(units, event);
        self.sketches = None;
    }

    fn forget_values(&mut self, units: &Units<'_>, event: usize) {
        for (column, counts) in self.counts.iter_mut().enumerate() {
            let Some(counts) = counts else { continue };
            let value = units.events.value(event, column);
            if let Some(count) = counts.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&value);
                }
            }
        }
    }

    /// `many` units from `at` on are to become one tile. A window that holds only a part of them lets it go.
    fn replace(&mut self, units: &Units<'_>, at: usize, many: usize) {
        let end = at + many;
        if self.head <= at {
            return;
        }
        if self.tail >= end {
            self.tail -= many - 1;
            self.head -= many - 1;
        } else if self.tail <= at && self.head >= end {
            for event in (at..end).filter_map(|unit| unit.checked_sub(units.tiles.len())) {
                self.forget_values(units, event);
            }
            self.head -= many - 1;
        } else {
            for unit in self.tail.max(at)..self.head.min(end) {
                self.leave(units, unit);
            }
            if self.tail > at {
                self.tail = at + 1;
                self.head = if self.head >= end { self.head - (many - 1) } else { at + 1 };
            } else {
                self.head = at;
            }
        }
    }

    /// Makes the sketches that are missing while tiles are inside.
    fn sketch(&mut self, units: &Units<'_>) {
        let tiles = units.tiles.len();
        let inside = units.tiles.get(self.tail..self.head.min(tiles)).unwrap_or_default();
        if inside.is_empty() {
            self.sketches = None;
            return;
        }
        if self.sketches.is_some() {
            return;
        }
        let of = |column: usize| {
            let of_tiles = inside.iter().filter_map(|tile| tile.values.get(column)?.as_ref());
            sketch(of_tiles, units.events, column, 0..self.head.max(tiles) - tiles)
        };
        self.sketches =
            Some(self.counts.iter().enumerate().map(|(column, counts)| counts.as_ref().map(|_| of(column))).collect());
    }
}
