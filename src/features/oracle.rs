//! Features straight from their definition, over a plain list of everything that came before: slow, and
//! obviously right. The tests compare the engine's with these.

use proptest::prelude::*;
use std::sync::Arc;

use super::{Admission, FeatureSet, FeatureShards, KeyedHasher, PlainRows, Prepared};
use crate::transaction::{Currency, EventTime, Schema, TransactionBatch, schema};

const SET: &str = r#"
[[entities]]
name = "account"
[[entities]]
name = "pair"
fields = ["account", "merchant"]
[[entities]]
name = "merchant"

[[features]]
name = "amount_now"
is = "amount"
"#;

/// Every aggregate over short, long, nested and delayed windows.
fn set_text() -> String {
    let mut text = SET.to_owned();
    for entity in ["account", "pair", "merchant"] {
        for is in ["count", "sum", "mean", "std", "min", "max", "z_score", "ratio", "fraud_count", "fraud_rate"] {
            for (windows, delay) in [("[\"2s\", \"10s\", \"60s\"]", ""), ("[\"5s\", \"20s\"]", "delay = \"7s\"")] {
                for current in ["include", "exclude"] {
                    let suffix = format!("{current}_{}", if delay.is_empty() { "now" } else { "then" });
                    text += &format!(
                        "[[features]]\nname = \"{entity}_{is}_{{window}}_{suffix}\"\nentity = \"{entity}\"\nis = \"{is}\"\nwindows = {windows}\ncurrent = \"{current}\"\n{delay}\n"
                    );
                }
            }
        }
        for is in ["distinct", "share", "is_new", "first_seen"] {
            for (windows, delay) in [("[\"2s\", \"10s\", \"60s\"]", ""), ("[\"5s\", \"20s\"]", "delay = \"7s\"")] {
                let suffix = if delay.is_empty() { "now" } else { "then" };
                text += &format!(
                    "[[features]]\nname = \"{entity}_{is}_{{window}}_{suffix}\"\nentity = \"{entity}\"\nis = \"{is}\"\nof = \"device\"\nwindows = {windows}\n{delay}\n"
                );
            }
        }
        for is in ["last", "seconds_since_last", "distance", "speed"] {
            text += &format!("[[features]]\nname = \"{entity}_{is}\"\nentity = \"{entity}\"\nis = \"{is}\"\n");
        }
    }
    text
}

#[derive(Debug, Clone)]
struct Payment {
    account: u8,
    merchant: Option<u8>,
    device: Option<u8>,
    time: EventTime,
    amount: i64,
    place: Option<(f64, f64)>,
    admission: Admission,
    /// A label that becomes known just before this payment: which payment before, and fraud or not.
    label: Option<(usize, bool)>,
}

struct Seen {
    payment: Payment,
    fraud: bool,
}

fn keys(payment: &Payment, entity: &str) -> Option<(u8, u8)> {
    match entity {
        "account" => Some((payment.account, 0)),
        "merchant" => payment.merchant.map(|m| (m, 0)),
        _ => payment.merchant.map(|m| (payment.account, m)),
    }
}

fn seconds(text: &str) -> i64 {
    text.trim_end_matches('s').parse::<i64>().expect("seconds") * 1_000
}

