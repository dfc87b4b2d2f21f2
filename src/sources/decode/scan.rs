//! A strict scanner for JSON (RFC 8259): one pass, no recursion, no allocation, no panic on any bytes.

use super::digits::window;
use crate::transaction::Refusal;

/// Values nest at most this deep; a record beyond it is refused.
pub(super) const MAX_DEPTH: u32 = 128;

/// A value as it stands in the record: where it begins (32 bits), how long it is (24 bits) and what it is.
/// Zero stands for no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Value(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Absent,
    /// Between the quotes, without escapes.
    Text,
    Escaped,
    Number,
    Bool,
    Null,
    /// An object or array, skipped.
    Nested,
}

impl Value {
    pub const NONE: Self = Self(0);

    #[inline]
    pub fn new(kind: Kind, start: usize, end: usize) -> Self {
        Self((start as u64) << 32 | ((end - start) as u64) << 8 | kind as u64)
    }

    #[inline]
    pub fn kind(self) -> Kind {
        match self.0 & 0xff {
            0 => Kind::Absent,
            1 => Kind::Text,
            2 => Kind::Escaped,
            3 => Kind::Number,
            4 => Kind::Bool,
            5 => Kind::Null,
            _ => Kind::Nested,
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the upper half, and 24 bits")]
    pub fn span(self) -> (u32, u32) {
        ((self.0 >> 32) as u32, (self.0 >> 8) as u32 & 0x00ff_ffff)
    }

    /// Its text in the record it was read from.
    #[inline]
    pub fn of(self, record: &str) -> &str {
        let (start, len) = self.span();
        record.get(start as usize..(start + len) as usize).unwrap_or_default()
    }
}

/// A longer record cannot be described by [`Value`]s.
pub(super) const MAX_SCANNED: usize = 1 << 24;

/// A place in a record whose bytes are valid UTF-8. What fails gives `None`; [`Scanner::refusal`] says why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    expected: &'static str,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self::at(text, 0)
    }

    /// A scanner that stands in the middle of a record.
    pub fn at(text: &'a str, at: usize) -> Self {
        Self { text, bytes: text.as_bytes(), at, expected: "" }
    }

    /// Where it stands.
    #[inline]
    pub fn place(&self) -> usize {
        self.at
    }

    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps over `byte` if it is next, after space.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        if self.peek() != Some(byte) {
            self.space();
        }
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Steps over `expected` if the bytes ahead are just these.
    #[inline]
    pub fn take_exactly(&mut self, expected: &[u8]) -> bool {
        let found = self.bytes.get(self.at..self.at + expected.len()) == Some(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    #[inline]
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        if self.take(byte) {
            return Some(());
        }
        self.fail(match byte {
            b'{' => "`{`",
            b'}' => "`}`",
            b']' => "`]`",
            _ => "`:`",
        })
    }

    #[cold]
    pub fn fail<T>(&mut self, expected: &'static str) -> Option<T> {
        self.expected = expected;
        None
    }

    /// Whether something failed.
    pub fn failed(&self) -> bool {
        !self.expected.is_empty()
    }

    /// What was expected where the scanner stands.
    #[cold]
    pub fn refusal(&self) -> Refusal {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.get(..rest.len().min(20)).unwrap_or_default();
        let place = format!("JSON: {} at byte {}", self.expected, self.at);
        if found.is_empty() { Refusal::whole(b"end of record", place) } else { Refusal::whole(found, place) }
    }

    /// Reads a string whose opening quote is next.
    #[inline]
    pub fn string(&mut self) -> Option<Value> {
        if !self.take(b'"') {
            return self.fail("a string");
        }
        let start = self.at;
        let mut kind = Kind::Text;
        loop {
            self.at += plain_bytes(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    let value = Value::new(kind, start, self.at);
                    self.at += 1;
                    return Some(value);
                }
                Some(b'\\') => {
                    kind = Kind::Escaped;
                    self.escape()?;
                }
                Some(_) => return self.fail("no control character in a string"),
                None => return self.fail("the end of a string"),
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') if self.hex4(self.at + 2).is_some() => self.at += 6,
            _ => return self.fail("a valid escape"),
        }
        Some(())
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        hex4(self.bytes.get(at..at + 4)?)
    }

    /// Reads any value; objects and arrays are checked and skipped. `depth` is how deep it stands.
    #[inline]
    pub fn value(&mut self, depth: u32) -> Option<Value> {
        if let Some(b'"') = self.peek() {
            return self.string();
        }
        self.space();
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') if self.take_exactly(b"true") => Some(Value::new(Kind::Bool, start, self.at)),
            Some(b'f') if self.take_exactly(b"false") => Some(Value::new(Kind::Bool, start, self.at)),
            Some(b'n') if self.take_exactly(b"null") => Some(Value::new(Kind::Null, start, self.at)),
            Some(b'{' | b'[') => self.skip(depth).map(|()| Value::new(Kind::Nested, start, start)),
            _ => self.fail("a value"),
        }
    }

    #[inline]
    fn digits(&mut self) -> usize {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - from
    }

