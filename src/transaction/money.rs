//! Money: whole minor units and an ISO 4217 currency. Never a float.

use std::fmt;

/// The largest amount taken, in minor units. Sums of ten thousand such payments still fit `i64`.
pub const MAX_MINOR_UNITS: i64 = 100_000_000_000_000;

/// An ISO 4217 alphabetic code with the number of digits behind its decimal point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency {
    code: [u8; 3],
    exponent: u8,
}

impl Currency {
    pub const EUR: Self = Self { code: *b"EUR", exponent: 2 };
    pub const USD: Self = Self { code: *b"USD", exponent: 2 };

    /// Looks up an alphabetic code such as `EUR`; letters may be of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 3] = text.as_bytes().try_into().ok()?;
        let code = bytes.map(|b| b.to_ascii_uppercase());
        if code == *b"EUR" {
            return Some(Self::EUR);
        }
        if code == *b"USD" {
            return Some(Self::USD);
        }
        let at = CODES.iter().position(|(known, _)| **known == code)?;
        CODES.get(at).map(|(_, exponent)| Self { code, exponent: *exponent })
    }

    /// Digits behind the decimal point: 2 for EUR, 0 for JPY, 3 for KWD.
    #[must_use]
    pub const fn exponent(self) -> u8 {
        self.exponent
    }

    #[must_use]
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or("???")
    }

    #[must_use]
    pub const fn code_bytes(&self) -> [u8; 3] {
        self.code
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why a piece of text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("a decimal number such as 12.34")]
    NotANumber,
    #[error("at most {0} digits behind the decimal point")]
    TooPrecise(u8),
    #[error("an amount of at most 100,000,000,000,000 minor units either way")]
    TooLarge,
}

/// An amount of minor units in major units: `1234` with exponent 2 is `12.34`.
#[must_use]
pub fn format_major(minor: i64, exponent: u8) -> String {
    let scale = 10_u64.pow(u32::from(exponent.min(18)));
    let (whole, part) = (minor.unsigned_abs() / scale, minor.unsigned_abs() % scale);
    let sign = if minor < 0 { "-" } else { "" };
    if exponent == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{part:0width$}", width = usize::from(exponent))
}

/// Reads a decimal number of major units (`12.34`, `-5`, `1e3`) into minor units, exactly:
/// a digit that `exponent` has no place for is an error unless it is zero.
///
/// # Errors
/// [`AmountError`] says what was expected instead.
pub fn parse_major(text: &[u8], exponent: u8) -> Result<i64, AmountError> {
    parse_scaled(text, i32::from(exponent)).map_err(|error| match error {
        AmountError::TooPrecise(_) => AmountError::TooPrecise(exponent),
        other => other,
    })
}

/// Reads a whole number of minor units (`1234`); `1234.0` and `1.234e3` are the same number.
///
/// # Errors
/// [`AmountError`] says what was expected instead.
pub fn parse_minor(text: &[u8]) -> Result<i64, AmountError> {
    parse_scaled(text, 0)
}

/// Value of the decimal number `text` times ten to the power `scale`, as an exact integer.
fn parse_scaled(text: &[u8], scale: i32) -> Result<i64, AmountError> {
    if let Some(value) = parse_plain(text, scale) {
        return Ok(value);
    }
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let mut value: i64 = 0;
    // How many of the digits read so far stood behind the point.
    let mut behind: i32 = 0;
    let mut point = false;
    let mut seen = false;
    let mut exponent: i32 = 0;
    let mut rest = digits;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                let digit = i64::from(byte - b'0');
                if point && digit == 0 && only_zeros(tail) {
                    // Trailing zeros behind the point say nothing and may be many.
                    rest = skip_digits(tail);
                    continue;
                }
                value = value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or(AmountError::TooLarge)?;
                behind += i32::from(point);
            }
            b'.' if !point && seen && matches!(tail.first(), Some(b'0'..=b'9')) => point = true,
            b'e' | b'E' if seen => {
                exponent = parse_exponent(tail)?;
                break;
            }
            _ => return Err(AmountError::NotANumber),
        }
        rest = tail;
    }
    if !seen {
        return Err(AmountError::NotANumber);
    }
    let mut shift = scale + exponent - behind;
    while shift > 0 && value != 0 {
        value = value.checked_mul(10).ok_or(AmountError::TooLarge)?;
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err(AmountError::TooPrecise(0));
        }
        value /= 10;
        shift += 1;
    }
    if value > MAX_MINOR_UNITS {
        return Err(AmountError::TooLarge);
    }
    Ok(if negative { -value } else { value })
}

