//! Who may import whom: data flows one way through the tree. See ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each folder (or file) of `src` and the others it may name.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("mistake", &[]),
    ("written", &["mistake"]),
    ("clock", &[]),
    ("tally", &[]),
    ("transaction", &["mistake"]),
    ("features", &["transaction", "mistake", "written"]),
    ("models", &["transaction", "mistake"]),
    ("policy", &["transaction", "mistake", "written"]),
    ("drift", &[]),
    ("engine", &["transaction", "features", "models", "policy"]),
    ("pipeline", &["transaction", "engine", "features", "policy", "clock", "tally"]),
    ("sources", &["transaction", "pipeline", "mistake"]),
    ("store", &["transaction", "pipeline"]),
    ("alerts", &["transaction", "pipeline", "clock", "tally"]),
    ("simulate", &["transaction", "mistake"]),
    ("replay", &["transaction", "mistake", "clock"]),
    ("api", &["telemetry", "clock", "tally"]),
    ("telemetry", &["tally"]),
    ("config", &["transaction", "mistake"]),
];

/// Those that put the parts together.
const MAY_IMPORT_ALL: &[&str] = &["app", "cli", "lib", "main"];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules of this crate that a line names: `crate::x`, also inside braces at the top.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with('$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once("};")).map_or("", |(inside, _)| inside);
            names.extend(inside.split(',').map(|part| part.trim().split("::").next().unwrap_or_default().to_owned()));
        } else {
            names.insert(name);
        }
    }
    names.remove("");
    names
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn imports_flow_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).expect("inside src");
        let first = relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let module = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
        if MAY_IMPORT_ALL.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: say in this test what {module} may import", relative.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file");
        for name in named(without_tests(&text)) {
            if name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {module} may not import {name}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table that people read is the one that is tested.
#[test]
fn the_documented_table_is_this_one() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let document = fs::read_to_string(document).expect("ARCHITECTURE.md");
    let rows = document.lines().skip_while(|line| !line.starts_with("| part |")).skip(2);
    let mut told: Vec<(String, BTreeSet<String>)> = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let part = cells[1].trim_matches('`');
        if cells[2] == "everything" {
            continue;
        }
        let imports = cells[2].split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        told.push((part.trim_end_matches('/').trim_end_matches(".rs").to_owned(), imports.collect()));
    }
    let tested: Vec<(String, BTreeSet<String>)> = MAY_IMPORT
        .iter()
        .map(|(part, imports)| ((*part).to_owned(), imports.iter().map(|name| (*name).to_owned()).collect()))
        .collect();
    assert_eq!(told, tested, "ARCHITECTURE.md and MAY_IMPORT, in the same order");
}

/// The core reads no clock, draws no random number, does no I/O and starts no thread.
#[test]
fn the_core_touches_nothing_outside() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for folder in ["transaction", "features", "policy", "drift", "engine"] {
        let mut files = Vec::new();
        rust_files(&src.join(folder), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file");
            for banned in
                ["std::fs", "std::net", "std::env", "std::time", "tokio::", "rand_core", "std::io", "tracing::"]
            {
                if without_tests(&text).contains(banned) {
                    wrong.push(format!("{}: {banned}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
