//! Reads a TOML table key by key and collects every mistake on the way: wrong types, unknown keys, values
//! out of range. Environment variables take the place of keys.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{self, Secret};
use crate::mistake::Mistake;

/// What is being read: the file's text for places, the environment, and the mistakes so far.
pub struct Reader<'a> {
    pub file: &'a str,
    pub text: &'a str,
    /// Variables whose names start with `CADDIS_`, not yet used.
    environment: BTreeMap<String, String>,
    mistakes: Vec<Mistake>,
    /// Secrets that are not there: a command that needs none of them may go on.
    absent: Vec<Mistake>,
    /// Where each key that was asked for and is there stands, by its whole name.
    places: BTreeMap<String, Place>,
}

/// All that a [`Reader`] found besides the values.
pub struct Findings {
    pub mistakes: Vec<Mistake>,
    pub absent: Vec<Mistake>,
    pub places: BTreeMap<String, Place>,
}

/// A table of the file, or its absence.
pub struct Section<'t> {
    /// `http.` for the keys of `[http]`, empty at the top.
    prefix: String,
    table: Option<&'t DeTable<'t>>,
    known: Vec<String>,
}

/// A value with where it came from.
pub struct Found<T> {
    pub value: T,
    pub place: Place,
}

/// Where a value came from.
#[derive(Debug, Clone)]
pub enum Place {
    /// A byte of the file.
    Byte(usize),
    Variable(String),
}

impl Place {
    pub fn mistake(&self, file: &str, text: &str, message: impl Into<String>) -> Mistake {
        match self {
            Self::Byte(at) => Mistake::at(file, text, *at, message),
            Self::Variable(name) => Mistake::in_file(&format!("environment: {name}"), message),
        }
    }
}

