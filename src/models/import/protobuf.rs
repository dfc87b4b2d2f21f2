//! As much of Protocol Buffers' wire format as reading a model takes: fields by number.

use super::Refused;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// The fields of a message, in their order.
pub(super) fn fields(message: &[u8]) -> Result<Vec<(u64, Value<'_>)>, Refused> {
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => Value::Fixed64(fixed(&mut rest)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| cut())?;
                let (bytes, after) = rest.split_at_checked(length).ok_or_else(cut)?;
                rest = after;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(fixed(&mut rest)?),
            kind => return Err(Refused::new("the protobuf", format!("a field of wire type {kind}"))),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Refused> {
        if let Value::Bytes(bytes) = self { Ok(bytes) } else { Err(wrong()) }
    }

    pub(super) fn text(self) -> Result<String, Refused> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// One integer, or many packed together.
    pub(super) fn integers(self, into: &mut Vec<i64>) -> Result<(), Refused> {
        match self {
            Value::Varint(value) => into.push(value.cast_signed()),
            Value::Bytes(mut rest) => {
                while !rest.is_empty() {
                    into.push(varint(&mut rest)?.cast_signed());
                }
            }
            Value::Fixed64(_) | Value::Fixed32(_) => return Err(wrong()),
        }
        Ok(())
    }

    /// One single, or many packed together.
    pub(super) fn singles(self, into: &mut Vec<f64>) -> Result<(), Refused> {
        match self {
            Value::Fixed32(bytes) => into.push(f32::from_le_bytes(bytes).into()),
            Value::Bytes(bytes) => {
                into.extend(bytes.as_chunks().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))))
            }
            Value::Fixed64(_) | Value::Varint(_) => return Err(wrong()),
        }
        Ok(())
    }

    /// One double, or many packed together.
    pub(super) fn doubles(self, into: &mut Vec<f64>) -> Result<(), Refused> {
        match self {
            Value::Fixed64(bytes) => into.push(f64::from_le_bytes(bytes)),
            Value::Bytes(bytes) => into.extend(bytes.as_chunks().0.iter().map(|eight| f64::from_le_bytes(*eight))),
            Value::Fixed32(_) | Value::Varint(_) => return Err(wrong()),
        }
        Ok(())
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Refused> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(cut)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Refused::new("the protobuf", "an integer of more than ten bytes"))
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Refused> {
    let (bytes, after) = rest.split_first_chunk().ok_or_else(cut)?;
    *rest = after;
    Ok(*bytes)
}

fn cut() -> Refused {
    Refused::new("the protobuf", "it was cut off, or is none")
}

fn wrong() -> Refused {
    Refused::new("the protobuf", "a field of another type")
}

#[cfg(test)]
mod tests {
    use super::{Value, fields};

    #[test]
    fn fields_of_all_wire_types_are_read() {
        let message =
            [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
        let found = fields(&message).unwrap();
        assert_eq!(found[0], (1, Value::Varint(150)));
        assert_eq!(found[1].1.text().unwrap(), "hi");
        let (mut numbers, mut integers) = (Vec::new(), Vec::new());
        found[2].1.singles(&mut numbers).unwrap();
        found[3].1.doubles(&mut numbers).unwrap();
        assert_eq!(numbers, [1.0, 1.0]);
        Value::Bytes(&[0x96, 0x01, 0x00]).integers(&mut integers).unwrap();
        assert_eq!(integers, [150, 0]);
        for cut in [1, 2, 4, 6, 8, 13] {
            assert!(fields(&message[..cut]).is_err(), "{cut}");
        }
        assert!(fields(&[0x0b]).is_err() && fields(&[0xff; 20]).is_err());
    }
}
