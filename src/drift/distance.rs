//! How far two lists of counts over the same bins are apart. `None` when either is empty.

/// Population stability index: the sum of (q - p) ln(q / p) over the bins. Half a count is added to each bin, so that
/// an empty one gives a large number and not infinity.
#[must_use]
pub fn psi(then: &[u64], now: &[u64]) -> Option<f64> {
    let (p, q) = (parts(then, 0.5)?, parts(now, 0.5)?);
    Some(p.zip(q).map(|(p, q)| (q - p) * (q / p).ln()).sum())
}

/// Jensen–Shannon divergence in bits, from 0 (the same) to 1 (no bin in common).
#[must_use]
pub fn jensen_shannon(then: &[u64], now: &[u64]) -> Option<f64> {
    let (p, q) = (parts(then, 0.0)?, parts(now, 0.0)?);
    let half = |part: f64, middle: f64| if part > 0.0 { part * (part / middle).log2() / 2.0 } else { 0.0 };
    Some(p.zip(q).map(|(p, q)| half(p, f64::midpoint(p, q)) + half(q, f64::midpoint(p, q))).sum::<f64>().max(0.0))
}

/// Two-sample Kolmogorov–Smirnov statistic: the largest difference between the two running shares. It is exact if
/// every value has a bin of its own, else a lower bound.
#[must_use]
pub fn ks_statistic(then: &[u64], now: &[u64]) -> Option<f64> {
    let (n, m) = (total(then)?, total(now)?);
    let (mut a, mut b, mut largest) = (0, 0, 0.0_f64);
    for (p, q) in then.iter().zip(now) {
        a += p;
        b += q;
        largest = largest.max((a as f64 / n - b as f64 / m).abs());
    }
    Some(largest)
}

fn total(counts: &[u64]) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    (total > 0).then_some(total as f64)
}

fn parts(counts: &[u64], more: f64) -> Option<impl Iterator<Item = f64>> {
    let all = total(counts)? + more * counts.len() as f64;
    Some(counts.iter().map(move |count| (*count as f64 + more) / all))
}
