//! Where a limit is met, Caddis pauses, says so, drops nothing, and goes on by itself once there is room.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Service, Subscriber, caddis, runtime, text};

const RULES: &str = "[[rules]]\nname = \"dear\"\nwhen = \"amount > 1000\"\nverdict = \"review\"\n\
                     [[rules]]\nname = \"new\"\nwhen = \"!(account_count_24h > 1)\"\nverdict = \"block\"\n";

fn payment(n: usize, amount: &str) -> String {
    json!({"transaction_id": format!("p{n}"), "event_time": "2026-01-01T12:00:00Z", "amount": amount,
        "currency": "EUR", "account": "a1"})
    .to_string()
}

/// Rules alone decide; the first payment of an account is blocked, dear ones are reviewed.
fn by_rules(folder: &Path, more: &str) -> String {
    std::fs::write(folder.join("policy.toml"), RULES).expect("writes");
    format!("{more}\n[policy]\nfile = \"policy.toml\"\n[model]\nenabled = false\n")
}

/// Posts something that may never be answered.
fn post_and_go(service: &Service, body: String) -> Option<u16> {
    let request = reqwest::Client::new().post(format!("{}/v1/transactions", service.url)).body(body);
    let request = request.timeout(Duration::from_millis(500)).header("content-type", "application/json");
    runtime().block_on(async { request.send().await.ok().map(|answer| answer.status().as_u16()) })
}

/// Posts until nothing is taken any more; says how many were answered with `status`.
fn fill(service: &Service, status: u16, body: impl Fn(usize) -> String) -> usize {
    let mut taken = 0;
    for n in 0..100_000 {
        match post_and_go(service, body(n)) {
            Some(found) if found == status => taken += 1,
            Some(503) | None => break,
            Some(other) => panic!("{other}"),
        }
    }
    taken
}

fn until_ready(service: &Service) {
    while service.get("/readyz").0 != 200 {
        std::thread::yield_now();
    }
}

fn trouble(service: &Service) -> String {
    loop {
        let (status, answer) = service.get("/readyz");
        if status == 503 {
            return answer["error"].as_str().expect("why").to_owned();
        }
    }
}

#[test]
fn a_full_quarantine_pauses_until_somebody_looks_at_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "[quarantine]\nmax_bytes = \"4KiB\"\n");
    let taken = fill(&service, 422, |n| format!("{{\"transaction_id\": \"g{n}\"}}"));
    assert!(taken > 3, "{taken}");
    let said = trouble(&service);
    assert!(said.contains("the quarantine cannot be written") && said.contains("`quarantine.max_bytes`"), "{said}");
    // Good payments wait as well: the order of all is kept.
    assert_eq!(service.post("/v1/transactions", payment(0, "1.00")).0, 503);
    assert_eq!(service.metric("caddis_ready "), 0.0);
    let exported = |folder: &Path| text(&caddis(folder, &["quarantine", "export"]).stdout);
    assert_eq!(exported(folder.path()).lines().count(), taken);
    assert!(caddis(folder.path(), &["quarantine", "clear"]).status.success());
    until_ready(&service);
    // The one that had to wait is kept, though nobody waited for it any more.
    assert_eq!(exported(folder.path()), format!("{{\"transaction_id\": \"g{taken}\"}}\n"));
    assert_eq!(service.post("/v1/transactions", payment(0, "1.00")).0, 200);
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("paused until it can").count(), 1, "{log}");
}

#[test]
fn a_full_journal_pauses_and_can_be_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "[durability]\nmax_journal = \"16KiB\"\n");
    let taken = fill(&service, 200, |n| payment(n, "1.00"));
    assert!(taken > 20, "{taken}");
    let said = trouble(&service);
    assert!(said.contains("`durability.max_journal`"), "{said}");
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
    let service = Service::start(folder.path(), "");
    assert_eq!(service.metric("caddis_journal_entries "), taken as f64);
    assert_eq!(service.get(&format!("/v1/decisions/p{}", taken - 1)).0, 200);
    assert_eq!(service.get(&format!("/v1/decisions/p{taken}")).0, 404, "it was never acknowledged");
}

