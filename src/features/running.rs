//! Running state of an entity with some dozens of events: what each window holds, in a few words before the
//! events themselves, so that an event costs O(windows) and touches only the ends of the windows.
//!
//! Only the values of columns are still looked for among the events: from the newest back, as far as the windows
//! that ask for them reach.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a numeric kernel: rows are below the number of events, which is below 2^16"
)]

use super::entity::{ColumnStats, Event, Events, FRAUD, Layout, Stats};
use super::set::{EntitySpec, Window};
use crate::transaction::EventTime;

/// Words of one window's state.
pub(super) const WORDS: usize = 8;
/// Words more where squares are summed.
pub(super) const SQUARES: usize = 2;

/// Stands for the place of an extreme that has left the window.
const LEFT: u32 = u32::MAX;

/// For each set of four columns a word with 16 bits a column: 1 where the column is not in the set.
const SPREAD: [u64; 16] = {
    let mut table = [0; 16];
    let mut set = 0;
    while set < 16 {
        let mut column = 0;
        while column < 4 {
            if set >> column & 1 == 0 {
                table[set] |= 1 << (16 * column);
            }
            column += 1;
        }
        set += 1;
    }
    table
};

/// A window as it stands: it holds the rows from `tail` up to `head`.
#[derive(Debug, Clone, Copy)]
struct Run {
    tail: u32,
    head: u32,
    fraud: u32,
    min_at: u32,
    max_at: u32,
    /// 96 bits are kept.
    sum: i128,
    min: i64,
    max: i64,
    /// 16 bits a column: rows inside without a later row of the same value. Right for windows without delay only.
    distinct: [u64; 2],
    squares: u128,
}

