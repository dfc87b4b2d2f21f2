//! JSON objects to transactions, in one pass through the mapping.

use std::sync::Arc;

use super::digits::Plain;
use super::fill::Targets;
use super::layout::{Layouts, Slot};
use super::mapping::Mapping;
use super::scan::{Kind, MAX_SCANNED, Scanner, Value, plain_bytes, unescape};
use crate::pipeline::ports::Decode;
use crate::transaction::{Refusal, TransactionBatch};

/// Reads one JSON object a record: along the layout of one before if it has the same, or else by parsing it
/// and learning its layout. Either way gives the same transaction.
#[derive(Debug)]
pub struct JsonDecoder {
    mapping: Arc<Mapping>,
    layouts: Layouts,
    /// The mapping's paths as a tree; node 0 is the record.
    nodes: Vec<Node>,
    targets: Targets,
    scratch: String,
}

#[derive(Debug, Default, Clone)]
struct Node {
    children: Vec<Child>,
    /// The child that came after the last one found: records mostly have the same keys in the same order.
    next: usize,
}

#[derive(Debug, Clone)]
struct Child {
    key: String,
    /// `,"key":` as it most often stands in a record.
    quoted: Vec<u8>,
    leads_to: LeadsTo,
}

#[derive(Debug, Clone, Copy)]
enum LeadsTo {
    /// The mapping has nothing there.
    Nowhere,
    Target(usize),
    Node(usize),
}

/// At most this many fields can be mapped: the schema's own limits keep it below.
const MAX_TARGETS: usize = 192;

impl JsonDecoder {
    #[must_use]
    pub fn new(mapping: Arc<Mapping>) -> Self {
        let mut nodes = vec![Node::default()];
        let mut targets = Targets::new(Arc::clone(&mapping));
        for (path, field) in mapping.paths.iter().take(MAX_TARGETS) {
            targets.fields.push((*field, path.join(".")));
            let mut node = 0;
            for (depth, key) in path.iter().enumerate() {
                let last = depth + 1 == path.len();
                let known = nodes.get(node).and_then(|node| node.children.iter().find(|child| child.key == *key));
                if let Some(Child { leads_to: LeadsTo::Node(inner), .. }) = known {
                    node = *inner;
                    continue;
                }
                let inner = nodes.len();
                let leads_to = if last { LeadsTo::Target(targets.fields.len() - 1) } else { LeadsTo::Node(inner) };
                let quoted = format!(",\"{key}\":").into_bytes();
                if let Some(node) = nodes.get_mut(node) {
                    node.children.push(Child { key: key.clone(), quoted, leads_to });
                }
                if !last {
                    nodes.push(Node::default());
                    node = inner;
                }
            }
        }
        Self { mapping, layouts: Layouts::new(), nodes, targets, scratch: String::new() }
    }

    /// Reads the object the scanner stands at, and those inside that the mapping goes into: at most as
    /// deep as a path is long. `Err` is a field that is there twice; `Ok(None)` is for the scanner to say.
    fn object<const N: usize>(
        &mut self,
        scanner: &mut Scanner<'_>,
        node: usize,
        depth: u32,
        found: &mut [Value; N],
    ) -> Result<Option<()>, Twice> {
        if scanner.expect(b'{').is_none() {
            return Ok(None);
        }
        if scanner.take(b'}') {
            return Ok(Some(()));
        }
        let mut first = true;
        loop {
            let Some(leads_to) = self.key(scanner, node, first) else {
                // Neither a comma nor a key: the object has ended, or something is wrong.
                return Ok(if first || scanner.failed() { None } else { scanner.expect(b'}') });
            };
            first = false;
            scanner.space();
            let start = scanner.place();
            let (slot, value) = match leads_to {
                LeadsTo::Node(inner) if scanner.peek() == Some(b'{') => {
                    if self.object(scanner, inner, depth + 1, found)?.is_none() {
                        return Ok(None);
                    }
                    continue;
                }
                // `null` or a scalar where an object is expected: its fields are absent.
                LeadsTo::Node(_) => (Slot::NoObject(depth), scanner.value(depth)),
                LeadsTo::Nowhere => (Slot::Unmapped(depth), scanner.value(depth)),
                LeadsTo::Target(target) => (self.targets.slot(target, depth), scanner.value(depth)),
            };
            let Some(value) = value else { return Ok(None) };
            if let LeadsTo::Target(target) = leads_to
                && let Some(slot) = found.get_mut(target)
            {
                if *slot != Value::NONE {
                    return Err(Twice(target));
                }
                *slot = value;
            }
            self.layouts.note(start, scanner.place(), slot);
        }
    }

