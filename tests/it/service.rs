//! The service over HTTP, as those who build on it meet it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::support::{Service, Subscriber, caddis, runtime, simulate, text};

fn payment(id: &str) -> Value {
    json!({"transaction_id": id, "event_time": "2026-01-01T12:00:00Z", "amount": "12.50", "currency": "EUR",
        "account": "a1", "merchant": "m1", "terminal": "t1", "device": "d1", "channel": "pos"})
}

#[test]
fn a_payment_is_decided_once_and_can_be_looked_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "");
    let (status, first) = service.post("/v1/decisions", payment("p1").to_string());
    assert_eq!((status, &first["verdict"]), (200, &json!("allow")), "{first}");
    assert_eq!(first["position"], json!({"partition": 0, "offset": 0}));
    assert_eq!(first["model"]["name"], "baseline");
    assert!((0.0..=1.0).contains(&first["score"].as_f64().expect("a score")));
    assert_eq!(service.get("/v1/decisions/p1"), (200, first.clone()));
    assert_eq!(service.get("/v1/decisions/p2").0, 404);

    // The same id again: the first decision, and nothing counted twice.
    assert_eq!(service.post("/v1/decisions", payment("p1").to_string()), (200, first));
    let (_, again) = service.post("/v1/transactions", json!([payment("p1"), payment("p2")]).to_string());
    let statuses: Vec<&Value> = again["results"].as_array().expect("results").iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, ["duplicate", "accepted"]);
    let (status, profile) = service.get("/v1/entities/account/a1");
    assert_eq!((status, &profile["transactions"]), (200, &json!(2)), "{profile}");
    assert_eq!(profile["features"]["account_sum_1h"], json!(2500.0));
    assert_eq!(service.get("/v1/entities/account/nobody").0, 404);
    assert_eq!(service.get("/v1/entities/planet/a1").0, 404);
    assert_eq!(service.metric("caddis_duplicates_total"), 2.0);

    // A label, and what the terminal's features will make of it.
    let (status, labelled) = service.post("/v1/labels", r#"{"transaction_id": "p1", "fraud": true}"#);
    assert_eq!((status, &labelled["results"][0]["known"]), (200, &json!(true)), "{labelled}");
    let (status, labelled) = service.post("/v1/labels", r#"[{"transaction_id": "p1"}]"#);
    assert_eq!((status, &labelled["refused"]), (422, &json!(1)), "{labelled}");
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn one_bad_record_is_refused_with_the_reason_and_can_be_fed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "");
    let mut bad = payment("p2");
    bad["amount"] = "twelve".into();
    bad["sum"] = 12.into();
    let lines = [payment("p1").to_string(), bad.to_string(), "{\"a\":".repeat(100_000), payment("p3").to_string()];
    let (status, answer) = service.post_lines("/v1/transactions", &lines);
    assert_eq!((status, &answer["accepted"], &answer["refused"]), (200, &json!(2), &json!(2)));
    let error = &answer["results"][1]["error"];
    assert_eq!((&error["field"], &error["value"]), (&json!("amount"), &json!("twelve")));
    assert_eq!(service.post("/v1/transactions", "[]").0, 422);
    assert_eq!(service.ask("POST", "/v1/transactions", "image/png", "x").0, 415);
    assert_eq!(service.metric("caddis_quarantined_total"), 2.0);
    let (_, log) = service.stop();

    let listed = caddis(folder.path(), &["quarantine", "list"]);
    assert!(text(&listed.stdout).contains("amount: `twelve` is not a decimal number"), "{}{log}", text(&listed.stdout));
    let exported = caddis(folder.path(), &["quarantine", "export"]);
    assert_eq!(text(&exported.stdout).lines().next(), Some(bad.to_string().as_str()));
    // The mapping was at fault: mended, Caddis takes the record after all.
    let mapping = "[mapping]\ntransaction_id = \"transaction_id\"\nevent_time = \"event_time\"\n\
                   amount = \"sum\"\ncurrency = \"currency\"\naccount = \"account\"\n";
    let service = Service::start(folder.path(), mapping);
    let fed = caddis(folder.path(), &["quarantine", "feed", "--url", &service.url]);
    assert_eq!(text(&fed.stdout), "1 taken, 1 refused again\n", "{}", text(&fed.stderr));
    assert_eq!(fed.status.code(), Some(3));
    assert_eq!(service.get("/v1/decisions/p2").0, 200);
}

