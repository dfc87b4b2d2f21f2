//! A feature set: a TOML file that says which entities there are and what is worked out for them.

use std::fmt::Write as _;

use toml::Spanned;

use super::aggregate::{Aggregate, NAMES};
use super::row::RowFeature;
use crate::mistake::{Mistake, Mistakes};
use crate::transaction::{EventTime, Field, Schema, TextField};
use crate::written::{Fields, Written};

/// Whether a feature's values are whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    Integer,
    Real,
}

/// Which features there are, in the order of their slots.
#[derive(Debug)]
pub struct FeatureSet {
    names: Vec<String>,
    kinds: Vec<FeatureKind>,
    fingerprint: String,
    pub(super) entities: Vec<EntitySpec>,
    pub(super) rows: Vec<RowFeature>,
    /// The text fields that are hashed, with their names.
    pub(super) hashed: Vec<(TextField, String)>,
    /// How to say each feature in words, by slot.
    pub(super) words: Vec<Words>,
}

/// What a feature is, for a reader.
#[derive(Debug, Clone)]
pub(super) struct Words {
    pub aggregate: Option<Aggregate>,
    pub entity: String,
    pub field: String,
    pub window: String,
    pub delay: String,
    pub name: String,
}

/// One kind of entity and all that is kept and worked out for it.
#[derive(Debug)]
pub(super) struct EntitySpec {
    pub name: String,
    pub field_names: Vec<String>,
    /// Places of its fields in [`FeatureSet::hashed`].
    pub key_fields: Vec<usize>,
    pub windows: Vec<Window>,
    /// Places in [`FeatureSet::hashed`] of the values kept with each event.
    pub columns: Vec<usize>,
    /// Those that look at the transaction before, then those of each window.
    pub features: Vec<EntityFeature>,
    /// How many look at the transaction before.
    pub previous: usize,
    /// The largest *d + w*, milliseconds.
    pub reach: i64,
    pub keeps_amount: bool,
    pub keeps_id: bool,
    pub keeps_place: bool,
    /// Events kept as they are; older ones are folded into tiles.
    pub exact_events: usize,
}

impl EntitySpec {
    /// How far back the transaction before this one may be to be seen: the entity's reach, or a month
    /// where it has no window.
    pub fn previous_reach(&self) -> i64 {
        if self.windows.is_empty() { 30 * 86_400_000 } else { self.reach }
    }

