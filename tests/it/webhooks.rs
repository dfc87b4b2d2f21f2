//! Alerts to subscribers: signed, each once where nothing fails, none held up by another.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::support::{SECRET, Service, Subscriber, caddis, simulate, text};

fn listed(service: &Service) -> BTreeSet<String> {
    let (_, page) = service.get("/v1/alerts?limit=1000");
    let alerts = page["alerts"].as_array().expect("alerts");
    alerts.iter().map(|alert| alert["data"]["alert_id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_dead_subscriber_holds_nobody_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let payments = simulate(folder.path());
    let desk = Subscriber::open();
    let dead = "[[subscribers]]\nname = \"dead\"\nurl = \"http://127.0.0.1:1/hook\"\nallow_private = true\n";
    let configuration = format!("{dead}secret = \"{SECRET}\"\n{}", desk.configuration("desk"));
    let service = Service::start(folder.path(), &configuration);
    for block in payments.chunks(1_000) {
        assert_eq!(service.post_lines("/v1/transactions", block).0, 200);
    }
    // Acknowledged is durable, and what is durable is told.
    let expected = listed_when_settled(&service);
    assert!(expected.len() > 10);
    let mut received = BTreeSet::new();
    while received.len() < expected.len() {
        let message = desk.next();
        assert_eq!(message["webhook_id"], message["data"]["alert_id"]);
        received.insert(message["webhook_id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(received, expected);
    assert_eq!(desk.waiting(), Vec::<Value>::new(), "each once where nothing fails");
    let (_, answer) = service.get("/v1/subscribers");
    let dead =
        answer["subscribers"].as_array().expect("subscribers").iter().find(|s| s["name"] == "dead").expect("dead");
    assert_eq!(dead["waiting"].as_u64(), Some(expected.len() as u64));
}

/// The alerts of all that was acknowledged: the projector is done when nothing is added any more.
pub fn listed_when_settled(service: &Service) -> BTreeSet<String> {
    let alerting = |text: &str| -> f64 {
        let of = |verdict: &str| {
            let name = format!("caddis_decisions_total{{verdict=\"{verdict}\"}} ");
            text.lines()
                .find_map(|line| line.strip_prefix(name.as_str()))
                .expect("a metric")
                .parse::<f64>()
                .expect("a number")
        };
        of("review") + of("block")
    };
    let wanted = alerting(&service.text("/metrics"));
    loop {
        let found = listed(service);
        if found.len() as f64 >= wanted {
            return found;
        }
        std::thread::yield_now();
    }
}

#[test]
fn subscribers_come_and_go_over_the_api() {
    let folder = tempfile::tempdir().expect("a folder");
    let desk = Subscriber::open();
    let service = Service::start(folder.path(), "[alerts]\nallow_private = true\n");
    let new = json!({"name": "desk", "url": desk.url, "secret": SECRET, "verdicts": ["block"], "min_score": 0.2});
    let (status, made) = service.post("/v1/subscribers", new.to_string());
    assert_eq!((status, &made["secret"]), (201, &json!(SECRET)));
    assert_eq!(service.post("/v1/subscribers", new.to_string()).0, 409);
    let wrong = json!({"name": "x", "url": "ftp://x", "secret": SECRET});
    assert_eq!(service.post("/v1/subscribers", wrong.to_string()).0, 422);
    let (_, all) = service.get("/v1/subscribers");
    assert_eq!((&all["subscribers"][0]["name"], &all["subscribers"][0]["secret"]), (&json!("desk"), &Value::Null));

    assert_eq!(service.post("/v1/subscribers/desk/test", "").1["delivered"], json!(true));
    assert_eq!(desk.next()["type"], "subscriber.test");
    desk.fail(true);
    let (_, tested) = service.post("/v1/subscribers/desk/test", "");
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(false), &json!(503)));
    assert_eq!(service.ask("PATCH", "/v1/subscribers/desk", "application/json", r#"{"paused": true}"#).0, 204);
    assert_eq!(service.get("/v1/subscribers").1["subscribers"][0]["paused"], json!(true));
    assert_eq!(service.ask("DELETE", "/v1/subscribers/desk", "application/json", "").0, 204);
    assert_eq!(service.ask("DELETE", "/v1/subscribers/desk", "application/json", "").0, 404);
    assert_eq!(service.post("/v1/subscribers/desk/test", "").0, 404);
}

#[test]
fn private_addresses_need_leave() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(folder.path(), "");
    let new = json!({"name": "inside", "url": "http://169.254.169.254/latest", "secret": SECRET});
    let (status, answer) = service.post("/v1/subscribers", new.to_string());
    assert_eq!(status, 422, "{answer}");
    std::fs::write(
        folder.path().join("caddis.toml"),
        format!("[[subscribers]]\nname = \"inside\"\nurl = \"http://10.0.0.1/\"\nsecret = \"{SECRET}\"\n"),
    )
    .expect("writes");
    let checked = caddis(folder.path(), &["check"]);
    assert_eq!(checked.status.code(), Some(2));
    assert!(text(&checked.stderr).contains("no public address"), "{}", text(&checked.stderr));
}