#[test]
fn who_waits_for_a_verdict_may_have_one_by_rules_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = "[durability]\nmax_journal = \"16KiB\"\n[http]\noverload = \"rules_only\"\n";
    let service = Service::start(folder.path(), &by_rules(folder.path(), limits));
    fill(&service, 200, |n| payment(n, "1.00"));
    trouble(&service);
    let (status, answer) = service.post("/v1/decisions", payment(100_000, "5000.00"));
    assert_eq!((status, &answer["verdict"], &answer["degraded"]), (200, &json!("review"), &json!(true)), "{answer}");
    assert_eq!((&answer["rules"][0]["name"], &answer["position"]), (&json!("dear"), &Value::Null));
    // A rule about what Caddis remembers must not turn on everybody when it remembers nothing.
    let lines = [payment(100_001, "5.00"), "{}".into()];
    let (status, answer) = service.post_lines("/v1/decisions", &lines);
    let results = &answer["results"];
    assert_eq!(
        (status, &results[0]["decision"]["verdict"], &results[0]["status"]),
        (200, &json!("allow"), &json!("degraded"))
    );
    assert_eq!(results[1]["status"], "refused");
    // Nobody waits for a verdict here, and nothing would be remembered.
    assert_eq!(service.post("/v1/transactions", payment(100_002, "5.00")).0, 503);
    assert_eq!(service.metric("caddis_degraded_total "), 2.0);
    assert_eq!(service.stop().0, Some(0));
}

#[test]
fn a_full_outbox_pauses_until_its_subscriber_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let desk = Subscriber::open();
    desk.fail(true);
    let configuration = by_rules(folder.path(), &format!("[alerts]\nmax_waiting = 5\n{}", desk.configuration("desk")));
    let service = Service::start(folder.path(), &configuration);
    let mut alerts = std::collections::BTreeSet::new();
    let taken = fill(&service, 200, |n| payment(n, "5000.00"));
    assert!(taken >= 5, "{taken}");
    let said = trouble(&service);
    assert!(said.contains("`alerts.max_waiting`") && said.contains("caddis alerts"), "{said}");
    desk.fail(false);
    assert!(caddis(folder.path(), &["alerts", "resend", "--waiting"]).status.success());
    until_ready(&service);
    // What was acknowledged while the outbox was full alerts too.
    while alerts.len() < taken {
        alerts.insert(desk.next()["data"]["transaction_id"].as_str().expect("an id").to_owned());
        if service.get("/readyz").0 == 503 {
            let _ = caddis(folder.path(), &["alerts", "resend", "--waiting"]);
        }
    }
    assert_eq!(service.stop().0, Some(0));
}

/// More at once than can wait: everybody is told, and the sums are right.
#[test]
fn under_overload_every_record_is_accounted_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "[http]\nmax_connections = 4000\n");
    let mut answers: std::collections::BTreeMap<u16, u64> = std::collections::BTreeMap::new();
    let client = reqwest::Client::new();
    let url = format!("{}/v1/transactions", service.url);
    runtime().block_on(async {
        let mut requests = tokio::task::JoinSet::new();
        for n in 0..2_500 {
            // Every tenth is no payment, every seventh is there twice.
            let body = if n % 10 == 0 { "{}".to_owned() } else { payment(if n % 7 == 0 { n - 1 } else { n }, "1.00") };
            let request = client.post(&url).header("content-type", "application/json").body(body);
            requests.spawn(async move { request.send().await.expect("an answer").status().as_u16() });
        }
        while let Some(status) = requests.join_next().await {
            *answers.entry(status.expect("no panic")).or_default() += 1;
        }
    });
    let count = |status| answers.get(&status).copied().unwrap_or_default() as f64;
    assert_eq!(answers.keys().filter(|status| ![200, 422, 429].contains(*status)).count(), 0, "{answers:?}");
    let decided: f64 = ["allow", "review", "block"]
        .iter()
        .map(|verdict| service.metric_of(&format!("caddis_decisions_total{{verdict=\"{verdict}\"}}")))
        .sum();
    assert_eq!(count(200), decided + service.metric("caddis_duplicates_total "), "{answers:?}");
    assert_eq!(count(422), service.metric("caddis_quarantined_total "), "{answers:?}");
    assert_eq!(service.metric("caddis_inbox_messages "), 0.0);
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
}

/// Bodies that never end are let go, and hold nobody up meanwhile.
#[test]
fn bodies_that_drip_in_are_let_go() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "[http]\nbody_timeout = \"300ms\"\n");
    let address = service.url.trim_start_matches("http://");
    let mut dripping: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(address).expect("connects");
            let head = "POST /v1/decisions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
            stream.write_all(head.as_bytes()).expect("sends");
            stream
        })
        .collect();
    assert_eq!(service.post("/v1/decisions", payment(1, "1.00")).0, 200);
    for stream in &mut dripping {
        let _ = stream.write_all(b" ");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer and an end");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("did not come in time"), "{answer}");
    }
    assert_eq!(service.post("/v1/decisions", payment(2, "1.00")).0, 200);
}
