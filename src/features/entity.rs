//! What is kept of one entity: its events in the order of their times, as rows of words.
//!
//! Small entities have nothing else: everything is worked out in one pass over the few events that are in
//! reach. From [`LARGE`] events on, running state is kept beside them ([`Large`]).

#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: every index is below the number of events it was made from"
)]

use super::large::Large;
use super::set::{EntitySpec, Window};
use super::tiles;
use crate::transaction::EventTime;

/// From this many events on an entity keeps running state.
pub(super) const LARGE: usize = 40;

/// Stands for a transaction without a place.
pub(super) const NO_PLACE: u64 = u64::MAX;

/// Where the parts of an event are in its words: the first holds time and flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub stride: usize,
    amount: Option<usize>,
    columns: usize,
    column_count: usize,
    id: Option<usize>,
    place: Option<usize>,
    squares: bool,
    /// Columns in which all events with the current transaction's value are looked for, and those in which the
    /// last of them is enough.
    matched: u16,
    sought: u16,
}

impl Layout {
    pub fn new(spec: &EntitySpec) -> Self {
        let mut next = 1;
        let mut part = |wanted: bool| {
            let at = next;
            next += usize::from(wanted);
            wanted.then_some(at)
        };
        let (amount, id, place) = (part(spec.keeps_amount), part(spec.keeps_id), part(spec.keeps_place));
        let column_count = spec.columns.len();
        let squares = spec.windows.iter().any(|window| window.squares);
        let matched = spec.windows.iter().fold(0, |all, window| all | window.matched);
        let sought = spec.windows.iter().fold(0, |all, window| all | window.counted) & !matched;
        let stride = next + column_count;
        Self { stride, amount, columns: next, column_count, id, place, squares, matched, sought }
    }
}

/// A transaction as one entity sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Event {
    pub time: EventTime,
    pub amount: i64,
    pub id: u64,
    pub place: u64,
    pub values: [u64; 8],
}

/// The events of one entity.
#[derive(Debug)]
pub(super) struct Entity {
    pub key: u128,
    /// The newest event's time; before all times where there is none.
    pub last: EventTime,
    words: Vec<u64>,
    /// Events at the front of `words` that are gone, and those after them.
    gone: u32,
    count: u32,
    pub large: Option<Box<Large>>,
}

const FRAUD: u64 = 1;
/// Bit 1 + c: a later event has the same value in column c, or this one has none.
const SUPERSEDED: u64 = 2;
const TIME_SHIFT: u32 = 10;

/// For each set of columns a word with a byte a column: 1 where the column is not in the set. Added up, they
/// count events for all columns at once; a small entity has too few for a byte to overflow.
const SPREAD: [u64; 256] = {
    let mut table = [0; 256];
    let mut set = 0;
    while set < 256 {
        let mut column = 0;
        while column < 8 {
            if set >> column & 1 == 0 {
                table[set] |= 1 << (8 * column);
            }
            column += 1;
        }
        set += 1;
    }
    table
};

/// What a window holds, the current transaction not counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stats {
    pub count: u64,
    /// Transactions whose values are told apart: all but those in tiles.
    pub told_apart: u64,
    pub sum: i128,
    pub squares: u128,
    pub min: i64,
    pub max: i64,
    pub fraud: u64,
    pub columns: [ColumnStats; 8],
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ColumnStats {
    pub distinct: u64,
    /// Events with the current transaction's value, and the time of the first.
    pub matches: u64,
    pub first: EventTime,
}

impl Default for Stats {
    fn default() -> Self {
        let columns = [ColumnStats::default(); 8];
        Self { count: 0, told_apart: 0, sum: 0, squares: 0, min: i64::MAX, max: i64::MIN, fraud: 0, columns }
    }
}

impl Entity {
    pub fn new(key: u128) -> Self {
        Self { key, last: EventTime::MIN, words: Vec::new(), gone: 0, count: 0, large: None }
    }

    pub fn events<'a>(&'a self, layout: &'a Layout) -> Events<'a> {
        Events { words: &self.words[self.gone as usize * layout.stride..], layout, count: self.count as usize }
    }

    /// Reads the events that deciding will read.
    pub fn touch_events(&self, layout: &Layout) -> u64 {
        let from = self.gone as usize * layout.stride;
        match &self.large {
            None => self.words.iter().skip(from).step_by(8).fold(0, |all, word| all ^ word),
            Some(large) => self.words.last().copied().unwrap_or_default() ^ large.touch(),
        }
    }

