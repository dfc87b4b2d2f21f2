use std::sync::Arc;

use proptest::prelude::*;

use super::super::body::{MAX_BODY_RECORDS, split_csv};
use super::super::{JsonDecoder, Mapping, Rates};
use super::CsvReader;
use crate::pipeline::ports::{Decode, Records};
use crate::sources::file::{LineSource, MAX_RECORD_BYTES};
use crate::transaction::{Currency, Schema, TransactionBatch, schema};

const HEADER: &str = "transaction_id,event_time,amount,currency,account,merchant,latitude\n";

fn mapping() -> Arc<Mapping> {
    Arc::new(Mapping::own(Arc::new(Schema::default()), Rates::new(Currency::EUR)))
}

fn read(body: &[u8], separator: u8) -> Records {
    split_csv(body, CsvReader::new(mapping(), separator)).expect("a header")
}

fn with_header(rows: impl AsRef<[u8]>) -> Records {
    read(&[HEADER.as_bytes(), rows.as_ref()].concat(), b',')
}

fn json(records: &Records, index: usize) -> serde_json::Value {
    serde_json::from_slice(records.record(index)).expect("JSON")
}

/// Why each record is refused, by the reader or by the decoder; empty where it is not.
fn refusals(rows: impl AsRef<[u8]>) -> Vec<String> {
    let records = with_header(rows);
    let mut decoder = JsonDecoder::new(mapping());
    let mut batch = TransactionBatch::new(Arc::new(Schema::default()));
    let decode = |(index, record): (usize, &Result<_, crate::transaction::Refusal>)| match record {
        Ok(_) => decoder.decode(records.record(index), &mut batch).err().map(|refusal| refusal.to_string()),
        Err(refusal) => Some(refusal.to_string()),
    };
    records.records.iter().enumerate().map(decode).map(Option::unwrap_or_default).collect()
}

#[test]
fn records_become_objects_of_their_mapped_columns() {
    for separator in [",", ";", "\t", "|"] {
        let rows = "x,transaction_id,event_time,amount,currency,merchant\r\n\
                    1,t1,1700000000000,12.34,EUR,\"caf\u{e9} \"\"x\"\"\nstreet\"\r\n\
                    \r\n,t2,2023-11-14T22:13:20Z,1e400,,\"back\\slash\"";
        let text = format!("\u{feff}{}", rows.replace(',', separator));
        let records = read(text.as_bytes(), separator.as_bytes()[0]);
        assert_eq!(
            json(&records, 0),
            serde_json::json!({"transaction_id": "t1", "event_time": "1700000000000", "amount": "12.34",
                "currency": "EUR", "merchant": "caf\u{e9} \"x\"\nstreet"})
        );
        assert_eq!((records.len(), json(&records, 1)["merchant"].as_str()), (2, Some("back\\slash")));
    }
    let records = with_header("t1,1700000000000,12.34,EUR,,a\u{1}b,-12.5");
    let mut batch = TransactionBatch::new(Arc::new(Schema::default()));
    JsonDecoder::new(mapping()).decode(records.record(0), &mut batch).expect("a transaction");
    let transaction = batch.get(0);
    assert_eq!((transaction.id(), transaction.amount(), transaction.number(schema::LATITUDE)), ("t1", 1_234, -12.5));
    assert_eq!((transaction.text(schema::ACCOUNT), transaction.text(schema::MERCHANT)), (None, Some("a\u{1}b")));
}

#[test]
fn every_refusal_says_column_value_and_what_was_expected() {
    for (row, said) in [
        ("t,1,2,EUR,a,m", "`t,1,2,EUR,a,m`: expected 7 columns like the header, not 6"),
        ("t,1,2,EUR,a,m,1,", "expected 7 columns like the header, not 8"),
        ("t,1,twelve,EUR,a,m,", "amount: `twelve` is not a decimal number"),
        ("t,1,NaN,EUR,a,m,", "amount: `NaN` is not a decimal number"),
        ("t,1,1e400,EUR,a,m,", "amount: `1e400` is not an amount of at most"),
        ("t,1,2,EUR,a,m,1e400", "latitude: `1e400` is not a finite number"),
        ("t,1,2,EUR,a,m,nan", "latitude: `nan` is not a finite number"),
        ("t,1,2,EUR,a,m,\"91\"", "latitude: `91` is not from -90 to 90 degrees"),
        ("t,,2,EUR,a,m,", "event_time: expected a value: the record has none"),
        ("\"\",1,2,EUR,a,m,", "transaction_id: expected a value: the record has none"),
        ("t,1,2,4111111111111111,a,m,", "currency: `************1111` is not an ISO 4217 code"),
        (",,,,,,", "transaction_id: expected a value"),
    ] {
        let found = refusals(row);
        assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
    }
    assert_eq!(refusals(b"t,1,2,EUR,a\xff,m,"), ["account: `a\u{fffd}` is not UTF-8 text: byte 1 is not"]);
    let long = format!("t,1,2,EUR,a,{},", "x".repeat(2_000));
    assert!(refusals(&long)[0].ends_with("is not at most 1024 bytes long"));
}

#[test]
fn what_nobody_asked_for_may_be_anything() {
    let header = HEADER.replace("account", "notes");
    let row = |notes: &[u8]| [header.as_bytes(), b"t,1,2,EUR,", notes, b",m,\n"].concat();
    for notes in [b"\xff\xfe".to_vec(), vec![b'x'; 500_000], b"\"a\n\n,\"\"b\"".to_vec()] {
        assert!(read(&row(&notes), b',').records[0].is_ok());
    }
    let wide = format!("{}{}\nt,1,2,EUR,a,m,{}\n", HEADER.trim_end(), ",x".repeat(10_000), ",".repeat(10_000));
    assert!(read(wide.as_bytes(), b',').records[0].is_ok());
}

