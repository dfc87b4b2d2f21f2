//! What is kept of one entity: its events in the order of their times, as rows of words.
//!
//! Small entities have nothing else: everything is worked out in one pass over the few events that are in
//! reach. From [`RUNNING`] events on the state of each window is kept before them ([`running`]), from [`LARGE`] on
//! also what finds values without looking through them ([`Large`]).

#![expect(
    clippy::indexing_slicing,
    reason = "a numeric kernel: every index is below the number of events it was made from"
)]

use super::arena::{Arena, MOST_WORDS, Span};
use super::large::Large;
use super::running;
use super::set::{EntitySpec, Window};
use super::tiles::{self, Tile};
use crate::transaction::EventTime;

/// From this many events on an entity keeps the state of its windows.
const RUNNING: usize = 12;

/// From this many events on an entity keeps counts by value. Below, a byte counts the events of a window.
pub(super) const LARGE: usize = 256;

/// Stands for a transaction without a place.
pub(super) const NO_PLACE: u64 = u64::MAX;

/// Where the parts of an event are in its words: the first holds time and flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub stride: usize,
    amount: Option<usize>,
    columns: usize,
    pub column_count: usize,
    id: Option<usize>,
    place: Option<usize>,
    squares: bool,
    /// Columns in which all events with the current transaction's value are looked for, and those in which the
    /// last of them is enough.
    matched: u16,
    sought: u16,
    /// By column: the longest window without delay in which it is counted.
    longest: [Option<u8>; 8],
    /// Words of a window's running state, and of all.
    pub run: usize,
    header: usize,
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
        let mut longest = [None; 8];
        for (at, window) in spec.windows.iter().enumerate().filter(|(_, window)| window.delay == 0) {
            let counted = longest.iter_mut().enumerate().filter(|(column, _)| window.counted >> column & 1 == 1);
            counted.for_each(|(_, longest)| *longest = u8::try_from(at).ok());
        }
        let run = running::WORDS + if squares { running::SQUARES } else { 0 };
        // What is too much for the arena is worked out event by event.
        let header = Some(run * spec.windows.len()).filter(|header| header + LARGE * stride <= MOST_WORDS);
        let header = header.unwrap_or_default();
        Self { stride, amount, columns: next, column_count, id, place, squares, matched, sought, longest, run, header }
    }

    /// An event's words.
    #[inline(always)]
    #[expect(clippy::cast_sign_loss, reason = "event times start at 1970, amounts keep their bits")]
    fn row(&self, event: &Event, flags: u64) -> [u64; 16] {
        let mut row = [0; 16];
        row[0] = (event.time as u64) << TIME_SHIFT | flags;
        if let Some(at) = self.amount {
            row[at] = event.amount as u64;
        }
        if let Some(at) = self.id {
            row[at] = event.id;
        }
        if let Some(at) = self.place {
            row[at] = event.place;
        }
        row[self.columns..self.stride].copy_from_slice(&event.values[..self.column_count]);
        row
    }

    /// Whether all events with the current transaction's value are looked for in a column.
    pub fn matches_all(&self, column: usize) -> bool {
        self.matched >> column & 1 == 1
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
#[repr(align(64))]
pub(super) struct Entity {
    pub key: u128,
    /// The newest event's time; before all times where there is none.
    pub last: EventTime,
    /// The state of its windows if it is `running`, its events, and room for more; those of a large entity are
    /// elsewhere.
    span: Span,
    /// Events at the front that are gone, and those after them.
    gone: u32,
    count: u32,
    pub large: Option<Box<Large>>,
    pub running: bool,
    /// Loaded from a snapshot: it has seen so many entries of the journal after the snapshot's beginning.
    pub saved_at: u32,
}

pub(super) const FRAUD: u64 = 1;
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
        let span = Span::default();
        Self { key, last: EventTime::MIN, span, gone: 0, count: 0, large: None, running: false, saved_at: 0 }
    }

    /// An entity as it was saved; `None` if so many events cannot be had without [`Large`].
    pub fn small(
        key: u128,
        last: EventTime,
        events: usize,
        rows: impl Iterator<Item = u64>,
        spec: &EntitySpec,
        layout: &Layout,
        arena: &mut Arena,
    ) -> Option<Self> {
        if events >= LARGE.min(spec.exact_events) {
            return None;
        }
        let mut entity = Self { last, count: u32::try_from(events).ok()?, ..Self::new(key) };
        entity.span = arena.take(events * layout.stride);
        arena.words_mut(entity.span).iter_mut().zip(rows).for_each(|(word, saved)| *word = saved);
        if events >= RUNNING && layout.header > 0 {
            entity.start_running(spec, layout, arena);
        }
        Some(entity)
    }

    /// A large entity as it was saved.
    pub fn large(
        key: u128,
        last: EventTime,
        rows: Vec<u64>,
        tiles: Vec<Tile>,
        spec: &EntitySpec,
        layout: &Layout,
    ) -> Self {
        let count = rows.len() / layout.stride;
        let mut large = Large::empty(spec, tiles);
        large.refill(spec, &Events { words: &rows, layout, count }, last);
        large.rows = rows;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self { last, count, large: Some(Box::new(large)), ..Self::new(key) }
    }

    pub fn events<'a>(&'a self, layout: &'a Layout, arena: &'a Arena) -> Events<'a> {
        let from = self.first_row(layout) + self.gone as usize * layout.stride;
        Events { words: &self.words(arena)[from..], layout, count: self.count as usize }
    }

    fn words<'a>(&'a self, arena: &'a Arena) -> &'a [u64] {
        match &self.large {
            Some(large) => &large.rows,
            None => arena.words(self.span),
        }
    }

    fn words_mut<'a>(&'a mut self, arena: &'a mut Arena) -> &'a mut [u64] {
        match &mut self.large {
            Some(large) => &mut large.rows,
            None => arena.words_mut(self.span),
        }
    }

    /// Gives back the memory it has in the arena.
    pub fn give_back(self, arena: &mut Arena) {
        arena.give_back(self.span);
    }

    /// Where its rows begin, those that are gone first.
    fn first_row(&self, layout: &Layout) -> usize {
        if self.running { layout.header } else { 0 }
    }

    /// The state of its windows, and all its rows.
    fn state<'a>(&self, layout: &'a Layout, arena: &'a mut Arena) -> (&'a mut [u64], Events<'a>) {
        let rows = self.rows();
        let (state, words) = arena.words_mut(self.span).split_at_mut(layout.header);
        (state, Events { words, layout, count: rows })
    }

    /// Tells `each` what every window holds, in order, at the time of a transaction that is not before the last
    /// event; only for an entity that is `running`.
    #[inline]
    pub fn stats(
        &self,
        spec: &EntitySpec,
        layout: &Layout,
        arena: &mut Arena,
        current: &Event,
        each: impl FnMut(&Stats),
    ) {
        let (state, rows) = self.state(layout, arena);
        running::stats(state, &rows, spec, layout, current, each);
    }

    /// Reads the events that deciding will read.
    pub fn touch_events(&self, layout: &Layout, arena: &Arena) -> u64 {
        let words = self.words(arena);
        let (from, to) = (self.first_row(layout), self.first_row(layout) + self.rows() * layout.stride);
        let (first, end) = (from + self.gone as usize * layout.stride, to.saturating_sub(1));
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        match &self.large {
            Some(large) => word(end) ^ large.touch(),
            None if self.running => {
                let state = words[..from].iter().step_by(8).fold(0, |all, word| all ^ word);
                state ^ word(first) ^ word(end) ^ word(end.saturating_sub(8)) ^ word(to + layout.stride - 1)
            }
            None => {
                let mut all = word(end);
                let mut at = first;
                while at < end {
                    all ^= word(at);
                    at += 8;
                }
                all
            }
        }
    }

    fn rows(&self) -> usize {
        (self.gone + self.count) as usize
    }

    /// Reads the events at the ends of its windows.
    pub fn touch_windows(&self, layout: &Layout, arena: &Arena) -> u64 {
        let (from, words) = (self.first_row(layout), self.words(arena));
        let word = |at: usize| words.get(from + at * layout.stride).copied().unwrap_or_default();
        match &self.large {
            Some(large) => large.edges().fold(0, |all, at| all ^ word(self.gone as usize + at)),
            None if self.running => running::edges(&words[..from], layout).fold(0, |all, at| all ^ word(at)),
            None => 0,
        }
    }

    /// Bytes held elsewhere than in the arena.
    pub fn memory_bytes(&self) -> usize {
        self.large.as_ref().map_or(0, |large| large.memory_bytes())
    }

    /// Takes an event in, at its place among the others (after those of the same time).
    pub fn insert(&mut self, spec: &EntitySpec, layout: &Layout, arena: &mut Arena, event: &Event) {
        if self.large.is_some() {
            self.insert_large(spec, layout, event);
            return;
        }
        self.make_room(layout, arena);
        if self.last <= event.time {
            self.append(spec, layout, arena, event);
        } else {
            self.insert_between(layout, arena, event);
            if self.running {
                self.rebuild(spec, layout, arena);
            }
        }
        let many = self.count as usize;
        if many >= LARGE.min(spec.exact_events) {
            let events = self.events(layout, arena);
            let mut large = Large::empty(spec, Vec::new());
            large.refill(spec, &events, self.last);
            large.rows = events.rows().to_vec();
            arena.give_back(self.span);
            self.large = Some(Box::new(large));
            (self.span, self.gone, self.running) = (Span::default(), 0, false);
        } else if !self.running && many >= RUNNING && layout.header > 0 {
            self.start_running(spec, layout, arena);
        }
    }

    /// Takes in an event that is not before the last one.
    fn append(&mut self, spec: &EntitySpec, layout: &Layout, arena: &mut Arena, event: &Event) {
        let (rows, first, gone) = (self.rows(), self.first_row(layout), self.gone as usize);
        let (state, words) = arena.words_mut(self.span).split_at_mut(first);
        let (mut flags, mut superseded) = (0, [u32::MAX; 8]);
        for (column, value) in event.values.iter().take(layout.column_count).enumerate() {
            let Some(window) = layout.longest[column] else { continue };
            if *value == 0 {
                flags |= SUPERSEDED << column;
                continue;
            }
            let from = if self.running { running::tail(state, layout, usize::from(window)) } else { gone };
            let all = Events { words, layout, count: rows };
            if let Some(before) = all.last_with(from, rows, column, *value) {
                superseded[column] = u32::try_from(before).unwrap_or(u32::MAX);
                words[before * layout.stride] |= SUPERSEDED << column;
            }
        }
        let at = rows * layout.stride;
        words[at..at + layout.stride].copy_from_slice(&layout.row(event, flags)[..layout.stride]);
        self.last = event.time;
        self.count += 1;
        if self.running {
            running::insert(state, spec, layout, flags, event.amount, &superseded);
        }
    }

    /// Puts an event before the last one.
    fn insert_between(&mut self, layout: &Layout, arena: &mut Arena, event: &Event) {
        let (count, base) = (self.count as usize, self.first_row(layout) + self.gone as usize * layout.stride);
        let events = self.events(layout, arena);
        let place = events.upper(event.time);
        let mut flags = 0;
        let mut superseded = [usize::MAX; 8];
        for (column, value) in event.values.iter().take(layout.column_count).enumerate() {
            if *value == 0 || (place..count).any(|at| events.value(at, column) == *value) {
                flags |= SUPERSEDED << column;
            }
            if *value != 0
                && let Some(before) = events.last_with(0, place, column, *value)
            {
                superseded[column] = before;
            }
        }
        let words = &mut arena.words_mut(self.span)[base..];
        for (column, at) in superseded.iter().enumerate().filter(|(_, at)| **at != usize::MAX) {
            words[at * layout.stride] |= SUPERSEDED << column;
        }
        put(words, layout, count, place, event, flags);
        self.count += 1;
    }

    fn insert_large(&mut self, spec: &EntitySpec, layout: &Layout, event: &Event) {
        let Some(mut large) = self.large.take() else { return };
        let rows = std::mem::take(&mut large.rows);
        large.rows = self.insert_into(rows, &mut large, spec, layout, event);
        self.large = Some(large);
    }

    /// Takes an event in among a large entity's `rows`, which are apart from its state meanwhile.
    fn insert_into(
        &mut self,
        mut rows: Vec<u64>,
        large: &mut Large,
        spec: &EntitySpec,
        layout: &Layout,
        event: &Event,
    ) -> Vec<u64> {
        let (count, stride) = (self.count as usize, layout.stride);
        let events = |rows| Events { words: rows, layout, count };
        let from = self.gone as usize * stride;
        let place = if self.last <= event.time { count } else { events(&rows[from..]).upper(event.time) };
        if place == 0 && large.tiles().last().is_some_and(|tile| event.time <= tile.last) {
            large.absorb(event);
            return rows;
        }
        if rows.len() + stride > rows.capacity() {
            if self.gone as usize * 4 >= self.rows() {
                rows.drain(..from);
                self.gone = 0;
            } else {
                rows.reserve_exact((self.rows() / 4).max(4) * stride);
            }
        }
        self.last = self.last.max(event.time);
        self.count += 1;
        let from = self.gone as usize * stride;
        rows.resize(rows.len() + stride, 0);
        // Values are counted in maps: the bits are not needed.
        put(&mut rows[from..], layout, count, place, event, 0);
        let events = Events { words: &rows[from..], layout, count: count + 1 };
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
        rows
    }

    /// Room for one more event: by twos while there are few, then by a quarter.
    fn make_room(&mut self, layout: &Layout, arena: &mut Arena) {
        let (stride, from) = (layout.stride, self.first_row(layout));
        let (rows, gone) = (self.rows(), self.gone as usize);
        if from + (rows + 1) * stride <= self.span.words() {
            return;
        }
        if gone * 4 >= rows && gone > 0 {
            let words = arena.words_mut(self.span);
            words.copy_within(from + gone * stride..from + rows * stride, from);
            self.gone = 0;
            if self.running {
                running::shift(&mut words[..from], layout, gone);
            }
            return;
        }
        let more = if rows < 8 { 2 } else { (rows / 4).max(4) };
        self.span = arena.grow(self.span, from + rows * stride, from + (rows + more) * stride);
    }

    fn start_running(&mut self, spec: &EntitySpec, layout: &Layout, arena: &mut Arena) {
        let (rows, stride, gone) = (self.rows(), layout.stride, self.gone as usize);
        self.span = arena.grow(self.span, rows * stride, layout.header + (rows + 4) * stride);
        arena.words_mut(self.span).copy_within(gone * stride..rows * stride, layout.header);
        (self.gone, self.running) = (0, true);
        self.rebuild(spec, layout, arena);
    }

    fn rebuild(&mut self, spec: &EntitySpec, layout: &Layout, arena: &mut Arena) {
        let (gone, last) = (self.gone as usize, self.last);
        let (state, rows) = self.state(layout, arena);
        running::rebuild(state, &rows, gone, spec, layout, last);
    }

    /// Forgets events at or before `until`, and moves the windows of a large entity up to `now`.
    pub fn advance(&mut self, spec: &EntitySpec, layout: &Layout, arena: &Arena, until: EventTime, now: EventTime) {
        let events = self.events(layout, arena);
        let out = (0..events.len()).take_while(|at| events.time(*at) <= until).count();
        if let Some(large) = &mut self.large {
            let rows = std::mem::take(&mut large.rows);
            let words = &rows[self.gone as usize * layout.stride..];
            large.advance(spec, &Events { words, layout, count: self.count as usize }, now);
            large.forget(until, out);
            large.rows = rows;
        }
        self.drop_first(out);
        if self.count == 0 {
            (self.gone, self.running) = (0, false);
            if let Some(large) = self.large.as_mut().filter(|large| !large.tiles().is_empty()) {
                large.rows.clear();
            } else {
                self.large = None;
            }
        }
    }

    fn drop_first(&mut self, out: usize) {
        let out = u32::try_from(out).unwrap_or(u32::MAX).min(self.count);
        self.gone += out;
        self.count -= out;
    }

    /// Sets or clears the fraud mark of the event with this id at this time.
    /// Of an event that is in a tile `was` says what its mark was.
    pub fn mark(
        &mut self,
        layout: &Layout,
        arena: &mut Arena,
        time: EventTime,
        id: u64,
        was: bool,
        fraud: bool,
    ) -> bool {
        let events = self.events(layout, arena);
        let Some(at) = (events.lower(time)..events.len())
            .take_while(|at| events.time(*at) == time)
            .find(|at| events.id(*at) == id)
        else {
            let Some(large) = &mut self.large else { return false };
            return was != fraud && large.marked_in_tile(time, fraud);
        };
        let row = self.gone as usize + at;
        let from = self.first_row(layout);
        let word = &mut self.words_mut(arena)[from + row * layout.stride];
        let was = *word & FRAUD != 0;
        *word = *word & !FRAUD | u64::from(fraud);
        if was != fraud {
            if let Some(large) = &mut self.large {
                large.marked(at, fraud);
            } else if self.running {
                running::marked(&mut arena.words_mut(self.span)[..from], layout, row, fraud);
            }
        }
        true
    }
}

