//! Where a CSV record and its fields end (RFC 4180, and what the `csv` crate makes of what is not).

/// The fields of one record, as places in its bytes.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(usize, usize)>);

/// What stands at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole record that ends before `end`; the next begins at `next`.
    Record { end: usize, next: usize },
    /// The bytes end before the record does.
    Unfinished,
}

impl Fields {
    /// Finds the record at the start of `bytes` and its fields. A quote opens a field only where the field
    /// begins; elsewhere it is a character like any other. `ended` says that nothing follows `bytes`.
    pub fn find(&mut self, bytes: &[u8], separator: u8, ended: bool) -> Found {
        self.0.clear();
        let mut start = 0;
        loop {
            let mut at = start;
            if bytes.get(start) == Some(&b'"') {
                let Some(close) = closing_quote(bytes, start + 1) else { return Found::Unfinished };
                // What follows the closing quote belongs to the field.
                at = close + 1;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            match memchr::memchr2(separator, b'\n', rest) {
                Some(found) if rest.get(found) == Some(&separator) => {
                    self.0.push((start, at + found));
                    start = at + found + 1;
                }
                Some(found) => return self.last(bytes, start, at + found, at + found + 1),
                None if ended => return self.last(bytes, start, bytes.len(), bytes.len()),
                None => return Found::Unfinished,
            }
        }
    }

    fn last(&mut self, bytes: &[u8], start: usize, end: usize, next: usize) -> Found {
        let field = bytes.get(start..end).unwrap_or_default();
        let end = end - usize::from(field.last() == Some(&b'\r'));
        self.0.push((start, end));
        Found::Record { end, next }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A field as it stands in the record that was found in `bytes`.
    pub fn raw<'b>(&self, bytes: &'b [u8], index: usize) -> &'b [u8] {
        self.0.get(index).and_then(|(start, end)| bytes.get(*start..*end)).unwrap_or_default()
    }
}

/// Where the quote stands that closes a field whose text begins at `from`.
fn closing_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let quote = at + memchr::memchr(b'"', bytes.get(at..)?)?;
        if bytes.get(quote + 1) != Some(&b'"') {
            return Some(quote);
        }
        at = quote + 2;
    }
}

/// The text of a field: what is between its quotes, with a quote for every two.
pub(super) fn unquoted<'t>(raw: &'t [u8], scratch: &'t mut Vec<u8>) -> &'t [u8] {
    let Some(mut rest) = raw.strip_prefix(b"\"") else { return raw };
    if let Some(inner) = rest.strip_suffix(b"\"")
        && memchr::memchr(b'"', inner).is_none()
    {
        return inner;
    }
    scratch.clear();
    while let Some(quote) = memchr::memchr(b'"', rest) {
        let (before, after) = rest.split_at(quote);
        scratch.extend_from_slice(before);
        rest = after.get(1..).unwrap_or_default();
        let Some(doubled) = rest.strip_prefix(b"\"") else { break };
        scratch.push(b'"');
        rest = doubled;
    }
    scratch.extend_from_slice(rest);
    scratch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fields, Found, unquoted};

    fn all(bytes: &[u8], separator: u8) -> (Vec<Vec<Vec<u8>>>, bool) {
        let (mut fields, mut records, mut at) = (Fields::default(), Vec::new(), 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            let Found::Record { end, next } = fields.find(rest, separator, true) else { return (records, true) };
            let texts = (0..fields.len()).map(|field| unquoted(fields.raw(rest, field), &mut Vec::new()).to_vec());
            if end > 0 {
                records.push(texts.collect());
            }
            at += next;
        }
        (records, false)
    }

    fn as_the_csv_crate_reads(bytes: &[u8], separator: u8) -> Vec<Vec<Vec<u8>>> {
        let mut reader = csv::ReaderBuilder::new();
        let reader = reader.has_headers(false).flexible(true).delimiter(separator).from_reader(bytes);
        let records = reader.into_byte_records().map(|record| record.expect("reads"));
        records.map(|record| record.iter().map(<[u8]>::to_vec).collect()).collect()
    }

    #[test]
    fn a_record_may_span_lines() {
        let (records, open) = all(b"a,\"b\nc\"\"d\",\"\"\r\n\n,e \"f\",\"g\"h", b',');
        let expected: [&[&[u8]]; 2] = [&[b"a", b"b\nc\"d", b""], &[b"", b"e \"f\"", b"gh"]];
        assert_eq!(
            (records, open),
            (expected.map(|record| record.iter().map(|f| f.to_vec()).collect()).to_vec(), false)
        );
        let mut fields = Fields::default();
        for unfinished in ["", "a,b", "a,\"b", "a,\"b\n", "a,\"b\""] {
            assert_eq!(fields.find(unfinished.as_bytes(), b',', false), Found::Unfinished, "{unfinished}");
        }
        assert_eq!(fields.find(b"a,\"b\n", b',', true), Found::Unfinished);
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_the_csv_crate_does(
            parts in prop::collection::vec(prop::sample::select(vec!["\"", "\"\"", ",", "\n", "\r\n", "a", " ", "é", "\",\"", "\"\n"]), 0..40),
        ) {
            let bytes = parts.concat().into_bytes();
            let (records, open) = all(&bytes, b',');
            let theirs = as_the_csv_crate_reads(&bytes, b',');
            if open {
                // The crate takes the end of the text for the closing quote; that is for the reader to refuse.
                prop_assert_eq!(&records[..], &theirs[..records.len()]);
            } else {
                prop_assert_eq!(records, theirs);
            }
        }

        #[test]
        fn what_the_csv_crate_writes_is_read(
            records in prop::collection::vec(prop::collection::vec("[a\"\n\r,;\t|é ]{0,6}", 2..5), 0..6),
            separator in prop::sample::select(b",;\t|".to_vec()), always: bool,
        ) {
            let style = if always { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
            let mut writer = csv::WriterBuilder::new();
            let mut writer = writer.flexible(true).delimiter(separator).quote_style(style).from_writer(Vec::new());
            for record in &records {
                writer.write_record(record).expect("writes");
            }
            let bytes = writer.into_inner().expect("bytes");
            let expected: Vec<Vec<Vec<u8>>> =
                records.into_iter().map(|record| record.into_iter().map(String::into_bytes).collect()).collect();
            prop_assert_eq!(all(&bytes, separator), (expected, false));
        }
    }
}