#[test]
fn a_quote_that_is_never_closed_costs_one_record() {
    let good = "t1,1,2,EUR,a,m,\n";
    let found = refusals(format!("{good}\"t2,1,2,EUR,a,m,\n{}", good.repeat(3)));
    assert_eq!(found.len(), 5);
    assert!(found[1].contains("`\"t2,1,2,EUR,a,m,`: expected quotes that are closed"), "{found:?}");
    assert!(found.iter().enumerate().all(|(index, refusal)| refusal.is_empty() || index == 1), "{found:?}");
    // Far from the end the record is given up when it has become too long; it is kept as it stood.
    let many = MAX_RECORD_BYTES / good.len() + 100;
    let text = format!("t2,1,2,EUR,\"a,m,\n{}t3,1,2,EUR,\"a\na\",m,\n", good.repeat(many));
    let records = with_header(&text);
    assert_eq!((records.len(), records.records.iter().filter(|record| record.is_err()).count()), (many + 2, 1));
    assert_eq!(json(&records, 0), serde_json::json!({"csv": "t2,1,2,EUR,\"a,m,"}));
    assert_eq!(json(&records, many + 1)["account"], "a\na");
}

#[test]
fn records_have_a_greatest_length() {
    let good = "t1,1,2,EUR,a,m,\n";
    for long in [
        format!("t2,1,2,EUR,a,{},\n", "x".repeat(10_000_000)),
        format!("t2,1,2,EUR,a,\"{}\",\n", "x".repeat(10_000_000)),
        format!("t2,1,2,EUR,a,\"{},\n", "x".repeat(MAX_RECORD_BYTES)),
    ] {
        let found = refusals(format!("{good}{long}{good}"));
        assert_eq!(found.len(), 3);
        assert!(found[1].contains("a record of at most 1048576 bytes"), "{found:?}");
        assert_eq!(refusals(long.trim_end()).len(), 1);
    }
    let notes = |length: usize| {
        let header = HEADER.replace("account", "notes");
        let row = format!("t,1,2,EUR,\"{}\",m,", "\n".repeat(length));
        read(format!("{header}{row}\r\n").as_bytes(), b',')
    };
    assert!(notes(MAX_RECORD_BYTES - "t,1,2,EUR,\"\",m,".len()).records[0].is_ok());
    assert!(notes(MAX_RECORD_BYTES - "t,1,2,EUR,\"\",m,".len() + 1).records[0].is_err());
    // Each of these lines closes the quote of the one before and opens its own: no work without end.
    let found = with_header("x\",\"\n".repeat(600_000));
    assert_eq!(found.len(), MAX_BODY_RECORDS + 1);
}

#[test]
fn headers_that_cannot_do_are_refused_as_a_whole() {
    let error = |body: &[u8]| split_csv(body, CsvReader::new(mapping(), b',')).expect_err("no header").to_string();
    assert!(error(b"transaction_id,event_time\n").contains("no column `amount`; no column `currency`"));
    assert!(error(&[b"account,", HEADER.as_bytes()].concat()).contains("column `account` is there twice"));
    assert!(error(b"\xff,a\n").contains("the name of column 1 is no UTF-8 text"));
    assert!(error(b"\"transaction_id\n").contains("its quotes closed"));
    assert!(error(&vec![b'x'; 2 * MAX_RECORD_BYTES]).contains("no record of at most"));
    assert!(read(b"", b',').is_empty() && read(HEADER.as_bytes(), b',').is_empty());
}

proptest! {
    #[test]
    fn records_are_those_of_the_csv_crate_however_they_arrive(
        rows in prop::collection::vec(prop::collection::vec("[a\"\n\r,é\\\\ ]{0,5}", 7), 0..8), step in 1_usize..40,
    ) {
        let mut writer = csv::Writer::from_writer(HEADER.as_bytes().to_vec());
        for row in &rows {
            writer.write_record(row).expect("writes");
        }
        let bytes = writer.into_inner().expect("bytes");
        let names: Vec<&str> = HEADER.trim_end().split(',').collect();
        let expected: Vec<serde_json::Value> =
            rows.iter().map(|row| names.iter().copied().zip(row).collect::<std::collections::BTreeMap<_, _>>()).map(|row| serde_json::json!(row)).collect();
        let whole = read(&bytes, b',');
        let found: Vec<serde_json::Value> = (0..whole.len()).map(|index| json(&whole, index)).collect();
        prop_assert_eq!(&found, &expected);
        let mut source = LineSource::new("test".into(), Pieces(&bytes, step), 0, false).read_by(Some(CsvReader::new(mapping(), b',')));
        let (mut records, mut at) = (Records::default(), 0);
        while source.next_records(&mut records).expect("reads") {
            for index in 0..records.len() {
                prop_assert_eq!(&json(&records, index), &expected[at]);
                at += 1;
            }
        }
        prop_assert_eq!(at, expected.len());
    }

    #[test]
    fn no_bytes_make_it_panic_or_stop(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\",\n\r".to_vec())], 0..200)) {
        let records = with_header(&bytes);
        prop_assert!(records.records.iter().zip(0..).all(|(record, index)| record.is_err() || json(&records, index).is_object()));
    }
}

/// Bytes that arrive a few at a time.
struct Pieces<'a>(&'a [u8], usize);

impl std::io::Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(self.0.len()).min(into.len());
        let (now, later) = self.0.split_at(length);
        into[..length].copy_from_slice(now);
        self.0 = later;
        Ok(length)
    }
}