/// The common form: some digits, perhaps a point and no more digits behind it than `scale`.
#[inline]
fn parse_plain(text: &[u8], scale: i32) -> Option<i64> {
    if text.len() > 16 {
        return None;
    }
    let (mut value, mut before, mut behind, mut point) = (0_i64, 0, 0, false);
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            value = value * 10 + i64::from(digit);
            *(if point { &mut behind } else { &mut before }) += 1;
        } else if *byte == b'.' && !point {
            point = true;
        } else {
            return None;
        }
    }
    if before == 0 || point && behind == 0 || behind > scale {
        return None;
    }
    while behind < scale {
        value = value.checked_mul(10)?;
        behind += 1;
    }
    (value <= MAX_MINOR_UNITS).then_some(value)
}

fn only_zeros(text: &[u8]) -> bool {
    text.iter().take_while(|b| b.is_ascii_digit()).all(|b| *b == b'0')
}

fn skip_digits(text: &[u8]) -> &[u8] {
    let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
    text.get(count..).unwrap_or_default()
}

fn parse_exponent(text: &[u8]) -> Result<i32, AmountError> {
    let (sign, digits) = match text.split_first() {
        Some((b'-', rest)) => (-1, rest),
        Some((b'+', rest)) => (1, rest),
        _ => (1, text),
    };
    if digits.is_empty() {
        return Err(AmountError::NotANumber);
    }
    let mut value: i32 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return Err(AmountError::NotANumber);
        }
        // Beyond a thousand the number is too large or too precise whatever follows.
        value = (value * 10 + i32::from(byte - b'0')).min(1_000);
    }
    Ok(sign * value)
}

/// ISO 4217 codes in use and their exponents, grouped by exponent; EUR and USD are answered before.
const CODES: &[(&[u8; 3], u8)] = &[
    (b"GBP", 2),
    (b"CHF", 2),
    (b"CAD", 2),
    (b"AUD", 2),
    (b"CNY", 2),
    (b"INR", 2),
    (b"BRL", 2),
    (b"MXN", 2),
    (b"SEK", 2),
    (b"NOK", 2),
    (b"DKK", 2),
    (b"PLN", 2),
    (b"CZK", 2),
    (b"HUF", 2),
    (b"RON", 2),
    (b"BGN", 2),
    (b"TRY", 2),
    (b"ZAR", 2),
    (b"SGD", 2),
    (b"HKD", 2),
    (b"NZD", 2),
    (b"THB", 2),
    (b"IDR", 2),
    (b"MYR", 2),
    (b"PHP", 2),
    (b"ILS", 2),
    (b"AED", 2),
    (b"SAR", 2),
    (b"RUB", 2),
    (b"UAH", 2),
    (b"EGP", 2),
    (b"NGN", 2),
    (b"KES", 2),
    (b"ARS", 2),
    (b"COP", 2),
    (b"PEN", 2),
    (b"UYU", 2),
    (b"BOB", 2),
    (b"VES", 2),
    (b"TWD", 2),
    (b"PKR", 2),
    (b"BDT", 2),
    (b"LKR", 2),
    (b"NPR", 2),
    (b"MMK", 2),
    (b"KHR", 2),
    (b"LAK", 2),
    (b"MNT", 2),
    (b"KZT", 2),
    (b"UZS", 2),
    (b"GEL", 2),
    (b"AMD", 2),
    (b"AZN", 2),
    (b"BYN", 2),
    (b"MDL", 2),
    (b"ALL", 2),
    (b"MKD", 2),
    (b"RSD", 2),
    (b"BAM", 2),
    (b"MAD", 2),
    (b"DZD", 2),
    (b"LBP", 2),
    (b"SYP", 2),
    (b"YER", 2),
    (b"QAR", 2),
    (b"IRR", 2),
    (b"AFN", 2),
    (b"TJS", 2),
    (b"TMT", 2),
    (b"KGS", 2),
    (b"GHS", 2),
    (b"TZS", 2),
    (b"ETB", 2),
    (b"ZMW", 2),
    (b"MZN", 2),
    (b"AOA", 2),
    (b"BWP", 2),
    (b"NAD", 2),
    (b"MUR", 2),
    (b"SCR", 2),
    (b"MGA", 2),
    (b"MRU", 2),
    (b"MWK", 2),
    (b"SLE", 2),
    (b"LRD", 2),
    (b"GMD", 2),
    (b"CVE", 2),
    (b"STN", 2),
    (b"SDG", 2),
    (b"SSP", 2),
    (b"SOS", 2),
    (b"ERN", 2),
    (b"CDF", 2),
    (b"SZL", 2),
    (b"LSL", 2),
    (b"ZWG", 2),
    (b"DOP", 2),
    (b"GTQ", 2),
    (b"HNL", 2),
    (b"NIO", 2),
    (b"CRC", 2),
    (b"PAB", 2),
    (b"CUP", 2),
    (b"JMD", 2),
    (b"TTD", 2),
    (b"BBD", 2),
    (b"BSD", 2),
    (b"BZD", 2),
    (b"KYD", 2),
    (b"BMD", 2),
    (b"XCD", 2),
    (b"AWG", 2),
    (b"HTG", 2),
    (b"GYD", 2),
    (b"SRD", 2),
    (b"FJD", 2),
    (b"PGK", 2),
    (b"SBD", 2),
    (b"TOP", 2),
    (b"WST", 2),
    (b"BND", 2),
    (b"MOP", 2),
    (b"MVR", 2),
    (b"BTN", 2),
    (b"KPW", 2),
    (b"GIP", 2),
    (b"FKP", 2),
    (b"SHP", 2),
    (b"XCG", 2),
    (b"JPY", 0),
    (b"KRW", 0),
    (b"VND", 0),
    (b"CLP", 0),
    (b"ISK", 0),
    (b"PYG", 0),
    (b"UGX", 0),
    (b"XAF", 0),
    (b"XOF", 0),
    (b"XPF", 0),
    (b"RWF", 0),
    (b"BIF", 0),
    (b"DJF", 0),
    (b"GNF", 0),
    (b"KMF", 0),
    (b"VUV", 0),
    (b"KWD", 3),
    (b"BHD", 3),
    (b"OMR", 3),
    (b"JOD", 3),
    (b"TND", 3),
    (b"LYD", 3),
    (b"IQD", 3),
];

