//! Models of other tools against those tools' own predictions. `tests/fixtures/models/make_*.py` made them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use caddis::models::compiled::Compiled;
use caddis::models::import;
use caddis::models::reasons::Reasons;
use caddis::models::scorer::{Scorer, Scratch};

const NAMES: [&str; 6] = ["spent", "hour", "gap", "kind", "payments", "ratio"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

fn names() -> Vec<String> {
    NAMES.map(String::from).to_vec()
}

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(folder().join(file)).expect("a fixture")
}

fn compiled(file: &str) -> Compiled {
    let model = import::read(&bytes(file), None).unwrap_or_else(|why| panic!("{file}: {why}"));
    model.onto(&names(), &BTreeMap::new()).unwrap_or_else(|why| panic!("{file}: {why}")).0
}

/// Rows, and the original's predictions.
fn rows(file: &str) -> (Vec<f64>, Vec<f64>) {
    let text = String::from_utf8(bytes(file)).expect("text");
    let (mut rows, mut predictions) = (Vec::new(), Vec::new());
    for line in text.lines().skip(1) {
        let numbers: Vec<f64> = line.split(',').map(|number| number.parse().expect("a number")).collect();
        let (prediction, row) = numbers.split_last().expect("a prediction");
        rows.extend_from_slice(row);
        predictions.push(*prediction);
    }
    (rows, predictions)
}

#[test]
fn imported_models_predict_what_the_originals_do() {
    let singles = ["xgboost", "xgboost_categories", "xgboost_dart", "xgboost_linear"].map(|name| (name, "json"));
    let onnx = ["forest", "zipmap", "regressor", "boosting", "logistic", "scaled"];
    let lightgbm = ["lightgbm", "lightgbm_zero", "lightgbm_no_missing", "lightgbm_forest"];
    let all = lightgbm
        .map(|name| (name.to_owned(), "txt", 1e-6))
        .into_iter()
        .chain(singles.map(|(name, kind)| (name.to_owned(), kind, 1e-5)))
        .chain(["xgboost", "xgboost_categories"].map(|name| (name.to_owned(), "ubj", 1e-5)))
        .chain(onnx.map(|name| (format!("onnx_{name}"), "onnx", 1e-5)));
    for (name, kind, tolerance) in all {
        let file = format!("{name}.{kind}");
        let model = compiled(&file);
        let (rows, predictions) = rows(&format!("{name}.csv"));
        let mut scores = vec![0.0; predictions.len()];
        Scorer::new(&model).unwrap().score(&rows, &mut scores, &mut Scratch::default());
        let worst = scores.iter().zip(&predictions).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max);
        println!("{file}: {} rows, at most {worst:e} apart", predictions.len());
        let different = scores
            .iter()
            .zip(&predictions)
            .position(|(ours, theirs)| ours.is_nan() || (ours - theirs).abs() > tolerance);
        if let Some(at) = different {
            let row = &rows[at * NAMES.len()..][..NAMES.len()];
            panic!("{file}, row {at} {row:?}: {} here, {} there", scores[at], predictions[at]);
        }
    }
}

/// LightGBM's own contributions, the last of each row being the base.
#[test]
fn reasons_of_an_imported_model_are_the_originals() {
    let text = String::from_utf8(bytes("lightgbm_contributions.csv")).unwrap();
    let reasons = Reasons::new(compiled("lightgbm.txt")).unwrap();
    let (rows, _) = rows("lightgbm.csv");
    for (line, row) in text.lines().zip(rows.chunks(NAMES.len())) {
        let theirs: Vec<f64> = line.split(',').map(|number| number.parse().unwrap()).collect();
        let ours = reasons.explain(row);
        for (ours, theirs) in ours.contributions.iter().chain([&ours.base]).zip(&theirs) {
            assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs} for {row:?}");
        }
    }
}

#[test]
fn json_and_ubjson_are_the_same_model() {
    for name in ["xgboost", "xgboost_categories"] {
        assert!(compiled(&format!("{name}.json")) == compiled(&format!("{name}.ubj")), "{name}");
    }
}

