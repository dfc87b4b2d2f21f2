//! Whether a stream still looks as it did when the model was trained: statistics only, no clock, no I/O.
//!
//! [`Binned`] counts values between the edges of a reference. It takes as much memory as it has bins, and two of
//! the same edges merge exactly, so a stream may be counted by several threads, or day by day. [`compare`] holds one
//! against another and [`judge`] says which of many comparisons are alarms, with the number of false ones held down
//! over all of them together. [`Adwin`] and [`PageHinkley`] watch a single stream of numbers, value by value.

mod adwin;
mod distance;
mod kolmogorov;
mod page_hinkley;

pub use adwin::{Adwin, AdwinSettings};
pub use distance::{jensen_shannon, ks_statistic, psi};
pub use kolmogorov::{two_sample_p, two_sided_p};
pub use page_hinkley::{Direction, PageHinkley, PageHinkleySettings};

/// Counts between edges: below the first, from each edge up to the next, from the last up; and what was missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Binned {
    edges: Vec<f64>,
    /// The first is what was missing, so one more than there are bins.
    counts: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DriftError {
    #[error("edges must be finite and rise strictly")]
    Edges,
    #[error("{counts} counts for {edges} edges; there must be one more than edges")]
    Counts { counts: usize, edges: usize },
    #[error("counts between other edges cannot be merged")]
    OtherEdges,
}

impl Binned {
    /// # Errors
    /// When the edges do not rise strictly or the counts are not one more than they.
    pub fn new(edges: Vec<f64>, counts: &[u64], missing: u64) -> Result<Self, DriftError> {
        let rising = edges.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        if !rising || edges.iter().any(|edge| !edge.is_finite()) {
            return Err(DriftError::Edges);
        }
        if counts.len() != edges.len() + 1 {
            return Err(DriftError::Counts { counts: counts.len(), edges: edges.len() });
        }
        Ok(Self { edges, counts: std::iter::once(missing).chain(counts.iter().copied()).collect() })
    }

    /// The same edges, nothing counted.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { edges: self.edges.clone(), counts: vec![0; self.counts.len()] }
    }

    /// Counts a value; what is not finite is missing.
    pub fn add(&mut self, value: f64) {
        let bin = if value.is_finite() { 1 + self.edges.partition_point(|edge| *edge <= value) } else { 0 };
        if let Some(count) = self.counts.get_mut(bin) {
            *count += 1;
        }
    }

    /// Takes another's counts in, whatever the order.
    ///
    /// # Errors
    /// When the other has other edges.
    pub fn merge(&mut self, other: &Self) -> Result<(), DriftError> {
        if self.edges != other.edges {
            return Err(DriftError::OtherEdges);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        Ok(())
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Bins for values, without the one for what is missing.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.edges.len() + 1
    }

    fn share(&self, count: Option<&u64>) -> f64 {
        count.map_or(0.0, |count| *count as f64) / (self.total().max(1)) as f64
    }

    /// The part of all that was missing.
    #[must_use]
    pub fn missing(&self) -> f64 {
        self.share(self.counts.first())
    }

    /// The parts of all that were below the first edge, and at or above the last one. Without edges there are
    /// no such values.
    #[must_use]
    pub fn outside(&self) -> (f64, f64) {
        if self.edges.is_empty() {
            return (0.0, 0.0);
        }
        (self.share(self.counts.get(1)), self.share(self.counts.last()))
    }
}

/// How one distribution differs from another.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Comparison {
    pub psi: f64,
    /// Jensen–Shannon divergence in bits, 0 to 1.
    pub js: f64,
    /// Kolmogorov–Smirnov statistic; of binned values, so at most that of the values themselves.
    pub ks: f64,
    /// Its p-value, were all values independent.
    pub ks_p: f64,
    pub missing_then: f64,
    pub missing_now: f64,
    /// Parts below the reference's first edge and from its last edge up.
    pub below_then: f64,
    pub below_now: f64,
    pub above_then: f64,
    pub above_now: f64,
}