    /// Windows of one delay come one after the other, the shorter first: each holds all of the one before.
    fn sort_windows(&mut self) {
        let mut order: Vec<usize> = (0..self.windows.len()).collect();
        order.sort_by_key(|at| self.windows.get(*at).map(|window| (window.delay, window.length)));
        self.windows = order.iter().filter_map(|at| self.windows.get(*at).copied()).collect();
        for feature in &mut self.features {
            feature.window = order.iter().position(|at| *at == feature.window).unwrap_or_default();
        }
        self.features.sort_by_key(|feature| (!feature.aggregate.is_previous(), feature.window));
        self.previous = self.features.partition_point(|feature| feature.aggregate.is_previous());
        let of_windows = self.features.get(self.previous..).unwrap_or_default();
        for (at, window) in self.windows.iter_mut().enumerate() {
            let place = |at| self.previous + of_windows.partition_point(|feature: &EntityFeature| feature.window < at);
            window.features = (place(at), place(at + 1));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub length: i64,
    pub delay: i64,
    pub squares: bool,
    pub extremes: bool,
    pub firsts: bool,
    /// Which columns are counted by value, a bit each.
    pub counted: u16,
    /// In which of them all events with the current transaction's value are looked for; in the others the
    /// last is enough.
    pub matched: u16,
    /// Its features among the entity's: from the first up to the second.
    pub features: (usize, usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct EntityFeature {
    pub slot: usize,
    pub aggregate: Aggregate,
    pub window: usize,
    /// The place in [`EntitySpec::columns`].
    pub column: usize,
    pub include: bool,
}

/// Windows reach back at most this far.
pub const MAX_WINDOW: i64 = 90 * 86_400_000;
/// An entity may keep this many fields with each event.
const MAX_COLUMNS: usize = 8;
const MAX_FEATURES: usize = 1_000;
/// How many events of an entity are kept as they are where the set does not say (`exact_events`). An entity
/// that has more in its reach folds its oldest into tiles. Counts and sums over those miss at most one event
/// in 64 of those since the window's start (with a delay, two in 64); distinct counts have a standard error of
/// 4.6 %; `share`, `is_new` and `first_seen` look for values among the events that are not in tiles only.
pub const EXACT_EVENTS: usize = 65_536;
const LEAST_EXACT: usize = 64;
const MOST_EXACT: usize = 10_000_000;

struct RawEntity {
    name: Spanned<String>,
    fields: Option<Vec<Spanned<String>>>,
    exact_events: Option<Spanned<i64>>,
}

impl RawEntity {
    const KEYS: [&str; 3] = ["name", "fields", "exact_events"];

    fn read<'t>(fields: &mut Fields<'t>, written: &mut Written<'t>) -> Option<Self> {
        let (name, texts) = (written.need(fields, "name"), written.take(fields, "fields"));
        let exact_events = written.take(fields, "exact_events");
        Some(Self { name: name?, fields: texts, exact_events })
    }
}

struct RawFeature {
    name: Spanned<String>,
    entity: Option<Spanned<String>>,
    aggregate: Spanned<String>,
    of: Option<Spanned<String>>,
    window: Option<Spanned<String>>,
    windows: Option<Vec<Spanned<String>>>,
    delay: Option<Spanned<String>>,
    current: Option<Spanned<String>>,
    values: Option<Vec<String>>,
}

impl RawFeature {
    const KEYS: [&str; 9] = ["name", "entity", "is", "of", "window", "windows", "delay", "current", "values"];

    fn read<'t>(fields: &mut Fields<'t>, written: &mut Written<'t>) -> Option<Self> {
        let (name, aggregate) = (written.need(fields, "name"), written.need(fields, "is"));
        let mut text = |key: &str| written.take(fields, key);
        let (entity, of, window) = (text("entity"), text("of"), text("window"));
        let (delay, current) = (text("delay"), text("current"));
        let (windows, values) = (written.take(fields, "windows"), written.take(fields, "values"));
        Some(Self { name: name?, entity, aggregate: aggregate?, of, window, windows, delay, current, values })
    }
}

impl FeatureSet {
    /// Reads a feature set. `file` is its name, for mistakes.
    ///
    /// # Errors
    /// Every mistake in it, with line and column.
    pub fn parse(text: &str, file: &str, schema: &Schema) -> Result<Self, Mistakes> {
        let (mut written, mut top) = Written::parse(file, text, &["entities", "features"])?;
        let entities: Vec<Option<RawEntity>> = written
            .tables(&mut top, "entities", &RawEntity::KEYS)
            .iter_mut()
            .map(|fields| RawEntity::read(fields, &mut written))
            .collect();
        let features: Vec<Option<RawFeature>> = written
            .tables(&mut top, "features", &RawFeature::KEYS)
            .iter_mut()
            .map(|fields| RawFeature::read(fields, &mut written))
            .collect();
        let mut builder = Builder { text, file, schema, mistakes: written.mistakes(), set: Self::empty() };
        entities.iter().flatten().for_each(|entity| builder.entity(entity));
        features.iter().flatten().for_each(|feature| builder.feature(feature));
        if features.is_empty() {
            builder.mistakes.push(Mistake::in_file(file, "no feature is declared").help("add [[features]]"));
        }
        let Builder { mut mistakes, mut set, .. } = builder;
        if !mistakes.is_empty() {
            mistakes.sort();
            return Err(Mistakes(mistakes));
        }
        set.finish();
        Ok(set)
    }

    fn empty() -> Self {
        Self {
            names: Vec::new(),
            kinds: Vec::new(),
            fingerprint: String::new(),
            entities: Vec::new(),
            rows: Vec::new(),
            hashed: Vec::new(),
            words: Vec::new(),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    #[must_use]
    pub fn kind(&self, slot: usize) -> FeatureKind {
        self.kinds.get(slot).copied().unwrap_or(FeatureKind::Real)
    }

    /// BLAKE3 of what the set means, in hexadecimal: comments and layout do not count, order does.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The kinds of entity, by name.
    pub fn entity_names(&self) -> impl Iterator<Item = &str> {
        self.entities.iter().map(|entity| entity.name.as_str())
    }

    fn add(&mut self, name: String, kind: FeatureKind, words: Words) -> usize {
        self.names.push(name);
        self.kinds.push(kind);
        self.words.push(words);
        self.names.len() - 1
    }

    fn hashed_at(&mut self, field: TextField, name: &str) -> usize {
        if let Some(at) = self.hashed.iter().position(|(known, _)| *known == field) {
            return at;
        }
        self.hashed.push((field, name.to_owned()));
        self.hashed.len() - 1
    }

    fn finish(&mut self) {
        for entity in &mut self.entities {
            entity.sort_windows();
            entity.reach = entity.previous_reach();
        }
        let mut meaning = String::from("caddis feature set 2\n");
        for entity in &self.entities {
            let _ = writeln!(meaning, "entity {} {:?} {}", entity.name, entity.field_names, entity.exact_events);
            for feature in &entity.features {
                let window = entity.windows.get(feature.window).map(|window| (window.length, window.delay));
                let column = entity.columns.get(feature.column).and_then(|at| self.hashed.get(*at));
                let column = column.filter(|_| feature.aggregate.needs_field()).map(|(_, name)| name);
                let _ = writeln!(
                    meaning,
                    "{} {} {window:?} {column:?} {}",
                    feature.slot,
                    feature.aggregate.name(),
                    feature.include
                );
            }
        }
        for row in &self.rows {
            let _ = writeln!(meaning, "row {row:?}");
        }
        for name in &self.names {
            let _ = writeln!(meaning, "name {name}");
        }
        self.fingerprint = blake3::hash(meaning.as_bytes()).to_hex().to_string();
    }
}

struct Builder<'a> {
    text: &'a str,
    file: &'a str,
    schema: &'a Schema,
    mistakes: Vec<Mistake>,
    set: FeatureSet,
}

impl Builder<'_> {
    fn mistake(&mut self, at: usize, message: impl Into<String>) -> &mut Mistake {
        self.mistakes.push(Mistake::at(self.file, self.text, at, message));
        let last = self.mistakes.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "pushed just now")]
        &mut self.mistakes[last]
    }

