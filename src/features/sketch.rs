//! How many different values there were, in constant memory: HyperLogLog (Flajolet, Fusy, Gandouet, Meunier
//! 2007) with the estimator of Ertl (2017, "New cardinality estimation algorithms for HyperLogLog sketches"),
//! which needs no tables of bias. Integers and square roots only: the same estimate on any machine.

#![expect(clippy::indexing_slicing, reason = "a numeric kernel: registers and ranks are masked to their arrays")]

/// 512 registers: a standard error of 1.04 / √512, 4.6 %.
const REGISTERS: usize = 512;
const INDEX_BITS: u32 = 9;
/// Hash bits that ranks are taken from.
const RANK_BITS: u32 = 64 - INDEX_BITS;

/// The highest rank there is.
const MOST_RANK: u8 = 56;

/// The registers of a sketch, as a tile keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registers(Box<[u8; REGISTERS]>);

/// A sketch that can be asked at any time.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    registers: Registers,
    /// How many registers hold each rank.
    ranks: [u16; RANK_BITS as usize + 2],
}

impl Registers {
    pub const BYTES: usize = REGISTERS;

    pub fn new() -> Self {
        Self(Box::new([0; REGISTERS]))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0[..]
    }

    /// Registers as [`bytes`](Self::bytes) gave them; what is no rank is none.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut registers = Self::new();
        for (register, byte) in registers.0.iter_mut().zip(bytes) {
            *register = (*byte).min(MOST_RANK);
        }
        registers
    }

    /// Adds a value by its hash; 0 stands for no value.
    pub fn add(&mut self, hash: u64) {
        if let Some((index, rank)) = place(hash) {
            self.0[index] = self.0[index].max(rank);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0.iter()) {
            *own = (*own).max(*other);
        }
    }
}

/// Which register a hash falls to, and its rank.
#[expect(clippy::cast_possible_truncation, reason = "nine bits, and a rank of at most 56")]
fn place(hash: u64) -> Option<(usize, u8)> {
    let rank = (hash >> INDEX_BITS | 1 << RANK_BITS).trailing_zeros() + 1;
    (hash != 0).then_some((hash as usize % REGISTERS, rank as u8))
}

impl Sketch {
    pub fn new(registers: Registers) -> Self {
        let mut ranks = [0; RANK_BITS as usize + 2];
        for rank in registers.0.iter() {
            ranks[usize::from(*rank)] += 1;
        }
        Self { registers, ranks }
    }

    pub fn add(&mut self, hash: u64) {
        let Some((index, rank)) = place(hash) else { return };
        let register = &mut self.registers.0[index];
        if rank > *register {
            self.ranks[usize::from(*register)] -= 1;
            self.ranks[usize::from(rank)] += 1;
            *register = rank;
        }
    }

    /// Different values, rounded.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and rounded on purpose")]
    pub fn estimate(&self) -> u64 {
        let m = REGISTERS as f64;
        let (last, rest) = (self.ranks[RANK_BITS as usize + 1], &self.ranks[1..=RANK_BITS as usize]);
        let mut z = m * tau(1.0 - f64::from(last) / m);
        for count in rest.iter().rev() {
            z = 0.5 * (z + f64::from(*count));
        }
        z += m * sigma(f64::from(self.ranks[0]) / m);
        (m * m / (2.0 * std::f64::consts::LN_2) / z).round() as u64
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z <= before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z >= before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Registers, Sketch};

    fn hash(number: u64) -> u64 {
        let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn estimates_stay_within_three_standard_errors() {
        let mut sketch = Sketch::new(Registers::new());
        assert_eq!(sketch.estimate(), 0);
        let mut exact = 0_u64;
        for number in 1..=300_000 {
            sketch.add(hash(number));
            sketch.add(hash(number / 2 + 1));
            sketch.add(0);
            exact += 1;
            if number.is_power_of_two() || number % 50_000 == 0 {
                let error = (sketch.estimate() as f64 - exact as f64).abs();
                assert!(error <= (0.14 * exact as f64).max(1.0), "{} of {exact}", sketch.estimate());
            }
        }
    }

    #[test]
    fn a_merge_is_the_sketch_of_the_union() {
        let (mut one, mut other, mut both) = (Registers::new(), Registers::new(), Registers::new());
        for number in 1..5_000 {
            let half = if number % 3 == 0 { &mut one } else { &mut other };
            half.add(hash(number));
            both.add(hash(number));
        }
        one.merge(&other);
        assert_eq!(one, both);
    }
}
