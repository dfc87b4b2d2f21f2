//! A strict scanner for JSON (RFC 8259): one pass, no recursion, no allocation, no panic on any bytes.

use crate::transaction::Refusal;

/// Values nest at most this deep; a record beyond it is refused.
pub(super) const MAX_DEPTH: u32 = 128;

/// A scalar as it stands in the record, or that something else stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Between the quotes; `escaped` says whether escapes are in it.
    String {
        text: &'a str,
        escaped: bool,
    },
    Number(&'a str),
    Bool(bool),
    Null,
    /// An object or array, skipped.
    Nested,
}

/// A place in a record whose bytes are valid UTF-8.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
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

    pub fn expect(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(&format!("`{}`", char::from(byte)))) }
    }

    #[cold]
    pub fn unexpected(&self, expected: &str) -> Refusal {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.get(..rest.len().min(20)).unwrap_or_default();
        let place = format!("JSON: {expected} at byte {}", self.at);
        if found.is_empty() { Refusal::whole(b"end of record", place) } else { Refusal::whole(found, place) }
    }

    /// Reads a string whose opening quote is next: its text and whether escapes are in it.
    #[inline]
    pub fn string(&mut self) -> Result<(&'a str, bool), Refusal> {
        if !self.take(b'"') {
            return Err(self.unexpected("a string"));
        }
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_bytes(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    // Both ends are next to ASCII, so they are character boundaries.
                    let text = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok((text, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.unexpected("no control character in a string")),
                None => return Err(self.unexpected("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Refusal> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') if self.hex4(self.at + 2).is_some() => self.at += 6,
            _ => return Err(self.unexpected("a valid escape")),
        }
        Ok(())
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        hex4(self.bytes.get(at..at + 4)?)
    }

    /// Reads any value; objects and arrays are checked and skipped. `depth` is how deep it stands.
    #[inline]
    pub fn value(&mut self, depth: u32) -> Result<Value<'a>, Refusal> {
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(|(text, escaped)| Value::String { text, escaped }),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') if self.take_exactly(b"true") => Ok(Value::Bool(true)),
            Some(b'f') if self.take_exactly(b"false") => Ok(Value::Bool(false)),
            Some(b'n') if self.take_exactly(b"null") => Ok(Value::Null),
            Some(b'{' | b'[') => self.skip(depth).map(|()| Value::Nested),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - from
    }

    #[inline]
    fn number(&mut self) -> Result<&'a str, Refusal> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero = self.peek() == Some(b'0');
        let whole = self.digits();
        if whole == 0 || zero && whole > 1 {
            self.at = start;
            return Err(self.unexpected("a number"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.unexpected("a digit after the point"));
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(self.unexpected("a digit in the exponent"));
            }
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// Steps over an object or array without recursion: a bit a level says which of the two it is.
    fn skip(&mut self, depth: u32) -> Result<(), Refusal> {
        let mut objects = 0_u128;
        let mut open = 0_u32;
        loop {
            // Here a value begins.
            self.space();
            match self.peek() {
                Some(start @ (b'{' | b'[')) => {
                    if depth + open >= MAX_DEPTH {
                        return Err(self.unexpected(&format!("at most {MAX_DEPTH} levels of nesting")));
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
                    return Ok(());
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

    fn key(&mut self) -> Result<(), Refusal> {
        self.string()?;
        self.expect(b':')
    }

    /// Checks that nothing but space is left.
    pub fn end(&mut self) -> Result<(), Refusal> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.unexpected("nothing after the object")) }
    }
}

/// How many bytes from the start are plain text of a string: no quote, no backslash, no control character.
/// Eight at a time; see "Determine if a word has a byte less than n" in Anderson's Bit Twiddling Hacks.
#[inline]
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = chunk.try_into().map_or(0, u64::from_le_bytes);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5c);
        let zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (zero(quote) | zero(backslash) | control) & HIGHS;
        if found != 0 {
            // The lowest mark is exact: a borrow only disturbs the bytes above it.
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len())
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

    use super::{Scanner, Value, plain_bytes, unescape};

    fn whole(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.value(0).is_ok() && scanner.end().is_ok()
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
            let Ok(Value::String { text: raw, .. }) = scanner.value(0) else { panic!("a string") };
            let mut found = String::new();
            prop_assert_eq!(unescape(raw, &mut found), Ok(()));
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
