//! Cuts a request's body into records: one object, an array of them, one a line, or CSV.
//!
//! Elements of an array are cut at brackets, braces and strings alone; whether an element is JSON at all is
//! the decoder's to say, so that one bad record does not take the others with it.

use crate::pipeline::ports::Records;
use crate::transaction::Refusal;

use super::super::file::{BYTE_ORDER_MARK, MAX_RECORD_BYTES};
use super::csv::{CsvReader, HeaderError};

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// One object, or an array of them.
    Json,
    /// One object a line.
    Lines,
}

/// At most this many records in one body.
pub const MAX_BODY_RECORDS: usize = 100_000;

/// Records of CSV grow when they become JSON: they are at most so many bytes together.
const MAX_CSV_BYTES: usize = 256 << 20;

/// Cuts `body` into records, in order, without copying it. An array that is not closed, or has something
/// else where a comma is due, ends in one refused record; those before it stand.
#[must_use]
pub fn split(body: Vec<u8>, kind: Body) -> Records {
    let mut records = Records { bytes: body, ..Records::default() };
    let spans = match kind {
        Body::Lines => lines(&records.bytes),
        Body::Json => json(&records.bytes),
    };
    records.records = spans;
    records
}

/// Reads a body of CSV, whose first record is the header.
///
/// # Errors
/// The header cannot be used.
pub fn split_csv(body: &[u8], mut reader: CsvReader) -> Result<Records, HeaderError> {
    let mut records = Records::default();
    let mut at = mark(body);
    while at < body.len() {
        let rest = body.get(at..).unwrap_or_default();
        if records.len() >= MAX_BODY_RECORDS || records.bytes.len() > MAX_CSV_BYTES {
            records.records.push(too_many(rest));
            break;
        }
        at += reader.take(rest, true, &mut records)?.max(1);
    }
    Ok(records)
}

/// How long the byte order mark at the start is.
fn mark(bytes: &[u8]) -> usize {
    if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
}

type Spans = Vec<Result<(u32, u32), Refusal>>;

fn span(bytes: &[u8], start: usize, end: usize) -> Result<(u32, u32), Refusal> {
    let record = bytes.get(start..end).unwrap_or_default();
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) if record.len() <= MAX_RECORD_BYTES => Ok((start, end)),
        _ => Err(Refusal::whole(record, format!("a record of at most {MAX_RECORD_BYTES} bytes"))),
    }
}

fn too_many(bytes: &[u8]) -> Result<(u32, u32), Refusal> {
    Err(Refusal::whole(bytes, format!("at most {MAX_BODY_RECORDS} records in one body; send the rest in another")))
}

fn lines(bytes: &[u8]) -> Spans {
    let mut spans = Spans::new();
    let mut start = mark(bytes);
    while start < bytes.len() {
        let rest = bytes.get(start..).unwrap_or_default();
        let end = start + memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = bytes.get(start..end).unwrap_or_default();
        if !line.trim_ascii().is_empty() {
            if spans.len() >= MAX_BODY_RECORDS {
                spans.push(too_many(rest));
                break;
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            spans.push(span(bytes, start, start + line.len()));
        }
        start = end + 1;
    }
    spans
}

fn json(bytes: &[u8]) -> Spans {
    let start = skip_space(bytes, mark(bytes));
    if bytes.get(start) != Some(&b'[') {
        let end = bytes.trim_ascii_end().len();
        return if end > start { vec![span(bytes, start, end)] } else { Spans::new() };
    }
    let mut spans = Spans::new();
    let mut at = skip_space(bytes, start + 1);
    if bytes.get(at) == Some(&b']') {
        at += 1;
    } else {
        loop {
            if spans.len() >= MAX_BODY_RECORDS {
                spans.push(too_many(bytes.get(at..).unwrap_or_default()));
                return spans;
            }
            let end = element_end(bytes, at);
            let trimmed = at + bytes.get(at..end).unwrap_or_default().trim_ascii_end().len();
            match bytes.get(end) {
                Some(b',') => {
                    spans.push(span(bytes, at, trimmed));
                    at = skip_space(bytes, end + 1);
                }
                Some(b']') => {
                    spans.push(span(bytes, at, trimmed));
                    at = end + 1;
                    break;
                }
                _ => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    spans.push(Err(Refusal::whole(
                        rest,
                        format!("the end of the array's element that begins at byte {at}"),
                    )));
                    return spans;
                }
            }
        }
    }
    let after = skip_space(bytes, at);
    if after < bytes.len() {
        let rest = bytes.get(after..).unwrap_or_default();
        spans.push(Err(Refusal::whole(rest, format!("nothing after the array, at byte {after}"))));
    }
    spans
}

