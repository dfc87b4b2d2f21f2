//! How values are distributed, counted by many threads at once: what `/metrics` shows as a histogram.
//! Imports nothing of the rest, so that every part may count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts of values up to each of some bounds.
///
/// Adding takes no lock: one search among the bounds and two additions.
#[derive(Debug)]
pub struct Tally {
    /// Increasing; a value counts with the first bound that is not below it.
    bounds: &'static [u64],
    /// One more than bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// Values that make 1 of what is shown.
    unit: f64,
}

/// A tally at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Each bound, the last infinite, with how many values were above the one before and not above this.
    pub buckets: Vec<(f64, u64)>,
    /// Of all values.
    pub sum: f64,
}

/// Nanoseconds: 1, 2, 5 and so on from 10 µs, a batch of one, to 10 s. Round bounds, so that "within 5 ms" can
/// be read off exactly.
const TIMES: &[u64] = &[
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Powers of four: how many went together.
const SIZES: &[u64] = &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536];

impl Tally {
    /// Of times, shown in seconds; bounds from 10 µs to 10 s.
    #[must_use]
    pub fn of_times() -> Self {
        Self::new(TIMES, 1e9)
    }

    /// Of how many went together; bounds from 1 to 65,536.
    #[must_use]
    pub fn of_sizes() -> Self {
        Self::new(SIZES, 1.0)
    }

    fn new(bounds: &'static [u64], unit: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), unit }
    }

    pub fn add(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    pub fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was counted so far. The sum may lack a value that is being added, the buckets agree always.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.unit).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Reading { buckets: bounds.zip(counts).collect(), sum: self.sum.load(Ordering::Relaxed) as f64 / self.unit }
    }
}

impl Reading {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SIZES, TIMES, Tally};

    #[test]
    fn a_value_at_a_bound_counts_with_it() {
        let sizes = Tally::of_sizes();
        for size in [0, 1, 2, 4, 5, 65_536, 65_537] {
            sizes.add(size);
        }
        let reading = sizes.reading();
        let counts: Vec<u64> = reading.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 2, 1, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((reading.count(), reading.sum), (7, 131_085.0));
    }

    #[test]
    fn times_are_shown_in_seconds_with_round_bounds() {
        let times = Tally::of_times();
        times.add_time(Duration::from_micros(50));
        times.add_time(Duration::from_secs(60));
        let reading = times.reading();
        assert_eq!((reading.buckets[2].1, reading.buckets[TIMES.len()].1), (1, 1));
        assert!((reading.sum - 60.000_05).abs() < 1e-9);
        for bounds in [TIMES, SIZES] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
        for (bound, _) in &reading.buckets {
            assert!(bound.to_string().len() < 8, "{bound}");
        }
    }

    #[test]
    fn threads_lose_nothing() {
        let tally = Tally::of_sizes();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|value| tally.add(value)));
            }
        });
        assert_eq!((tally.reading().count(), tally.reading().sum), (40_000, 4.0 * 49_995_000.0));
    }
}
