//! Running state of an entity with many events: sums and counts by value for each window, and extremes in
//! chunks, so that an event costs O(windows) however many are in them.

#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: windows and chunks are made with the indices used here"
)]

use hashbrown::HashMap;

use super::entity::{ColumnStats, Event, Events, Stats};
use super::set::{EntitySpec, Window};
use crate::transaction::EventTime;

type Counts = HashMap<u64, u32, foldhash::fast::FixedState>;

/// Events in a chunk of extremes.
const CHUNK: usize = 32;

#[derive(Debug)]
pub(super) struct Large {
    windows: Vec<Running>,
    /// Extremes of each [`CHUNK`] events, counted from the first event ever kept, less `chunks_gone`.
    chunks: Vec<(i64, i64)>,
    chunks_gone: usize,
    /// Events dropped since the state was made: the place of event 0 in the count of chunks.
    dropped: usize,
    extremes: bool,
}

/// A window as it stands: it holds the events from `tail` up to `head`.
#[derive(Debug)]
struct Running {
    tail: usize,
    head: usize,
    sum: i128,
    squares: u128,
    fraud: u64,
    /// By column, for those that are counted.
    counts: Vec<Option<Counts>>,
}

impl Large {
    pub fn new(spec: &EntitySpec, events: &Events<'_>) -> Self {
        let windows = spec
            .windows
            .iter()
            .map(|window| Running {
                tail: 0,
                head: 0,
                sum: 0,
                squares: 0,
                fraud: 0,
                counts: (0..spec.columns.len()).map(|c| (window.counted & 1 << c != 0).then(Counts::default)).collect(),
            })
            .collect();
        let extremes = spec.windows.iter().any(|window| window.extremes);
        let mut large = Self { windows, chunks: Vec::new(), chunks_gone: 0, dropped: 0, extremes };
        large.rebuild_chunks(events, 0);
        if let Some(last) = events.last_time() {
            large.advance(spec, events, last);
        }
        large
    }

    pub fn memory_bytes(&self) -> usize {
        let counts = self.windows.iter().flat_map(|window| window.counts.iter().flatten());
        size_of::<Self>() + self.chunks.capacity() * 16 + counts.map(|counts| counts.capacity() * 17).sum::<usize>()
    }

    /// Reads what is kept of each window.
    pub fn touch(&self) -> u64 {
        self.windows.iter().fold(0, |all, window| all ^ window.head as u64)
    }

    /// The events that are next to leave or to enter.
    pub fn edges(&self) -> impl Iterator<Item = usize> {
        self.windows.iter().flat_map(|window| [window.tail, window.head])
    }

    /// Looks up the values that are about to enter and to leave.
    pub fn touch_counts(&self, events: &Events<'_>, values: &[u64; 8]) -> u32 {
        let mut all = 0;
        for running in &self.windows {
            for (column, counts) in running.counts.iter().enumerate() {
                let Some(counts) = counts else { continue };
                all ^= counts.get(&values[column]).copied().unwrap_or_default();
                if running.tail < running.head {
                    all ^= counts.get(&events.value(running.tail, column)).copied().unwrap_or_default();
                }
            }
        }
        all
    }

    /// Moves every window to where it is at `now`, which is not before the last event.
    pub fn advance(&mut self, spec: &EntitySpec, events: &Events<'_>, now: EventTime) {
        for (running, window) in self.windows.iter_mut().zip(&spec.windows) {
            let until = now - window.delay;
            while running.head < events.len() && events.time(running.head) <= until {
                running.enter(events, running.head);
                running.head += 1;
            }
            let after = until - window.length;
            while running.tail < running.head && events.time(running.tail) <= after {
                running.leave(events, running.tail);
                running.tail += 1;
            }
        }
    }

    /// The first `out` events are gone; they were in no window any more.
    pub fn dropped(&mut self, out: usize) {
        for window in &mut self.windows {
            window.tail = window.tail.saturating_sub(out);
            window.head = window.head.saturating_sub(out);
        }
        self.dropped += out;
        let gone = self.dropped / CHUNK;
        if gone >= self.chunks_gone + 64 {
            self.chunks.drain(..gone - self.chunks_gone);
            self.chunks_gone = gone;
        }
    }

    /// An event stands now at `place`, where the events are as they are after it came.
    pub fn inserted(&mut self, spec: &EntitySpec, events: &Events<'_>, place: usize, event: &Event) {
        if place + 1 == events.len() {
            self.add_to_chunk(place, event.amount);
        } else {
            self.rebuild_chunks(events, place);
        }
        for (running, window) in self.windows.iter_mut().zip(&spec.windows) {
            // Behind the tail it is in no window; ahead of the head it is not yet, unless it is the newest: then
            // the window stands at its time. Its values were just looked up and are at hand still.
            let newest = window.delay == 0 && place == running.head && place + 1 == events.len();
            if place < running.tail {
                running.tail += 1;
                running.head += 1;
            } else if place < running.head || newest {
                running.enter(events, place);
                running.head += 1;
            }
        }
    }

    /// The fraud mark of the event at `at` changed.
    pub fn marked(&mut self, spec: &EntitySpec, at: usize, fraud: bool) {
        for (running, _) in self.windows.iter_mut().zip(&spec.windows) {
            if (running.tail..running.head).contains(&at) {
                running.fraud = if fraud { running.fraud + 1 } else { running.fraud.saturating_sub(1) };
            }
        }
    }

    /// What each window holds, in order, for a transaction that is not before the last event.
    pub fn stats(&self, windows: &[Window], events: &Events<'_>, current: &Event, mut each: impl FnMut(&Stats)) {
        // Features ask for a column only in windows that count it: what another window left there is not read.
        let mut stats = Stats::default();
        for (running, window) in self.windows.iter().zip(windows) {
            for (column, counts) in running.counts.iter().enumerate() {
                let Some(counts) = counts else { continue };
                let wanted = current.values[column];
                let matches = counts.get(&wanted).copied().unwrap_or_default();
                let first = if matches == 0 || !window.firsts {
                    0
                } else {
                    let mut places = running.tail..running.head;
                    places.find(|at| events.value(*at, column) == wanted).map_or(0, |at| events.time(at))
                };
                let absent = u64::from(counts.contains_key(&0));
                stats.columns[column] =
                    ColumnStats { distinct: counts.len() as u64 - absent, matches: u64::from(matches), first };
            }
            (stats.min, stats.max) =
                if window.extremes { self.extremes(events, running.tail, running.head) } else { NONE };
            stats.count = (running.head - running.tail) as u64;
            stats.sum = running.sum;
            stats.squares = running.squares;
            stats.fraud = running.fraud;
            each(&stats);
        }
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

impl Running {
    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn enter(&mut self, events: &Events<'_>, at: usize) {
        let amount = i128::from(events.amount(at));
        self.sum += amount;
        self.squares = self.squares.wrapping_add((amount * amount) as u128);
        self.fraud += u64::from(events.is_fraud(at));
        for (column, counts) in self.counts.iter_mut().enumerate() {
            if let Some(counts) = counts {
                *counts.entry(events.value(at, column)).or_default() += 1;
            }
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn leave(&mut self, events: &Events<'_>, at: usize) {
        let amount = i128::from(events.amount(at));
        self.sum -= amount;
        self.squares = self.squares.wrapping_sub((amount * amount) as u128);
        self.fraud -= u64::from(events.is_fraud(at));
        for (column, counts) in self.counts.iter_mut().enumerate() {
            let Some(counts) = counts else { continue };
            let value = events.value(at, column);
            if let Some(count) = counts.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&value);
                }
            }
        }
    }
}
