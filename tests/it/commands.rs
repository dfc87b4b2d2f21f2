//! The command line as a user types it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use caddis::app::thresholds;
use caddis::models::manifest::Manifest;
use caddis::policy::Policy;
use caddis::transaction::Schema;

fn caddis(folder: &Path, arguments: &[&str]) -> Output {
    let set = concat!(env!("CARGO_MANIFEST_DIR"), "/models/features.toml");
    let arguments = arguments.iter().map(|argument| if *argument == "SET" { set } else { argument });
    Command::new(env!("CARGO_BIN_EXE_caddis")).args(arguments).current_dir(folder).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn simulate_features_train() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let made = caddis(
        at,
        &[
            "simulate",
            "--accounts",
            "300",
            "--terminals",
            "200",
            "--days",
            "30",
            "--out",
            "p.ndjson",
            "--labels",
            "l.ndjson",
            "--json",
        ],
    );
    assert!(made.status.success(), "{}", text(&made.stderr));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let transactions = made["summary"]["transactions"].as_u64().expect("a count");
    assert_eq!(std::fs::read_to_string(at.join("p.ndjson")).expect("a file").lines().count() as u64, transactions);

    let rows = caddis(
        at,
        &["features", "--set", "SET", "--in", "p.ndjson", "--labels", "l.ndjson", "--out", "rows.csv", "--json"],
    );
    assert!(rows.status.success(), "{}", text(&rows.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&rows.stdout).expect("JSON");
    assert_eq!(summary["transactions"].as_u64(), Some(transactions));
    let table = std::fs::read_to_string(at.join("rows.csv")).expect("a file");
    assert_eq!(table.lines().count() as u64, transactions + 1);
    assert!(table.starts_with("transaction_id,event_time,log_amount,hour,"));

    let train = |name: &str| {
        let trained = caddis(
            at,
            &[
                "train",
                "--set",
                "SET",
                "--in",
                "p.ndjson",
                "--labels",
                "l.ndjson",
                "--registry",
                "models",
                "--name",
                name,
                "--trees",
                "10",
                "--depth",
                "5",
                "--promote",
                "--json",
            ],
        );
        assert!(trained.status.success(), "{}", text(&trained.stderr));
        let result: serde_json::Value = serde_json::from_slice(&trained.stdout).expect("JSON");
        let version = result["version"].as_str().expect("a version").to_owned();
        let model = std::fs::read(at.join("models").join(name).join(&version).join("model.bin")).expect("a model");
        (version, (result, model))
    };
    let (version, (result, first)) = train("a");
    assert_eq!(train("a").0, version, "made again while it is in force");
    // With 1 % fraud a guess has an average precision of 0.01.
    assert!(result["metrics"]["average_precision"].as_f64().expect("a number") > 0.1, "{result}");
    assert_eq!((version, first), (train("b").0, train("b").1.1), "the same data and parameters give the same bytes");
    a_policy_may_ask_for_alerts_a_day(at);
}

/// With the model `a` of the registry in `at`.
fn a_policy_may_ask_for_alerts_a_day(at: &Path) {
    let check = |thresholds: &str, model: &str| {
        std::fs::write(at.join("policy.toml"), format!("[thresholds]\n{thresholds}\n")).expect("writes");
        let configuration = format!("[policy]\nfile = \"policy.toml\"\n[model]\n{model}\n");
        std::fs::write(at.join("caddis.toml"), configuration).expect("writes");
        let checked = caddis(at, &["check", "--json"]);
        let said = text(if checked.status.success() { &checked.stdout } else { &checked.stderr });
        (checked.status.code(), serde_json::from_str(&said).unwrap_or(serde_json::Value::Null), said)
    };
    let ours = "registry = \"models\"\nname = \"a\"";
    let (code, few, said) = check("alert_budget = 3", ours);
    assert_eq!((code, few["alert_budget"].as_f64()), (Some(0), Some(3.0)), "{said}");
    assert!(few["expected"]["alerts_a_day"].as_f64() <= Some(3.0), "{said}");
    assert_eq!(few["review_from"], few["expected"]["threshold"]);
    let many = check("alert_budget = 30", ours).1;
    assert!(many["review_from"].as_f64() < few["review_from"].as_f64(), "{many}");
    assert!(many["expected"]["recall"].as_f64() >= few["expected"]["recall"].as_f64(), "{many}");
    assert_ne!(many["policy"], few["policy"]);
    let checked = text(&caddis(at, &["check"]).stdout);
    assert!(checked.contains("30 alerts a day; the model's test had "), "{checked}");

    let (code, _, said) = check("alert_budget = 3", "enabled = false");
    assert_eq!(code, Some(2));
    assert!(said.contains("policy.toml:2:16: an alert budget needs a model") && said.contains("help: set `[model]`"));
    let (_, _, said) = check("block = 0\nalert_budget = 3", ours);
    assert!(said.contains("policy.toml:3:16: 3 alerts a day come to a review from 0."), "{said}");
    // A model of before budgets.
    let folder = at.join("models").join("a");
    let version = std::fs::read_to_string(folder.join("current")).expect("a version");
    let manifest = std::fs::read(folder.join(version.trim()).join("manifest.json")).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    assert!(manifest["operating_points"].as_array().expect("points").len() > 10);
    manifest.as_object_mut().expect("an object").remove("operating_points");
    let manifest: Manifest = serde_json::from_value(manifest).expect("it is read all the same");
    let policy = "[thresholds]\nalert_budget = 3\n";
    let policy = Policy::parse(policy, "policy.toml", &Schema::default(), &[], 2).expect("a policy");
    let (message, help) = thresholds(&policy, Some(&manifest)).expect_err("no points");
    assert!(message.ends_with("it was trained before budgets") && help.starts_with("train it again"), "{message}");
}

#[test]
fn a_bad_line_is_refused_and_the_others_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = r#"{"id":1,"at":1700000000,"cents":1234,"who":{"acct":"a1"}}"#;
    let lines = format!("{good}\n{{\"id\":2,\"at\":\"soon\",\"cents\":5}}\n{}\n", good.replace("\"id\":1", "\"id\":3"));
    std::fs::write(folder.path().join("in.ndjson"), lines).expect("writes");
    let mapping = r#"
        transaction_id = "id"
        event_time = { path = "at", format = "s" }
        amount = { path = "cents", unit = "minor" }
        account = "who.acct"
    "#;
    std::fs::write(folder.path().join("mapping.toml"), mapping).expect("writes");
    let ran = caddis(
        folder.path(),
        &[
            "features",
            "--set",
            "SET",
            "--mapping",
            "mapping.toml",
            "--in",
            "in.ndjson",
            "--out",
            "rows.ndjson",
            "--json",
        ],
    );
    assert_eq!(ran.status.code(), Some(3), "{}", text(&ran.stderr));
    assert!(
        text(&ran.stderr).contains("record 2 is refused: at: `soon` is not a time in seconds since 1970"),
        "{}",
        text(&ran.stderr)
    );
    let summary: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!((summary["transactions"].as_u64(), summary["quarantined"].as_u64()), (Some(2), Some(1)));
    let rows = std::fs::read_to_string(folder.path().join("rows.ndjson")).expect("a file");
    let last: serde_json::Value = serde_json::from_str(rows.lines().last().expect("a row")).expect("JSON");
    assert_eq!((last["account_count_1h"].as_u64(), last["account_sum_24h"].as_u64()), (Some(2), Some(2_468)));
}

