//! Drift statistics against scipy's and River's own results, which `tests/fixtures/drift/make.py` made.

use caddis::drift::{
    Adwin, AdwinSettings, Direction, PageHinkley, PageHinkleySettings, jensen_shannon, ks_statistic, psi, two_sample_p,
    two_sided_p,
};
use serde_json::Value;

fn fixture(file: &str) -> Value {
    let path = format!("{}/tests/fixtures/drift/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn statistics_are_scipys() {
    let fixture = fixture("statistics.json");
    for sample in fixture["samples"].as_array().expect("samples") {
        let counts = |side: &str| -> Vec<u64> {
            sample[side].as_array().expect("counts").iter().map(|count| count.as_u64().expect("a count")).collect()
        };
        let (then, now) = (counts("then"), counts("now"));
        let ks = ks_statistic(&then, &now).unwrap();
        let p = two_sample_p(ks, then.iter().sum(), now.iter().sum());
        for (name, found) in
            [("psi", psi(&then, &now).unwrap()), ("js", jensen_shannon(&then, &now).unwrap()), ("ks", ks), ("p", p)]
        {
            let expected = number(&sample[name]);
            let (n, m) = (then.iter().sum::<u64>(), now.iter().sum::<u64>());
            assert!((found - expected).abs() < 1e-9, "{name} of {n} and {m}: {found} here, {expected} there");
        }
    }
}

#[test]
fn p_values_are_scipys_in_every_region() {
    let fixture = fixture("statistics.json");
    let all = fixture["distribution"].as_array().expect("a list");
    for row in all {
        let (n, d, expected) = (number(&row[0]), number(&row[1]), number(&row[2]));
        let found = two_sided_p(d, n);
        assert!((found - expected).abs() < 1e-9, "n {n}, d {d}: {found} here, {expected} there");
    }
    assert!(all.len() > 200);
}

#[test]
fn detectors_alarm_where_rivers_do() {
    let fixture = fixture("detectors.json");
    let mut alarms_of_all = 0;
    for case in fixture["cases"].as_array().expect("cases") {
        let values = fixture["streams"][case["stream"].as_str().expect("a name")].as_array().expect("a stream");
        let given = |name: &str, or: f64| case["settings"].get(name).map_or(or, number);
        let mut update: Box<dyn FnMut(f64) -> bool> = if case["kind"] == "adwin" {
            let usual = AdwinSettings::default();
            let mut detector = Adwin::new(AdwinSettings {
                delta: given("delta", usual.delta),
                clock: case["settings"]["clock"].as_u64().unwrap_or(usual.clock),
                max_buckets: if case["settings"]["max_buckets"] == 2 { 2 } else { usual.max_buckets },
                min_window_length: given("min_window_length", usual.min_window_length),
                grace_period: given("grace_period", usual.grace_period),
            });
            Box::new(move |value| detector.update(value))
        } else {
            let usual = PageHinkleySettings::default();
            let mut detector = PageHinkley::new(PageHinkleySettings {
                min_instances: given("min_instances", usual.min_instances),
                delta: given("delta", usual.delta),
                threshold: given("threshold", usual.threshold),
                alpha: given("alpha", usual.alpha),
                direction: match case["settings"]["mode"].as_str() {
                    Some("up") => Direction::Up,
                    Some("down") => Direction::Down,
                    _ => Direction::Both,
                },
            });
            Box::new(move |value| detector.update(value))
        };
        let found: Vec<u64> = (0..).zip(values).filter(|(_, value)| update(number(value))).map(|(at, _)| at).collect();
        let expected: Vec<u64> =
            case["alarms"].as_array().expect("alarms").iter().map(|at| at.as_u64().expect("an index")).collect();
        assert_eq!(found, expected, "{} {} on {}", case["kind"], case["settings"], case["stream"]);
        alarms_of_all += found.len();
    }
    assert!(alarms_of_all > 20);
}
