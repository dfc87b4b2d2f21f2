//! A record must read the same whatever came before it: along a known layout as by parsing it.

use proptest::prelude::*;

use super::json::tests::{decoder, with};
use crate::pipeline::ports::Decode;
use crate::transaction::{TransactionBatch, schema};

/// A record's fields in some order, each kind of value in many forms, with or without space.
fn record() -> impl Strategy<Value = String> {
    let text = || {
        prop_oneof![
            "[a-z0-9]{1,20}".prop_map(|text| format!("{text:?}")),
            any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
            Just(r#""caf\u00e9 \"x\"""#.to_owned()),
            Just("\"caf\u{e9}\"".to_owned()),
            "(null|true|17|-0|\"\"|\\{\\}|1e3)",
        ]
    };
    let number = || "\"?-?[0-9]{1,9}(\\.[0-9]{1,9})?(e-?[0-9])?\"?";
    let time = prop_oneof![
        3 => "17[0-9]{11}",
        1 => "\"17[0-9]{11}\"",
        2 => "\"20[0-3][0-9]-0[1-9]-[0-2][0-9]T1[0-9]:[0-5][0-9]:00Z\"",
        1 => "17[0-9]{8}(\\.[0-9])?",
    ];
    let any_value = prop_oneof![text(), number().prop_map(|n| n), "(\\[1, ?\\{\"account\": ?2\\}\\]|\\[\\]|\\{\\})"];
    let nested = (text(), any_value.clone()).prop_map(|(x, y)| format!("{{\"account\":{x},\"y\":{y}}}"));
    let fields = (
        text(),
        time,
        number(),
        prop_oneof![8 => Just("\"EUR\""), 1 => Just("\"usd\""), 1 => Just("\"XXX\"")],
        text(),
        prop_oneof![text(), number().prop_map(|n| n)],
        any_value,
        nested,
    );
    let order = Just(vec![0_usize, 1, 2, 3, 4, 5, 6, 7]);
    let order = prop_oneof![3 => order.clone(), 1 => order.prop_shuffle()];
    (fields, order, prop::sample::select(vec![(",", ":"), (", ", ": "), ("\n,\t", " :")]), 4..=8_usize).prop_map(
        |(fields, order, (comma, colon), count)| {
            let (id, time, amount, currency, account, latitude, other, nested) = fields;
            let currency = currency.to_owned();
            let values = [id, time, amount, currency, account, latitude, other, nested];
            let names = ["transaction_id", "event_time", "amount", "currency", "account", "latitude", "other", "card"];
            // The last fields are there or not; the first four mostly make a transaction.
            let fields: Vec<String> = order
                .into_iter()
                .filter(|at| *at < count)
                .map(|at| format!("\"{}\"{colon}{}", names[at], values[at]))
                .collect();
            format!("{{{}}}", fields.join(comma))
        },
    )
}

/// A stream of records, some of which repeat the layout of one before, some with bytes changed.
fn stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let index = any::<prop::sample::Index>;
    let changes = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec((index(), prop_oneof![Just(b'"'), Just(b','), Just(b'\\'), Just(b' '), Just(b'{'), Just(b'}'), any::<u8>()]), 1..3),
    ];
    let cut = prop_oneof![9 => Just(None), 1 => index().prop_map(Some)];
    let records = prop::collection::vec(record(), 1..4);
    (records, prop::collection::vec((index(), changes, cut), 1..12)).prop_map(|(records, picks)| {
        let change = |(pick, changes, cut): (
            prop::sample::Index,
            Vec<(prop::sample::Index, u8)>,
            Option<prop::sample::Index>,
        )| {
            let mut bytes = pick.get(&records).clone().into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        let picked: Vec<Vec<u8>> = picks.into_iter().map(change).collect();
        records.iter().map(|record| record.clone().into_bytes()).chain(picked).collect()
    })
}

/// All there is to a transaction; bits where `NaN` would not be itself.
fn all_of(batch: &TransactionBatch, at: usize) -> String {
    let found = batch.get(at);
    let texts: Vec<_> = found.texts().collect();
    let numbers = [schema::LATITUDE, schema::LONGITUDE].map(|field| found.number(field).to_bits());
    let money = (found.amount(), found.base_amount(), found.currency());
    format!("{:?} {:?} {money:?} {texts:?} {numbers:?}", found.id(), found.event_time())
}

const NESTED: &str = r#"
    transaction_id = "transaction_id"
    event_time = { path = "event_time", format = "s" }
    amount = { path = "amount", unit = "minor" }
    currency = { path = "currency", value = "EUR" }
    account = "card.account"
    latitude = "latitude"
"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn a_record_reads_the_same_whatever_came_before_it(stream in stream(), nested: bool) {
        let mapping = nested.then_some(NESTED);
        let (mut decoder, mut batch) = decoder(mapping);
        for record in stream {
            // A new decoder knows no layout: it parses.
            let (mut fresh, mut alone) = super::json::tests::decoder(mapping);
            let wanted = fresh.decode(&record, &mut alone);
            let before = batch.len();
            prop_assert_eq!(decoder.decode(&record, &mut batch), wanted.clone(), "{}", String::from_utf8_lossy(&record));
            if wanted.is_ok() {
                prop_assert_eq!(all_of(&batch, before), all_of(&alone, 0));
            }
            prop_assert_eq!(batch.len(), before + alone.len());
        }
    }
}

#[test]
fn a_record_of_a_known_layout_needs_no_parser() {
    let (mut decoder, mut batch) = decoder(None);
    let records = [
        r#"{"transaction_id":"t1","event_time":1700000000000,"amount":"12.34","currency":"EUR","x":[1],"ip":"1.1.1.1"}"#,
        r#"{"transaction_id":"t1","event_time":1700000000000,"amount":"12.34","currency":"EUR","device":"d1","x":[1]}"#,
    ];
    for record in records {
        assert_eq!(decoder.follow(record, &mut batch), None, "{record}");
        decoder.decode(record.as_bytes(), &mut batch).expect("a transaction");
    }
    for record in records {
        let other = record
            .replace("12.34", "7")
            .replace("\"t1\"", "17")
            .replace("[1]", "{\"a\":[]}")
            .replace("1.1.1.1", "caf\\u00e9")
            .replace("\"d1\"", "null");
        assert_eq!(decoder.follow(&other, &mut batch), Some(()), "{other}");
    }
    assert_eq!((batch.len(), batch.get(2).text(schema::IP)), (4, Some("caf\u{e9}")));
    for other in
        [records[0].replace("12.34", "x"), records[0].replace("\"ip\"", "\"amount\""), records[1].replace("}", "} x")]
    {
        assert_eq!(decoder.follow(&other, &mut batch), None, "{other}");
    }
    assert_eq!(batch.len(), 4);
}

#[test]
fn layouts_without_end_take_no_room_and_those_that_return_are_learned() {
    let (mut decoder, mut batch) = decoder(None);
    let usual = with("ip", "\"1.1.1.1\"");
    for at in 0..1_000 {
        batch.clear();
        decoder.decode(with(&format!("field{at}"), "1").as_bytes(), &mut batch).expect("a transaction");
    }
    // How many of the usual ones are parsed before their layout is known.
    let mut parsed = 0;
    while decoder.follow(&usual, &mut batch).is_none() {
        decoder.decode(usual.as_bytes(), &mut batch).expect("a transaction");
        parsed += 1;
    }
    assert!(parsed < 2_000, "{parsed}");
}