    #[inline]
    fn number(&mut self) -> Option<Value> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero = self.peek() == Some(b'0');
        let whole = self.digits();
        if whole == 0 || zero && whole > 1 {
            self.at = start;
            return self.fail("a number");
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return self.fail("a digit after the point");
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return self.fail("a digit in the exponent");
            }
        }
        Some(Value::new(Kind::Number, start, self.at))
    }

    /// Steps over an object or array without recursion: a bit a level says which of the two it is.
    fn skip(&mut self, depth: u32) -> Option<()> {
        let mut objects = 0_u128;
        let mut open = 0_u32;
        loop {
            // Here a value begins.
            self.space();
            match self.peek() {
                Some(start @ (b'{' | b'[')) => {
                    if depth + open >= MAX_DEPTH {
                        return self.fail("at most 128 levels of nesting");
                    }
                    self.at += 1;
                    open += 1;
                    objects = objects << 1 | u128::from(start == b'{');
                    let close = if start == b'{' { b'}' } else { b']' };
                    if !self.take(close) {
                        if start == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                    objects >>= 1;
                    open -= 1;
                }
                _ => {
                    // A scalar: `value` does not come back here for it.
                    self.value(MAX_DEPTH)?;
                }
            }
            // Here a value has ended.
            loop {
                if open == 0 {
                    return Some(());
                }
                let object = objects & 1 == 1;
                if self.take(b',') {
                    if object {
                        self.key()?;
                    }
                    break;
                }
                self.expect(if object { b'}' } else { b']' })?;
                objects >>= 1;
                open -= 1;
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.expect(b':')
    }

    /// Checks that nothing but space is left.
    pub fn end(&mut self) -> Option<()> {
        self.space();
        if self.at == self.bytes.len() { Some(()) } else { self.fail("nothing after the object") }
    }

    /// The record.
    pub fn text(&self) -> &'a str {
        self.text
    }
}

/// How many bytes from the start are plain text of a string: no quote, no backslash, no control character.
/// Eight at a time: a byte below 128 is marked when it borrows, which a control character or a quote does of
/// 0x21 once its second bit is flipped, and a backslash of 0x01 once it is flipped to zero.
#[inline]
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut rest = bytes;
    loop {
        // Behind the end stand zeros, which are control characters.
        let word = window(rest);
        let control_or_quote = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
        let found = (control_or_quote | backslash) & !word & (ONES * 0x80);
        if found != 0 {
            // The lowest mark is exact: a borrow only disturbs the bytes above it.
            return bytes.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = rest.get(8..).unwrap_or_default();
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// Puts the text of a string with its escapes resolved into `to`, which is cleared first.
///
/// # Errors
/// A lone surrogate.
pub(super) fn unescape(text: &str, to: &mut String) -> Result<(), &'static str> {
    to.clear();
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('\\') {
        to.push_str(plain);
        let (kind, mut tail) = after.split_at_checked(1).unwrap_or(("", ""));
        let character = match kind {
            "b" => '\u{8}',
            "f" => '\u{c}',
            "n" => '\n',
            "r" => '\r',
            "t" => '\t',
            "u" => {
                let unit = |text: &str| text.as_bytes().get(..4).and_then(hex4);
                let first = unit(tail).unwrap_or_default();
                tail = tail.get(4..).unwrap_or_default();
                let mut code = Some(first);
                if (0xd800..0xdc00).contains(&first) {
                    let low = tail.strip_prefix("\\u").and_then(unit).filter(|low| (0xdc00..0xe000).contains(low));
                    code = low.map(|low| 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00));
                    tail = tail.get(6..).unwrap_or_default();
                }
                code.and_then(char::from_u32).ok_or("text without a lone surrogate")?
            }
            other => other.chars().next().unwrap_or_default(),
        };
        to.push(character);
        rest = tail;
    }
    to.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, Scanner, plain_bytes, unescape};

    fn whole(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.value(0).is_some() && scanner.end().is_some()
    }

    /// JSON, and JSON with a few bytes changed.
    fn almost_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_map(|n| if n.is_finite() { format!("{n:e}") } else { "0".into() }),
            any::<String>().prop_map(|s| serde_json::to_string(&s).expect("a string")),
            Just(r#""\u00e9\ud83d\ude00\n""#.to_owned()),
        ];
        let value = leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(" ,"))),
                prop::collection::vec((any::<String>(), inner), 0..5).prop_map(|items| {
                    let items: Vec<String> = items
                        .iter()
                        .map(|(key, value)| format!("{}:\t{value}", serde_json::to_string(key).expect("a key")))
                        .collect();
                    format!("{{{}}}", items.join(","))
                }),
            ]
        });
        (value, prop::collection::vec((any::<prop::sample::Index>(), 0..128_u8), 0..3)).prop_map(|(text, changes)| {
            let mut bytes = text.into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    proptest! {
        #[test]
        fn accepts_what_serde_json_accepts(text in almost_json()) {
            let wanted = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(whole(&text), wanted, "{}", text);
        }

        #[test]
        fn strings_are_unescaped_as_serde_json_does(text: String) {
            let json = serde_json::to_string(&text).expect("a string");
            let mut scanner = Scanner::new(&json);
            let raw = scanner.value(0).expect("a string");
            prop_assert!(matches!(raw.kind(), Kind::Text | Kind::Escaped));
            let mut found = String::new();
            prop_assert_eq!(unescape(raw.of(&json), &mut found), Ok(()));
            prop_assert_eq!(found, text);
        }

        #[test]
        fn plain_bytes_ends_at_the_first_special_byte(bytes in prop::collection::vec(prop_oneof![9 => 0x20..=0xff_u8, 1 => any::<u8>()], 0..60)) {
            let special = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
            prop_assert_eq!(plain_bytes(&bytes), bytes.iter().position(special).unwrap_or(bytes.len()));
        }
    }

    #[test]
    fn nesting_is_bounded_and_never_recursive() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(whole(&nested(128)));
        assert!(!whole(&nested(129)));
        assert!(!whole(&nested(100_000)));
        assert!(!whole(&"[{\"a\":".repeat(100_000)));
    }
}