#[test]
fn csv_gives_the_same_features_as_ndjson() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ndjson = String::new();
    let mut csv = String::from("\u{feff}id;at;cents;acct;shop\r\n");
    for at in 0..300_u32 {
        let (time, cents, account) = (1_700_000_000 + at * 60, 100 + at * 7 % 900, at % 5);
        ndjson += &format!(
            "{{\"id\":\"p{at}\",\"at\":{time},\"cents\":{cents},\"acct\":\"a{account}\",\"shop\":\"Joe \\\"J\\\"; & Co\"}}\n"
        );
        csv += &format!("p{at};{time};{cents};a{account};\"Joe \"\"J\"\"; & Co\"\r\n");
    }
    let mapping = "transaction_id = \"id\"\nevent_time = { path = \"at\", format = \"s\" }\n\
                   amount = { path = \"cents\", unit = \"minor\" }\naccount = \"acct\"\nmerchant = \"shop\"\n";
    for (name, content) in [("in.ndjson", ndjson.as_str()), ("in.csv", csv.as_str()), ("mapping.toml", mapping)] {
        std::fs::write(folder.path().join(name), content).expect("writes");
    }
    let rows = |more: &[&str]| {
        let mut arguments = vec!["features", "--set", "SET", "--mapping", "mapping.toml", "--out", "rows.csv"];
        arguments.extend_from_slice(more);
        let ran = caddis(folder.path(), &arguments);
        assert!(ran.status.success(), "{}", text(&ran.stderr));
        std::fs::read_to_string(folder.path().join("rows.csv")).expect("a file")
    };
    let wanted = rows(&["--in", "in.ndjson"]);
    assert_eq!(wanted.lines().count(), 301);
    assert_eq!(rows(&["--in", "in.csv", "--separator", ";"]), wanted);
    let wrong = caddis(
        folder.path(),
        &["features", "--set", "SET", "--mapping", "mapping.toml", "--in", "in.csv", "--out", "none"],
    );
    assert_eq!(wrong.status.code(), Some(1), "the separator is not a comma");
    assert!(text(&wrong.stderr).contains("is that the separator?"), "{}", text(&wrong.stderr));
    let wrong =
        caddis(folder.path(), &["features", "--set", "SET", "--in", "in.ndjson", "--separator", ";", "--out", "none"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("--separator is for CSV"), "{}", text(&wrong.stderr));
}

