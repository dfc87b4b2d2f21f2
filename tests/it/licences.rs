//! What we depend on may be used: the licences and sources that deny.toml allows, for the crates of this
//! platform. cargo-deny looks at more, where it is installed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn output(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let done = done.expect("cargo runs");
    assert!(done.status.success(), "cargo {arguments:?}: {}", super::support::text(&done.stderr));
    super::support::text(&done.stdout)
}

#[test]
fn dependencies_may_be_used() {
    let deny = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).expect("deny.toml");
    let deny: toml::Table = toml::from_str(&deny).expect("TOML");
    let allowed = deny["licenses"]["allow"].as_array().expect("a list");
    let allowed: BTreeSet<&str> = allowed.iter().map(|licence| licence.as_str().expect("text")).collect();

    let version = output(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    // What was built is here: nothing is asked of the network.
    let metadata = output(&["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]);
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{}", packages.len());

    let mut wrong = Vec::new();
    let mut sources = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        match package["license"].as_str() {
            Some(licence) if permitted(licence, &allowed) => {}
            licence => wrong.push(format!("{name}: licence {licence:?} is not allowed by deny.toml")),
        }
        if let Some(source) = package["source"].as_str() {
            if !source.starts_with("registry+") {
                wrong.push(format!("{name}: from {source}"));
            }
            sources.insert(source);
        } else {
            for dependency in package["dependencies"].as_array().expect("dependencies") {
                if dependency["req"] == "*" {
                    wrong.push(format!("{name}: any version of {} will do", dependency["name"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(sources.len(), 1, "one registry: {sources:?}");
}

/// Whether a licence expression (SPDX, with the `/` of old crates for `OR`) can be met by what is allowed.
fn permitted(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

/// `AND` binds more tightly than `OR`.
fn all(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    match words.next() {
        Some("(") => any(words, allowed) & words.next_if_eq(&")").is_some(),
        Some(licence) => {
            let with = words.next_if_eq(&"WITH").and_then(|_| words.next());
            with.map_or(allowed.contains(licence), |exception| {
                allowed.contains(format!("{licence} WITH {exception}").as_str())
            })
        }
        None => false,
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT OR GPL-3.0 AND GPL-2.0", true),
        ("(MIT OR GPL-3.0) AND GPL-2.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("Apache-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("(MIT", false),
        ("MIT ISC", false),
        ("", false),
    ] {
        assert_eq!(permitted(expression, &allowed), expected, "{expression}");
    }
}