    /// Reads the events at the ends of its windows.
    pub fn touch_windows(&self, layout: &Layout) -> u64 {
        let Some(large) = &self.large else { return 0 };
        let from = self.gone as usize;
        let word = |at: usize| self.words.get((from + at) * layout.stride).copied().unwrap_or_default();
        large.edges().fold(0, |all, at| all ^ word(at))
    }

    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * 8 + self.large.as_ref().map_or(0, |large| large.memory_bytes())
    }

    /// Takes an event in, at its place among the others (after those of the same time).
    pub fn insert(&mut self, spec: &EntitySpec, layout: &Layout, event: &Event) {
        let count = self.count as usize;
        let place = if self.last <= event.time { count } else { self.events(layout).upper(event.time) };
        if place == 0
            && let Some(large) = &mut self.large
            && large.tiles().last().is_some_and(|tile| event.time <= tile.last)
        {
            large.absorb(event);
            return;
        }
        let events = self.events(layout);
        let mut flags = 0;
        let mut superseded: [usize; 8] = [usize::MAX; 8];
        for (column, (value, superseded)) in
            event.values.iter().zip(&mut superseded).take(layout.column_count).enumerate()
        {
            if self.large.is_some() {
                // Large entities count values in maps and do not need the bits.
                break;
            }
            if *value == 0 {
                flags |= SUPERSEDED << column;
                continue;
            }
            if let Some(before) = events.last_with(place, column, *value) {
                *superseded = before;
            }
            if place < count && (place..count).any(|at| events.value(at, column) == *value) {
                flags |= SUPERSEDED << column;
            }
        }
        let base = self.gone as usize * layout.stride;
        for (column, at) in superseded.iter().enumerate().filter(|(_, at)| **at != usize::MAX) {
            self.words[base + at * layout.stride] |= SUPERSEDED << column;
        }
        self.last = self.last.max(event.time);
        let mut row = [0; 16];
        #[expect(clippy::cast_sign_loss, reason = "event times start at 1970, amounts keep their bits")]
        {
            row[0] = (event.time as u64) << TIME_SHIFT | flags;
            if let Some(at) = layout.amount {
                row[at] = event.amount as u64;
            }
        }
        if let Some(at) = layout.id {
            row[at] = event.id;
        }
        if let Some(at) = layout.place {
            row[at] = event.place;
        }
        row[layout.columns..layout.stride].copy_from_slice(&event.values[..layout.column_count]);
        self.make_room(layout);
        let at = self.gone as usize * layout.stride + place * layout.stride;
        if at == self.words.len() {
            self.words.extend_from_slice(&row[..layout.stride]);
        } else {
            self.words.splice(at..at, row[..layout.stride].iter().copied());
        }
        self.count += 1;
        if let Some(mut large) = self.large.take() {
            let events = self.events(layout);
            large.inserted(spec, &events, place, event);
            // The oldest become a tile, some at a time.
            let many = (spec.exact_events / tiles::OF_EACH_SIZE).max(1);
            if events.len() >= spec.exact_events + many {
                // Events of one moment go together, so that a label knows which tile they are in.
                let same = |at: &usize| events.time(*at) == events.time(many - 1);
                let many = many + (many..events.len() / 2).take_while(same).count();
                large.fold(spec, &events, many);
                self.drop_first(many);
            }
            self.large = Some(large);
        } else if count + 1 >= LARGE {
            self.large = Some(Box::new(Large::new(spec, &self.events(layout))));
        }
    }

    /// Room for one more event: by twos while there are few, then by a quarter.
    fn make_room(&mut self, layout: &Layout) {
        let stride = layout.stride;
        if self.words.len() + stride <= self.words.capacity() {
            return;
        }
        let (count, gone) = ((self.count + self.gone) as usize, self.gone as usize);
        if gone * 4 >= count && gone > 0 {
            self.words.drain(..gone * stride);
            self.gone = 0;
            return;
        }
        let more = if count < 8 { 2 } else { (count / 4).max(4) };
        self.words.reserve_exact(more * stride);
    }

    /// Forgets events at or before `until`, and moves running windows up to `now`.
    pub fn advance(&mut self, spec: &EntitySpec, layout: &Layout, until: EventTime, now: EventTime) {
        let mut large = self.large.take();
        let events = self.events(layout);
        let out = (0..events.len()).take_while(|at| events.time(*at) <= until).count();
        if let Some(large) = &mut large {
            large.advance(spec, &events, now);
            large.forget(until, out);
        }
        self.drop_first(out);
        self.large = large;
        if self.count == 0 {
            self.words.clear();
            self.gone = 0;
        }
    }

    fn drop_first(&mut self, out: usize) {
        let out = u32::try_from(out).unwrap_or(u32::MAX).min(self.count);
        self.gone += out;
        self.count -= out;
    }

    /// Sets or clears the fraud mark of the event with this id at this time.
    /// Of an event that is in a tile `was` says what its mark was.
    pub fn mark(&mut self, layout: &Layout, time: EventTime, id: u64, was: bool, fraud: bool) -> bool {
        let events = self.events(layout);
        let Some(at) = (events.lower(time)..events.len())
            .take_while(|at| events.time(*at) == time)
            .find(|at| events.id(*at) == id)
        else {
            let Some(large) = &mut self.large else { return false };
            return was != fraud && large.marked_in_tile(time, fraud);
        };
        let word = &mut self.words[(self.gone as usize + at) * layout.stride];
        let was = *word & FRAUD != 0;
        *word = *word & !FRAUD | u64::from(fraud);
        if was != fraud
            && let Some(large) = &mut self.large
        {
            large.marked(at, fraud);
        }
        true
    }
}

