//! A TOML file that a person wrote, taken apart key by key, so that all its mistakes are told and not the first
//! alone. A misspelt key is told and then read as what it was meant to be: one slip makes one mistake.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::mistake::{Mistake, Mistakes, nearest};

/// The text, and the mistakes found so far.
#[derive(Debug)]
pub struct Written<'t> {
    file: &'t str,
    text: &'t str,
    mistakes: Vec<Mistake>,
}

/// The keys of a table that nobody has taken yet.
#[derive(Debug)]
pub struct Fields<'t> {
    values: BTreeMap<String, Spanned<DeValue<'t>>>,
    /// Where the table begins in the text.
    at: usize,
}

impl<'t> Written<'t> {
    /// Reads a file whose top level has these keys.
    ///
    /// # Errors
    /// It is no TOML: every place where it is not.
    pub fn parse(file: &'t str, text: &'t str, known: &[&str]) -> Result<(Self, Fields<'t>), Mistakes> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let place = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
            let mistakes = errors.iter().map(|error| Mistake::at(file, text, place(error), error.message().to_owned()));
            return Err(Mistakes(mistakes.collect()));
        }
        let mut written = Self { file, text, mistakes: Vec::new() };
        let fields = written.fields(table.into_inner(), 0, known);
        Ok((written, fields))
    }

    /// Notes a mistake at byte `at`.
    pub fn wrong(&mut self, at: usize, message: impl Into<String>) {
        self.mistakes.push(Mistake::at(self.file, self.text, at, message));
    }

    /// The mistakes found.
    #[must_use]
    pub fn mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }

    /// The tables of the array of tables under `key`, which have these keys.
    pub fn tables(&mut self, of: &mut Fields<'t>, key: &str, known: &[&str]) -> Vec<Fields<'t>> {
        let Some(value) = of.values.remove(key) else { return Vec::new() };
        let at = value.span().start;
        let DeValue::Array(array) = value.into_inner() else {
            self.wrong(at, format!("`{key}` is an array of tables: [[{key}]]"));
            return Vec::new();
        };
        array.into_iter().filter_map(|item| self.fields_of(item, key, known)).collect()
    }

    /// The table under `key`, which has these keys.
    pub fn table(&mut self, of: &mut Fields<'t>, key: &str, known: &[&str]) -> Option<Fields<'t>> {
        let value = of.values.remove(key)?;
        self.fields_of(value, key, known)
    }

    /// The value of `key`, if it is there and as expected.
    pub fn take<T: for<'de> Deserialize<'de>>(&mut self, of: &mut Fields<'t>, key: &str) -> Option<T> {
        let value = of.values.remove(key)?;
        let at = value.span().start;
        T::deserialize(value.into_deserializer())
            .map_err(|error| {
                let at = error.span().map_or(at, |span| span.start);
                self.wrong(at, format!("`{key}`: {}", error.message()));
            })
            .ok()
    }

    /// The value of `key`, without which there is a mistake.
    pub fn need<T: for<'de> Deserialize<'de>>(&mut self, of: &mut Fields<'t>, key: &str) -> Option<T> {
        if !of.values.contains_key(key) {
            self.wrong(of.at, format!("`{key}` is missing"));
        }
        self.take(of, key)
    }

    fn fields_of(&mut self, value: Spanned<DeValue<'t>>, key: &str, known: &[&str]) -> Option<Fields<'t>> {
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Some(self.fields(table, at, known)),
            other => {
                self.wrong(at, format!("`{key}` is a table, not a {}", other.type_str()));
                None
            }
        }
    }

    fn fields(&mut self, table: DeTable<'t>, at: usize, known: &[&str]) -> Fields<'t> {
        let there = |wanted: &str| table.iter().any(|(key, _)| key.get_ref() == wanted);
        let missing: Vec<&str> = known.iter().copied().filter(|key| !there(key)).collect();
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            if known.contains(&name.as_str()) {
                values.insert(name, value);
                continue;
            }
            let mistake = Mistake::at(self.file, self.text, key.span().start, format!("unknown key `{name}`"));
            // A key that is there already cannot have been meant.
            let meant = nearest(&name, missing.iter().copied()).filter(|meant| !values.contains_key(*meant));
            self.mistakes.push(match meant {
                Some(meant) => mistake.help(format!("did you mean `{meant}`?")),
                None => mistake.help(format!("one of {}", known.join(", "))),
            });
            if let Some(meant) = meant {
                values.insert(meant.to_owned(), value);
            }
        }
        Fields { values, at }
    }
}

#[cfg(test)]
mod tests {
    use super::Written;

    #[test]
    fn every_mistake_is_told_and_a_misspelt_key_is_read_all_the_same() {
        let text = "odd = 1\n[[rules]]\nnmae = \"a\"\nage = \"old\"\n[[rules]]\nname = 5\nzebra = 1\n";
        let (mut written, mut top) = Written::parse("f.toml", text, &["rules"]).expect("TOML");
        let mut names = Vec::new();
        for mut rule in written.tables(&mut top, "rules", &["name", "age"]) {
            names.push(written.need::<String>(&mut rule, "name"));
            written.need::<u64>(&mut rule, "age");
        }
        assert_eq!(names, [Some("a".to_owned()), None]);
        let mut mistakes = written.mistakes();
        mistakes.sort();
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 6, "{said:?}");
        for (said, expected) in said.iter().zip([
            "f.toml:1:1: unknown key `odd`\n  help: one of rules",
            "f.toml:3:1: unknown key `nmae`\n  help: did you mean `name`?",
            "f.toml:4:7: `age`: invalid type",
            "f.toml:5:1: `age` is missing",
            "f.toml:6:8: `name`: invalid type",
            "f.toml:7:1: unknown key `zebra`\n  help: one of name, age",
        ]) {
            assert!(said.starts_with(expected), "{said}");
        }
        let twice = Written::parse("f.toml", "a = = 1\nb = 2 3\n", &[]).expect_err("no TOML").0;
        assert!(twice.len() >= 2, "{twice:?}");
    }
}