/// Compares what was counted now with the reference. What is missing is a bin of its own for PSI and Jensen–Shannon,
/// and for Kolmogorov–Smirnov a value below all others. `None` when either is empty.
///
/// # Errors
/// When the two have other edges.
pub fn compare(then: &Binned, now: &Binned) -> Result<Option<Comparison>, DriftError> {
    if then.edges != now.edges {
        return Err(DriftError::OtherEdges);
    }
    let (a, b) = (&then.counts, &now.counts);
    let (Some(psi), Some(js), Some(ks)) = (psi(a, b), jensen_shannon(a, b), ks_statistic(a, b)) else {
        return Ok(None);
    };
    let ((below_then, above_then), (below_now, above_now)) = (then.outside(), now.outside());
    let ks_p = two_sample_p(ks, then.total(), now.total());
    let (missing_then, missing_now) = (then.missing(), now.missing());
    Ok(Some(Comparison { psi, js, ks, ks_p, missing_then, missing_now, below_then, below_now, above_then, above_now }))
}

/// When a comparison is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Limits {
    /// PSI must be above it: what is smaller may be certain and yet of no matter.
    pub psi: f64,
    /// The chance of any false alarm by the KS test among all comparisons together.
    pub alpha: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { psi: 0.2, alpha: 0.01 }
    }
}

/// Holm's adjusted p-value of each comparison, and whether it is an alarm: adjusted p below `alpha` and PSI above its
/// limit, both.
#[must_use]
pub fn judge(comparisons: &[Comparison], limits: Limits) -> Vec<(f64, bool)> {
    let adjusted = holm(&comparisons.iter().map(|comparison| comparison.ks_p).collect::<Vec<_>>());
    let alarm = |(comparison, p): (&Comparison, f64)| (p, p < limits.alpha && comparison.psi > limits.psi);
    comparisons.iter().zip(adjusted).map(alarm).collect()
}

/// Holm (1979): the k-th smallest of m p-values times m - k + 1, none smaller than the one before.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = p.iter().copied().enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut largest = 0.0_f64;
    let mut adjusted: Vec<(usize, f64)> = Vec::with_capacity(p.len());
    for (rank, (at, value)) in order.into_iter().enumerate() {
        largest = largest.max((value * (p.len() - rank) as f64).min(1.0));
        adjusted.push((at, largest));
    }
    adjusted.sort_by_key(|(at, _)| *at);
    adjusted.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::{Binned, DriftError, Limits, compare, holm, judge};

    fn counted(values: impl Iterator<Item = f64>) -> Binned {
        let mut binned = Binned::new(vec![1.0, 2.0, 3.0], &[0; 4], 0).unwrap();
        values.for_each(|value| binned.add(value));
        binned
    }

    #[test]
    fn parts_of_a_stream_merge_to_the_whole() {
        let values =
            |range: std::ops::Range<u32>| range.map(|at| if at % 7 == 0 { f64::NAN } else { f64::from(at % 5) });
        let mut merged = counted(values(0..40));
        merged.merge(&counted(values(40..100))).unwrap();
        assert_eq!(merged, counted(values(0..100)));
        assert_eq!(merged.total(), 100);
        assert!((merged.missing() - 0.15).abs() < 1e-12);
        let other = Binned::new(vec![1.0], &[0; 2], 0).unwrap();
        assert_eq!(merged.merge(&other), Err(DriftError::OtherEdges));
    }

    #[test]
    fn the_same_is_no_drift_and_missing_values_are() {
        let then = counted((0..4_000).map(|at| f64::from(at % 4)));
        let same = compare(&then, &then).unwrap().unwrap();
        assert_eq!((same.psi, same.js, same.ks, same.ks_p), (0.0, 0.0, 0.0, 1.0));
        let now = counted((0..4_000).map(|at| if at % 2 == 0 { f64::NAN } else { f64::from(at / 2 % 4) }));
        let gone = compare(&then, &now).unwrap().unwrap();
        assert!((gone.ks - 0.5).abs() < 1e-12 && (gone.missing_now - 0.5).abs() < 1e-12);
        let judged = judge(&[same, gone], Limits::default());
        assert_eq!(judged.iter().map(|(_, alarm)| *alarm).collect::<Vec<_>>(), [false, true]);
        assert_eq!(compare(&then, &then.emptied()), Ok(None));
    }

    #[test]
    fn edges_and_counts_must_fit() {
        assert_eq!(Binned::new(vec![2.0, 1.0], &[0; 3], 0), Err(DriftError::Edges));
        assert_eq!(Binned::new(vec![f64::NAN], &[0; 2], 0), Err(DriftError::Edges));
        assert_eq!(Binned::new(vec![1.0], &[0; 3], 0), Err(DriftError::Counts { counts: 3, edges: 1 }));
    }

    #[test]
    fn holm_is_as_in_its_paper() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(holm(&[]).is_empty());
    }
}
