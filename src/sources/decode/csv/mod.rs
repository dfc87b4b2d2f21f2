//! CSV records to JSON objects of their mapped columns, cut out of a stream on the way.
//!
//! CSV ends here, at the edge: what goes on is one JSON object a record, which needs no header. So the
//! journal can keep it, recovery decode it, and the quarantine feed it again, all as if it had come as
//! NDJSON. Every value becomes a JSON string; the decoder reads numbers, times and money out of strings as
//! well, so what is refused and why does not depend on the format. Columns that the mapping does not name
//! are left behind.

mod fields;
mod header;

use std::sync::Arc;

use super::Mapping;
use super::scan::plain_bytes;
use crate::pipeline::ports::Records;
use crate::sources::file::MAX_RECORD_BYTES;
use crate::transaction::{MAX_TEXT_BYTES, Refusal};
use fields::{Fields, Found, unquoted};
pub use header::HeaderError;
use header::Layout;

/// Reads records one by one off the start of some bytes. The first is the header.
///
/// A quote that is never closed would swallow the rest of the stream. So a record that is not whole within
/// [`MAX_RECORD_BYTES`], or at the end of the stream, is given up: its first line alone is refused, and what
/// was looked through for its end is read again with every line a record (a quoted field over several lines
/// is refused there). Thus a stray quote costs one record, and no byte is looked at more than twice. What is
/// given up depends on the bytes alone, not on how they arrived: read again, a stream gives the same records.
#[derive(Debug)]
pub struct CsvReader {
    mapping: Arc<Mapping>,
    separator: u8,
    layout: Option<Layout>,
    fields: Fields,
    /// So many bytes from here are read line by line.
    by_line: usize,
    /// In the middle of a line that is too long: its start was refused, its rest is skipped.
    skipping: bool,
    json: Vec<u8>,
    scratch: Vec<u8>,
}

/// A line of the greatest length, with what ends it.
const WINDOW: usize = MAX_RECORD_BYTES + 2;