    fn text_field(&mut self, name: &Spanned<String>) -> Option<usize> {
        let wanted = name.get_ref();
        if let Some(field) = self.schema.text(wanted) {
            return Some(self.set.hashed_at(field, wanted));
        }
        let help = match self.schema.field(wanted) {
            Some(_) => Some("it must be a text field, such as `merchant`".to_owned()),
            None => crate::mistake::nearest(wanted, self.schema.texts().iter().map(String::as_str))
                .map(|name| format!("did you mean `{name}`?")),
        };
        self.mistake(name.span().start, format!("no text field `{wanted}`")).help = help;
        None
    }

    fn entity(&mut self, raw: &RawEntity) {
        let name = raw.name.get_ref();
        if self.set.entities.iter().any(|known| known.name == *name) {
            self.mistake(raw.name.span().start, format!("entity `{name}` is declared twice"));
            return;
        }
        let own = vec![raw.name.clone()];
        let fields = raw.fields.as_ref().unwrap_or(&own);
        let key_fields: Vec<usize> = fields.iter().filter_map(|field| self.text_field(field)).collect();
        let exact_events = raw.exact_events.as_ref().map_or(EXACT_EVENTS, |given| {
            let number = usize::try_from(*given.get_ref()).unwrap_or_default();
            if !(LEAST_EXACT..=MOST_EXACT).contains(&number) {
                let message = format!("exact_events must be from {LEAST_EXACT} to {MOST_EXACT}");
                self.mistake(given.span().start, message);
            }
            number
        });
        self.set.entities.push(EntitySpec {
            name: name.clone(),
            field_names: fields.iter().map(|field| field.get_ref().clone()).collect(),
            key_fields,
            windows: Vec::new(),
            columns: Vec::new(),
            features: Vec::new(),
            previous: 0,
            reach: 0,
            keeps_amount: false,
            keeps_id: false,
            keeps_place: false,
            exact_events,
        });
    }