/// Puts an event at its place among `count` others, with room for it after them.
fn put(words: &mut [u64], layout: &Layout, count: usize, place: usize, event: &Event, flags: u64) {
    let (at, end) = (place * layout.stride, count * layout.stride);
    words.copy_within(at..end, at + layout.stride);
    words[at..at + layout.stride].copy_from_slice(&layout.row(event, flags)[..layout.stride]);
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

    /// All their words.
    pub fn rows(&self) -> &[u64] {
        &self.words[..self.count * self.layout.stride]
    }

    /// Time and flags.
    #[inline(always)]
    pub fn word(&self, at: usize) -> u64 {
        self.words[at * self.layout.stride]
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_wrap, reason = "a time has 44 bits")]
    pub fn time(&self, at: usize) -> EventTime {
        (self.words[at * self.layout.stride] >> TIME_SHIFT) as i64
    }

    pub fn is_fraud(&self, at: usize) -> bool {
        self.words[at * self.layout.stride] & FRAUD != 0
    }

    #[inline(always)]
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
            // The bits say it of the windows without delay, for a transaction that is the newest.
            let marked = marked && delay == 0 && head == self.len();
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
                *last = self.last_with(0, head, column, *wanted).map_or(0, |at| at + 1);
            }
        }
    }

    /// The last event from place `from` up to `head` that has this value.
    #[inline]
    pub fn last_with(&self, from: usize, head: usize, column: usize, wanted: u64) -> Option<usize> {
        let mut word = head * self.layout.stride + self.layout.columns + column;
        for at in (from..head).rev() {
            word -= self.layout.stride;
            if self.words[word] == wanted {
                return Some(at);
            }
        }
        None
    }

    /// Looks for the current transaction's values among the events from `from` up to `to`.
    fn find_matches(&self, from: usize, to: usize, current: &Event, stats: &mut Stats) {
        let columns = stats.columns.iter_mut().zip(&current.values).take(self.layout.column_count).enumerate();
        for (column, (stats, wanted)) in columns.filter(|(column, _)| self.layout.matches_all(*column)) {
            if let Some((matches, first)) = self.matches(from, to, column, *wanted) {
                stats.matches += matches;
                stats.first = first;
            }
        }
    }

    /// How many events from `from` up to `to` have a value, and the time of the first.
    #[inline]
    #[expect(clippy::cast_possible_wrap, reason = "a time has 44 bits")]
    pub fn matches(&self, from: usize, to: usize, column: usize, wanted: u64) -> Option<(u64, EventTime)> {
        let rows = &self.words[from * self.layout.stride..to.max(from) * self.layout.stride];
        let part = self.layout.columns + column;
        let (mut matches, mut first, mut place) = (0, 0, rows.len());
        while place > 0 {
            place -= self.layout.stride;
            let row = &rows[place..];
            let same = row[part] == wanted;
            matches += u64::from(same);
            first = if same { row[0] } else { first };
        }
        (matches > 0).then_some((matches, (first >> TIME_SHIFT) as i64))
    }

    /// Different values among the events from `from` up to `to`.
    pub fn distinct(&self, from: usize, to: usize, column: usize) -> u64 {
        let mut values: Vec<u64> = (from..to).map(|at| self.value(at, column)).filter(|v| *v != 0).collect();
        values.sort_unstable();
        values.dedup();
        values.len() as u64
    }

    fn count_distinct(&self, tail: usize, head: usize, window: &Window, stats: &mut Stats) {
        for (column, stats) in stats.columns.iter_mut().take(self.layout.column_count).enumerate() {
            if window.counted & 1 << column != 0 {
                stats.distinct = self.distinct(tail, head, column);
            }
        }
    }
}
