//! What an entity with very many events keeps of its oldest: tiles, each standing for some of them.
//!
//! Tiles form an exponential histogram (Datar, Gionis, Indyk, Motwani 2002): a fixed number of each size, the
//! two oldest of a size joined into one of twice that size when there are more. A window counts a tile only
//! while all of it is inside, so what it holds is at most one tile too little at its start, and at its end
//! where that is in the past; a tile has at most one in [`OF_EACH_SIZE`] of the events since it began.

use super::entity::Events;
use super::set::EntitySpec;
use super::sketch::Registers;
use crate::transaction::EventTime;

/// Tiles of one size, at most.
pub(super) const OF_EACH_SIZE: usize = 64;

/// Several events, one after the other in time, as one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tile {
    pub first: EventTime,
    pub last: EventTime,
    pub count: u64,
    pub sum: i128,
    pub squares: u128,
    pub fraud: u64,
    pub min: i64,
    pub max: i64,
    /// By column, for those that some window counts.
    pub values: Vec<Option<Registers>>,
    /// How often it was joined with another of its size.
    pub size: u8,
}

impl Tile {
    /// The tile of the first `many` of `events`.
    pub fn of(spec: &EntitySpec, events: &Events<'_>, many: usize) -> Self {
        let counted = spec.windows.iter().fold(0, |all, window| all | window.counted);
        let registers = |column: usize| (counted & 1 << column != 0).then(Registers::new);
        let mut tile = Self {
            first: events.time(0),
            last: events.time(many - 1),
            count: 0,
            sum: 0,
            squares: 0,
            fraud: 0,
            min: i64::MAX,
            max: i64::MIN,
            values: (0..spec.columns.len()).map(registers).collect(),
            size: 0,
        };
        for at in 0..many {
            tile.add(events.amount(at), |column| events.value(at, column));
            tile.fraud += u64::from(events.is_fraud(at));
        }
        tile
    }

    #[expect(clippy::cast_sign_loss, reason = "a square is not negative")]
    fn add(&mut self, amount: i64, value: impl Fn(usize) -> u64) {
        self.count += 1;
        self.sum += i128::from(amount);
        self.squares = self.squares.wrapping_add((i128::from(amount) * i128::from(amount)) as u128);
        (self.min, self.max) = (self.min.min(amount), self.max.max(amount));
        for (column, registers) in self.values.iter_mut().enumerate() {
            if let Some(registers) = registers {
                registers.add(value(column));
            }
        }
    }

    /// Takes in an event that came late and belongs to its time.
    pub fn absorb(&mut self, time: EventTime, amount: i64, values: &[u64; 8]) {
        self.first = self.first.min(time);
        self.add(amount, |column| values.get(column).copied().unwrap_or_default());
    }

    /// Takes in the tile after it.
    fn join(&mut self, after: &Self) {
        self.last = after.last;
        self.count += after.count;
        self.sum += after.sum;
        self.squares = self.squares.wrapping_add(after.squares);
        self.fraud += after.fraud;
        (self.min, self.max) = (self.min.min(after.min), self.max.max(after.max));
        for (own, other) in self.values.iter_mut().zip(&after.values) {
            if let (Some(own), Some(other)) = (own, other) {
                own.merge(other);
            }
        }
        self.size += 1;
    }

    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.values.capacity() * size_of::<Option<Registers>>()
            + self.values.iter().flatten().count() * Registers::BYTES
    }
}

/// Where the two oldest tiles of a size stand of which there are too many.
pub(super) fn surplus(tiles: &[Tile]) -> Option<usize> {
    // Sizes never grow from an older tile to a newer one: equals stand together.
    let mut end = tiles.len();
    while let Some(size) = end.checked_sub(1).and_then(|last| tiles.get(last)).map(|tile| tile.size) {
        let start = tiles.partition_point(|tile| tile.size > size);
        if end - start > OF_EACH_SIZE {
            return Some(start);
        }
        end = start;
    }
    None
}

/// Joins the tile at `at` with the one after it.
pub(super) fn join(tiles: &mut Vec<Tile>, at: usize) {
    if at + 1 < tiles.len() {
        let after = tiles.remove(at + 1);
        if let Some(tile) = tiles.get_mut(at) {
            tile.join(&after);
        }
    }
}