impl CsvReader {
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, separator: u8) -> Self {
        Self {
            mapping,
            separator,
            layout: None,
            fields: Fields::default(),
            by_line: 0,
            skipping: false,
            json: Vec::new(),
            scratch: Vec::new(),
        }
    }

    #[must_use]
    pub fn has_header(&self) -> bool {
        self.layout.is_some()
    }

    /// Whether reading on from here takes more than the header: a cursor must not point here.
    #[must_use]
    pub fn is_amid(&self) -> bool {
        self.skipping || self.by_line > 0
    }

    /// Goes on at the start of a record, somewhere else in the stream.
    pub fn go_on(&mut self) {
        (self.by_line, self.skipping) = (0, false);
    }

    /// Takes a record off the start of `bytes` and adds it to `into` as JSON, or refused; a header or an
    /// empty line adds nothing. Returns how many bytes it took: 0 where it needs more to see the record's
    /// end. `ended` says that there are no more.
    ///
    /// # Errors
    /// The header cannot be used.
    pub fn take(&mut self, bytes: &[u8], ended: bool, into: &mut Records) -> Result<usize, HeaderError> {
        if self.skipping {
            let line = memchr::memchr(b'\n', bytes);
            self.skipping = line.is_none() && !ended;
            return Ok(self.took(line.map_or(bytes.len(), |line| line + 1)));
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let window = bytes.get(..WINDOW).unwrap_or(bytes);
        let whole = ended && window.len() == bytes.len();
        let line = if self.by_line > 0 { memchr::memchr(b'\n', window) } else { None };
        let found = match line {
            Some(line) => self.fields.find(window.get(..=line).unwrap_or(window), self.separator, true),
            None if self.by_line > 0 && !whole => Found::Unfinished,
            None => self.fields.find(window, self.separator, whole),
        };
        match found {
            Found::Record { end, next } => {
                let record = window.get(..end).unwrap_or_default();
                if record.len() > MAX_RECORD_BYTES {
                    return self.give_up(window, ended, into);
                }
                if !record.iter().all(|byte| *byte == b' ') {
                    self.record(window, record, into)?;
                }
                Ok(self.took(next))
            }
            Found::Unfinished if line.is_some() || whole || window.len() == WINDOW => self.give_up(window, ended, into),
            Found::Unfinished => Ok(0),
        }
    }

    fn took(&mut self, bytes: usize) -> usize {
        self.by_line = self.by_line.saturating_sub(bytes);
        bytes
    }

    fn give_up(&mut self, window: &[u8], ended: bool, into: &mut Records) -> Result<usize, HeaderError> {
        if self.layout.is_none() {
            return Err(HeaderError(format!(
                "it is no record of at most {MAX_RECORD_BYTES} bytes with its quotes closed"
            )));
        }
        let end = memchr::memchr(b'\n', window).map(|line| line + 1);
        let end = end.or_else(|| (ended && window.len() < WINDOW).then_some(window.len()));
        let line = window.get(..end.unwrap_or(WINDOW)).unwrap_or(window);
        let record = line.strip_suffix(b"\n").unwrap_or(line);
        if record.len() > MAX_RECORD_BYTES {
            into.records.push(Err(Refusal::whole(record, format!("a record of at most {MAX_RECORD_BYTES} bytes"))));
            self.skipping = end.is_none();
            return Ok(self.took(line.len()));
        }
        let expected = format!("quotes that are closed before the end, and within {MAX_RECORD_BYTES} bytes");
        refuse(Refusal::whole(record, expected), record, into);
        // Lines that are read by themselves already do not make for more of them.
        let again = if self.by_line > 0 { 0 } else { window.len() };
        self.by_line = self.by_line.max(again);
        Ok(self.took(line.len()))
    }

    /// Reads the record whose fields were found in `bytes`.
    fn record(&mut self, bytes: &[u8], record: &[u8], into: &mut Records) -> Result<(), HeaderError> {
        let Some(layout) = &self.layout else { return self.header(bytes) };
        if self.fields.len() != layout.columns {
            let expected = format!("{} columns like the header, not {}", layout.columns, self.fields.len());
            refuse(Refusal::whole(record, expected), record, into);
            return Ok(());
        }
        self.json.clear();
        for value in &layout.values {
            self.json.extend_from_slice(&value.before);
            let text = unquoted(self.fields.raw(bytes, value.column), &mut self.scratch);
            if let Err(expected) = write(text, &mut self.json) {
                refuse(Refusal::new(value.name.clone(), text, expected), record, into);
                return Ok(());
            }
        }
        self.json.extend_from_slice(&layout.tail);
        into.push(&self.json);
        Ok(())
    }

    fn header(&mut self, bytes: &[u8]) -> Result<(), HeaderError> {
        let mut names = Vec::with_capacity(self.fields.len());
        for column in 0..self.fields.len() {
            let name = unquoted(self.fields.raw(bytes, column), &mut self.scratch).trim_ascii();
            let name = std::str::from_utf8(name)
                .map_err(|_| HeaderError(format!("the name of column {} is no UTF-8 text", column + 1)))?;
            names.push(name.to_owned());
        }
        self.layout = Some(Layout::new(&names, &self.mapping, self.separator)?);
        Ok(())
    }
}

/// Writes a JSON string. What the decoder would refuse is not even written: that bounds what a record of
/// control characters can grow to.
fn write(value: &[u8], json: &mut Vec<u8>) -> Result<(), String> {
    if value.len() > MAX_TEXT_BYTES {
        return Err(format!("at most {MAX_TEXT_BYTES} bytes long"));
    }
    let text =
        std::str::from_utf8(value).map_err(|error| format!("UTF-8 text: byte {} is not", error.valid_up_to()))?;
    if plain_bytes(value) == value.len() {
        json.push(b'"');
        json.extend_from_slice(value);
        json.push(b'"');
    } else {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(json, text);
    }
    Ok(())
}

/// Adds a refused record. Its columns are not to be trusted, so none is named: fed again from the quarantine
/// it is refused again, until somebody has mended it.
fn refuse(refusal: Refusal, record: &[u8], into: &mut Records) {
    match std::str::from_utf8(record) {
        Ok(text) => into.push_refused(refusal, serde_json::json!({ "csv": text }).to_string().as_bytes()),
        Err(_) => into.push_refused(refusal, record),
    }
}

#[cfg(test)]
mod tests;
