//! One entry of the journal: the order in which records were taken, what was decided for each, and the
//! records themselves where their source cannot be read again.
//!
//! Numbers are LEB128 varints unless said otherwise, so a batch costs a few bytes and a decision about
//! ten. The first byte is the format, so that a later build can read an older journal.

use super::ports::Records;
use crate::engine::{Decision, Fate};
use crate::policy::Verdict;

const FORMAT: u8 = 1;

/// Why an entry cannot be read: its checksum was right, so it is another build's or a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("journal entry of format {0}; this build reads format {FORMAT}: use a newer Caddis")]
    Format(u8),
    #[error("journal entry ends in the middle")]
    Short,
    #[error("journal entry has a {0} that no build writes")]
    Unknown(&'static str),
}

/// What an entry holds beside its sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHead {
    /// Which feature set, model and policy decided: the first 8 bytes of their common fingerprint.
    pub decided_by: u64,
    /// When the batch came in, milliseconds since 1970; `i64::MAX` for recorded streams.
    pub arrival: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    Transactions,
    Labels,
}

/// Consecutive records of one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    pub kind: SectionKind,
    pub partition: u32,
    pub first_offset: u64,
    pub cursor: u64,
    /// One a record of [`SectionKind::Transactions`]; empty for labels.
    pub decisions: Vec<Decision>,
    /// The records' bytes, or `None` where their source can be read again. A refused record is empty.
    pub records: Option<Vec<Vec<u8>>>,
    pub count: u64,
}

/// Writes an entry piece by piece into a buffer that is reused.
#[derive(Debug, Default)]
pub struct EntryWriter {
    bytes: Vec<u8>,
}

impl EntryWriter {
    pub fn begin(&mut self, head: EntryHead) {
        self.bytes.clear();
        self.bytes.push(FORMAT);
        self.bytes.extend_from_slice(&head.decided_by.to_le_bytes());
        self.bytes.extend_from_slice(&head.arrival.to_le_bytes());
    }