impl Run {
    #[inline(always)]
    fn empty(at: u32) -> Self {
        Self {
            tail: at,
            head: at,
            fraud: 0,
            min_at: LEFT,
            max_at: LEFT,
            sum: 0,
            min: i64::MAX,
            max: i64::MIN,
            distinct: [0; 2],
            squares: 0,
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_wrap, reason = "their own bits")]
    fn load(words: &[u64]) -> Self {
        let sum = i128::from((words[1] >> 32) as u32 as i32) << 64 | i128::from(words[3]);
        let squares = if words.len() > WORDS { u128::from(words[9]) << 64 | u128::from(words[8]) } else { 0 };
        Self {
            tail: words[0] as u32,
            head: (words[0] >> 32) as u32,
            fraud: words[1] as u32,
            min_at: words[2] as u32,
            max_at: (words[2] >> 32) as u32,
            sum,
            min: words[4] as i64,
            max: words[5] as i64,
            distinct: [words[6], words[7]],
            squares,
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_sign_loss, reason = "their own bits")]
    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(self.tail) | u64::from(self.head) << 32;
        words[1] = u64::from(self.fraud) | ((self.sum >> 64) as u64) << 32;
        words[2] = u64::from(self.min_at) | u64::from(self.max_at) << 32;
        words[3] = self.sum as u64;
        words[4] = self.min as u64;
        words[5] = self.max as u64;
        words[6] = self.distinct[0];
        words[7] = self.distinct[1];
        if words.len() > WORDS {
            words[8] = self.squares as u64;
            words[9] = (self.squares >> 64) as u64;
        }
    }

    /// Takes row `head` in.
    #[inline(always)]
    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn enter(&mut self, flags: u64, amount: i64) {
        let empty = self.tail == self.head;
        self.sum += i128::from(amount);
        self.squares = self.squares.wrapping_add((i128::from(amount) * i128::from(amount)) as u128);
        self.fraud += (flags & FRAUD) as u32;
        // Of an extreme that has left nothing is known before it is looked for.
        if empty || self.max_at != LEFT && amount >= self.max {
            (self.max, self.max_at) = (amount, self.head);
        }
        if empty || self.min_at != LEFT && amount <= self.min {
            (self.min, self.min_at) = (amount, self.head);
        }
        self.distinct[0] = self.distinct[0].wrapping_add(SPREAD[(flags >> 1 & 0xf) as usize]);
        self.distinct[1] = self.distinct[1].wrapping_add(SPREAD[(flags >> 5 & 0xf) as usize]);
        self.head += 1;
    }

    /// Lets row `tail` go.
    #[inline(always)]
    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn leave(&mut self, flags: u64, amount: i64) {
        self.sum -= i128::from(amount);
        self.squares = self.squares.wrapping_sub((i128::from(amount) * i128::from(amount)) as u128);
        self.fraud -= (flags & FRAUD) as u32;
        if self.max_at == self.tail {
            self.max_at = LEFT;
        }
        if self.min_at == self.tail {
            self.min_at = LEFT;
        }
        self.distinct[0] = self.distinct[0].wrapping_sub(SPREAD[(flags >> 1 & 0xf) as usize]);
        self.distinct[1] = self.distinct[1].wrapping_sub(SPREAD[(flags >> 5 & 0xf) as usize]);
        self.tail += 1;
    }

    /// Moves to where the window is at a time: rows after `after`, up to `until`.
    #[inline(always)]
    fn advance(&mut self, rows: &Events<'_>, until: EventTime, after: EventTime) {
        while (self.head as usize) < rows.len() && rows.time(self.head as usize) <= until {
            let at = self.head as usize;
            self.enter(rows.word(at), rows.amount(at));
        }
        while self.tail < self.head && rows.time(self.tail as usize) <= after {
            let at = self.tail as usize;
            self.leave(rows.word(at), rows.amount(at));
        }
    }

    /// Looks for the extremes that have left.
    #[inline]
    fn find_extremes(&mut self, rows: &Events<'_>) {
        if self.tail == self.head {
            (self.min, self.max) = (i64::MAX, i64::MIN);
        } else if self.max_at == LEFT || self.min_at == LEFT {
            (self.min, self.max) = (i64::MAX, i64::MIN);
            for at in self.tail..self.head {
                let amount = rows.amount(at as usize);
                if amount >= self.max {
                    (self.max, self.max_at) = (amount, at);
                }
                if amount <= self.min {
                    (self.min, self.min_at) = (amount, at);
                }
            }
        }
    }

    fn distinct(&self, column: usize) -> u64 {
        self.distinct[column >> 2 & 1] >> (16 * (column & 3)) & 0xffff
    }

    fn superseded(&mut self, column: usize) {
        let word = &mut self.distinct[column >> 2 & 1];
        *word = word.wrapping_sub(1 << (16 * (column & 3)));
    }
}

/// The state of every window at `now`, from nothing. Rows before `gone` are not looked at.
pub(super) fn rebuild(
    state: &mut [u64],
    rows: &Events<'_>,
    gone: usize,
    spec: &EntitySpec,
    layout: &Layout,
    now: EventTime,
) {
    for (window, words) in spec.windows.iter().zip(state.chunks_exact_mut(layout.run)) {
        let mut run = Run::empty(gone as u32);
        let until = now - window.delay;
        run.advance(rows, until, until - window.length);
        run.store(words);
    }
}

/// Moves every window to the current transaction's time, which is not before the last row's, and tells `each`
/// what it holds, in order.
#[inline]
pub(super) fn stats(
    state: &mut [u64],
    rows: &Events<'_>,
    spec: &EntitySpec,
    layout: &Layout,
    current: &Event,
    mut each: impl FnMut(&Stats),
) {
    let mut stats = Stats::default();
    let mut seek = Seek::default();
    let mut delay = -1;
    for (window, words) in spec.windows.iter().zip(state.chunks_exact_mut(layout.run)) {
        let mut run = Run::load(words);
        let until = current.time - window.delay;
        run.advance(rows, until, until - window.length);
        if window.extremes {
            run.find_extremes(rows);
        }
        run.store(words);
        if window.delay != delay {
            delay = window.delay;
            seek = Seek { down_to: [run.head; 8], ..Seek::default() };
        }
        stats.count = u64::from(run.head - run.tail);
        stats.told_apart = stats.count;
        stats.sum = run.sum;
        stats.squares = run.squares;
        stats.fraud = u64::from(run.fraud);
        (stats.min, stats.max) = (run.min, run.max);
        if window.counted != 0 {
            seek.on(window, layout, rows, &run, current, &mut stats.columns);
        }
        each(&stats);
    }
}

