//! Stopped, killed and started again: every payment is decided once, every alert has one id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::support::{Service, Subscriber, caddis, simulate, text};

const FILE: &str = "[[sources]]\nname = \"payments\"\nfile = \"payments.ndjson\"\n";

/// Alerts by id, as the data folder has them.
fn alerts(folder: &Path) -> BTreeMap<String, Value> {
    let listed = caddis(folder, &["alerts", "list", "--json", "--limit", "1000"]);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let parsed = text(&listed.stdout);
    let parsed = parsed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    parsed.map(|alert| (alert["data"]["alert_id"].as_str().expect("an id").to_owned(), alert)).collect()
}

/// What an undisturbed run over the payments in `folder` makes of them.
fn undisturbed(payments: &[String], configuration: &str) -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("payments.ndjson"), payments.join("\n")).expect("writes");
    let mut service = Service::start_with(folder.path(), configuration, &["--until-end"]);
    let (code, log) = service.wait();
    assert_eq!(code, Some(0), "{log}");
    alerts(folder.path())
}

/// Verdict and score by transaction: what does not depend on where its records came from.
fn told(alerts: BTreeMap<String, Value>) -> BTreeMap<String, (Value, Value)> {
    let data = alerts.into_values().map(|mut alert| alert["data"].take());
    data.map(|data| (data["transaction_id"].to_string(), (data["verdict"].clone(), data["score"].clone()))).collect()
}

#[test]
fn killed_in_mid_stream_it_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let payments = simulate(folder.path());
    let expected = undisturbed(&payments, FILE);
    assert!(expected.len() > 10);
    let desk = Subscriber::open();
    let configuration = format!("{FILE}{}", desk.configuration("desk"));
    // Half of the payments are there at first: it waits for more, and is killed while it does.
    let (first, second) = payments.split_at(payments.len() / 2);
    std::fs::write(folder.path().join("payments.ndjson"), first.join("\n") + "\n").expect("writes");
    let follow = configuration.replace("payments.ndjson\"", "payments.ndjson\"\nfollow = true");
    let service = Service::start(folder.path(), &follow);
    while decided(&service) < first.len() as f64 {
        std::thread::yield_now();
    }
    service.kill();
    let mut rest = std::fs::OpenOptions::new().append(true).open(folder.path().join("payments.ndjson")).expect("opens");
    std::io::Write::write_all(&mut rest, second.join("\n").as_bytes()).expect("writes");
    let mut service = Service::start_with(folder.path(), &configuration, &["--until-end"]);
    let (code, log) = service.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(alerts(folder.path()), expected);
    // What was not delivered yet at the end is after the next start.
    let service = Service::start(folder.path(), &configuration);
    let mut received = BTreeSet::new();
    while received.len() < expected.len() {
        received.insert(desk.next()["webhook_id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(received, expected.keys().cloned().collect());
    drop(service);
}

fn decided(service: &Service) -> f64 {
    let text = service.text("/metrics");
    let counts = text.lines().filter_map(|line| line.strip_prefix("caddis_decisions_total{"));
    counts.filter_map(|line| line.split_once("} ")?.1.parse::<f64>().ok()).sum()
}

#[test]
fn what_http_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let payments = simulate(folder.path());
    let service = Service::start(folder.path(), "");
    let (status, _) = service.post_lines("/v1/transactions", &payments[..3_000]);
    assert_eq!(status, 200);
    let id =
        |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["transaction_id"].as_str().map(str::to_owned);
    let last = id(&payments[2_999]).expect("an id");
    let before = service.get(&format!("/v1/decisions/{last}"));
    assert_eq!(before.0, 200);
    service.kill();
    let service = Service::start(folder.path(), "");
    assert_eq!(service.get(&format!("/v1/decisions/{last}")), before);
    // Sent again, as a client does that got no answer: nothing is decided twice.
    let (_, again) = service.post_lines("/v1/transactions", &payments[2_990..3_010]);
    assert_eq!((again["duplicates"].as_u64(), again["accepted"].as_u64()), (Some(10), Some(10)));
    let (status, _) = service.post_lines("/v1/transactions", &payments[3_010..]);
    assert_eq!(status, 200);
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
    // Positions differ from a file's; the verdicts and scores do not.
    assert_eq!(told(alerts(folder.path())), told(undisturbed(&payments, FILE)));
}

#[test]
fn a_run_until_the_end_tells_by_its_exit_code_that_a_record_was_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let payments = simulate(folder.path());
    // The last record of all: it is decided after the source has ended.
    let text = format!("{}\n{{\"transaction_id\": \"odd\"}}\n", payments.join("\n"));
    std::fs::write(folder.path().join("payments.ndjson"), text).expect("writes");
    let mut service = Service::start_with(folder.path(), FILE, &["--until-end"]);
    let (code, log) = service.wait();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains(&format!("\"decided\":{},\"refused\":1", payments.len())), "{log}");
}

/// Waits, by asking, until the newest snapshot has all that was decided.
fn snapshot_of_all(service: &Service) {
    let value = |text: &str, name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()));
    loop {
        let text = service.text("/metrics");
        let taken = value(&text, "caddis_snapshot_entry ");
        if taken.is_some() && taken == value(&text, "caddis_journal_entries ") {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_restart_from_a_snapshot_is_a_restart_from_the_journal_and_a_damaged_one_is_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let payments = simulate(folder.path());
    let often = "[snapshots]\nevery = \"20ms\"\n";
    let mut service = Service::start(folder.path(), often);
    let files = || {
        let folder = std::fs::read_dir(folder.path().join("data/snapshots")).expect("a folder");
        let mut files: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "snapshot"));
        files.sort();
        files
    };
    for (turn, part) in payments.chunks(payments.len() / 4 + 1).enumerate() {
        for some in part.chunks(part.len() / 3 + 1) {
            assert_eq!(service.post_lines("/v1/transactions", some).0, 200);
            snapshot_of_all(&service);
        }
        let before = service.get(&format!("/v1/entities/account/{}", account(&part[0])));
        assert_eq!(before.0, 200, "the account is known");
        service.kill();
        let newest = files().pop().expect("snapshots were taken");
        if turn % 2 == 1 {
            let mut bytes = std::fs::read(&newest).expect("reads");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(&newest, bytes).expect("writes");
        }
        service = Service::start(folder.path(), often);
        assert_eq!(service.get(&format!("/v1/entities/account/{}", account(&part[0]))), before);
        let (_, log) = service.stop();
        assert!(log.contains("snapshot loaded"), "{log}");
        let named = newest.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(log.contains(&format!("{named}: damaged at byte")), turn % 2 == 1, "{log}");
        service = Service::start(folder.path(), often);
    }
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(told(alerts(folder.path())), told(undisturbed(&payments, FILE)));
}

fn account(line: &str) -> String {
    let payment = serde_json::from_str::<Value>(line).expect("JSON");
    payment["account"].as_str().expect("an account").to_owned()
}