#[test]
fn a_label_takes_effect_at_the_same_record_however_the_stream_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = "[[entities]]\nname = \"terminal\"\n[[features]]\nname = \"frauds\"\nentity = \"terminal\"\n\
               is = \"fraud_count\"\nwindow = \"1d\"\n";
    let (mut ndjson, mut csv, mut labels) = (String::new(), String::from("id,at,amount,terminal\n"), String::new());
    for at in 0..2_000_u32 {
        // Now and then one is older than those before it: it does not take the label back.
        let time = 1_700_000_000_000_u64 + u64::from(if at % 50 == 7 { at - 5 } else { at }) * 1_000;
        ndjson += &format!("{{\"id\":\"p{at}\",\"at\":{time},\"amount\":\"1.00\",\"terminal\":\"x\"}}\n");
        csv += &format!("p{at},{time},1.00,x\n");
        if at % 10 == 3 {
            let known = 1_700_000_000_000_u64 + u64::from(at + 20) * 1_000;
            labels += &format!("{{\"transaction_id\":\"p{at}\",\"fraud\":true,\"label_time\":{known}}}\n");
        }
    }
    let mapping = "transaction_id = \"id\"\nevent_time = { path = \"at\", format = \"ms\" }\n\
                   amount = \"amount\"\nterminal = \"terminal\"\n";
    for (name, content) in [
        ("in.ndjson", &*ndjson),
        ("in.csv", &*csv),
        ("labels.ndjson", &*labels),
        ("set.toml", set),
        ("mapping.toml", mapping),
    ] {
        std::fs::write(folder.path().join(name), content).expect("writes");
    }
    let rows = |input: &str, threads: &str| {
        let mut ran = Command::new(env!("CARGO_BIN_EXE_caddis"))
            .args(["features", "--set", "set.toml", "--mapping", "mapping.toml", "--labels", "labels.ndjson"])
            .args(["--out", "rows.csv", "--threads", threads, "--in", input])
            .current_dir(folder.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("runs");
        // Through the pipe it comes in pieces that end amid records.
        let mut pipe = ran.stdin.take().expect("a pipe");
        if input == "-" {
            ndjson.as_bytes().chunks(777).for_each(|piece| {
                pipe.write_all(piece).and_then(|()| pipe.flush()).expect("writes");
                std::thread::yield_now();
            });
        }
        drop(pipe);
        assert!(ran.wait().expect("ends").success());
        std::fs::read_to_string(folder.path().join("rows.csv")).expect("a file")
    };
    let wanted = rows("in.ndjson", "1");
    let frauds: Vec<usize> =
        wanted.lines().skip(1).map(|row| row.rsplit(',').next().expect("a value").parse().expect("a count")).collect();
    // The label of p3 is known at the time of p23: that one is the first to see it.
    assert_eq!((frauds[22], frauds[23], frauds[32], frauds[33], frauds.len()), (0, 1, 1, 2, 2_000));
    for (input, threads) in [("in.csv", "1"), ("-", "1"), ("in.ndjson", "2")] {
        assert!(rows(input, threads) == wanted, "{input} with {threads} threads");
    }
}

