//! p-values of the Kolmogorov–Smirnov statistic, from the exact distribution of the one-sample statistic at the
//! effective number of values, as `scipy.stats.ks_2samp(method="asymp")` takes it.
//!
//! After Simard and L'Ecuyer, Computing the Two-Sided Kolmogorov–Smirnov Distribution (2011): Durbin's matrix
//! (Marsaglia, Tsang and Wang 2003) where values are few, the series of Pelz and Good (1976) where they are many,
//! and Smirnov's one-sided sum, twice, in the tail. Within 1e-9 of scipy.
#![expect(clippy::indexing_slicing, reason = "a numeric kernel: square matrices, every index below their size")]

use std::f64::consts::PI;

/// Values from which on Smirnov's sum, as long as they are many, gives way to its limit.
const SUMMED: f64 = 1e6;

/// The chance of a statistic `d` or more between samples of `n` and `m` values from one distribution.
#[must_use]
pub fn two_sample_p(d: f64, n: u64, m: u64) -> f64 {
    if n == 0 || m == 0 {
        return 1.0;
    }
    let (n, m) = (n as f64, m as f64);
    two_sided_p(d, (n.max(m) * n.min(m) / (n + m)).round_ties_even().max(1.0))
}

/// The chance of a statistic `d` or more for `n` values, a whole number of them, against their own distribution.
#[must_use]
pub fn two_sided_p(d: f64, n: f64) -> f64 {
    let t = n * d;
    let p = if d >= 1.0 {
        0.0
    } else if t <= 0.5 || d.is_nan() {
        1.0
    } else if t <= 1.0 {
        // Ruben and Gambino: n! ((2t - 1) / n)^n.
        1.0 - ((1..=whole(n)).map(|i| (i as f64 * (2.0 * t - 1.0) / n).ln()).sum::<f64>()).exp()
    } else if t >= n - 1.0 {
        2.0 * (n * (-d).ln_1p()).exp()
    } else if t * d >= 370.0 && n > 140.0 {
        0.0
    } else if d >= 0.5 || t * d >= if n > 140.0 { 2.2 } else { 4.0 } {
        2.0 * if n <= SUMMED { smirnov(d, n) } else { (-(6.0 * t + 1.0).powi(2) / (18.0 * n)).exp() }
    } else if d * n.sqrt() < 0.18 {
        // The distribution is below 1e-15 there.
        1.0
    } else if n <= 140.0 || (n <= 1e5 && n * d.powf(1.5) <= 1.4) {
        1.0 - durbin(d, n)
    } else {
        1.0 - pelz_good(d, n)
    };
    p.clamp(0.0, 1.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, not negative, and small")]
fn whole(n: f64) -> usize {
    n as usize
}

/// One-sided, exactly: d times the sum over j of the chance of j among n at rate d + j / n, over that rate.
fn smirnov(d: f64, n: f64) -> f64 {
    let t = n * d;
    let mut sum = (n * (-d).ln_1p()).exp();
    let at_n = stirling(n);
    for j in 1..=whole(n - t) {
        let j = j as f64;
        let rest = n - j;
        if rest <= t {
            break;
        }
        // Loader's form of the binomial: nothing large is subtracted.
        let exponent = at_n - stirling(j) - stirling(rest) + j * (t / j).ln_1p() + rest * (-t / rest).ln_1p();
        sum += d * exponent.exp() * (n / (2.0 * PI * j * rest)).sqrt() / (d + j / n);
    }
    sum
}

/// ln k! less Stirling's formula for it.
fn stirling(k: f64) -> f64 {
    if k < 16.0 {
        let exact: f64 = (2..=whole(k)).map(|i| (i as f64).ln()).sum();
        return exact - (k + 0.5) * k.ln() + k - 0.5 * (2.0 * PI).ln();
    }
    let square = k * k;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * square)) / square) / square) / k
}

/// A square matrix with a power of two of its own, that products would overflow without.
struct Scaled {
    size: usize,
    cells: Vec<f64>,
    power: i32,
}

impl Scaled {
    fn times(&self, other: &Self) -> Self {
        let size = self.size;
        let mut cells = vec![0.0; size * size];
        for row in 0..size {
            for inner in 0..size {
                let factor = self.cells[row * size + inner];
                for column in 0..size {
                    cells[row * size + column] += factor * other.cells[inner * size + column];
                }
            }
        }
        let mut power = self.power + other.power;
        if cells[(size / 2) * size + size / 2] > 1e140 {
            cells.iter_mut().for_each(|cell| *cell *= 2.0_f64.powi(-450));
            power += 450;
        }
        Self { size, cells, power }
    }
}

