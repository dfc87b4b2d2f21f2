//! Universal Binary JSON (draft 12) as XGBoost writes it, into a JSON value.

use super::Refused;
use serde_json::{Map, Number, Value};

/// Objects within objects at most; XGBoost's have about ten.
const DEEPEST: usize = 64;

pub(super) fn read(bytes: &[u8]) -> Result<Value, Refused> {
    let mut reader = Reader { bytes, at: 0 };
    let marker = reader.marker()?;
    reader.value(marker, 0)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: impl std::fmt::Display) -> Refused {
        Refused::new(format!("byte {} of the UBJSON", self.at), what.to_string())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.wrong("it was cut off"))?;
        self.at += count;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.wrong("it was cut off"))
    }

    /// The next marker that is not a no-op.
    fn marker(&mut self) -> Result<u8, Refused> {
        loop {
            let [marker] = self.fixed()?;
            if marker != b'N' {
                return Ok(marker);
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn integer(&mut self, marker: u8) -> Result<i64, Refused> {
        Ok(match marker {
            b'i' => i8::from_be_bytes(self.fixed()?).into(),
            b'U' => u8::from_be_bytes(self.fixed()?).into(),
            b'I' => i16::from_be_bytes(self.fixed()?).into(),
            b'l' => i32::from_be_bytes(self.fixed()?).into(),
            b'L' => i64::from_be_bytes(self.fixed()?),
            other => return Err(self.wrong(format_args!("`{}` where an integer belongs", other.escape_ascii()))),
        })
    }

    fn length(&mut self) -> Result<usize, Refused> {
        let marker = self.marker()?;
        let length = self.integer(marker)?;
        usize::try_from(length).map_err(|_| self.wrong(format_args!("a length of {length}")))
    }

    fn text(&mut self) -> Result<String, Refused> {
        let length = self.length()?;
        let taken = self.take(length)?;
        String::from_utf8(taken.to_vec()).map_err(|why| self.wrong(why))
    }

    /// Type and count of a container, where they are given.
    fn header(&mut self) -> Result<(Option<u8>, Option<usize>), Refused> {
        let mut kind = None;
        if self.peek() == Some(b'$') {
            self.at += 1;
            let [marker] = self.fixed()?;
            kind = Some(marker);
            if self.peek() != Some(b'#') {
                return Err(self.wrong("a type without a count"));
            }
        }
        if self.peek() == Some(b'#') {
            self.at += 1;
            let count = self.length()?;
            // Nothing is smaller than a byte, but for the constants, which nobody writes by the million.
            if count > self.bytes.len() {
                return Err(self.wrong(format_args!("a count of {count}")));
            }
            return Ok((kind, Some(count)));
        }
        Ok((kind, None))
    }

    fn ended(&mut self, count: Option<usize>, found: usize, end: u8) -> bool {
        while count.is_none() && self.peek() == Some(b'N') {
            self.at += 1;
        }
        match count {
            Some(count) => found == count,
            None if self.peek() == Some(end) => {
                self.at += 1;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, marker: u8, depth: usize) -> Result<Value, Refused> {
        if depth > DEEPEST {
            return Err(self.wrong("too deep"));
        }
        Ok(match marker {
            b'Z' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'd' => real(f32::from_be_bytes(self.fixed()?).into()),
            b'D' => real(f64::from_be_bytes(self.fixed()?)),
            b'S' => Value::String(self.text()?),
            b'[' => {
                let (kind, count) = self.header()?;
                let mut items = Vec::new();
                while !self.ended(count, items.len(), b']') {
                    let marker = kind.map_or_else(|| self.marker(), Ok)?;
                    items.push(self.value(marker, depth + 1)?);
                }
                Value::Array(items)
            }
            b'{' => {
                let (kind, count) = self.header()?;
                let mut items = Map::new();
                let mut found = 0;
                while !self.ended(count, found, b'}') {
                    let name = self.text()?;
                    let marker = kind.map_or_else(|| self.marker(), Ok)?;
                    items.insert(name, self.value(marker, depth + 1)?);
                    found += 1;
                }
                Value::Object(items)
            }
            other => self.integer(other)?.into(),
        })
    }
}

/// JSON has no number that is not finite: it becomes null, and is refused where a number belongs.
fn real(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn values_of_all_kinds_are_read() {
        let mut bytes = b"{i\x01aSU\x02hii\x01b[$U#i\x03\x01\x02\x03U\x01c[Td".to_vec();
        bytes.extend(0.5_f32.to_be_bytes());
        bytes.extend(b"ZN]i\x01d{#i\x01i\x01eI\x01\x00}");
        let expected = serde_json::json!({"a": "hi", "b": [1, 2, 3], "c": [true, 0.5, null], "d": {"e": 256}});
        assert_eq!(read(&bytes).unwrap(), expected);
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in
            [&b"[$U#l\x7f\xff\xff\xff"[..], b"[$U\x01", b"{U\xff", b"x", b"", b"SL\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert!(read(bytes).is_err());
        }
        assert!(read(&[b'['; 100_000]).is_err());
    }
}