    fn feature(&mut self, raw: &RawFeature) {
        if self.set.names.len() >= MAX_FEATURES {
            self.mistake(raw.name.span().start, format!("more than {MAX_FEATURES} features"));
            return;
        }
        let Some(entity) = &raw.entity else {
            self.row_feature(raw);
            return;
        };
        let wanted = entity.get_ref();
        let Some(entity_at) = self.set.entities.iter().position(|known| known.name == *wanted) else {
            let names: Vec<String> = self.set.entities.iter().map(|known| known.name.clone()).collect();
            let help = crate::mistake::nearest(wanted, names.iter().map(String::as_str));
            let help = help
                .map_or_else(|| "declare it with [[entities]]".to_owned(), |name| format!("did you mean `{name}`?"));
            self.mistake(entity.span().start, format!("no entity `{wanted}`")).help = Some(help);
            return;
        };
        let kind = raw.aggregate.get_ref();
        let Some((_, aggregate)) = NAMES.into_iter().find(|(name, _)| name == kind) else {
            let help = crate::mistake::nearest(kind, NAMES.iter().map(|(name, _)| *name)).map_or_else(
                || format!("one of {}", NAMES.map(|(name, _)| name).join(", ")),
                |name| format!("did you mean `{name}`?"),
            );
            self.mistake(raw.aggregate.span().start, format!("no aggregate `{kind}`")).help = Some(help);
            return;
        };
        let column = self.of(raw, aggregate);
        let include = match raw.current.as_ref().map(|current| (current.get_ref().as_str(), current.span().start)) {
            None => !aggregate.is_comparison() && !aggregate.is_previous(),
            Some(("exclude", _)) => false,
            Some(("include", at))
                if aggregate.is_previous() || matches!(aggregate, Aggregate::IsNew | Aggregate::FirstSeen) =>
            {
                self.mistake(
                    at,
                    format!("`{kind}` looks at what came before: it cannot include the current transaction"),
                );
                false
            }
            Some(("include", _)) => true,
            Some((_, at)) => {
                self.mistake(at, "current must be \"include\" or \"exclude\"");
                false
            }
        };
        let delay = raw.delay.as_ref().map_or(0, |delay| self.duration(delay, 0));
        let mut windows: Vec<&Spanned<String>> = raw.window.iter().chain(raw.windows.iter().flatten()).collect();
        let from = raw.name.span().start;
        if aggregate.is_previous() {
            if let Some(window) = windows.first() {
                self.mistake(
                    window.span().start,
                    format!("`{kind}` has no window: it looks at the transaction before"),
                );
            }
            if let Some(delay) = &raw.delay {
                self.mistake(delay.span().start, format!("`{kind}` has no delay"));
            }
            windows.clear();
            self.entity_feature(entity_at, raw, aggregate, None, 0, column, include);
        } else if windows.is_empty() {
            self.mistake(from, format!("`{}` needs a window", raw.name.get_ref())).help =
                Some("window = \"24h\"".into());
        }
        for window in windows {
            let length = self.duration(window, 1_000);
            if length > 0 {
                self.entity_feature(entity_at, raw, aggregate, Some((window, length)), delay, column, include);
            }
        }
    }

    /// The field a feature is of: a text field where it counts values, otherwise the amount.
    fn of(&mut self, raw: &RawFeature, aggregate: Aggregate) -> Option<usize> {
        match (&raw.of, aggregate.needs_field()) {
            (Some(of), true) => self.text_field(of),
            (None, true) => {
                let message = format!("`{}` needs the field it is of", aggregate.name());
                self.mistake(raw.aggregate.span().start, message).help = Some("of = \"merchant\"".into());
                None
            }
            (Some(of), false) if of.get_ref() != "amount" || !aggregate.needs_amount() => {
                let message = if aggregate.needs_amount() {
                    format!("`{}` is of the amount, not of `{}`", aggregate.name(), of.get_ref())
                } else {
                    format!("`{}` is not of a field", aggregate.name())
                };
                self.mistake(of.span().start, message);
                None
            }
            _ => None,
        }
    }