/// One feature, by its name, for `payment`, from everything `before` it.
fn expected(name: &str, before: &[Seen], payment: &Payment) -> f64 {
    if name == "amount_now" {
        return payment.amount as f64;
    }
    let (entity, rest) = name.split_once('_').expect("entity");
    let Some(key) = keys(payment, entity) else { return f64::NAN };
    let mut own: Vec<&Seen> = before.iter().filter(|seen| keys(&seen.payment, entity) == Some(key)).collect();
    own.sort_by_key(|seen| seen.payment.time); // stable: ties stay in the order of arrival
    let reach = 60_000;
    let visible = |seen: &&&Seen| seen.payment.time <= payment.time && seen.payment.time > payment.time - reach;
    let kilometres = |(a, b): (f64, f64), (c, d): (f64, f64)| {
        // The spherical law of cosines: another formula for the same distance.
        let (a, b, c, d) = (a.to_radians(), b.to_radians(), c.to_radians(), d.to_radians());
        6_371.008_8 * (a.sin() * c.sin() + a.cos() * c.cos() * (d - b).cos()).clamp(-1.0, 1.0).acos()
    };
    let last = own.iter().rfind(visible);
    let last_place = own.iter().filter(|seen| seen.payment.place.is_some()).rfind(visible);
    let moved = || {
        let last = last_place?;
        let hours = (payment.time - last.payment.time).max(1_000) as f64 / 3_600_000.0;
        let km = kilometres(last.payment.place?, payment.place?);
        Some((km, km / hours))
    };
    match rest {
        "last" => return last.map_or(f64::NAN, |seen| seen.payment.amount as f64),
        "seconds_since_last" => return last.map_or(f64::NAN, |seen| (payment.time - seen.payment.time) as f64 / 1e3),
        "distance" => return moved().map_or(f64::NAN, |(km, _)| km),
        "speed" => return moved().map_or(f64::NAN, |(_, speed)| speed),
        _ => {}
    }
    let delayed = rest.ends_with("_then");
    let delay = if delayed { 7_000 } else { 0 };
    let parts: Vec<&str> = rest.split('_').collect();
    let window =
        seconds(parts.iter().find(|part| part.ends_with('s') && part[..1].parse::<u8>().is_ok()).expect("window"));
    let is: String =
        parts.iter().take_while(|part| part[..1].parse::<u8>().is_err()).copied().collect::<Vec<_>>().join("_");
    let include = !delayed && !rest.contains("exclude") && !matches!(is.as_str(), "is_new" | "first_seen");
    let to = payment.time - delay;
    let inside: Vec<&&Seen> =
        own.iter().filter(|seen| seen.payment.time <= to && seen.payment.time > to - window).collect();
    let mut amounts: Vec<f64> = inside.iter().map(|seen| seen.payment.amount as f64).collect();
    let mut devices: Vec<u8> = inside.iter().filter_map(|seen| seen.payment.device).collect();
    let matches: Vec<&&&Seen> =
        inside.iter().filter(|seen| payment.device.is_some() && seen.payment.device == payment.device).collect();
    let frauds = inside.iter().filter(|seen| seen.fraud).count() as f64;
    let first_match = matches.first().map(|seen| seen.payment.time);
    let mut match_count = matches.len() as f64;
    if include {
        amounts.push(payment.amount as f64);
        devices.extend(payment.device);
        match_count += 1.0;
    }
    devices.sort_unstable();
    devices.dedup();
    let n = amounts.len() as f64;
    let sum: f64 = amounts.iter().sum();
    let mean = sum / n;
    let std =
        if n < 2.0 { f64::NAN } else { (amounts.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt() };
    match is.as_str() {
        "count" => n,
        "sum" => sum,
        "mean" => mean,
        "std" => std,
        "min" => amounts.iter().copied().fold(f64::NAN, f64::min),
        "max" => amounts.iter().copied().fold(f64::NAN, f64::max),
        "z_score" if std > 0.0 => (payment.amount as f64 - mean) / std,
        "z_score" => f64::NAN,
        "ratio" if mean > 0.0 => payment.amount as f64 / mean,
        "ratio" => f64::NAN,
        "fraud_count" => frauds,
        "fraud_rate" if n > 0.0 => frauds / n,
        "fraud_rate" => f64::NAN,
        "distinct" => devices.len() as f64,
        "share" if payment.device.is_some() && n > 0.0 => match_count / n,
        "is_new" if payment.device.is_some() => f64::from(u8::from(matches.is_empty())),
        "first_seen" if payment.device.is_some() => {
            first_match.map_or(f64::NAN, |first| (payment.time - first) as f64 / 1e3)
        }
        "share" | "is_new" | "first_seen" => f64::NAN,
        other => panic!("no oracle for {other}"),
    }
}

fn payments(accounts: u8, count: usize) -> impl Strategy<Value = Vec<Payment>> {
    let one = (
        (0..accounts, prop::option::weighted(0.9, 0..3_u8), prop::option::weighted(0.9, 0..5_u8)),
        // Steps of time: many ties, some gaps longer than a window, some disorder.
        prop_oneof![5 => Just(0_i64), 10 => 1..1_500_i64, 1 => 5_000..70_000_i64],
        prop_oneof![8 => Just(0_i64), 2 => 1..15_000_i64],
        prop_oneof![3 => 1..100_000_i64, 1 => Just(500_i64), 1 => Just(0_i64)],
        prop::option::weighted(0.8, (-80.0..80.0_f64, -179.0..179.0_f64)),
        prop_oneof![12 => Just(Admission::Admit), 1 => Just(Admission::Late), 1 => Just(Admission::Skip)],
        prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<bool>())),
    );
    prop::collection::vec(one, 1..count).prop_map(|steps| {
        let mut now = 1_600_000_000_000;
        steps
            .into_iter()
            .enumerate()
            .map(|(at, ((account, merchant, device), step, back, amount, place, admission, label))| {
                now += step;
                // As exact as places are kept.
                #[expect(clippy::cast_possible_truncation, reason = "about a metre")]
                let place = place.map(|(lat, lon)| (f64::from(lat as f32), f64::from(lon as f32)));
                let label = label.filter(|_| at > 0).map(|(index, fraud)| (index.index(at.max(1)), fraud));
                Payment { account, merchant, device, time: now - back, amount, place, admission, label }
            })
            .collect()
    })
}

