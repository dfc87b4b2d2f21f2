//! ADWIN: a window over the newest values that drops its oldest part when the means of two parts differ by more
//! than chance allows.
//!
//! Bifet and Gavaldà, Learning from Time-Changing Data with Adaptive Windowing (2007), with buckets of powers of two
//! values, so memory and time are logarithmic in the window's length. The bound, the order of operations and the
//! defaults are River's, so that alarms come at the same values (tests/fixtures/drift/).

use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdwinSettings {
    /// Confidence: smaller means fewer false alarms.
    pub delta: f64,
    /// Values between two looks for a change.
    pub clock: u64,
    /// Buckets of one size before two of them become one of the next.
    pub max_buckets: usize,
    /// Values that each part must have.
    pub min_window_length: f64,
    /// Values before the first look.
    pub grace_period: f64,
}

impl Default for AdwinSettings {
    fn default() -> Self {
        Self { delta: 0.002, clock: 32, max_buckets: 5, min_window_length: 5.0, grace_period: 10.0 }
    }
}

#[derive(Debug, Clone)]
pub struct Adwin {
    settings: AdwinSettings,
    /// Row i holds buckets of 2^i values, the oldest first.
    rows: Vec<VecDeque<Bucket>>,
    total: f64,
    /// Sum of squared differences from the mean.
    spread: f64,
    width: f64,
    ticks: u64,
    changed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    total: f64,
    spread: f64,
}

impl Adwin {
    #[must_use]
    pub fn new(settings: AdwinSettings) -> Self {
        let rows = vec![VecDeque::new()];
        Self { settings, rows, total: 0.0, spread: 0.0, width: 0.0, ticks: 0, changed: false }
    }

    /// Takes a value and says whether the mean has changed. As River does, it starts anew after a change. A value that
    /// is not finite is passed over.
    pub fn update(&mut self, value: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        if self.changed {
            *self = Self::new(self.settings);
        }
        self.insert(value);
        self.ticks += 1;
        if self.ticks.is_multiple_of(self.settings.clock.max(1)) && self.width > self.settings.grace_period {
            while self.has_cut() {
                self.changed = true;
                self.drop_oldest();
            }
        }
        self.changed
    }

    /// Values in the window.
    #[must_use]
    pub fn width(&self) -> f64 {
        self.width
    }

    /// The window's mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.width > 0.0 { self.total / self.width } else { 0.0 }
    }

    fn insert(&mut self, value: f64) {
        self.width += 1.0;
        if self.width > 1.0 {
            let difference = value - self.total / (self.width - 1.0);
            self.spread += (self.width - 1.0) * difference * difference / self.width;
        }
        self.total += value;
        let mut carried = Some(Bucket { total: value, spread: 0.0 });
        let mut size = 1.0;
        for row in &mut self.rows {
            let Some(bucket) = carried.take() else { return };
            row.push_back(bucket);
            if row.len() > self.settings.max_buckets
                && let (Some(a), Some(b)) = (row.pop_front(), row.pop_front())
            {
                let apart = a.total / size - b.total / size;
                let spread = a.spread + b.spread + size * 0.5 * apart * apart;
                carried = Some(Bucket { total: a.total + b.total, spread });
            }
            size *= 2.0;
        }
        self.rows.extend(carried.map(|bucket| VecDeque::from([bucket])));
    }

    /// Whether the means left and right of any border between buckets differ too much.
    fn has_cut(&self) -> bool {
        let least = self.settings.min_window_length;
        let (mut n0, mut n1, mut u0, mut u1) = (0.0, self.width, 0.0, self.total);
        for (size, bucket) in self.oldest_first() {
            n0 += size;
            n1 -= size;
            u0 += bucket.total;
            u1 -= bucket.total;
            if n1 >= least && n0 >= least && n1 > 0.0 && self.differ(n0, n1, u0 / n0 - u1 / n1) {
                return true;
            }
        }
        false
    }

    fn oldest_first(&self) -> impl Iterator<Item = (f64, &Bucket)> {
        let sizes = std::iter::successors(Some(1.0), |size: &f64| Some(size * 2.0));
        let rows: Vec<(f64, &VecDeque<Bucket>)> = sizes.zip(&self.rows).collect();
        rows.into_iter().rev().flat_map(|(size, row)| row.iter().map(move |bucket| (size, bucket)))
    }

    fn differ(&self, n0: f64, n1: f64, apart: f64) -> bool {
        let least = self.settings.min_window_length;
        let delta = (2.0 * self.width.ln() / self.settings.delta).ln();
        let parts = 1.0 / (n0 - least + 1.0) + 1.0 / (n1 - least + 1.0);
        let bound = (2.0 * parts * (self.spread / self.width) * delta).sqrt() + 2.0 / 3.0 * delta * parts;
        apart.abs() > bound
    }

    fn drop_oldest(&mut self) {
        let size = 2.0_f64.powi(i32::try_from(self.rows.len()).unwrap_or(i32::MAX) - 1);
        let Some(oldest) = self.rows.last_mut().and_then(VecDeque::pop_front) else { return };
        self.width -= size;
        self.total -= oldest.total;
        let apart = oldest.total / size - self.total / self.width;
        self.spread -= oldest.spread + size * self.width * apart * apart / (size + self.width);
        while self.rows.len() > 1 && self.rows.last().is_some_and(VecDeque::is_empty) {
            self.rows.pop();
        }
    }
}