    /// Reads a comma (but before the first), a key and its colon, and says what the mapping has for it.
    #[inline]
    fn key(&mut self, scanner: &mut Scanner<'_>, node: usize, first: bool) -> Option<LeadsTo> {
        let node = self.nodes.get_mut(node)?;
        if let Some(child) = node.children.get(node.next)
            && scanner.take_exactly(child.quoted.get(usize::from(first)..).unwrap_or_default())
        {
            node.next += 1;
            return Some(child.leads_to);
        }
        if !first && !scanner.take(b',') {
            return None;
        }
        scanner.space();
        let key = scanner.string()?;
        let text = key.of(scanner.text());
        let text = if key.kind() == Kind::Escaped {
            if unescape(text, &mut self.scratch).is_err() {
                return scanner.fail("a key without a lone surrogate");
            }
            &self.scratch
        } else {
            text
        };
        let at = node.children.iter().position(|child| child.key == text);
        let leads_to = at.and_then(|at| node.children.get(at)).map_or(LeadsTo::Nowhere, |child| child.leads_to);
        if let Some(at) = at {
            node.next = at + 1;
        } else if node.next >= node.children.len() {
            node.next = 0;
        }
        scanner.expect(b':')?;
        Some(leads_to)
    }

    /// Reads a record by parsing it, whatever its layout.
    fn parse<const N: usize>(&mut self, text: &str, into: &mut TransactionBatch) -> Result<(), Refusal> {
        let mut scanner = Scanner::new(text);
        let mut found = [Value::NONE; N];
        self.layouts.begin();
        if let Some(node) = self.nodes.first_mut() {
            node.next = 0;
        }
        let read = self.object(&mut scanner, 0, 1, &mut found);
        match read.map(|read| read.and_then(|()| scanner.end())) {
            Ok(Some(())) => {}
            Ok(None) => return Err(scanner.refusal()),
            Err(Twice(target)) => return Err(self.targets.refuse(target, b"", "given once")),
        }
        let mut row = self.targets.begin(text, into);
        for (target, value) in found.iter().take(self.targets.fields.len()).enumerate() {
            self.targets.set(&mut row, text, target, *value)?;
        }
        self.targets.finish(row, text)?;
        self.layouts.learn(text.as_bytes());
        Ok(())
    }

    /// Reads a record along the layout of one before. `None` if it has another or is to be refused, or where
    /// that is not plain to see: then it is to be [parsed](Self::parse), and nothing of it stays behind.
    pub(super) fn follow(&mut self, text: &str, into: &mut TransactionBatch) -> Option<()> {
        let mut next = self.layouts.first()?;
        let mut row = self.targets.begin(text, into);
        let mut bytes = text.as_bytes();
        loop {
            let (piece, rest) = self.layouts.find(next, bytes)?;
            next = piece.next;
            let start = text.len() - rest.len();
            if let [b'"', inside @ ..] = rest
                && let len = plain_bytes(inside)
                && let Some([b'"', rest @ ..]) = inside.get(len..)
            {
                bytes = rest;
                if let Slot::Target(target, _) = piece.slot
                    && !self.targets.set_text(&mut row, text, target, start + 1, len)
                {
                    let value = Value::new(Kind::Text, start + 1, start + 1 + len);
                    self.targets.set(&mut row, text, usize::from(target.at), value).ok()?;
                }
            } else if let [b'-' | b'0'..=b'9', ..] = rest
                && let Some(plain) = Plain::read(rest)
            {
                bytes = rest.get(plain.len..)?;
                if let Slot::Target(target, _) = piece.slot
                    && !self.targets.set_plain(&mut row, target, start, plain, Kind::Number)
                {
                    let value = Value::new(Kind::Number, start, start + plain.len);
                    self.targets.set(&mut row, text, usize::from(target.at), value).ok()?;
                }
            } else {
                let (depth, target) = match piece.slot {
                    Slot::End if rest.is_empty() => break,
                    Slot::End => return None,
                    Slot::NoObject(_) if rest.first() == Some(&b'{') => return None,
                    Slot::NoObject(depth) | Slot::Unmapped(depth) => (depth, None),
                    Slot::Target(target, depth) => (depth, Some(usize::from(target.at))),
                };
                let mut scanner = Scanner::at(text, start);
                let value = scanner.value(depth)?;
                bytes = text.as_bytes().get(scanner.place()..)?;
                if let Some(target) = target {
                    self.targets.set(&mut row, text, target, value).ok()?;
                }
            }
        }
        self.targets.finish(row, text).ok()
    }
}

/// A target that is in the record twice.
struct Twice(usize);