fn add(batch: &mut TransactionBatch, at: usize, payment: &Payment) {
    let mut draft = batch.draft();
    draft.set_id(&format!("t{at}"));
    draft.set_text(schema::ACCOUNT, &format!("a{}", payment.account));
    if let Some(merchant) = payment.merchant {
        draft.set_text(schema::MERCHANT, &format!("m{merchant}"));
    }
    if let Some(device) = payment.device {
        draft.set_text(schema::DEVICE, &format!("d{device}"));
    }
    if let Some((latitude, longitude)) = payment.place {
        draft.set_number(schema::LATITUDE, latitude);
        draft.set_number(schema::LONGITUDE, longitude);
    }
    draft.finish(payment.time, payment.amount, Currency::parse("EUR").expect("EUR"), payment.amount);
}

/// The engine's rows with this many workers and cuts between batches.
fn rows(set: &Arc<FeatureSet>, payments: &[Payment], workers: usize, cut: usize) -> Vec<f64> {
    let schema = Arc::new(Schema::default());
    let hasher = KeyedHasher::new(*b"0123456789abcdef");
    let mut shards: Vec<FeatureShards> =
        (0..workers).map(|worker| FeatureShards::new(Arc::clone(set), worker, workers, 15_000)).collect();
    let mut all = Vec::new();
    let mut from = 0;
    while from < payments.len() {
        // A label ends a batch, as in the pipeline.
        let mut to = from + 1;
        if let Some((target, fraud)) = payments[from].label {
            for shards in &mut shards {
                shards.label(hasher.transaction_id(&format!("t{target}")), fraud);
            }
        }
        while to < payments.len() && to - from < cut && payments[to].label.is_none() {
            to += 1;
        }
        let mut batch = TransactionBatch::new(Arc::clone(&schema));
        for (at, payment) in payments.iter().enumerate().take(to).skip(from) {
            add(&mut batch, at, payment);
        }
        let admissions: Vec<Admission> = payments[from..to].iter().map(|payment| payment.admission).collect();
        let mut prepared = Prepared::default();
        prepared.fill(set, &hasher, &batch);
        let mut cells = vec![f64::NAN; batch.len() * set.len()];
        let mut sink = PlainRows { cells: &mut cells, width: set.len() };
        set.row_features(&batch, &admissions, &mut sink);
        for shards in &mut shards {
            shards.apply(&batch, &prepared, &admissions, &mut sink);
        }
        all.append(&mut cells);
        from = to;
    }
    all
}

fn close(name: &str, found: f64, wanted: f64) -> bool {
    if found.is_nan() || wanted.is_nan() {
        return found.is_nan() == wanted.is_nan();
    }
    if name.contains("distance") || name.contains("speed") {
        // Two formulas, each with its own bad corner: the law of cosines loses small distances.
        return (found - wanted).abs() <= 1e-3 * wanted.abs().max(1.0) + if name.contains("speed") { 2.0 } else { 0.0 };
    }
    if name.contains("std") || name.contains("mean") || name.contains("z_score") || name.contains("ratio") {
        return (found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0);
    }
    // The same integers divided once: exact.
    found == wanted || (name.contains("rate") || name.contains("share")) && (found - wanted).abs() < 1e-15
}

/// A small limit: tiles of four events at first, more where several have one time.
const TILED: &str = r#"
[[entities]]
name = "account"
exact_events = 256

[[features]]
name = "account_count_{window}_now"
entity = "account"
is = "count"
windows = ["2s", "20s", "60s"]

[[features]]
name = "account_sum_{window}_now"
entity = "account"
is = "sum"
windows = ["20s", "60s"]

[[features]]
name = "account_max_{window}_now"
entity = "account"
is = "max"
windows = ["60s"]

[[features]]
name = "account_fraud_count_{window}_now"
entity = "account"
is = "fraud_count"
windows = ["20s", "60s"]

[[features]]
name = "account_count_{window}_then"
entity = "account"
is = "count"
windows = ["20s"]
delay = "7s"