fn skip_space(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(rest.len())
}

/// Where the comma or bracket stands that ends the element beginning at `from`; the end of the bytes if
/// there is none.
fn element_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0_u32;
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at + 1),
            b'{' | b'[' => depth = depth.saturating_add(1),
            b']' | b',' if depth == 0 => return at,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the quote stands that closes a string whose text begins at `from`.
fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match memchr::memchr2(b'"', b'\\', rest) {
            None => return bytes.len(),
            Some(found) if rest.get(found) == Some(&b'"') => return at + found,
            Some(found) => at += found + 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Body, split};

    fn cut(body: &str, kind: Body) -> Vec<Result<String, String>> {
        let records = split(body.as_bytes().to_vec(), kind);
        let text = |index| String::from_utf8_lossy(records.record(index)).into_owned();
        records
            .records
            .iter()
            .enumerate()
            .map(|(index, record)| record.as_ref().map(|_| text(index)).map_err(ToString::to_string))
            .collect()
    }

    #[test]
    fn one_object_an_array_or_lines() {
        let ok = |texts: &[&str]| texts.iter().map(|text| Ok((*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(cut(" {\"a\": 1}\n", Body::Json), ok(&["{\"a\": 1}"]));
        assert_eq!(
            cut("[ {\"a\": \"]\\\"},\"} , {\"b\":[1,{}]}]", Body::Json),
            ok(&["{\"a\": \"]\\\"},\"}", "{\"b\":[1,{}]}"])
        );
        assert_eq!(cut("{\"a\":1}\r\n\n{\"b\":2}", Body::Lines), ok(&["{\"a\":1}", "{\"b\":2}"]));
        assert_eq!(cut("[]", Body::Json), []);
        assert_eq!(cut("  ", Body::Json), []);
        assert_eq!(cut("[{\"a\":}, {\"b\":2}]", Body::Json), ok(&["{\"a\":}", "{\"b\":2}"]));
    }

    #[test]
    fn a_broken_array_keeps_what_came_before() {
        let found = cut("[{\"a\":1},{\"b\":", Body::Json);
        assert_eq!(found[0], Ok("{\"a\":1}".to_owned()));
        assert!(found[1].as_ref().expect_err("broken").contains("begins at byte 9"), "{found:?}");
        let found = cut("[{\"a\":1}] x", Body::Json);
        assert!(found[1].as_ref().expect_err("more").contains("nothing after the array, at byte 10"), "{found:?}");
        assert_eq!(cut(&"[".repeat(100_000), Body::Json).len(), 1);
        assert_eq!(cut(&format!("[{}", "{\"a\":[".repeat(50_000)), Body::Json).len(), 1);
    }

    proptest! {
        #[test]
        fn elements_are_what_serde_json_says(values in prop::collection::vec(any::<(String, i32, Vec<String>)>(), 0..6), pretty: bool) {
            let array: Vec<serde_json::Value> =
                values.iter().map(|(key, number, list)| serde_json::json!({ key: number, "list": [list, {}] })).collect();
            let text = if pretty { serde_json::to_string_pretty(&array) } else { serde_json::to_string(&array) }.expect("JSON");
            let found: Vec<serde_json::Value> =
                cut(&text, Body::Json).into_iter().map(|text| serde_json::from_str(&text.expect("cut")).expect("JSON")).collect();
            prop_assert_eq!(found, array);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"[]{}\",\\\n ".to_vec())], 0..200), lines: bool) {
            let records = split(bytes.clone(), if lines { Body::Lines } else { Body::Json });
            let cut: usize = (0..records.len()).map(|index| records.record(index).len()).sum();
            prop_assert!(cut <= bytes.len());
        }
    }
}
