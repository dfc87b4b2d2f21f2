//! The real process, killed at random moments while it is fed: what was acknowledged stays, each payment is
//! decided once and as an undisturbed process decides it, every alert reaches the subscriber under one id.
//!
//! `CADDIS_KILLS=200` kills as often.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::simulation::{Random, asked};
use super::support::{Service, Subscriber, runtime, simulate};

const BLOCK: usize = 7;

fn id(line: &str) -> String {
    let record: Value = serde_json::from_str(line).expect("JSON");
    record["transaction_id"].as_str().expect("an id").to_owned()
}

/// Verdict and score of a payment, and its position.
type Told = (String, Value, u64);

/// Posts a block until it is answered by a process that lives; `None` when this one died first.
fn post(service: &Service, lines: &[String]) -> Option<Vec<Value>> {
    let request = reqwest::Client::new()
        .post(format!("{}/v1/decisions", service.url))
        .header("content-type", "application/x-ndjson")
        .timeout(Duration::from_secs(20))
        .body(lines.join("\n"));
    runtime().block_on(async {
        let answer = request.send().await.ok()?;
        assert_eq!(answer.status().as_u16(), 200);
        let answer: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        answer["results"].as_array().cloned()
    })
}

fn told(result: &Value) -> Told {
    let decision = &result["decision"];
    let verdict = decision["verdict"].as_str().unwrap_or_else(|| panic!("no decision: {result}"));
    (verdict.to_owned(), decision["score"].clone(), result["position"]["offset"].as_u64().expect("an offset"))
}

/// Everything decided by a process that nobody disturbs.
fn undisturbed(folder: &Path, payments: &[String]) -> BTreeMap<String, Told> {
    let service = Service::start(folder, "");
    let mut all = BTreeMap::new();
    for block in payments.chunks(BLOCK) {
        let results = post(&service, block).expect("an answer");
        all.extend(block.iter().zip(&results).map(|(line, result)| (id(line), told(result))));
    }
    all
}

#[test]
fn killed_again_and_again_it_decides_as_if_nothing_had_happened() {
    let kills = asked("CADDIS_KILLS").unwrap_or(20);
    let mut random = Random::new(asked("CADDIS_KILL_SEED").unwrap_or(7));
    let folder = tempfile::tempdir().expect("a folder");
    let mut payments = simulate(folder.path());
    payments.truncate(BLOCK * 400);
    let expected = undisturbed(tempfile::tempdir().expect("a folder").path(), &payments);
    let desk = Subscriber::open();
    let configuration = desk.configuration("desk");
    let (mut acknowledged, mut killed, mut unanswered) = (BTreeMap::new(), 0, 0);
    let mut blocks = payments.chunks(BLOCK).peekable();
    while blocks.peek().is_some() {
        let service = Service::start(folder.path(), &configuration);
        // What was acknowledged before the kill is told again after it.
        if let Some((last, before)) = acknowledged.iter().next_back() {
            let (status, again) = service.get(&format!("/v1/decisions/{last}"));
            let (verdict, score, offset): &Told = before;
            assert_eq!(status, 200, "{last} was acknowledged and is lost");
            assert_eq!((&again["verdict"], &again["score"]), (&Value::from(verdict.as_str()), score));
            assert_eq!(again["position"]["offset"].as_u64(), Some(*offset));
        }
        let dies = killed < kills;
        let after = Duration::from_micros(random.below(30_000));
        let dead = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let killer = dies.then(|| {
                std::thread::Builder::new()
                    .spawn_scoped(scope, || {
                        std::thread::sleep(after);
                        service.die();
                        dead.store(true, Ordering::SeqCst);
                    })
                    .expect("a thread")
            });
            while let Some(block) = blocks.peek() {
                let Some(results) = post(&service, block) else {
                    assert!(dies, "it died by itself");
                    unanswered += 1;
                    break;
                };
                acknowledged.extend(block.iter().zip(&results).map(|(line, result)| (id(line), told(result))));
                blocks.next();
            }
            if let Some(killer) = killer {
                killer.join().expect("it kills");
            }
        });
        killed += u64::from(dies);
    }
    // Fewer kills than asked for would mean that the payments ran out.
    println!("{killed} kills, {unanswered} requests without an answer, {} payments", acknowledged.len());
    assert_eq!(killed, kills, "the payments ran out");
    // Positions differ, since what is sent again takes one too.
    let decided = |all: &BTreeMap<String, Told>| -> BTreeMap<String, (String, Value)> {
        all.iter().map(|(id, told)| (id.clone(), (told.0.clone(), told.1.clone()))).collect()
    };
    assert_eq!(decided(&acknowledged), decided(&expected));
    // Every alert arrives, if need be after a restart, and no other.
    let alerting: BTreeSet<&String> = expected.iter().filter(|(_, told)| told.0 != "allow").map(|(id, _)| id).collect();
    assert!(alerting.len() > 10);
    let service = Service::start(folder.path(), &configuration);
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while ids.len() < alerting.len() || service.metric_of("caddis_webhook_pending{subscriber=\"desk\"}") > 0.0 {
        for message in desk.waiting() {
            let transaction = message["data"]["transaction_id"].as_str().expect("an id").to_owned();
            ids.entry(transaction).or_default().insert(message["webhook_id"].as_str().expect("an id").to_owned());
        }
        std::thread::yield_now();
    }
    assert_eq!(ids.keys().collect::<BTreeSet<_>>(), alerting);
    assert!(ids.values().all(|ids| ids.len() == 1), "an alert has two ids");
}
