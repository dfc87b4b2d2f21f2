//! Why a record is no transaction: field, value (shortened, never a card number) and what was expected.

use std::fmt;
use std::ops::Deref;

/// At most this many characters of a refused value are kept.
pub const VALUE_CHARS: usize = 40;

/// A record that was refused, in words its sender can act on. One word wide: there is room for one beside every
/// record, and next to none is ever there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[serde(transparent)]
pub struct Refusal(Box<Why>);

/// What a [`Refusal`] says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Why {
    /// The field as the sender calls it, or empty where the record as a whole is at fault.
    pub field: String,
    /// The value found, shortened and with long runs of digits masked; empty where there was none.
    pub value: String,
    pub expected: String,
}

impl Refusal {
    #[must_use]
    pub fn new(field: impl Into<String>, value: &[u8], expected: impl Into<String>) -> Self {
        Self(Box::new(Why { field: field.into(), value: shorten(value), expected: expected.into() }))
    }

    /// A record that is wrong as a whole, at no field in particular.
    #[must_use]
    pub fn whole(value: &[u8], expected: impl Into<String>) -> Self {
        Self::new("", value, expected)
    }

    #[must_use]
    pub fn into_why(self) -> Why {
        *self.0
    }
}

impl Deref for Refusal {
    type Target = Why;

    fn deref(&self) -> &Why {
        &self.0
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field.is_empty(), self.value.is_empty()) {
            (true, true) => write!(f, "expected {}", self.expected),
            (true, false) => write!(f, "`{}`: expected {}", self.value, self.expected),
            (false, true) => write!(f, "{}: expected {}", self.field, self.expected),
            (false, false) => write!(f, "{}: `{}` is not {}", self.field, self.value, self.expected),
        }
    }
}

/// The start of a value, safe to show: control characters and invalid UTF-8 replaced, and every run of
/// nine or more digits (spaces and dashes between them do not break it) masked but for its last four, so
/// that no card or account number is kept whole.
#[must_use]
pub fn shorten(value: &[u8]) -> String {
    // A little more than is shown, so that a number that straddles the cut is masked as well.
    let head = value.get(..value.len().min(VALUE_CHARS * 4)).unwrap_or_default();
    let text: Vec<char> =
        String::from_utf8_lossy(head).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let mut masked = text.clone();
    let mut at = 0;
    while at < text.len() {
        let mut digits: Vec<usize> = Vec::new();
        let mut end = at;
        while let Some(c) = text.get(end) {
            if c.is_ascii_digit() {
                digits.push(end);
            } else if digits.is_empty() || !matches!(c, ' ' | '-') {
                break;
            }
            end += 1;
        }
        if digits.len() >= 9 {
            for index in digits.iter().take(digits.len() - 4) {
                if let Some(c) = masked.get_mut(*index) {
                    *c = '*';
                }
            }
        }
        at = end.max(at + 1);
    }
    let cut = masked.len() > VALUE_CHARS || head.len() < value.len();
    let mut short: String = masked.into_iter().take(VALUE_CHARS).collect();
    if cut {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::{Refusal, shorten};

    #[test]
    fn values_are_shortened_and_card_numbers_masked() {
        assert_eq!(shorten(b"4111111111111111"), "************1111");
        assert_eq!(shorten(b"4111 1111-1111 1111"), "**** ****-**** 1111");
        assert_eq!(shorten(b"12345678"), "12345678");
        assert_eq!(shorten(b"a\nb\xff"), "a\u{fffd}b\u{fffd}");
        let long = shorten(&[b'x'; 10_000]);
        assert_eq!(long.chars().count(), 41);
        assert!(long.ends_with('…'));
        let straddling = format!("{}4111111111111111", "x".repeat(30));
        assert!(!shorten(straddling.as_bytes()).contains("411111"));
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        assert_eq!(
            Refusal::new("amount", b"abc", "a decimal number").to_string(),
            "amount: `abc` is not a decimal number"
        );
        assert_eq!(Refusal::new("amount", b"", "a decimal number").to_string(), "amount: expected a decimal number");
    }
}