#[test]
fn mistakes_are_told_all_at_once_with_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = "[[entities]]\nname = \"acount\"\n\n[[features]]\nname = \"a\"\nentity = \"account\"\nis = \"count\"\nwindow = \"91d\"\n";
    std::fs::write(folder.path().join("set.toml"), set).expect("writes");
    let ran = caddis(folder.path(), &["features", "--set", "set.toml", "--in", "-", "--out", "none"]);
    assert_eq!(ran.status.code(), Some(2));
    let said = text(&ran.stderr);
    assert!(said.contains("set.toml:2:8: no text field `acount`\n  help: did you mean `account`?"), "{said}");
    assert!(said.contains("set.toml:6:10: no entity `account`"), "{said}");
    // Misspelt keys are told with all else, in the order of the file, and read as what they were meant to be.
    let set = "[[features]]\nname = \"a\"\nentty = \"account\"\nis = \"count\"\nwindw = \"91d\"\n\n\
               [[entities]]\nname = \"account\"\nfilds = [\"acount\"]\n\n[[features]]\nis = \"sum\"\n";
    std::fs::write(folder.path().join("set.toml"), set).expect("writes");
    let ran = caddis(folder.path(), &["features", "--set", "set.toml", "--in", "-", "--out", "none"]);
    let said = text(&ran.stderr);
    let expected = "set.toml:3:1: unknown key `entty`\n  help: did you mean `entity`?\n\
                    set.toml:5:1: unknown key `windw`\n  help: did you mean `window`?\n\
                    set.toml:5:9: `91d` is no duration from 1s to 90d\n  help: such as \"30s\", \"10m\", \"24h\", \"7d\"\n\
                    set.toml:9:1: unknown key `filds`\n  help: did you mean `fields`?\n\
                    set.toml:9:10: no text field `acount`\n  help: did you mean `account`?\n\
                    set.toml:11:1: `name` is missing\n";
    assert_eq!((ran.status.code(), said.as_str()), (Some(2), expected));
    let ran = caddis(folder.path(), &["features", "--set", "SET", "--in", "-", "--out", "rows.xlsx"]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(text(&ran.stderr).contains("end it in .parquet, .csv or .ndjson"));
}