/// What was damaged is refused, or read as another sound model; nothing panics.
#[test]
fn damaged_files_are_refused() {
    for file in ["lightgbm.txt", "xgboost_categories.json", "xgboost.ubj", "onnx_boosting.onnx", "onnx_scaled.onnx"] {
        let good = bytes(file);
        for at in (0..good.len()).step_by(good.len() / 60) {
            // What follows LightGBM's trees is about the training.
            let cut = import::read(&good[..at], None);
            assert!(cut.is_err() || cut == import::read(&good, None), "{file} cut at {at}");
            for flip in [0x01, 0x10, 0x80] {
                let mut damaged = good.clone();
                damaged[at] ^= flip;
                if let Ok(model) = import::read(&damaged, None) {
                    let _ = model.onto(&names(), &BTreeMap::new());
                }
            }
        }
    }
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    let changed = |file: &str, from: &str, to: &str| {
        let text = String::from_utf8(bytes(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        import::read(text.replacen(from, to, 1).as_bytes(), None).unwrap_err().to_string()
    };
    for (from, to, expected) in [
        ("objective=cross_entropy", "objective=regression", "objective: `regression` gives no probability"),
        ("objective=cross_entropy", "nothing=", "objective: none, or one of your own"),
        ("num_class=1", "num_class=3", "num_class: 3: a model of several classes"),
        ("is_linear=0", "is_linear=1", "tree 0, is_linear: leaves that are linear models"),
        ("version=v4", "version=v9", "version: `v9`"),
        ("left_child=1", "left_child=0", "tree 0, nodes: "),
    ] {
        let why = changed("lightgbm_no_missing.txt", from, to);
        assert!(why.starts_with(expected), "{why}");
    }
    for (from, to, expected) in [
        ("binary:logistic", "rank:pairwise", "objective: `rank:pairwise` gives no probability"),
        (r#""num_class":"0""#, r#""num_class":"4""#, "num_class: 4: a model of several outputs"),
        (r#""size_leaf_vector":"1""#, r#""size_leaf_vector":"2""#, "tree 0: leaves of several outputs"),
        (r#""name":"gbtree""#, r#""name":"gbforest""#, "the model: "),
    ] {
        let why = changed("xgboost.json", from, to);
        assert!(why.starts_with(expected), "{why}");
    }
    // Letters of the same number, so that the lengths around them hold.
    let onnx = |file: &str, from: &[u8], to: &[u8]| {
        let mut model = bytes(file);
        let places: Vec<usize> = (0..model.len()).filter(|at| model[*at..].starts_with(from)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| model[at..at + to.len()].copy_from_slice(to));
        import::read(&model, None).unwrap_err().to_string()
    };
    for (file, from, to, expected) in [
        ("onnx_scaled.onnx", "Scaler", "Sorter", "it changes the features before the model sees them"),
        ("onnx_forest.onnx", "BRANCH_LEQ", "BRANCH_NEQ", "a split by BRANCH_NEQ"),
        ("onnx_boosting.onnx", "LOGISTIC", "SOFTMAX_", "post_transform SOFTMAX_"),
        ("onnx_boosting.onnx", "TreeEnsembleClassifier", "SVMEnsembleClassifier_", "none of TreeEnsembleClassifier"),
        ("onnx_zipmap.onnx", "ZipMap", "Zipper", "whose effect on the probability is not known"),
    ] {
        let why = onnx(file, from.as_bytes(), to.as_bytes());
        assert!(why.contains(expected), "{file}: {why}");
    }
    for (bytes, expected) in [
        (&b"\x80\x04\x95"[..], "a Python pickle"),
        (b"binf....", "XGBoost's old binary format"),
        (b"hello", "none of LightGBM's text"),
        (b"", "none of LightGBM's text"),
    ] {
        assert!(import::read(bytes, None).unwrap_err().to_string().contains(expected));
    }
}

#[test]
fn features_are_matched_by_name_or_said_to_be_by_order() {
    let model = || import::read(&bytes("lightgbm.txt"), None).unwrap();
    let (in_order, notes) = model().onto(&names(), &BTreeMap::new()).unwrap();
    assert!(notes.is_empty());
    // Another order, a further feature, and another name for one of them.
    let ours = ["ratio", "more", "payments", "sort", "gap", "hour", "spent"].map(String::from);
    let renamed = BTreeMap::from([("kind".to_owned(), "sort".to_owned())]);
    let (other, _) = model().onto(&ours, &renamed).unwrap();
    let row = [31.0, 12.0, f64::NAN, 8.0, 1.0, -0.5];
    let there = [row[5], 7.0, row[4], row[3], row[2], row[1], row[0]];
    let score = |model: &Compiled, row: &[f64]| Scorer::new(model).unwrap().score_one(row, &mut Scratch::default());
    assert_eq!(score(&in_order, &row), score(&other, &there));

    let why = model().onto(&ours, &BTreeMap::new()).unwrap_err().to_string();
    assert!(why.contains("not in the feature set: kind") && why.contains("--rename theirs=ours"), "{why}");
    let twice = BTreeMap::from([("kind".to_owned(), "gap".to_owned())]);
    assert!(model().onto(&names(), &twice).unwrap_err().to_string().contains("matched twice"));
    let unknown = BTreeMap::from([("spnet".to_owned(), "spent".to_owned())]);
    assert!(model().onto(&names(), &unknown).unwrap_err().to_string().contains("did you mean `spent`?"));

    let nameless = || import::read(&bytes("onnx_forest.onnx"), None).unwrap();
    let (_, notes) = nameless().onto(&names(), &BTreeMap::new()).unwrap();
    assert!(notes.iter().any(|note| note.contains("by their order")), "{notes:?}");
    assert!(nameless().onto(&ours, &BTreeMap::new()).unwrap_err().to_string().contains("neither name nor order"));
    let named = import::read(&bytes("onnx_logistic.onnx"), None).unwrap();
    assert_eq!(named.names, NAMES);
}

/// As a user types it: import with a check, look, promote, import another, compare, go back, prune.
#[test]
fn a_model_is_imported_looked_at_and_rolled_back() {
    let at = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_caddis"))
            .args(arguments.iter().map(|part| part.replace('@', &folder().display().to_string())))
            .current_dir(at.path())
            .output()
            .expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let import = |file: &str, further: &[&str]| {
        let file = format!("@/{file}");
        let all = ["models", "import", &file, "--name", "theirs", "--set", "@/features.toml"];
        run(&[&all[..], further].concat())
    };
    let version = |output: &str| output.split([' ', ':']).nth(1).expect("a version").to_owned();
    let (code, first, why) = import("lightgbm.txt", &["--check", "@/lightgbm.csv", "--threshold", "0.3", "--promote"]);
    assert_eq!(code, Some(0), "{why}");
    assert!(first.contains("250 predictions of the original, all met to the last digit"), "{first}");
    // Another model's predictions are noticed.
    let (code, _, why) = import("lightgbm.txt", &["--check", "@/xgboost.csv"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("lightgbm.txt: row 1 of the predictions: the original predicts"), "{why}");
    let (code, _, why) = import("lightgbm.txt", &["--block", "0.2"]);
    assert_eq!(code, Some(2), "{why}");
    let (code, second, why) = import("onnx_forest.onnx", &["--promote"]);
    assert_eq!(code, Some(0), "{why}");
    assert!(second.contains("note: the file has no names of features: they were matched by their order"), "{second}");
    let (first, second) = (version(&first), version(&second));

    let here = |arguments: &[&str]| run(&[&["models"], arguments].concat());
    let (_, listed, _) = here(&["list"]);
    assert!(
        listed.contains(&format!("* theirs {second}")) && listed.contains(&format!("  theirs {first}")),
        "{listed}"
    );
    let (_, shown, _) = here(&["show", "theirs", &first]);
    assert!(shown.contains("imported from lightgbm") && shown.contains("review 0.3, block 2"), "{shown}");
    let (_, different, _) = here(&["diff", "theirs", &first]);
    assert!(different.contains(r#"imported.format: "lightgbm" -> "onnx""#), "{different}");
    let (code, verified, _) = here(&["verify"]);
    assert_eq!((code, verified.matches("sound").count()), (Some(0), 2));
    assert_eq!(here(&["prune", "theirs"]).1, "", "what one would roll back to stays");
    let (_, back, _) = here(&["rollback", "theirs"]);
    assert!(back.contains(&format!("theirs: {first} is in force (before: {second})")), "{back}");
    let (code, _, why) = here(&["rollback", "theirs"]);
    assert!(code == Some(1) && why.contains("replaced none"), "{why}");
    assert!(here(&["prune", "theirs"]).1.contains("would be removed"));
    assert!(here(&["prune", "theirs", "--yes"]).1.contains(&format!("{second}  removed")));

    let model = at.path().join("models/theirs").join(&first).join("model.bin");
    let mut damaged = std::fs::read(&model).unwrap();
    damaged[100] ^= 1;
    std::fs::write(&model, damaged).unwrap();
    let (code, verified, why) = here(&["verify", "theirs"]);
    assert!(code == Some(1) && verified.contains("was changed after it was made"), "{verified}{why}");
}
