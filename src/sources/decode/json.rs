//! JSON objects to transactions, in one pass through the mapping.

use std::sync::Arc;

use super::mapping::{AmountUnit, Mapping, field_name};
use super::scan::{Kind, MAX_SCANNED, Scanner, Value, unescape};
use crate::pipeline::ports::Decode;
use crate::transaction::money::{AmountError, parse_major, parse_minor};
use crate::transaction::{Currency, Field, MAX_TEXT_BYTES, Refusal, TransactionBatch};

/// Reads one JSON object a record.
#[derive(Debug)]
pub struct JsonDecoder {
    mapping: Arc<Mapping>,
    /// The mapping's paths as a tree; node 0 is the record.
    nodes: Vec<Node>,
    /// By target: the field and the name its sender gives it.
    targets: Vec<(Field, String)>,
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
        let mut targets = Vec::new();
        for (path, field) in mapping.paths.iter().take(MAX_TARGETS) {
            targets.push((*field, path.join(".")));
            let mut node = 0;
            for (depth, key) in path.iter().enumerate() {
                let last = depth + 1 == path.len();
                let known = nodes.get(node).and_then(|node| node.children.iter().find(|child| child.key == *key));
                if let Some(Child { leads_to: LeadsTo::Node(inner), .. }) = known {
                    node = *inner;
                    continue;
                }
                let inner = nodes.len();
                let leads_to = if last { LeadsTo::Target(targets.len() - 1) } else { LeadsTo::Node(inner) };
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
        Self { mapping, nodes, targets, scratch: String::new() }
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
            let read = match leads_to {
                LeadsTo::Nowhere => scanner.value(depth).map(|_| ()),
                LeadsTo::Target(target) => match (scanner.value(depth), found.get_mut(target)) {
                    (Some(_), Some(slot)) if *slot != Value::NONE => return Err(Twice(target)),
                    (Some(value), Some(slot)) => {
                        *slot = value;
                        Some(())
                    }
                    (value, _) => value.map(|_| ()),
                },
                LeadsTo::Node(inner) => {
                    scanner.space();
                    if scanner.peek() == Some(b'{') {
                        self.object(scanner, inner, depth + 1, found)?
                    } else {
                        // `null` or a scalar where an object is expected: its fields are absent.
                        scanner.value(depth).map(|_| ())
                    }
                }
            };
            if read.is_none() {
                return Ok(None);
            }
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

    fn decode_text<const N: usize>(&mut self, text: &str, into: &mut TransactionBatch) -> Result<(), Refusal> {
        let mut scanner = Scanner::new(text);
        let mut found = [Value::NONE; N];
        let read = self.object(&mut scanner, 0, 1, &mut found);
        match read.map(|read| read.and_then(|()| scanner.end())) {
            Ok(Some(())) => self.fill(text, &found, into),
            Ok(None) => Err(scanner.refusal()),
            Err(Twice(target)) => Err(self.refuse(target, b"", "given once")),
        }
    }

    #[cold]
    fn refuse(&self, target: usize, value: &[u8], expected: impl Into<String>) -> Refusal {
        let name = self.targets.get(target).map(|(_, name)| name.clone()).unwrap_or_default();
        Refusal::new(name, value, expected)
    }

    #[cold]
    fn missing(&self, field: Field) -> Refusal {
        let own = field_name(field, &self.mapping.schema);
        let named = self.targets.iter().find(|(target, _)| *target == field).map(|(_, name)| name.clone());
        Refusal::new(named.unwrap_or(own), b"", "a value: the record has none")
    }

    fn fill(&mut self, record: &str, found: &[Value], into: &mut TransactionBatch) -> Result<(), Refusal> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let filled = self.fill_with(record, found, into, &mut scratch);
        self.scratch = scratch;
        filled
    }

    fn fill_with(
        &self,
        record: &str,
        found: &[Value],
        into: &mut TransactionBatch,
        scratch: &mut String,
    ) -> Result<(), Refusal> {
        let mapping = &*self.mapping;
        let mut draft = into.draft();
        // One copy for all fields, unless most of the record is something else.
        let kept = (record.len() <= KEPT_WHOLE).then(|| draft.keep(record));
        let (mut id, mut time, mut currency, mut amount) = (false, None, mapping.currency, None);
        for (target, (value, (field, _))) in found.iter().zip(&self.targets).enumerate() {
            let Some(text) = self.text(target, *value, record, scratch)? else { continue };
            let (start, len) = value.span();
            let kept = kept.filter(|_| value.kind() != Kind::Escaped);
            match field {
                Field::TransactionId => {
                    match kept {
                        Some(kept) => draft.set_id_at(kept, start, len),
                        None => draft.set_id(text),
                    }
                    id = true;
                }
                Field::Text(field) => match kept {
                    Some(kept) => draft.set_text_at(*field, kept, start, len),
                    None => draft.set_text(*field, text),
                },
                Field::Number(field) => {
                    let number = number(text).ok_or_else(|| self.refuse(target, text.as_bytes(), "a finite number"))?;
                    let bound = match *field {
                        crate::transaction::schema::LATITUDE => 90.0,
                        crate::transaction::schema::LONGITUDE => 180.0,
                        _ => f64::MAX,
                    };
                    if number.abs() > bound {
                        return Err(self.refuse(target, text.as_bytes(), format!("from -{bound} to {bound} degrees")));
                    }
                    draft.set_number(*field, number);
                }
                Field::EventTime => {
                    let parsed = mapping.time.parse(text);
                    let refused = || self.refuse(target, text.as_bytes(), mapping.time.expected());
                    time = Some(parsed.ok_or_else(refused)?);
                }
                Field::Currency => {
                    let refused = || self.refuse(target, text.as_bytes(), "an ISO 4217 code such as EUR");
                    currency = Some(Currency::parse(text).ok_or_else(refused)?);
                }
                // Read once the currency is known: it says how many decimals there are.
                Field::Amount => amount = Some((target, *value)),
            }
        }
        if !id {
            return Err(self.missing(Field::TransactionId));
        }
        let time = time.ok_or_else(|| self.missing(Field::EventTime))?;
        let currency = currency.ok_or_else(|| self.missing(Field::Currency))?;
        let (target, value) = amount.ok_or_else(|| self.missing(Field::Amount))?;
        let text = self.text(target, value, record, scratch)?.unwrap_or_default();
        let minor = match mapping.unit {
            AmountUnit::Major => parse_major(text.as_bytes(), currency.exponent()),
            AmountUnit::Minor => parse_minor(text.as_bytes()),
        }
        .map_err(|error| self.refuse(target, text.as_bytes(), amount_expected(error, mapping.unit, currency)))?;
        let base = mapping.rates.convert(minor, currency).ok_or_else(|| {
            let expected = format!("an amount that a rate for {currency} turns into {}", mapping.rates.base());
            self.refuse(target, text.as_bytes(), expected)
        })?;
        draft.finish(time, minor, currency, base);
        Ok(())
    }

    /// The text of a value; `None` where it is absent, `null` or empty.
    #[inline]
    fn text<'t>(
        &self,
        target: usize,
        value: Value,
        record: &'t str,
        scratch: &'t mut String,
    ) -> Result<Option<&'t str>, Refusal> {
        let text = match value.kind() {
            Kind::Absent | Kind::Null => return Ok(None),
            Kind::Text | Kind::Number | Kind::Bool => value.of(record),
            Kind::Escaped => {
                let text = value.of(record);
                unescape(text, scratch).map_err(|expected| self.refuse(target, text.as_bytes(), expected))?;
                scratch
            }
            Kind::Nested => return Err(self.refuse(target, b"", "a text or a number, not an object or array")),
        };
        if text.len() > MAX_TEXT_BYTES {
            return Err(self.refuse(target, text.as_bytes(), format!("at most {MAX_TEXT_BYTES} bytes long")));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// Records up to this long are kept whole in the batch.
const KEPT_WHOLE: usize = 4_096;

/// A target that is in the record twice.
struct Twice(usize);

/// A finite number. Some digits with a point among them are read here, exactly: an integer below 2^53 divided
/// by a power of ten below 10^23 is rounded once (Clinger 1990).
#[inline]
fn number(text: &str) -> Option<f64> {
    const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (mut value, mut behind, mut point, mut plain) = (0_u64, 0, false, digits.len() <= 16);
    if plain {
        for byte in digits.bytes() {
            let digit = byte.wrapping_sub(b'0');
            if digit < 10 {
                value = value * 10 + u64::from(digit);
                behind += usize::from(point);
            } else {
                plain &= byte == b'.' && !point;
                point = true;
            }
        }
    }
    let whole = digits.len() > usize::from(point) + behind;
    if plain && whole && (behind > 0) == point && value < 1 << 53 {
        let value = value as f64 / POWERS.get(behind).copied()?;
        return Some(if digits.len() < text.len() { -value } else { value });
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

impl Decode for JsonDecoder {
    fn decode(&mut self, record: &[u8], into: &mut TransactionBatch) -> Result<(), Refusal> {
        if record.len() >= MAX_SCANNED {
            return Err(Refusal::whole(record, format!("a record of fewer than {MAX_SCANNED} bytes")));
        }
        let text = std::str::from_utf8(record).map_err(|error| {
            let bad = record.get(error.valid_up_to()..).unwrap_or_default();
            Refusal::whole(bad, format!("UTF-8 text: byte {} is not", error.valid_up_to()))
        })?;
        if let Some(node) = self.nodes.first_mut() {
            node.next = 0;
        }
        // Few fields need little to be cleared for each record.
        match self.targets.len() {
            0..=16 => self.decode_text::<16>(text, into),
            17..=32 => self.decode_text::<32>(text, into),
            _ => self.decode_text::<MAX_TARGETS>(text, into),
        }
    }

    fn another(&self) -> Box<dyn Decode> {
        Box::new(Self::new(Arc::clone(&self.mapping)))
    }
}

#[cold]
fn amount_expected(error: AmountError, unit: AmountUnit, currency: Currency) -> String {
    match (error, unit) {
        (AmountError::TooLarge, _) => "an amount of at most 100,000,000,000,000 minor units".into(),
        (AmountError::TooPrecise(_), AmountUnit::Minor) => "a whole number of minor units".into(),
        (AmountError::TooPrecise(decimals), AmountUnit::Major) => {
            format!("an amount of {currency}, which has {decimals} decimals")
        }
        (AmountError::NotANumber, _) => "a decimal number".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Mapping, Rates};
    use super::JsonDecoder;
    use crate::pipeline::ports::Decode;
    use crate::transaction::{Currency, Schema, TransactionBatch, schema};

    fn decoder(mapping: Option<&str>) -> (JsonDecoder, TransactionBatch) {
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

    fn with(field: &str, value: &str) -> String {
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

        #[test]
        fn numbers_are_those_of_the_standard_library(text in "-?[0-9]{0,12}(\\.[0-9]{0,9})?(e-?[0-9]{1,3})?") {
            let wanted = text.parse::<f64>().ok().filter(|number| number.is_finite());
            prop_assert_eq!(super::number(&text).map(f64::to_bits), wanted.map(f64::to_bits));
        }
    }

    #[test]
    fn numbers_are_the_nearest_there_are() {
        for text in ["0", "50.1718", "-0.1", "123456789012345.6", "9007199254740993", "0.000001", "1e3", "-1", "00.5"] {
            assert_eq!(super::number(text).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits), "{text}");
        }
        for text in ["", "-", ".", "1.", ".5", "--1", "1.2.3", "1e999", "NaN", "inf", "0x10"] {
            let wanted = text.parse::<f64>().ok().filter(|number| number.is_finite());
            assert_eq!(super::number(text), wanted, "{text}");
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