#[test]
fn csv_is_taken_and_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "");
    let body = "transaction_id,event_time,amount,currency,account,merchant\n\
                c1,2026-01-01T12:00:00Z,12.50,EUR,a1,\"Joe, Jane\"\n\
                c2,2026-01-01T12:01:00Z,twelve,EUR,a1,m1\n\
                c3,2026-01-01T12:02:00Z,7.00,EUR,a1,m1\n";
    let (status, answer) = service.ask("POST", "/v1/transactions", "text/csv", body);
    assert_eq!((status, &answer["accepted"], &answer["refused"]), (200, &json!(2), &json!(1)), "{answer}");
    assert_eq!(answer["results"][1]["error"]["field"], "amount");
    let (status, answer) = service.ask("POST", "/v1/transactions", "text/csv", "transaction_id,acount\nc4,a1\n");
    assert_eq!(status, 422, "{answer}");
    let before = service.get("/v1/decisions/c3");
    assert_eq!(before.0, 200);
    service.kill();
    let service = Service::start(folder.path(), "");
    assert_eq!(service.get("/v1/decisions/c3"), before);
}

#[test]
fn keys_guard_what_they_should() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "[[http.keys]]\nname = \"desk\"\nkey = \"a key that may only read\"\nwrite = false\n\
                [[http.keys]]\nname = \"till\"\nkey = \"a key that may also write\"\nwrite = true\n";
    let service = Service::start(folder.path(), keys);
    let ask = |method: &str, path: &str, key: &str| {
        let key = format!("Bearer {key}");
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        service.ask_with(method, path, &headers, payment("p1").to_string()).0
    };
    assert_eq!(service.get("/v1/alerts").0, 401);
    assert_eq!(ask("GET", "/v1/alerts", "a wrong key, however long"), 401);
    assert_eq!(ask("GET", "/v1/alerts", "a key that may only read"), 200);
    assert_eq!(ask("POST", "/v1/decisions", "a key that may only read"), 403);
    assert_eq!(ask("POST", "/v1/decisions", "a key that may also write"), 200);
    assert_eq!((service.get("/livez").0, service.get("/readyz").0), (200, 200));
}

#[test]
fn bodies_have_a_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "[http]\nmax_body = \"64KiB\"\n");
    let (status, answer) = service.post("/v1/transactions", "x".repeat(70_000));
    assert_eq!((status, &answer), (413, &json!({"error": "the body is larger than `http.max_body`"})));
    assert_eq!(service.post("/v1/decisions", payment("p1").to_string()).0, 200);
}

/// A client that sends all it has before it reads: more than a socket holds.
#[test]
fn who_sends_too_much_is_told_so_after_the_last_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "[http]\nmax_body = \"64KiB\"\n");
    let body = vec![b'x'; 8 << 20];
    let chunked = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    for (length, body) in
        [(format!("content-length: {}", body.len()), &body), ("transfer-encoding: chunked".into(), &chunked)]
    {
        let mut stream = TcpStream::connect(service.url.trim_start_matches("http://")).expect("connects");
        write!(stream, "POST /v1/transactions HTTP/1.1\r\nhost: caddis\r\nconnection: close\r\n{length}\r\n\r\n")
            .expect("takes the head");
        stream.write_all(body).expect("takes the body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 413 "), "{length}: {answer}");
    }
}

#[test]
fn the_api_describes_itself_truly() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "");
    let (_, document) = service.get("/openapi.json");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 13, "{}", paths.len());
    for (path, methods) in paths {
        if path.ends_with("/stream") {
            continue;
        }
        let real = path
            .replace("{transaction_id}", "p")
            .replace("{kind}", "account")
            .replace("{id}", "a")
            .replace("{name}", "n");
        for (method, described) in methods.as_object().expect("methods") {
            let (status, answer) = service.ask(&method.to_uppercase(), &real, "application/json", "{}");
            let known: BTreeSet<&str> =
                described["responses"].as_object().expect("responses").keys().map(String::as_str).collect();
            assert!(
                known.contains(status.to_string().as_str()),
                "{method} {path} gave {status}: {answer}; told of {known:?}"
            );
            assert_ne!(answer["error"], "no such path; see /openapi.json");
        }
    }
}

