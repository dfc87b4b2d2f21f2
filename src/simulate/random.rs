//! Numbers that depend on the seed and on what they are for, and on nothing else: any part of the
//! simulation can be worked out again without what came before.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers for one purpose.
pub(super) struct Random(Xoshiro256PlusPlus);

impl Random {
    /// The stream of `seed` for a purpose and up to two numbers (an account, a day).
    pub fn of(seed: u64, purpose: u64, a: u64, b: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(mixed(mixed(mixed(seed ^ purpose << 56) ^ a) ^ b)))
    }

    /// From 0 up to 1, 1 not included.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / 9_007_199_254_740_992.0
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// From 0 up to `below`, which is not included.
    pub fn below(&mut self, below: u64) -> u64 {
        // The high half of a product (Lemire 2019) without the rejection: a bias below 2^-32 here.
        ((u128::from(self.0.next_u64()) * u128::from(below)) >> 64) as u64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Poisson, by Knuth's product: for small means.
    pub fn poisson(&mut self, mean: f64) -> u32 {
        let limit = (-mean).exp();
        let mut product = self.unit();
        let mut count = 0;
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