/// The events of an entity, by their place in the order of time.
#[derive(Clone, Copy)]
pub(super) struct Events<'a> {
    words: &'a [u64],
    layout: &'a Layout,
    count: usize,
}

impl Events<'_> {
    pub fn len(&self) -> usize {
        self.count
    }

    #[expect(clippy::cast_possible_wrap, reason = "a time has 44 bits")]
    pub fn time(&self, at: usize) -> EventTime {
        (self.words[at * self.layout.stride] >> TIME_SHIFT) as i64
    }

    pub fn is_fraud(&self, at: usize) -> bool {
        self.words[at * self.layout.stride] & FRAUD != 0
    }

    #[expect(clippy::cast_possible_wrap, reason = "the amount's own bits")]
    pub fn amount(&self, at: usize) -> i64 {
        self.layout.amount.map_or(0, |part| self.words[at * self.layout.stride + part] as i64)
    }

    pub fn value(&self, at: usize, column: usize) -> u64 {
        self.words[at * self.layout.stride + self.layout.columns + column]
    }

    fn id(&self, at: usize) -> u64 {
        self.layout.id.map_or(0, |part| self.words[at * self.layout.stride + part])
    }

    pub fn place(&self, at: usize) -> u64 {
        self.layout.place.map_or(NO_PLACE, |part| self.words[at * self.layout.stride + part])
    }

    pub fn last_time(&self) -> Option<EventTime> {
        self.len().checked_sub(1).map(|last| self.time(last))
    }

    /// The first event after `time`.
    pub fn upper(&self, time: EventTime) -> usize {
        self.first(|at| self.time(at) > time)
    }

    /// The first event at or after `time`.
    pub fn lower(&self, time: EventTime) -> usize {
        self.first(|at| self.time(at) >= time)
    }

    fn first(&self, holds: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if holds(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// What each window holds at the current transaction's time, by one pass backwards over the events in
    /// reach: windows of one delay are sorted, and each holds all of the one before. `marked` says whether
    /// the events carry their superseded bits (those of large entities do not). `each` is told of
    /// every window, in order.
    #[inline]
    pub fn scan(&self, windows: &[Window], marked: bool, current: &Event, mut each: impl FnMut(&Stats)) {
        let mut so_far = Stats::default();
        // By column, a byte each: values met for the first time, going back from the newest event.
        let mut different = 0;
        // By column: the place after the last event with the current transaction's value.
        let mut last = [0_usize; 8];
        let (mut delay, mut head, mut at) = (-1, 0, 0);
        for window in windows {
            if window.delay != delay {
                delay = window.delay;
                head = self.upper(current.time - delay);
                at = head;
                (so_far, different) = (Stats::default(), 0);
                if self.layout.sought != 0 {
                    self.find_last(head, current, &mut last);
                }
            }
            let marked = marked && head == self.len();
            let (from, after) = (at, current.time - window.delay - window.length);
            // It means nothing, and may overflow, where the events carry no bits.
            different = self.take_in(&mut at, after, &mut so_far).wrapping_add(different);
            if self.layout.matched != 0 {
                self.find_matches(at, from, current, &mut so_far);
            }
            if !marked {
                self.count_distinct(at, head, window, &mut so_far);
            } else if window.counted != 0 {
                for (column, stats) in so_far.columns.iter_mut().take(self.layout.column_count).enumerate() {
                    stats.distinct = different >> (8 * column) & 0xff;
                }
            }
            for ((column, stats), last) in so_far.columns.iter_mut().enumerate().zip(last) {
                if self.layout.sought >> column & 1 == 1 {
                    stats.matches = u64::from(last > at);
                }
            }
            each(&so_far);
        }
    }

    /// Takes in the events before `at` that are after a time, and moves `at` to the first of them.
    #[inline(always)]
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "times have 44 bits, amounts their own")]
    fn take_in(&self, at: &mut usize, after: EventTime, stats: &mut Stats) -> u64 {
        let (stride, amount_at) = (self.layout.stride, self.layout.amount.unwrap_or_default());
        let (mut different, mut taken, mut fraud) = (0_u64, 0, 0);
        let (mut sum, mut squares, mut min, mut max) = (0_i128, stats.squares, stats.min, stats.max);
        let mut place = *at * stride;
        while place > 0 {
            place -= stride;
            let row = &self.words[place..];
            let word = row[0];
            if (word >> TIME_SHIFT) as i64 <= after {
                break;
            }
            taken += 1;
            fraud += word & FRAUD;
            different = different.wrapping_add(SPREAD[(word >> 1 & 0xff) as usize]);
            if amount_at != 0 {
                let amount = row[amount_at] as i64;
                sum += i128::from(amount);
                (min, max) = (min.min(amount), max.max(amount));
                if self.layout.squares {
                    squares = squares.wrapping_add((i128::from(amount) * i128::from(amount)) as u128);
                }
            }
        }
        *at -= taken;
        stats.count += taken as u64;
        stats.told_apart = stats.count;
        stats.fraud += fraud;
        stats.sum += sum;
        (stats.squares, stats.min, stats.max) = (squares, min, max);
        different
    }

    fn find_last(&self, head: usize, current: &Event, last: &mut [usize; 8]) {
        for (column, (last, wanted)) in last.iter_mut().zip(&current.values).take(self.layout.column_count).enumerate()
        {
            if self.layout.sought >> column & 1 == 1 {
                *last = self.last_with(head, column, *wanted).map_or(0, |at| at + 1);
            }
        }
    }

    /// The last event before place `head` that has this value.
    #[inline]
    fn last_with(&self, head: usize, column: usize, wanted: u64) -> Option<usize> {
        let mut word = head * self.layout.stride + self.layout.columns + column;
        for at in (0..head).rev() {
            word -= self.layout.stride;
            if self.words[word] == wanted {
                return Some(at);
            }
        }
        None
    }

    /// Looks for the current transaction's values among the events from `from` up to `to`.
    fn find_matches(&self, from: usize, to: usize, current: &Event, stats: &mut Stats) {
        let rows = &self.words[from * self.layout.stride..to * self.layout.stride];
        let columns = stats.columns.iter_mut().zip(&current.values).take(self.layout.column_count).enumerate();
        for (column, (stats, wanted)) in columns.filter(|(column, _)| self.layout.matched >> column & 1 == 1) {
            let part = self.layout.columns + column;
            let (mut matches, mut first, mut place) = (0, 0, rows.len());
            while place > 0 {
                place -= self.layout.stride;
                let row = &rows[place..];
                let same = row[part] == *wanted;
                matches += u64::from(same);
                first = if same { row[0] } else { first };
            }
            if matches > 0 {
                stats.matches += matches;
                #[expect(clippy::cast_possible_wrap, reason = "a time has 44 bits")]
                {
                    stats.first = (first >> TIME_SHIFT) as i64;
                }
            }
        }
    }

    fn count_distinct(&self, tail: usize, head: usize, window: &Window, stats: &mut Stats) {
        for (column, stats) in stats.columns.iter_mut().take(self.layout.column_count).enumerate() {
            if window.counted & 1 << column != 0 {
                let mut values: Vec<u64> = (tail..head).map(|at| self.value(at, column)).filter(|v| *v != 0).collect();
                values.sort_unstable();
                values.dedup();
                stats.distinct = values.len() as u64;
            }
        }
    }
}