#[test]
fn alerts_can_be_listed_filtered_paged_and_watched() {
    let folder = tempfile::tempdir().expect("a folder");
    let payments = simulate(folder.path());
    let service = Service::start(folder.path(), "");
    let stream = runtime().block_on(reqwest::get(format!("{}/v1/alerts/stream", service.url))).expect("a stream");
    for block in payments.chunks(2_000) {
        let (status, answer) = service.post_lines("/v1/transactions", block);
        assert_eq!((status, &answer["refused"]), (200, &json!(0)));
    }
    let mut watched = String::new();
    let mut stream = stream;
    while !watched.contains("\n\n") || !watched.contains("data:") {
        let chunk = runtime().block_on(stream.chunk()).expect("more").expect("no end");
        watched.push_str(&text(&chunk));
    }
    let line = watched.lines().find_map(|line| line.strip_prefix("data:")).expect("an alert");
    let first: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(first["type"], "transaction.alert");

    // Acknowledged alerts are stored a moment later: the list must not grow while it is read.
    super::webhooks::listed_when_settled(&service);
    let mut all = Vec::new();
    let mut before = String::new();
    loop {
        let (status, page) = service.get(&format!("/v1/alerts?limit=7{before}"));
        assert_eq!(status, 200);
        all.extend(page["alerts"].as_array().expect("alerts").clone());
        let Some(next) = page["next"].as_i64() else { break };
        before = format!("&before={next}");
    }
    assert!(all.len() > 10, "{}", all.len());
    assert!(all.contains(&first));
    let ids: BTreeSet<String> = all.iter().map(|alert| alert["data"]["alert_id"].to_string()).collect();
    assert_eq!(ids.len(), all.len());
    for alert in &all {
        assert!(!alert["data"]["reasons"].as_array().expect("reasons").is_empty(), "{alert}");
    }
    let account = all[0]["data"]["fields"]["account"].as_str().expect("an account");
    let (_, page) = service.get(&format!("/v1/alerts?account={account}"));
    let of_account = all.iter().filter(|alert| alert["data"]["fields"]["account"] == *account).count();
    assert_eq!(page["alerts"].as_array().expect("alerts").len(), of_account);
    let (_, page) = service.get("/v1/alerts?verdict=block&min_score=0.5&limit=1000");
    let strong = |alert: &&Value| alert["data"]["verdict"] == "block" && alert["data"]["score"].as_f64() >= Some(0.5);
    assert_eq!(page["alerts"].as_array().expect("alerts").len(), all.iter().filter(strong).count());
    // The last page says so, also when it is full.
    let (_, page) = service.get(&format!("/v1/alerts?limit={}", all.len()));
    assert_eq!((page["alerts"].as_array().expect("alerts").len(), &page["next"]), (all.len(), &Value::Null));
    // What is listed is what was stored, to the last digit.
    let listed = service.text("/v1/alerts?limit=1000");
    let stored = caddis(folder.path(), &["alerts", "list", "--limit", "1000", "--json"]);
    for alert in text(&stored.stdout).lines() {
        assert!(listed.contains(alert), "{alert}");
    }
    // Every error is told in the same form.
    for (path, status) in [
        ("/v1/alerts?verdict=maybe", 422),
        ("/v1/alerts?colour=red", 422),
        ("/v1/alerts/stream?verdict=maybe", 422),
        ("/v1/alerts/stream?colour=red", 422),
        ("/v1/decisions/%ff", 400),
        ("/v1/entities/account/%ff", 400),
    ] {
        let (found, answer) = service.get(path);
        assert_eq!(found, status, "{path}");
        assert!(answer["error"].as_str().is_some_and(|said| said.len() > 10), "{path}: {answer}");
    }
    let alerts = |arguments: &[&str]| {
        let ran = caddis(folder.path(), &[&["alerts"], arguments].concat());
        (ran.status.code(), text(&ran.stderr))
    };
    assert_eq!(alerts(&["list", "--verdict", "maybe"]).0, Some(2));
    service.post("/v1/subscribers", json!({"name": "gone", "url": "https://desk.example/hook"}).to_string());
    let wrong = "command line: --subscriber goen: there is no such subscriber\n  help: did you mean `gone`?\n";
    for command in ["resend", "dead"] {
        assert_eq!(alerts(&[command, "--subscriber", "goen"]), (Some(2), wrong.to_owned()));
        assert_eq!(alerts(&[command, "--subscriber", "gone"]).0, Some(0));
    }
}