[[features]]
name = "account_distinct_{window}_now"
entity = "account"
is = "distinct"
of = "device"
windows = ["60s"]
"#;

/// So dense that a minute holds hundreds.
fn crowded(mut payments: Vec<Payment>, mut tail: Vec<Payment>) -> Vec<Payment> {
    payments.append(&mut tail);
    let start = 1_600_000_000_000;
    for (at, payment) in payments.iter_mut().enumerate() {
        payment.time = start + (payment.time - start) / 12;
        payment.label =
            payment.label.map(|(target, fraud)| (target.min(at.saturating_sub(1)), fraud)).filter(|_| at > 0);
    }
    payments.sort_by_key(|payment| (payment.time + i64::from(payment.device.unwrap_or_default()) * 20) / 50);
    payments
}

/// The payments of the minute up to `payment`, without the oldest that the missing tile may hold.
fn certain<'a>(before: &'a [Seen], payment: &Payment, tile: f64) -> Vec<&'a Payment> {
    let inside = |seen: &&Seen| (payment.time - 59_999..=payment.time).contains(&seen.payment.time);
    let mut inside: Vec<&Payment> = before.iter().filter(inside).map(|seen| &seen.payment).collect();
    inside.sort_by_key(|payment| payment.time);
    inside.into_iter().enumerate().filter(|(at, _)| *at as f64 >= tile).map(|(_, payment)| payment).collect()
}

fn greatest_of_the_rest(before: &[Seen], payment: &Payment, tile: f64) -> f64 {
    let rest = certain(before, payment, tile);
    rest.iter().map(|payment| payment.amount).max().unwrap_or(0).max(payment.amount) as f64
}

fn missing_devices(before: &[Seen], payment: &Payment, tile: f64) -> f64 {
    let different = |payments: Vec<&Payment>| {
        let devices = payments.into_iter().chain([payment]).filter_map(|payment| payment.device);
        devices.collect::<std::collections::BTreeSet<u8>>().len() as f64
    };
    different(certain(before, payment, 0.0)) - different(certain(before, payment, tile))
}

/// What the label before a payment says.
fn know(before: &mut [Seen], seen_at: &[Option<usize>], payment: &Payment) {
    if let Some((target, fraud)) = payment.label
        && let Some(Some(place)) = seen_at.get(target)
    {
        before[*place].fraud = fraud;
    }
}

fn remember(before: &mut Vec<Seen>, seen_at: &mut Vec<Option<usize>>, payment: &Payment) {
    let admitted = payment.admission == Admission::Admit;
    seen_at.push(admitted.then_some(before.len()));
    if admitted {
        before.push(Seen { payment: payment.clone(), fraud: false });
    }
}

fn check(set: &Arc<FeatureSet>, payments: &[Payment]) -> Result<(), TestCaseError> {
    let found = rows(set, payments, 1, usize::MAX);
    let mut before: Vec<Seen> = Vec::new();
    let mut seen_at: Vec<Option<usize>> = Vec::new();
    for (at, payment) in payments.iter().enumerate() {
        know(&mut before, &seen_at, payment);
        for (slot, name) in set.names().iter().enumerate() {
            let found = found[at * set.len() + slot];
            let wanted = if payment.admission == Admission::Skip { f64::NAN } else { expected(name, &before, payment) };
            prop_assert!(close(name, found, wanted), "payment {at}, {name}: found {found}, expected {wanted}");
        }
        remember(&mut before, &mut seen_at, payment);
    }
    Ok(())
}