    fn duration(&mut self, text: &Spanned<String>, least: i64) -> i64 {
        match parse_duration(text.get_ref()) {
            Some(length) if (least..=MAX_WINDOW).contains(&length) => length,
            _ => {
                let message = format!("`{}` is no duration from 1s to 90d", text.get_ref());
                self.mistake(text.span().start, message).help =
                    Some("such as \"30s\", \"10m\", \"24h\", \"7d\"".into());
                0
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one declaration")]
    fn entity_feature(
        &mut self,
        entity_at: usize,
        raw: &RawFeature,
        aggregate: Aggregate,
        window: Option<(&Spanned<String>, i64)>,
        delay: i64,
        hashed: Option<usize>,
        include: bool,
    ) {
        let window_text = window.map(|(text, _)| text.get_ref().clone()).unwrap_or_default();
        let name = raw.name.get_ref().replace("{window}", &window_text);
        if !self.name_is_free(&name, raw) {
            return;
        }
        let kind = if aggregate.is_integer() { FeatureKind::Integer } else { FeatureKind::Real };
        let field = hashed.and_then(|at| self.set.hashed.get(at)).map(|(_, name)| name.clone()).unwrap_or_default();
        let delay_text = raw.delay.as_ref().map(|delay| delay.get_ref().clone()).unwrap_or_default();
        let Some(entity) = self.set.entities.get_mut(entity_at) else { return };
        let column = match hashed {
            None => 0,
            Some(at) => entity.columns.iter().position(|known| *known == at).unwrap_or_else(|| {
                entity.columns.push(at);
                entity.columns.len() - 1
            }),
        };
        let too_many = entity.columns.len() > MAX_COLUMNS;
        let length = window.map_or(0, |(_, length)| length);
        let window_at = if window.is_some() {
            let known = entity.windows.iter().position(|known| (known.length, known.delay) == (length, delay));
            known.unwrap_or_else(|| {
                entity.windows.push(Window {
                    length,
                    delay,
                    squares: false,
                    extremes: false,
                    firsts: false,
                    counted: 0,
                    matched: 0,
                    features: (0, 0),
                });
                entity.windows.len() - 1
            })
        } else {
            0
        };
        if let Some(window) = entity.windows.get_mut(window_at).filter(|_| window.is_some()) {
            window.squares |= aggregate.needs_squares();
            window.extremes |= aggregate.needs_extremes();
            window.firsts |= aggregate == Aggregate::FirstSeen;
            if aggregate.needs_field() {
                window.counted |= 1 << column.min(15);
            }
            if aggregate.needs_matches() {
                window.matched |= 1 << column.min(15);
            }
        }
        entity.reach = entity.reach.max(length + delay);
        entity.keeps_amount |= aggregate.needs_amount();
        entity.keeps_id |= aggregate.needs_fraud();
        entity.keeps_place |= aggregate.needs_place();
        let entity_name = entity.name.clone();
        let words = Words {
            aggregate: Some(aggregate),
            entity: entity_name,
            field,
            window: window_text,
            delay: delay_text,
            name: name.clone(),
        };
        let slot = self.set.add(name, kind, words);
        if let Some(entity) = self.set.entities.get_mut(entity_at) {
            entity.features.push(EntityFeature { slot, aggregate, window: window_at, column, include });
        }
        if too_many {
            self.mistake(raw.name.span().start, format!("an entity keeps at most {MAX_COLUMNS} fields"));
        }
    }

    fn row_feature(&mut self, raw: &RawFeature) {
        let name = raw.name.get_ref().clone();
        if !self.name_is_free(&name, raw) {
            return;
        }
        for extra in raw.window.iter().chain(raw.windows.iter().flatten()).chain(&raw.delay).chain(&raw.current) {
            self.mistake(extra.span().start, format!("`{name}` is of the transaction alone: it has no window"));
        }
        let kind = raw.aggregate.get_ref();
        let of = raw.of.as_ref().map(|of| self.schema.field(of.get_ref()));
        let slot = self.set.names.len();
        match RowFeature::new(slot, kind, of, raw.values.as_deref()) {
            Ok(feature) => {
                let kind = feature.kind();
                let field = raw.of.as_ref().map(|of| of.get_ref().clone()).unwrap_or_default();
                let words = Words {
                    aggregate: None,
                    entity: String::new(),
                    field,
                    window: String::new(),
                    delay: String::new(),
                    name: name.clone(),
                };
                self.set.add(name, kind, words);
                self.set.rows.push(feature);
            }
            Err(expected) => {
                let message = format!("`{kind}` without an entity: {expected}");
                self.mistake(raw.aggregate.span().start, message);
            }
        }
    }

    fn name_is_free(&mut self, name: &str, raw: &RawFeature) -> bool {
        let at = raw.name.span().start;
        let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !well_formed {
            self.mistake(at, format!("`{name}` is no feature name: letters, digits and underscores"));
            return false;
        }
        if self.set.names.iter().any(|known| known == name) {
            let several = raw.windows.as_ref().is_some_and(|windows| windows.len() > 1);
            let help = several.then(|| "with several windows, put {window} into the name".to_owned());
            self.mistake(at, format!("feature `{name}` is declared twice")).help = help;
            return false;
        }
        if self.schema.field(name).is_some() || name == "score" {
            self.mistake(at, format!("`{name}` is the name of a transaction's field")).help =
                Some("rules could not tell them apart: choose another name".into());
            return false;
        }
        true
    }
}

/// `"90s"`, `"10m"`, `"24h"`, `"7d"` in milliseconds.
pub(crate) fn parse_duration(text: &str) -> Option<EventTime> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(unit).filter(|length| *length >= 0)
}

/// The field of a row feature, as the schema knows it.
pub(super) type RowField = Option<Field>;