/// The search for the current transaction's values, from window to longer window.
#[derive(Default)]
struct Seek {
    /// By column: rows from here on are searched.
    down_to: [u32; 8],
    matches: [u64; 8],
    first: [EventTime; 8],
}

impl Seek {
    fn on(
        &mut self,
        window: &Window,
        layout: &Layout,
        rows: &Events<'_>,
        run: &Run,
        current: &Event,
        columns: &mut [ColumnStats; 8],
    ) {
        let mut set = window.counted;
        while set != 0 {
            let column = set.trailing_zeros() as usize & 7;
            set &= set - 1;
            let (from, to) = (run.tail as usize, self.down_to[column] as usize);
            let wanted = current.values[column];
            if layout.matches_all(column) {
                if let Some((matches, first)) = rows.matches(from, to, column, wanted) {
                    self.matches[column] += matches;
                    self.first[column] = first;
                }
            } else if self.matches[column] == 0 {
                self.matches[column] = u64::from(rows.last_with(from, to, column, wanted).is_some());
            }
            self.down_to[column] = run.tail.min(self.down_to[column]);
            let distinct =
                if window.delay == 0 { run.distinct(column) } else { rows.distinct(from, run.head as usize, column) };
            columns[column] = ColumnStats { distinct, matches: self.matches[column], first: self.first[column] };
        }
    }
}

/// The newest row comes in: windows without delay hold it. `superseded` says for each column which row, if any,
/// had its value last; `tail` how far back they are looked for.
#[inline]
pub(super) fn insert(
    state: &mut [u64],
    spec: &EntitySpec,
    layout: &Layout,
    flags: u64,
    amount: i64,
    superseded: &[u32; 8],
) {
    for (window, words) in spec.windows.iter().zip(state.chunks_exact_mut(layout.run)) {
        if window.delay != 0 {
            continue;
        }
        let mut run = Run::load(words);
        let mut set = window.counted;
        while set != 0 {
            let column = set.trailing_zeros() as usize & 7;
            set &= set - 1;
            if (run.tail..run.head).contains(&superseded[column]) {
                run.superseded(column);
            }
        }
        run.enter(flags, amount);
        run.store(words);
    }
}

/// Where a window begins.
pub(super) fn tail(state: &[u64], layout: &Layout, window: usize) -> usize {
    state[window * layout.run] as u32 as usize
}

/// The rows that are next to leave and to enter.
pub(super) fn edges<'a>(state: &'a [u64], layout: &Layout) -> impl Iterator<Item = usize> + use<'a> {
    state.chunks_exact(layout.run.max(1)).flat_map(|words| [words[0] as u32 as usize, (words[0] >> 32) as usize])
}

/// The fraud mark of `row` changed.
pub(super) fn marked(state: &mut [u64], layout: &Layout, row: usize, fraud: bool) {
    for words in state.chunks_exact_mut(layout.run.max(1)) {
        let mut run = Run::load(words);
        if (run.tail as usize..run.head as usize).contains(&row) {
            run.fraud = if fraud { run.fraud + 1 } else { run.fraud.saturating_sub(1) };
            run.store(words);
        }
    }
}

/// The first `gone` rows were taken out.
pub(super) fn shift(state: &mut [u64], layout: &Layout, gone: usize) {
    let gone = gone as u32;
    let place = |at: u32| if at == LEFT { LEFT } else { at.checked_sub(gone).unwrap_or(LEFT) };
    for words in state.chunks_exact_mut(layout.run.max(1)) {
        let mut run = Run::load(words);
        run.tail = run.tail.saturating_sub(gone);
        run.head = run.head.saturating_sub(gone);
        (run.min_at, run.max_at) = (place(run.min_at), place(run.max_at));
        run.store(words);
    }
}