impl Decode for JsonDecoder {
    fn decode(&mut self, record: &[u8], into: &mut TransactionBatch) -> Result<(), Refusal> {
        if record.len() >= MAX_SCANNED {
            return Err(Refusal::whole(record, format!("a record of fewer than {MAX_SCANNED} bytes")));
        }
        let text = std::str::from_utf8(record).map_err(|error| {
            let bad = record.get(error.valid_up_to()..).unwrap_or_default();
            Refusal::whole(bad, format!("UTF-8 text: byte {} is not", error.valid_up_to()))
        })?;
        if self.follow(text, into).is_some() {
            return Ok(());
        }
        // Few fields need little to be cleared for each record.
        match self.targets.fields.len() {
            0..=16 => self.parse::<16>(text, into),
            17..=32 => self.parse::<32>(text, into),
            _ => self.parse::<MAX_TARGETS>(text, into),
        }
    }

    fn another(&self) -> Box<dyn Decode> {
        Box::new(Self::new(Arc::clone(&self.mapping)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Mapping, Rates};
    use super::JsonDecoder;
    use crate::pipeline::ports::Decode;
    use crate::transaction::{Currency, Schema, TransactionBatch, schema};

    pub(in super::super) fn decoder(mapping: Option<&str>) -> (JsonDecoder, TransactionBatch) {
        let schema = Arc::new(Schema::default());
        let mut rates = Rates::new(Currency::parse("EUR").expect("EUR"));
        rates.set(Currency::parse("USD").expect("USD"), "0.5").expect("a rate");
        let mapping = match mapping {
            None => Mapping::own(Arc::clone(&schema), rates),
            Some(text) => Mapping::from_table(&text.parse().expect("TOML"), &schema, rates).expect("a mapping"),
        };
        (JsonDecoder::new(Arc::new(mapping)), TransactionBatch::new(schema))
    }

    fn refusal(record: impl AsRef<[u8]>) -> String {
        let (mut decoder, mut batch) = decoder(None);
        let refusal = decoder.decode(record.as_ref(), &mut batch).expect_err("refused");
        assert!(batch.is_empty());
        refusal.to_string()
    }

    pub(in super::super) fn with(field: &str, value: &str) -> String {
        let mut fields = vec![
            ("transaction_id", "\"t1\""),
            ("event_time", "1700000000000"),
            ("amount", "\"12.34\""),
            ("currency", "\"USD\""),
            ("account", "\"a1\""),
        ];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    }

    #[test]
    fn own_names() {
        let (mut decoder, mut batch) = decoder(None);
        let record = r#"{"transaction_id":"t1","event_time":"2023-11-14T22:13:20Z","amount":12.34,"currency":"usd",
            "account":17,"merchant":"caf\u00e9 \"x\"","latitude":-12.5,"longitude":"100","other":{"account":[1,2,{"a":null}]},"device":null,"ip":""}"#;
        decoder.decode(record.as_bytes(), &mut batch).expect("a transaction");
        let transaction = batch.get(0);
        assert_eq!((transaction.id(), transaction.event_time()), ("t1", 1_700_000_000_000));
        assert_eq!((transaction.amount(), transaction.base_amount()), (1_234, 617));
        assert_eq!(transaction.text(schema::ACCOUNT), Some("17"));
        assert_eq!(transaction.text(schema::MERCHANT), Some("café \"x\""));
        assert_eq!((transaction.text(schema::DEVICE), transaction.text(schema::IP)), (None, None));
        assert_eq!((transaction.number(schema::LATITUDE), transaction.number(schema::LONGITUDE)), (-12.5, 100.0));
    }

    #[test]
    fn a_users_own_names_in_any_order() {
        let (mut decoder, mut batch) = decoder(Some(
            r#"
            transaction_id = "meta.id"
            event_time = { path = "meta.ts", format = "s" }
            amount = { path = "payment.money.cents", unit = "minor" }
            currency = { path = "payment.money.ccy", value = "EUR" }
            card = "payment.card.token"
            "#,
        ));
        for record in [
            r#"{"meta":{"id":9,"ts":1700000000.5},"payment":{"money":{"cents":"1234","ccy":"EUR"},"card":{"token":"c"}}}"#,
            r#"{"payment":{"card":{"token":"c","x":1},"money":{"cents":1234}},"x":[{}],"meta":{"ts":"1700000000.500","id":"9"}}"#,
        ] {
            decoder.decode(record.as_bytes(), &mut batch).expect("a transaction");
        }
        for transaction in batch.iter() {
            assert_eq!(
                (transaction.id(), transaction.event_time(), transaction.amount()),
                ("9", 1_700_000_000_500, 1_234)
            );
            assert_eq!(transaction.text(schema::CARD), Some("c"));
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_serde_json_reads_it(
            fields in Just(vec!["transaction_id", "event_time", "amount", "currency", "account", "merchant", "latitude", "x", "y\u{e9}"]).prop_shuffle(),
            texts in prop::collection::vec(any::<String>().prop_filter("short", |text| text.len() < 200), 3),
            latitude in -90.0..90.0_f64,
            pretty: bool,
        ) {
            let mut object = serde_json::Map::new();
            for field in fields {
                let value = match field {
                    "transaction_id" => format!("t{}", texts[0]).into(),
                    "event_time" => 1_700_000_000_000_i64.into(),
                    "amount" => "12.34".into(),
                    "currency" => "EUR".into(),
                    "account" => texts[1].clone().into(),
                    "merchant" => serde_json::Value::Null,
                    "latitude" => latitude.into(),
                    _ => serde_json::json!([{ "account": texts[2] }, 1e-7, true]),
                };
                object.insert(field.to_owned(), value);
            }
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let (mut decoder, mut batch) = decoder(None);
            decoder.decode(text.expect("JSON").as_bytes(), &mut batch).expect("a transaction");
            let found = batch.get(0);
            prop_assert_eq!(found.id(), format!("t{}", texts[0]));
            prop_assert_eq!(found.text(schema::ACCOUNT), Some(texts[1].as_str()).filter(|text| !text.is_empty()));
            prop_assert_eq!((found.text(schema::MERCHANT), found.amount()), (None, 1_234));
            prop_assert_eq!(found.number(schema::LATITUDE).to_bits(), latitude.to_bits());
        }
    }

    #[test]
    fn every_refusal_says_field_value_and_what_was_expected() {
        assert_eq!(refusal(with("amount", "\"abc\"")), "amount: `abc` is not a decimal number");
        assert_eq!(refusal(with("amount", "1.234")), "amount: `1.234` is not an amount of USD, which has 2 decimals");
        assert!(refusal(with("amount", "1e400")).contains("an amount of at most"));
        assert!(refusal(with("amount", "\"NaN\"")).contains("a decimal number"));
        assert!(refusal(with("amount", "NaN")).contains("JSON: a value at byte"));
        assert!(refusal(with("currency", "\"CHF\"")).contains("a rate for CHF"));
        assert!(refusal(with("currency", "\"EURO\"")).contains("ISO 4217"));
        assert!(refusal(with("latitude", "1e400")).contains("latitude: `1e400` is not a finite number"));
        assert!(refusal(with("latitude", "91")).contains("from -90 to 90 degrees"));
        assert!(refusal(with("event_time", "\"tomorrow\"")).contains("RFC 3339"));
        assert!(refusal(with("event_time", "-1")).contains("RFC 3339"));
        assert!(refusal(with("account", "{}")).contains("not an object"));
        assert!(refusal(with("transaction_id", "null")).contains("transaction_id: expected a value"));
        let card = refusal(with("currency", "\"4111111111111111\""));
        assert!(card.contains("************1111") && !card.contains("411111111"), "{card}");
        assert!(refusal(r#"{"account":"a","account":"b"}"#).contains("account: expected given once"));
        assert!(refusal(r#"{"account":"a","\u0061ccount":"b"}"#).contains("account: expected given once"));
        assert!(refusal(with("account", "\"\\ud800\"")).contains("lone surrogate"));
        assert!(refusal(with("account", "\"a\nb\"")).contains("control character"));
        assert!(refusal(b"{\"account\":\"\xff\"}").contains("UTF-8"));
        assert!(refusal(with("account", &format!("\"{}\"", "x".repeat(10_000_000)))).contains("at most 1024 bytes"));
        for broken in ["", "null", "[]", "{", "{}x", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}"] {
            assert!(!refusal(broken).is_empty());
        }
    }

    #[test]
    fn what_nobody_asked_for_may_be_anything_valid() {
        let (mut decoder, mut batch) = decoder(None);
        for (value, taken) in [
            (format!("\"{}\"", "x".repeat(10_000_000)), true),
            ("1e400".to_owned(), true),
            (format!("{}{}", "[".repeat(100), "]".repeat(100)), true),
            (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), false),
            ("[".repeat(100_000), false),
            ("{\"a\":".repeat(100_000), false),
        ] {
            assert_eq!(decoder.decode(with("unknown", &value).as_bytes(), &mut batch).is_ok(), taken);
        }
        assert_eq!(batch.len(), 3);
    }
}