fn set() -> Arc<FeatureSet> {
    let text = set_text();
    match FeatureSet::parse(&text, "oracle.toml", &Schema::default()) {
        Ok(set) => Arc::new(set),
        Err(mistakes) => panic!("{mistakes}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn features_are_what_their_definition_says(payments in payments(6, 120)) {
        check(&set(), &payments)?;
    }

    /// One account only: it grows past the size from which running state is kept.
    #[test]
    fn large_entities_are_as_exact_as_small_ones(payments in payments(1, 400)) {
        check(&set(), &payments)?;
    }

    /// An account with more events than are kept as they are: what comes late may fall into a tile.
    #[test]
    fn tiles_stay_within_their_declared_error(payments in payments(1, 500), tail in payments(1, 300)) {
        let set = Arc::new(FeatureSet::parse(TILED, "tiled.toml", &Schema::default()).unwrap_or_else(|m| panic!("{m}")));
        let payments = crowded(payments, tail);
        let found = rows(&set, &payments, 1, usize::MAX);
        let (mut before, mut seen_at) = (Vec::new(), Vec::new());
        for (at, payment) in payments.iter().enumerate() {
            know(&mut before, &seen_at, payment);
            for (slot, name) in set.names().iter().enumerate() {
                let found = found[at * set.len() + slot];
                if payment.admission == Admission::Skip {
                    continue;
                }
                let wanted = expected(name, &before, payment);
                // Up to one tile is missing, which holds at most one in 64 of the payments since the window's
                // start; a window that ends in the past may miss one at its end as well.
                let window = name.split('_').find(|part| part.ends_with('s') && part.len() > 1).expect("a window");
                let delayed = name.ends_with("_then");
                let since = seconds(window) / 1_000 + if delayed { 7 } else { 0 };
                let all = expected(&format!("account_count_{since}s_now"), &before, payment);
                // Events of one time go into one tile, which is then larger than it need be: here up to twice.
                let tile = (2.0 * (all / 64.0).ceil() + 1.0) * if delayed { 2.0 } else { 1.0 };
                let close = match () {
                    () if name.contains("_sum_") => found <= wanted && found >= wanted - tile * 100_000.0,
                    // Five devices at most: the sketch errs by less than half, and the tile may hold one's only payment.
                    () if name.contains("_distinct_") => found <= wanted && found >= wanted - missing_devices(&before, payment, tile),
                    () if name.contains("_max_") => found <= wanted && found >= greatest_of_the_rest(&before, payment, tile),
                    () => found <= wanted && found >= wanted - tile,
                };
                prop_assert!(close, "payment {at}, {name}: found {found}, expected {wanted}");
            }
            remember(&mut before, &mut seen_at, payment);
        }
    }

    /// However many events there are, an entity's memory stays what its exact events and some tiles need.
    #[test]
    fn a_hot_key_has_bounded_memory(seed in 1..1_000_u64) {
        let text = "[[entities]]\nname = \"account\"\nexact_events = 1000\n[[features]]\nname = \"devices\"\nentity = \"account\"\nis = \"distinct\"\nof = \"device\"\nwindow = \"90d\"\n[[features]]\nname = \"sum\"\nentity = \"account\"\nis = \"sum\"\nwindow = \"90d\"\n";
        let set = Arc::new(FeatureSet::parse(text, "hot.toml", &Schema::default()).unwrap_or_else(|m| panic!("{m}")));
        let hasher = KeyedHasher::new(*b"0123456789abcdef");
        let mut shards = FeatureShards::new(Arc::clone(&set), 0, 1, 0);
        let mut bytes = Vec::new();
        let mut last = Vec::new();
        for block in 0..40_i64 {
            let mut batch = TransactionBatch::new(Arc::new(Schema::default()));
            for at in block * 500..(block + 1) * 500 {
                let mut draft = batch.draft();
                draft.set_id(&format!("t{seed}-{at}"));
                draft.set_text(schema::ACCOUNT, "a1");
                draft.set_text(schema::DEVICE, &format!("d{seed}-{at}"));
                draft.finish(1_600_000_000_000 + at * 1_000, 1, Currency::EUR, 1);
            }
            let mut prepared = Prepared::default();
            prepared.fill(&set, &hasher, &batch);
            last = vec![f64::NAN; batch.len() * set.len()];
            shards.apply(&batch, &prepared, &[Admission::Admit; 500], &mut PlainRows { cells: &mut last, width: set.len() });
            bytes.push(shards.memory().bytes);
        }
        // From 5,000 events to 20,000: two sizes of tiles more, and the largest there was fills up; 64 tiles of each
        // size, of some 640 bytes.
        prop_assert!(bytes[39] <= bytes[9] + 3 * 64 * 640, "{:?}", bytes);
        let (devices, sum) = (last[last.len() - 2], last[last.len() - 1]);
        prop_assert!((devices - 20_000.0).abs() < 0.2 * 20_000.0, "{} devices", devices);
        prop_assert!(sum <= 20_000.0 && sum > 20_000.0 * (1.0 - 1.0 / 32.0), "sum {}", sum);
    }

    #[test]
    fn neither_workers_nor_batches_change_a_bit(payments in payments(4, 150), workers in 2..5_usize, cut in 1..40_usize) {
        let set = set();
        let bits = |rows: Vec<f64>| rows.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        prop_assert_eq!(bits(rows(&set, &payments, workers, cut)), bits(rows(&set, &payments, 1, usize::MAX)));
    }
}