const PREFIX: &str = "CADDIS_";

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, text: &'a str, environment: impl Iterator<Item = (String, String)>) -> Self {
        let environment = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        Self { file, text, environment, mistakes: Vec::new(), absent: Vec::new(), places: BTreeMap::new() }
    }

    /// What was found, variables that stand for nothing among it.
    pub fn finish(mut self) -> Findings {
        for name in std::mem::take(&mut self.environment).into_keys() {
            self.mistakes.push(Mistake::in_file("environment", format!("{name} stands for no setting")).help(
                "a variable is CADDIS_ and the key in capitals, sections joined by two underscores: CADDIS_HTTP__LISTEN",
            ));
        }
        Findings { mistakes: self.mistakes, absent: self.absent, places: self.places }
    }

    /// Whether the file or the environment has a key of the section, if it was asked for.
    pub fn has(&self, section: &Section<'_>, key: &str) -> bool {
        self.places.contains_key(&format!("{}{key}", section.prefix))
    }

    pub fn wrong(&mut self, place: &Place, message: impl Into<String>) -> &mut Mistake {
        self.mistakes.push(place.mistake(self.file, self.text, message));
        let last = self.mistakes.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it was pushed just now")]
        &mut self.mistakes[last]
    }

    /// A mistake at a key of the section that was asked for.
    pub fn wrong_at(&mut self, section: &Section<'_>, key: &str, message: impl Into<String>) {
        let place = self.places.get(&format!("{}{key}", section.prefix)).cloned();
        self.wrong(&place.unwrap_or(Place::Byte(0)), message);
    }

    /// Notes where the keys of a table of free keys stand.
    pub fn note_keys(&mut self, section: &Section<'_>) {
        for (name, _) in section.table.into_iter().flat_map(|table| table.iter()) {
            self.places.insert(format!("{}{}", section.prefix, name.get_ref()), Place::Byte(name.span().start));
        }
    }

    fn variable(&mut self, section: &Section<'_>, key: &str) -> Option<(String, String)> {
        let path = format!("{}{key}", section.prefix).replace('.', "__").to_uppercase();
        let name = format!("{PREFIX}{path}");
        let value = self.environment.remove(&name)?;
        self.places.insert(format!("{}{key}", section.prefix), Place::Variable(name.clone()));
        Some((name, value))
    }

    fn raw<'t>(&mut self, section: &mut Section<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        section.known.push(key.to_owned());
        let (_, value) = section.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        self.places.insert(format!("{}{key}", section.prefix), Place::Byte(value.span().start));
        Some(value)
    }

    /// A table inside `section`.
    pub fn section<'t>(&mut self, section: &mut Section<'t>, key: &str) -> Section<'t> {
        let prefix = format!("{}{key}.", section.prefix);
        let table = self.raw(section, key).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.wrong_type(value.span().start, key, other, "a table");
                None
            }
        });
        Section { prefix, table, known: Vec::new() }
    }

    /// The tables of an array of tables.
    pub fn sections<'t>(&mut self, section: &mut Section<'t>, key: &str) -> Vec<(Section<'t>, usize)> {
        let Some(value) = self.raw(section, key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(value.span().start, key, value.get_ref(), "an array of tables");
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in array.iter().enumerate() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    let prefix = format!("{}{key}.{index}.", section.prefix);
                    sections.push((Section { prefix, table: Some(table), known: Vec::new() }, item.span().start));
                }
                other => self.wrong_type(item.span().start, key, other, "a table"),
            }
        }
        sections
    }

    fn wrong_type(&mut self, at: usize, key: &str, found: &DeValue<'_>, expected: &str) {
        self.wrong(&Place::Byte(at), format!("`{key}` is {expected}, not a {}", found.type_str()));
    }

    /// A value read by `parse` from text; TOML numbers and booleans count as their own text.
    pub fn parsed<T>(
        &mut self,
        section: &mut Section<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Found<T>> {
        let (text, place) = match (self.raw(section, key), self.variable(section, key)) {
            (_, Some((name, value))) => (value, Place::Variable(name)),
            (None, None) => return None,
            (Some(value), None) => {
                let place = Place::Byte(value.span().start);
                let text = match value.get_ref() {
                    DeValue::String(text) => text.to_string(),
                    DeValue::Integer(integer) => integer.as_str().replace('_', ""),
                    DeValue::Float(float) => float.as_str().replace('_', ""),
                    DeValue::Boolean(boolean) => boolean.to_string(),
                    other => {
                        self.wrong_type(value.span().start, key, other, "a single value");
                        return None;
                    }
                };
                (text, place)
            }
        };
        match parse(&text) {
            Ok(value) => Some(Found { value, place }),
            Err(expected) => {
                let shown: String = text.chars().take(60).collect();
                self.wrong(&place, format!("`{}{key}`: `{shown}` is not {expected}", section.prefix));
                None
            }
        }
    }

    pub fn text(&mut self, section: &mut Section<'_>, key: &str) -> Option<Found<String>> {
        self.parsed(section, key, |text| Ok(text.to_owned()))
    }

    pub fn number(&mut self, section: &mut Section<'_>, key: &str, least: u64, most: u64) -> Option<u64> {
        let parse = |text: &str| {
            let number = text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
            number.ok_or(format!("a whole number from {least} to {most}"))
        };
        self.parsed(section, key, parse).map(|found| found.value)
    }

    pub fn flag(&mut self, section: &mut Section<'_>, key: &str) -> Option<bool> {
        self.parsed(section, key, |text| text.parse().map_err(|_| "true or false".to_owned())).map(|found| found.value)
    }

    /// Milliseconds.
    pub fn duration(&mut self, section: &mut Section<'_>, key: &str) -> Option<i64> {
        self.parsed(section, key, value::duration).map(|found| found.value)
    }

    /// Bytes.
    pub fn size(&mut self, section: &mut Section<'_>, key: &str, least: u64, most: u64) -> Option<u64> {
        let parse = |text: &str| {
            let size = value::size(text)?;
            let shown = value::shown_size;
            let range = || format!("a size from {} to {}", shown(least), shown(most));
            (least..=most).contains(&size).then_some(size).ok_or_else(range)
        };
        self.parsed(section, key, parse).map(|found| found.value)
    }

    pub fn secret(
        &mut self,
        section: &mut Section<'_>,
        key: &str,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Found<Secret>> {
        let found = self.text(section, key)?;
        // A variable that holds a secret is no setting, whatever its name.
        if let Some(name) = found.value.strip_prefix("env:") {
            self.environment.remove(name);
        }
        match Secret::resolve(&found.value, look_up) {
            Ok(value) => Some(Found { value, place: found.place }),
            Err(why) => {
                let message = format!("`{}{key}`: {why}", section.prefix);
                self.absent.push(found.place.mistake(self.file, self.text, message));
                None
            }
        }
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, section: &mut Section<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let parse = |text: &str| {
            let all = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
                .ok_or_else(|| format!("one of {}", all()))
        };
        self.parsed(section, key, parse).map(|found| found.value)
    }

    /// A list of words; a variable separates them by commas.
    pub fn words(&mut self, section: &mut Section<'_>, key: &str) -> Option<Vec<Found<String>>> {
        let value = self.raw(section, key);
        if let Some((name, text)) = self.variable(section, key) {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            let place = Place::Variable(name);
            return Some(words.map(|word| Found { value: word.to_owned(), place: place.clone() }).collect());
        }
        let value = value?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(value.span().start, key, value.get_ref(), "a list of texts");
            return None;
        };
        let mut words = Vec::new();
        for item in array.iter() {
            match item.get_ref() {
                DeValue::String(text) => {
                    words.push(Found { value: text.to_string(), place: Place::Byte(item.span().start) });
                }
                other => self.wrong_type(item.span().start, key, other, "a list of texts"),
            }
        }
        Some(words)
    }

    /// Every key of a table of free keys, with its text and place.
    pub fn entries(&mut self, section: &Section<'_>) -> Vec<(String, Found<String>)> {
        let mut entries = Vec::new();
        for (name, value) in section.table.into_iter().flat_map(|table| table.iter()) {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(integer) => integer.as_str().replace('_', ""),
                DeValue::Float(float) => float.as_str().replace('_', ""),
                other => {
                    self.wrong_type(value.span().start, name.get_ref(), other, "a single value");
                    continue;
                }
            };
            let place = Place::Byte(value.span().start);
            self.places.insert(format!("{}{}", section.prefix, name.get_ref()), place.clone());
            entries.push((name.get_ref().to_string(), Found { value: text, place }));
        }
        entries
    }

    /// Says which keys of the section nobody asked for.
    pub fn end(&mut self, section: &Section<'_>) {
        for (name, _) in section.table.into_iter().flat_map(|table| table.iter()) {
            let key: &str = name.get_ref();
            if !section.known.iter().any(|known| known == key) {
                let message = format!("unknown key `{}{key}`", section.prefix);
                let mistake = Mistake::at(self.file, self.text, name.span().start, message);
                self.mistakes.push(mistake.nearest(key, section.known.iter().map(String::as_str)));
            }
        }
    }
}

impl<'t> Section<'t> {
    pub fn top(table: &'t DeTable<'t>) -> Self {
        Self { prefix: String::new(), table: Some(table), known: Vec::new() }
    }

    /// Whether the file has it.
    pub fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// Where a key of it stands.
    pub fn key_at(&self, key: &str) -> Option<usize> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span().start)
    }

    /// Its whole name: `http`, `subscribers.0`.
    pub fn name(&self) -> &str {
        self.prefix.trim_end_matches('.')
    }
}