#[test]
fn check_tells_all_mistakes_at_once_with_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = "dta = \"x\"\n\n[http]\nlisten = \"nowhere\"\nmax_body = \"lots\"\n\n[[sources]]\nname = \"f\"\n";
    std::fs::write(folder.path().join("caddis.toml"), wrong).expect("writes");
    let checked = caddis(folder.path(), &["check"]);
    assert_eq!(checked.status.code(), Some(2));
    let said = text(&checked.stderr);
    for expected in [
        "caddis.toml:1:1: ",
        "did you mean `data`?",
        "caddis.toml:4:10: `http.listen`: `nowhere`",
        "caddis.toml:5:12: `http.max_body`: `lots`",
        "caddis.toml:7:1: ",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    std::fs::write(folder.path().join("caddis.toml"), "").expect("writes");
    let checked = caddis(folder.path(), &["check", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!((checked.status.code(), &said["model"]), (Some(0), &"baseline".into()));
    assert!(said["features"].as_u64() >= Some(40));
}

#[test]
fn check_looks_through_all_that_the_configuration_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = r#"[log]
filter = "caddis=loud"

[money.rates]
USD = "-1"

[mapping]
event_time = "at"
amuont = "sum"

[features]
file = "set.toml"

[policy]
file = "none.toml"

[model]
version = "0123456789abcdef"

[[subscribers]]
name = "d k"
url = "http://desk.example/hook"
secret = "short"

[durability]
mode = "sometimes"
"#;
    let set = "[[features]]\nname = \"hour_of_day\"\nis = \"huor\"\n";
    for (name, content) in [("caddis.toml", wrong), ("set.toml", set)] {
        std::fs::write(folder.path().join(name), content).expect("writes");
    }
    let checked = caddis(folder.path(), &["check"]);
    let said = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(2), "{said}");
    let told: Vec<&str> = said.lines().filter(|line| !line.starts_with(' ')).collect();
    let expected = [
        "caddis.toml:2:10: `log.filter`",
        "caddis.toml:5:7: `money.rates.USD`: `-1` is not a positive decimal number",
        "caddis.toml:7:1: [mapping]: the mapping does not say where `amount` is",
        "caddis.toml:7:1: [mapping]: the mapping does not say where `transaction_id` is",
        "caddis.toml:9:1: [mapping]: a transaction has no field `amuont`; did you mean `amount`?",
        "caddis.toml:21:8: subscriber `d k`: a name has",
        "caddis.toml:22:7: subscriber `d k`: a public subscriber needs https://",
        "caddis.toml:23:10: subscriber `d k`: ",
        "caddis.toml:26:8: `durability.mode`: `sometimes`",
        "set.toml:3:6: ",
    ];
    assert_eq!(told.len(), expected.len(), "{said}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
    // With a set that can be read, its model and policy are looked for.
    std::fs::write(folder.path().join("set.toml"), set.replace("huor", "hour")).expect("writes");
    let said = text(&caddis(folder.path(), &["check"]).stderr);
    for expected in [
        "caddis.toml:15:8: `policy.file`: none.toml cannot be read",
        "caddis.toml:18:11: [model]: model `baseline` has no version `0123456789abcdef`",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
}

#[test]
fn a_stream_is_read_by_a_configuration_and_wrong_arguments_are_told_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = r#"[money.rates]
USD = "0.5"
[transactions]
text_fields = ["bin"]
[mapping]
transaction_id = "id"
event_time = "at"
amount = "sum"
currency = "in"
bin = "bin"
[features]
file = "set.toml"
[[subscribers]]
name = "desk"
url = "https://desk.example/hook"
secret = "env:A_SECRET_THAT_IS_NOT_HERE"
"#;
    let set = "[[entities]]\nname = \"bin\"\n[[features]]\nname = \"spent\"\nentity = \"bin\"\nis = \"sum\"\nwindow = \"1h\"\n";
    let records = "{\"id\":\"a\",\"at\":1700000000000,\"sum\":\"3.00\",\"in\":\"USD\",\"bin\":\"4\"}\n\
                   {\"id\":\"b\",\"at\":1700000001000,\"sum\":\"1.00\",\"in\":\"EUR\",\"bin\":\"4\"}\n";
    for (name, content) in [("c.toml", configuration), ("set.toml", set), ("in.ndjson", records)] {
        std::fs::write(folder.path().join(name), content).expect("writes");
    }
    let ran = caddis(folder.path(), &["features", "--config", "c.toml", "--in", "in.ndjson", "--out", "rows.csv"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let rows = std::fs::read_to_string(folder.path().join("rows.csv")).expect("a file");
    assert!(rows.ends_with("a,1700000000000,150\nb,1700000001000,250\n"), "{rows}");
    // Neither set nor configuration: the set that is shipped.
    let ran = caddis(folder.path(), &["features", "--in", "/dev/null", "--out", "rows.csv"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let rows = std::fs::read_to_string(folder.path().join("rows.csv")).expect("a file");
    assert!(rows.starts_with("transaction_id,event_time,log_amount,"), "{rows}");

    for (arguments, expected) in [
        (&["features", "--out", "none", "--in", "none.ndjson"][..], "--in none.ndjson: "),
        (&["features", "--out", "none", "--in", "in.ndjson", "--set", "none.toml"], "--set none.toml: "),
        (&["train", "--in", "in.ndjson"], "training needs --labels FILE"),
        (&["train", "--in", "in.ndjson", "--labels", "none.ndjson"], "--labels none.ndjson: "),
        (
            &["train", "--in", "none.ndjson", "--labels", "none.ndjson", "--name", "My Model"],
            "--name: `My Model` is no name",
        ),
    ] {
        let ran = caddis(folder.path(), arguments);
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{said}");
        assert!(said.starts_with("command line: ") && said.contains(expected), "{said}");
    }
}

#[test]
fn the_demo_catches_fraud_and_says_how_much() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = caddis(
        folder.path(),
        &["demo", "--accounts", "500", "--history-days", "5", "--live-days", "5", "--rate", "100000", "--json"],
    );
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert!(summary["frauds_caught"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["alerts"], summary["alerts_delivered_signed"], "{summary}");
}

/// A model, a later stream like its training, and the same with the device missing in half of the payments.
#[test]
fn drift_is_found_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let done = |arguments: &[&str]| {
        let output = caddis(at, arguments);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    let simulate = |name: &str, seed: u8, more: &str| {
        let scenario = format!("accounts = 800\nterminals = 600\ndays = 70\nseed = {seed}\n{more}");
        std::fs::write(at.join(format!("{name}.toml")), scenario).expect("written");
        let (scenario, out, labels) = (format!("{name}.toml"), format!("{name}.ndjson"), format!("{name}.labels"));
        done(&["simulate", "--scenario", &scenario, "--out", &out, "--labels", &labels]);
    };
    simulate("before", 1, "");
    simulate("same", 2, "");
    simulate("broken", 2, "null_device_from = 60\nnull_device_share = 0.5\n");
    let stream = ["--set", "SET", "--in", "before.ndjson", "--labels", "before.labels"];
    let model = ["--warm-up-days", "37", "--registry", "models", "--name", "shop", "--trees", "5", "--promote"];
    done(&[&["train"], &stream[..], &model].concat());

    let drift = |name: &str| -> serde_json::Value {
        let (out, labels) = (format!("{name}.ndjson"), format!("{name}.labels"));
        let told = done(&[
            "drift",
            "--set",
            "SET",
            "--registry",
            "models",
            "--model",
            "shop",
            "--in",
            &out,
            "--labels",
            &labels,
            "--json",
        ]);
        serde_json::from_str(&told).expect("JSON")
    };
    let alarms = |report: &serde_json::Value| -> Vec<(String, String)> {
        let rows = report["features"].as_array().expect("rows").iter().filter(|row| row["alarm"] == true);
        let part = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        rows.map(|row| (part(row, "feature"), part(row, "since"))).collect()
    };
    let same = drift("same");
    assert_eq!(alarms(&same), [], "{same}");
    assert_eq!(same["features"].as_array().expect("rows").len(), 53);
    let found = alarms(&drift("broken"));
    // From the day on which it began, the 61st.
    assert!(
        found.len() >= 6
            && found
                .iter()
                .all(|(name, since)| name.starts_with("device") && since == "2026-03-02"
                    || name == "account_new_device_7d"),
        "{found:?}"
    );

    let (of_other, none) = (
        caddis(
            at,
            &[
                "drift",
                "--set",
                "SET",
                "--registry",
                "models",
                "--model",
                "shop/0123456789abcdef",
                "--in",
                "same.ndjson",
            ],
        ),
        "has no version",
    );
    assert_eq!(of_other.status.code(), Some(2));
    assert!(text(&of_other.stderr).contains(none), "{}", text(&of_other.stderr));
}