#[test]
fn metrics_fit_what_was_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let desk = Subscriber::open();
    let policy = "[[rules]]\nname = \"dear\"\nwhen = \"amount > 1000\"\nverdict = \"review\"\n";
    std::fs::write(folder.path().join("policy.toml"), policy).expect("writes");
    let configuration =
        format!("[policy]\nfile = \"policy.toml\"\n[model]\nenabled = false\n{}", desk.configuration("desk"));
    let service = Service::start(folder.path(), &configuration);
    let mut dear = payment("p3");
    dear["amount"] = "5000".into();
    assert_eq!(service.post("/v1/decisions", payment("p1").to_string()).0, 200);
    assert_eq!(service.post("/v1/transactions", json!([payment("p1"), payment("p2"), dear]).to_string()).0, 200);
    assert_eq!(service.post("/v1/transactions", "[]").0, 422);
    assert_eq!(service.ask("POST", "/v1/transactions", "image/png", "x").0, 415);
    assert_eq!(desk.next()["data"]["transaction_id"], "p3");
    // The subscriber knows of its answer before the one who waits for it does.
    while !service.text("/metrics").contains("\ncaddis_webhook_seconds_count{subscriber=\"desk\"} 1\n") {
        std::thread::yield_now();
    }

    let shown = service.text("/metrics");
    for line in [
        "caddis_decisions_total{verdict=\"allow\"} 2",
        "caddis_decisions_total{verdict=\"review\"} 1",
        "caddis_duplicates_total 1",
        // Those that were refused took their time too.
        "caddis_decision_seconds_count{path=\"/v1/decisions\"} 1",
        "caddis_decision_seconds_count{path=\"/v1/transactions\"} 3",
        "caddis_decision_seconds_bucket{le=\"+Inf\",path=\"/v1/transactions\"} 3",
        "caddis_batch_seconds_count 2",
        "caddis_batch_size_sum 4.0",
        "caddis_batch_size_bucket{le=\"1.0\"} 1",
        "caddis_batch_size_bucket{le=\"4.0\"} 2",
        "caddis_journal_entries 2",
        "caddis_inbox_messages 0",
        "caddis_approximate_entities 0",
        concat!("caddis_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "caddis_webhook_seconds_bucket{le=\"+Inf\",subscriber=\"desk\"} 1",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    // Bounds rise and so do counts, and the last has all; a decision took some time, but no minute.
    for path in ["/v1/decisions", "/v1/transactions"] {
        let buckets: Vec<f64> = shown
            .lines()
            .filter(|line| line.starts_with("caddis_decision_seconds_bucket{") && line.contains(path))
            .map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
            .collect();
        assert!(buckets.len() > 15 && buckets.is_sorted(), "{buckets:?}");
    }
    assert!(service.metric("caddis_entities ") >= 1.0);
    let flushes = service.metric("caddis_flush_seconds_count ");
    assert!((1.0..=2.0).contains(&flushes), "{flushes}");
    assert!((1e-6..60.0).contains(&service.metric("caddis_flush_seconds_sum ")));
    assert!((1e-6..60.0).contains(&service.metric("caddis_batch_seconds_sum ")));

    // What was in the journal is counted again after a restart.
    assert_eq!(service.stop().0, Some(0));
    let service = Service::start(folder.path(), &configuration);
    assert_eq!(service.metric("caddis_journal_entries "), 2.0);
}