#[cfg(test)]
mod tests {
    use super::{AmountError, Currency, parse_major, parse_minor};
    use proptest::prelude::*;

    fn check(text: &str, exponent: u8, expected: Result<i64, AmountError>) {
        assert_eq!(parse_major(text.as_bytes(), exponent), expected, "{text}");
    }

    #[test]
    fn amounts_are_exact_or_refused() {
        check("12.34", 2, Ok(1_234));
        check("-0.01", 2, Ok(-1));
        check("12.3400000000000000000000000", 2, Ok(1_234));
        check("12.345", 2, Err(AmountError::TooPrecise(2)));
        check("12.345", 3, Ok(12_345));
        check("500", 0, Ok(500));
        check("1e3", 2, Ok(100_000));
        check("1234e-2", 2, Ok(1_234));
        check("1e400", 2, Err(AmountError::TooLarge));
        check("0e999999999999", 2, Ok(0));
        for nonsense in ["", "-", ".", "1.", ".5", "1.2.3", "NaN", "1e", "0x10", "12,34", " 1", "1 ", "--1"] {
            check(nonsense, 2, Err(AmountError::NotANumber));
        }
        assert_eq!(parse_minor(b"1234.0"), Ok(1_234));
        assert_eq!(parse_minor(b"1234.5"), Err(AmountError::TooPrecise(0)));
    }

    #[test]
    fn currencies_know_their_exponent() {
        assert_eq!(Currency::parse("eur"), Some(Currency::EUR));
        assert_eq!(Currency::parse("JPY").map(Currency::exponent), Some(0));
        assert_eq!(Currency::parse("KWD").map(Currency::exponent), Some(3));
        assert_eq!(Currency::parse("EURO"), None);
        assert_eq!(Currency::parse("XXX"), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(minor in -100_000_000_000_000_i64..=100_000_000_000_000) {
            let sign = if minor < 0 { "-" } else { "" };
            let text = format!("{sign}{}.{:02}", minor.abs() / 100, minor.abs() % 100);
            prop_assert_eq!(parse_major(text.as_bytes(), 2), Ok(minor));
        }
    }
}