    /// Adds consecutive records of one partition, the bytes of each when `kept` gives them. For
    /// transactions `decisions` has one a record, for labels it is empty.
    pub fn section(
        &mut self,
        kind: SectionKind,
        records: &Records,
        decisions: &[Decision],
        kept: Option<&mut dyn Iterator<Item = &[u8]>>,
    ) {
        self.bytes.push(match kind {
            SectionKind::Transactions => 0,
            SectionKind::Labels => 1,
        });
        self.bytes.push(u8::from(kept.is_some()));
        self.varint(u128::from(records.partition));
        self.varint(u128::from(records.first_offset));
        self.varint(u128::from(records.cursor));
        self.varint(records.len() as u128);
        for decision in decisions {
            self.decision(decision);
        }
        for record in kept.into_iter().flatten() {
            self.varint(record.len() as u128);
            self.bytes.extend_from_slice(record);
        }
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn decision(&mut self, decision: &Decision) {
        let fate = match decision.fate {
            Fate::Decided => 0,
            Fate::Late => 1,
            Fate::Duplicate { .. } => 2,
            Fate::Future => 3,
            Fate::Refused => 4,
        };
        let verdict = decision.verdict as u8;
        let rules = u8::from(decision.rules != 0) << 6;
        let scored = u8::from(!decision.score.is_nan()) << 7;
        self.bytes.push(fate | verdict << 4 | rules | scored);
        if scored != 0 {
            self.bytes.extend_from_slice(&decision.score.to_le_bytes());
        }
        if rules != 0 {
            self.varint(decision.rules);
        }
        if let Fate::Duplicate { partition, offset } = decision.fate {
            self.varint(u128::from(partition));
            self.varint(u128::from(offset));
        }
    }

    fn varint(&mut self, mut value: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        self.bytes.push(value as u8);
    }
}

/// Reads an entry.
///
/// # Errors
/// See [`EntryError`].
pub fn read(bytes: &[u8]) -> Result<(EntryHead, Vec<Section>), EntryError> {
    let mut reader = Reader { rest: bytes };
    let format = reader.byte()?;
    if format != FORMAT {
        return Err(EntryError::Format(format));
    }
    let head =
        EntryHead { decided_by: u64::from_le_bytes(reader.array()?), arrival: i64::from_le_bytes(reader.array()?) };
    let mut sections = Vec::new();
    while !reader.rest.is_empty() {
        sections.push(reader.section()?);
    }
    Ok((head, sections))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn section(&mut self) -> Result<Section, EntryError> {
        let kind = match self.byte()? {
            0 => SectionKind::Transactions,
            1 => SectionKind::Labels,
            _ => return Err(EntryError::Unknown("kind of section")),
        };
        let embedded = self.byte()? != 0;
        let partition = self.number("partition")?;
        let first_offset = self.number("offset")?;
        let cursor = self.number("cursor")?;
        let count: u64 = self.number("count")?;
        if count > self.rest.len() as u64 && (embedded || kind == SectionKind::Transactions) {
            return Err(EntryError::Short);
        }
        let mut decisions = Vec::new();
        if kind == SectionKind::Transactions {
            for _ in 0..count {
                decisions.push(self.decision()?);
            }
        }
        let records = if embedded {
            let mut records = Vec::new();
            for _ in 0..count {
                let length: usize = self.number("length")?;
                let record = self.rest.get(..length).ok_or(EntryError::Short)?;
                records.push(record.to_vec());
                self.rest = self.rest.get(length..).unwrap_or_default();
            }
            Some(records)
        } else {
            None
        };
        Ok(Section { kind, partition, first_offset, cursor, decisions, records, count })
    }

    fn decision(&mut self) -> Result<Decision, EntryError> {
        let tag = self.byte()?;
        let verdict = match tag >> 4 & 3 {
            0 => Verdict::Allow,
            1 => Verdict::Review,
            2 => Verdict::Block,
            _ => return Err(EntryError::Unknown("verdict")),
        };
        let score = if tag & 0x80 == 0 { f64::NAN } else { f64::from_le_bytes(self.array()?) };
        let rules = if tag & 0x40 == 0 { 0 } else { self.varint()? };
        let fate = match tag & 15 {
            0 => Fate::Decided,
            1 => Fate::Late,
            2 => Fate::Duplicate { partition: self.number("partition")?, offset: self.number("offset")? },
            3 => Fate::Future,
            4 => Fate::Refused,
            _ => return Err(EntryError::Unknown("fate")),
        };
        Ok(Decision { fate, verdict, score, rules })
    }

    fn byte(&mut self) -> Result<u8, EntryError> {
        let (first, rest) = self.rest.split_first().ok_or(EntryError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    fn array(&mut self) -> Result<[u8; 8], EntryError> {
        let (first, rest) = self.rest.split_first_chunk::<8>().ok_or(EntryError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    fn number<N: TryFrom<u128>>(&mut self, what: &'static str) -> Result<N, EntryError> {
        N::try_from(self.varint()?).map_err(|_| EntryError::Unknown(what))
    }

    fn varint(&mut self) -> Result<u128, EntryError> {
        let mut value = 0_u128;
        for shift in (0..19).map(|step| step * 7) {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(EntryError::Unknown("number"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{EntryHead, EntryWriter, Section, SectionKind, read};
    use crate::engine::{Decision, Fate};
    use crate::pipeline::ports::Records;
    use crate::policy::Verdict;

    fn decision() -> impl Strategy<Value = Decision> {
        let fate = prop_oneof![
            Just(Fate::Decided),
            Just(Fate::Late),
            Just(Fate::Future),
            Just(Fate::Refused),
            (any::<u32>(), any::<u64>()).prop_map(|(partition, offset)| Fate::Duplicate { partition, offset }),
        ];
        let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Review), Just(Verdict::Block)];
        (fate, verdict, -1e9..1e9, any::<u128>()).prop_map(|(fate, verdict, score, rules)| Decision {
            fate,
            verdict,
            score,
            rules,
        })
    }

    fn section() -> impl Strategy<Value = Section> {
        let records = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20);
        (records, any::<bool>(), any::<u32>(), any::<u64>(), any::<u64>(), prop::collection::vec(decision(), 20))
            .prop_map(|(records, embedded, partition, first_offset, cursor, mut decisions)| {
                decisions.truncate(records.len());
                let count = records.len() as u64;
                let records = embedded.then_some(records);
                Section { kind: SectionKind::Transactions, partition, first_offset, cursor, decisions, records, count }
            })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(sections in prop::collection::vec(section(), 0..4), decided_by: u64, arrival: i64) {
            let mut writer = EntryWriter::default();
            let head = EntryHead { decided_by, arrival };
            writer.begin(head);
            for section in &sections {
                let mut records = section.records.iter().flatten().map(Vec::as_slice);
                let records: Option<&mut dyn Iterator<Item = &[u8]>> = match section.records {
                    Some(_) => Some(&mut records),
                    None => None,
                };
                let whole = Records {
                    partition: section.partition,
                    first_offset: section.first_offset,
                    cursor: section.cursor,
                    bytes: Vec::new(),
                    records: vec![Ok((0, 0)); section.decisions.len()],
                    ..Records::default()
                };
                writer.section(section.kind, &whole, &section.decisions, records);
            }
            prop_assert_eq!(read(writer.bytes()), Ok((head, sections)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            bytes.insert(0, 1);
            let _ = read(&bytes);
        }
    }
}
