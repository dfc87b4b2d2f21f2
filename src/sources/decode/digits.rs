//! Numbers as they are mostly written, eight bytes at a time. What is written otherwise is for the general
//! parsers, which give the same values.

/// A number without an exponent, exactly: `units` divided by ten to the power `decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    pub negative: bool,
    /// At most eighteen digits.
    pub units: u64,
    pub decimals: u8,
    /// How long its text is.
    pub len: usize,
}

const POWERS: [u64; 19] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    100_000_000_000,
    1_000_000_000_000,
    10_000_000_000_000,
    100_000_000_000_000,
    1_000_000_000_000_000,
    10_000_000_000_000_000,
    100_000_000_000_000_000,
    1_000_000_000_000_000_000,
];

impl Plain {
    /// Reads the number at the start of `bytes`, up to the first byte that is not of it. `None` where JSON has
    /// no such number, where it has an exponent, or where it has too many digits to be read here.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let negative = bytes.first() == Some(&b'-');
        let whole = bytes.get(usize::from(negative)..)?;
        let word = window(whole);
        let (mut units, mut digits) = leading_digits(word);
        let mut rest = whole.get(digits..)?;
        if digits == 8 {
            let (more, count) = leading_digits(window(rest));
            if count == 8 {
                return None;
            }
            units = units * power(count)? + more;
            digits += count;
            rest = rest.get(count..)?;
        }
        let zero = word & 0xff == u64::from(b'0');
        if digits == 0 || digits > 1 && zero {
            return None;
        }
        let mut decimals = 0;
        if let [b'.', part @ ..] = rest {
            let (more, count) = leading_digits(window(part));
            if count == 0 || count == 8 || digits + count > 18 {
                return None;
            }
            units = units * power(count)? + more;
            decimals = count;
            rest = part.get(count..)?;
        }
        if let [b'e' | b'E', ..] = rest {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below eight")]
        let decimals = decimals as u8;
        Some(Self { negative, units, decimals, len: bytes.len() - rest.len() })
    }

    /// The number in units of ten to the power `-decimals`, if it is a whole number of them and positive.
    #[inline]
    pub fn scaled(self, decimals: u8) -> Option<i64> {
        let factor = power(usize::from(decimals.checked_sub(self.decimals)?))?;
        let scaled = self.units.checked_mul(factor)?;
        i64::try_from(scaled).ok().filter(|_| !self.negative)
    }

    /// The nearest float: an integer below 2^53 divided by a power of ten below 10^23 is rounded once
    /// (Clinger 1990).
    #[inline]
    pub fn float(self) -> Option<f64> {
        if self.units >= 1 << 53 {
            return None;
        }
        let value = self.units as f64 / power(usize::from(self.decimals))? as f64;
        Some(if self.negative { -value } else { value })
    }
}

#[inline]
fn power(of: usize) -> Option<u64> {
    POWERS.get(of).copied()
}

/// A finite number.
#[inline]
pub(super) fn number(text: &str) -> Option<f64> {
    let plain = Plain::read(text.as_bytes()).filter(|plain| plain.len == text.len());
    if let Some(number) = plain.and_then(Plain::float) {
        return Some(number);
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// The first eight bytes, the first lowest; zeros stand for those behind the end.
#[inline]
pub(super) fn window(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => short_window(bytes),
    }
}

#[inline(never)]
fn short_window(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// How many of the eight bytes are digits before the first that is none, and the number they make. See
/// "Quickly parsing eight digits" by Daniel Lemire.
#[inline]
fn leading_digits(word: u64) -> (u64, usize) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let values = word ^ (ONES * 0x30);
    // A byte above nine reaches its highest bit when 0x76 is added; a carry only disturbs the bytes above it.
    let others = (values | values.wrapping_add(ONES * 0x76)) & (ONES * 0x80);
    let count = others.trailing_zeros() / 8;
    // Zeros before the digits in place of what comes behind them.
    let digits = values.checked_shl(64 - 8 * count).unwrap_or(0);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = (pairs >> 16 & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    (low.wrapping_add(high) >> 32, count as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Plain, leading_digits, number, window};

    proptest! {
        #[test]
        fn numbers_are_those_of_the_standard_library(text in "-?[0-9]{0,12}(\\.[0-9]{0,9})?(e-?[0-9]{1,3})?") {
            let wanted = text.parse::<f64>().ok().filter(|number| number.is_finite());
            prop_assert_eq!(number(&text).map(f64::to_bits), wanted.map(f64::to_bits));
        }

        #[test]
        fn a_plain_number_ends_where_json_ends_it(text in "-?[0-9]{0,17}(\\.[0-9]{0,9})?[,} eE.]?.{0,9}") {
            if let Some(plain) = Plain::read(text.as_bytes()) {
                let (own, rest) = text.split_at(plain.len);
                prop_assert!(serde_json::from_str::<serde_json::Number>(own).is_ok(), "{}", own);
                prop_assert!(!rest.starts_with(['e', 'E', '.']) || rest.starts_with('.') && plain.decimals > 0);
                prop_assert!(!rest.starts_with(|c: char| c.is_ascii_digit()));
                let digits: u64 = own.replace(['-', '.'], "").parse().expect("digits");
                prop_assert_eq!(plain.units, digits);
            }
        }

        #[test]
        fn digits_are_counted_and_read(bytes in prop::collection::vec(prop_oneof![6 => b'0'..=b'9', 1 => any::<u8>()], 0..12), at in 0..14_usize) {
            let rest = bytes.get(at..).unwrap_or_default();
            let digits: String = rest.iter().take(8).take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
            let wanted = (digits.parse().unwrap_or(0), digits.len());
            prop_assert_eq!(leading_digits(window(rest)), wanted);
        }
    }

    #[test]
    fn numbers_are_the_nearest_there_are() {
        for text in ["0", "50.1718", "-0.1", "-0", "123456789012345.6", "9007199254740993", "0.000001", "1e3", "00.5"] {
            assert_eq!(number(text).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits), "{text}");
        }
        for text in ["", "-", ".", "1.", ".5", "--1", "1.2.3", "1e999", "NaN", "inf", "0x10"] {
            let wanted = text.parse::<f64>().ok().filter(|number| number.is_finite());
            assert_eq!(number(text), wanted, "{text}");
        }
    }

    #[test]
    fn numbers_scale_exactly_or_not_at_all() {
        let scaled = |text: &str, decimals| Plain::read(text.as_bytes()).and_then(|plain| plain.scaled(decimals));
        assert_eq!(scaled("12.34", 2), Some(1_234));
        assert_eq!(scaled("12.3", 2), Some(1_230));
        assert_eq!(scaled("12", 0), Some(12));
        assert_eq!(scaled("12.345", 2), None);
        assert_eq!(scaled("-12.34", 2), None);
        assert_eq!(scaled("999999999999999", 9), None);
    }
}