/// The chance of less than `d`: n! / n^n times the middle of the n-th power of Durbin's matrix.
fn durbin(d: f64, n: f64) -> f64 {
    let k = (n * d).ceil();
    let h = k - n * d;
    let size = 2 * whole(k) - 1;
    let mut factorials = vec![1.0; size + 1];
    for i in 1..=size {
        factorials[i] = factorials[i - 1] / i as f64;
    }
    let mut cells = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..size.min(row + 2) {
            cells[row * size + column] = factorials[row + 1 - column];
        }
    }
    let mut power = 1.0;
    for i in 0..size {
        power *= h;
        cells[i * size] -= power * factorials[i + 1];
        cells[(size - 1) * size + size - 1 - i] -= power * factorials[i + 1];
    }
    // The corner was reached from both sides; what lies in both comes back.
    let twice = (2.0 * h - 1.0).max(0.0).powf(size as f64);
    cells[(size - 1) * size] = (1.0 - 2.0 * power + twice) * factorials[size];
    let mut base = Scaled { size, cells, power: 0 };
    let mut product: Option<Scaled> = None;
    let mut left = whole(n);
    while left > 0 {
        if left % 2 == 1 {
            product = Some(product.map_or_else(
                || Scaled { size, cells: base.cells.clone(), power: base.power },
                |product| product.times(&base),
            ));
        }
        left /= 2;
        if left > 0 {
            base = base.times(&base);
        }
    }
    let Some(product) = product else { return 0.0 };
    let middle = product.cells[(size / 2) * size + size / 2];
    let mut chance = middle;
    let mut exponent = product.power;
    for i in 1..=whole(n) {
        chance *= i as f64 / n;
        if chance < 1e-140 {
            chance *= 2.0_f64.powi(450);
            exponent -= 450;
        }
    }
    // In halves: the whole power may lie outside of what a float holds.
    chance * 2.0_f64.powi(exponent / 2) * 2.0_f64.powi(exponent - exponent / 2)
}

/// The chance of less than `d`: the limit and its first three corrections, by theta functions.
fn pelz_good(d: f64, n: f64) -> f64 {
    let z = d * n.sqrt();
    let (z2, z4, z6, z8) = (z.powi(2), z.powi(4), z.powi(6), z.powi(8));
    let (pi2, pi4, pi6) = (PI.powi(2), PI.powi(4), PI.powi(6));
    let root = (2.0 * PI).sqrt();
    let mut k = [0.0; 4];
    let terms = whole((16.0 * z / PI).ceil());
    for term in (1..=terms).rev() {
        let m = (2 * term - 1) as f64;
        let (m2, m4, m6) = (m.powi(2), m.powi(4), m.powi(6));
        let weight = (-pi2 / 8.0 / z2 * m2).exp();
        let polynomials = [
            1.0,
            -z2 + pi2 / 4.0 * m2,
            6.0 * z6 + 2.0 * z4 + (2.0 * z4 - 5.0 * z2) * pi2 / 4.0 * m2 + pi4 * (1.0 - 2.0 * z2) / 16.0 * m4,
            -30.0 * z6 - 90.0 * z8
                + pi2 * (135.0 * z4 - 96.0 * z6) / 4.0 * m2
                + pi4 * (-60.0 * z2 + 212.0 * z4) / 16.0 * m4
                + pi6 * (5.0 - 30.0 * z2) / 64.0 * m6,
        ];
        k.iter_mut().zip(polynomials).for_each(|(sum, polynomial)| *sum += weight * polynomial);
    }
    let divisors = [z, 6.0 * z4, 72.0 * z.powi(7), 6480.0 * z.powi(10)];
    k.iter_mut().zip(divisors).for_each(|(sum, divisor)| *sum *= root / divisor);
    for term in (1..=terms).rev() {
        let square = (term as f64).powi(2);
        let weight = (-pi2 / 2.0 / z2 * square).exp() * square * pi2 * root;
        k[2] -= weight / (36.0 * z.powi(3));
        k[3] += weight * (3.0 * z2 - pi2 * square) / (216.0 * z6);
    }
    k[0] + k[1] / n.sqrt() + k[2] / n + k[3] / (n * n.sqrt())
}
