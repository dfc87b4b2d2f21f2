//! The configuration: one TOML file, with environment variables in the place of any key. Every mistake is
//! told at once, with line and column. docs/configuration.md lists the keys.

mod format;
mod reader;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use format::{RecordFormat, separator};
use reader::{Findings, Place, Reader, Section};
use toml::de::DeTable;
pub use value::Secret;

use crate::mistake::{Mistake, Mistakes};
use crate::transaction::{Currency, Schema};

/// All settings, each with its default where the file is silent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the file was, for messages.
    pub file: String,
    text: String,
    places: BTreeMap<String, Place>,
    /// Journal, outbox, quarantine and key.
    pub data: PathBuf,
    pub engine: EngineConfig,
    pub stream: StreamConfig,
    pub base_currency: Currency,
    /// Currency code and what one unit of it is worth in the base currency.
    pub rates: Vec<(Currency, String)>,
    /// The fields of transactions, with those declared here.
    pub schema: Schema,
    /// The user's own records, if they are not Caddis's.
    pub mapping: Option<toml::Table>,
    /// The file of the feature set; `None` is the shipped one.
    pub features: Option<PathBuf>,
    pub policy: Option<PathBuf>,
    pub model: ModelConfig,
    pub durability: DurabilityConfig,
    pub snapshots: SnapshotsConfig,
    pub quarantine: QuarantineConfig,
    pub http: HttpConfig,
    pub sources: Vec<SourceConfig>,
    pub alerts: AlertsConfig,
    pub subscribers: Vec<SubscriberConfig>,
    pub log: LogConfig,
}

#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    pub threads: usize,
    pub max_batch: usize,
    pub recent_decisions: usize,
}

/// How far out of order a stream may be. Milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct StreamConfig {
    pub allowed_lateness: i64,
    pub max_future: i64,
    pub dedupe_horizon: i64,
    pub dedupe_limit: usize,
}

#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Without a model only rules decide.
    pub enabled: bool,
    /// `None` is the registry shipped with Caddis.
    pub registry: Option<PathBuf>,
    pub name: String,
    /// `None` is the one in force.
    pub version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurabilityMode {
    Flush,
    Interval,
    Os,
}

#[derive(Debug, Clone, Copy)]
pub struct DurabilityConfig {
    pub mode: DurabilityMode,
    pub interval: Duration,
    /// Bytes the journal may come to; when it does, nothing is taken any more.
    pub max_journal: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct SnapshotsConfig {
    /// Milliseconds from one to the next; 0 for none.
    pub every: i64,
    /// How many are kept.
    pub keep: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct QuarantineConfig {
    /// Bytes of refused records that wait for somebody to deal with them; when they come to it, nothing is taken
    /// any more.
    pub max_bytes: u64,
}

/// What becomes of a payment whose sender waits for the verdict when it cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// It is refused: the sender is told when to come again.
    Refuse,
    /// The rules that look at the payment alone give a verdict, marked as degraded; nothing is remembered of it.
    RulesOnly,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub overload: Overload,
    pub max_body: usize,
    pub max_connections: usize,
    pub request_timeout: Duration,
    pub body_timeout: Duration,
    pub keys: Vec<KeyConfig>,
}

#[derive(Debug, Clone)]
pub struct KeyConfig {
    pub name: String,
    pub key: Secret,
    /// Whether it may change anything; reading is always allowed.
    pub write: bool,
}

#[derive(Debug, Clone)]
pub struct SourceConfig {
    pub name: String,
    pub from: SourceKind,
    pub format: RecordFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    File { path: PathBuf, follow: bool },
    StandardInput,
}

#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// Reasons an alert gives, at most.
    pub reasons: usize,
    /// Alerts delivered long ago are forgotten after this.
    pub keep: Duration,
    /// Deliveries that wait, over all subscribers, and those that were given up: when there are so many, nothing is
    /// taken any more.
    pub max_waiting: u64,
    pub max_dead: u64,
    /// Whether subscribers added over HTTP may live at private addresses.
    pub allow_private: bool,
}

#[derive(Debug, Clone)]
pub struct SubscriberConfig {
    pub name: String,
    pub url: String,
    pub secret: Secret,
    pub verdicts: Vec<String>,
    pub min_score: f64,
    pub allow_private: bool,
    /// The whole name of its table, `subscribers.0`, for messages.
    pub table: String,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub json: bool,
    pub filter: String,
}

/// A configuration as far as it could be read, with all that is wrong in it. What is wrong has its default.
#[derive(Debug, Clone)]
pub struct Draft {
    pub config: Config,
    pub mistakes: Vec<Mistake>,
    /// Secrets that are not where the file says: no matter for a command that needs none.
    pub absent: Vec<Mistake>,
}

impl Draft {
    /// The configuration, if nothing is wrong with it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn whole(mut self) -> Result<Config, Mistakes> {
        self.mistakes.append(&mut self.absent);
        self.mistakes.sort();
        if self.mistakes.is_empty() { Ok(self.config) } else { Err(Mistakes(self.mistakes)) }
    }
}

impl Config {
    /// Reads a configuration. `environment` is all variables; those named `CADDIS_…` take the place of keys.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, file: &str, environment: &[(String, String)]) -> Result<Self, Mistakes> {
        Self::draft(text, file, environment)?.whole()
    }

    /// As [`parse`](Self::parse), for those who have more to look through before they tell of mistakes.
    ///
    /// # Errors
    /// It is no TOML: every place where it is not.
    pub fn draft(text: &str, file: &str, environment: &[(String, String)]) -> Result<Draft, Mistakes> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let place = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
            let mistakes = errors.iter().map(|error| Mistake::at(file, text, place(error), error.message().to_owned()));
            return Err(Mistakes(mistakes.collect()));
        }
        let mut reader = Reader::new(file, text, environment.iter().cloned());
        let look_up = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let mut top = Section::top(table.get_ref());
        let mut config = read(&mut reader, &mut top, file, &look_up);
        reader.end(&top);
        let Findings { mistakes, absent, places } = reader.finish();
        (config.text, config.places) = (text.to_owned(), places);
        config.mapping = config.mapping.and_then(|_| {
            let whole: toml::Table = text.parse().ok()?;
            whole.get("mapping")?.as_table().cloned()
        });
        Ok(Draft { config, mistakes, absent })
    }

    /// Reads the file at `path`, or the defaults without one.
    ///
    /// # Errors
    /// The file cannot be read, or every mistake in it.
    pub fn load(path: Option<&std::path::Path>) -> Result<Self, Mistakes> {
        Self::load_draft(path)?.whole()
    }

    /// As [`load`](Self::load), for those who have more to look through before they tell of mistakes.
    ///
    /// # Errors
    /// The file cannot be read, or is no TOML.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn load_draft(path: Option<&std::path::Path>) -> Result<Draft, Mistakes> {
        let environment: Vec<(String, String)> = std::env::vars().collect();
        let Some(path) = path else { return Self::draft("", "defaults", &environment) };
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Mistake::in_file(&file, format!("cannot be read: {error}")))?;
        Self::draft(&text, &file, &environment)
    }

    /// A mistake at the first of `keys`, given by their whole names (`model.version`), that is set.
    #[must_use]
    pub fn wrong(&self, keys: &[&str], message: impl Into<String>) -> Mistake {
        match keys.iter().find_map(|key| self.places.get(*key)) {
            Some(place) => place.mistake(&self.file, &self.text, message),
            None => Mistake::in_file(&self.file, message),
        }
    }
}

const MINUTE: i64 = 60_000;

fn milliseconds(duration: i64) -> Duration {
    Duration::from_millis(u64::try_from(duration).unwrap_or_default())
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64).min(64)
}

fn read(
    reader: &mut Reader<'_>,
    top: &mut Section<'_>,
    file: &str,
    look_up: &dyn Fn(&str) -> Option<String>,
) -> Config {
    let data = reader.text(top, "data").map_or_else(|| PathBuf::from("data"), |found| found.value.into());
    let mut section = reader.section(top, "engine");
    let engine = EngineConfig {
        threads: as_usize(reader.number(&mut section, "threads", 1, 64).unwrap_or_else(cores)),
        max_batch: as_usize(reader.number(&mut section, "max_batch", 1, 65_536).unwrap_or(4_096)),
        recent_decisions: as_usize(reader.number(&mut section, "recent_decisions", 0, 10_000_000).unwrap_or(100_000)),
    };
    reader.end(&section);
    let mut section = reader.section(top, "stream");
    let stream = StreamConfig {
        allowed_lateness: reader.duration(&mut section, "allowed_lateness").unwrap_or(60 * MINUTE),
        max_future: reader.duration(&mut section, "max_future").unwrap_or(10 * MINUTE),
        dedupe_horizon: reader.duration(&mut section, "dedupe_horizon").unwrap_or(24 * 60 * MINUTE),
        dedupe_limit: as_usize(reader.number(&mut section, "dedupe_limit", 1, 1_000_000_000).unwrap_or(4_000_000)),
    };
    reader.end(&section);
    let (base_currency, rates) = money(reader, top);
    let schema = schema(reader, top);
    let section = reader.section(top, "mapping");
    reader.note_keys(&section);
    let mapping = section.is_there().then(toml::Table::new);
    let path = |reader: &mut Reader<'_>, top: &mut Section<'_>, key: &str| {
        let mut section = reader.section(top, key);
        let path = reader.text(&mut section, "file").map(|found| PathBuf::from(found.value));
        reader.end(&section);
        path
    };
    let features = path(reader, top, "features");
    let policy = path(reader, top, "policy");
    let mut section = reader.section(top, "model");
    let model = ModelConfig {
        enabled: reader.flag(&mut section, "enabled").unwrap_or(true),
        registry: reader.text(&mut section, "registry").map(|found| found.value.into()),
        name: reader.text(&mut section, "name").map_or_else(|| "baseline".to_owned(), |found| found.value),
        version: reader.text(&mut section, "version").map(|found| found.value).filter(|version| version != "current"),
    };
    reader.end(&section);
    let mut section = reader.section(top, "durability");
    let modes = [("flush", DurabilityMode::Flush), ("interval", DurabilityMode::Interval), ("os", DurabilityMode::Os)];
    let durability = DurabilityConfig {
        mode: reader.choice(&mut section, "mode", &modes).unwrap_or(DurabilityMode::Flush),
        interval: milliseconds(reader.duration(&mut section, "interval").unwrap_or(100)),
        max_journal: reader.size(&mut section, "max_journal", 1 << 12, u64::MAX).unwrap_or(u64::MAX),
    };
    reader.end(&section);
    let mut section = reader.section(top, "snapshots");
    let snapshots = SnapshotsConfig {
        every: reader.duration(&mut section, "every").unwrap_or(10 * MINUTE),
        keep: as_usize(reader.number(&mut section, "keep", 1, 100).unwrap_or(2)),
    };
    reader.end(&section);
    let mut section = reader.section(top, "quarantine");
    let quarantine =
        QuarantineConfig { max_bytes: reader.size(&mut section, "max_bytes", 1 << 10, u64::MAX).unwrap_or(1 << 30) };
    reader.end(&section);
    let http = http(reader, top, look_up);
    let sources = sources(reader, top);
    let mut section = reader.section(top, "alerts");
    let alerts = AlertsConfig {
        reasons: as_usize(reader.number(&mut section, "reasons", 0, 20).unwrap_or(5)),
        keep: milliseconds(reader.duration(&mut section, "keep").unwrap_or(90 * 24 * 60 * MINUTE)),
        max_waiting: reader.number(&mut section, "max_waiting", 1, u64::MAX >> 1).unwrap_or(1_000_000),
        max_dead: reader.number(&mut section, "max_dead", 1, u64::MAX >> 1).unwrap_or(100_000),
        allow_private: reader.flag(&mut section, "allow_private").unwrap_or(false),
    };
    reader.end(&section);
    let subscribers = subscribers(reader, top, look_up);
    let mut section = reader.section(top, "log");
    let log = LogConfig {
        json: reader.choice(&mut section, "format", &[("text", false), ("json", true)]).unwrap_or(false),
        filter: reader.text(&mut section, "filter").map_or_else(|| "info".to_owned(), |found| found.value),
    };
    reader.end(&section);
    let file = file.to_owned();
    Config {
        file,
        text: String::new(),
        places: BTreeMap::new(),
        data,
        engine,
        stream,
        base_currency,
        rates,
        schema,
        mapping,
        features,
        policy,
        model,
        durability,
        snapshots,
        quarantine,
        http,
        sources,
        alerts,
        subscribers,
        log,
    }
}

fn currency(text: &str) -> Result<Currency, String> {
    Currency::parse(text).ok_or_else(|| "an ISO 4217 currency code such as \"EUR\"".to_owned())
}

fn money(reader: &mut Reader<'_>, top: &mut Section<'_>) -> (Currency, Vec<(Currency, String)>) {
    let mut section = reader.section(top, "money");
    let base = reader.parsed(&mut section, "base", currency).map_or(Currency::EUR, |found| found.value);
    let table = reader.section(&mut section, "rates");
    let mut rates = Vec::new();
    for (code, rate) in reader.entries(&table) {
        match currency(&code) {
            Ok(currency) => rates.push((currency, rate.value)),
            Err(expected) => {
                let at = table.key_at(&code).unwrap_or_default();
                reader.wrong(&Place::Byte(at), format!("`{code}` is not {expected}"));
            }
        }
    }
    reader.end(&section);
    (base, rates)
}

fn schema(reader: &mut Reader<'_>, top: &mut Section<'_>) -> Schema {
    let mut section = reader.section(top, "transactions");
    let mut schema = Schema::default();
    for (key, text) in [("text_fields", true), ("number_fields", false)] {
        for name in reader.words(&mut section, key).unwrap_or_default() {
            let plain = name.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && name.value.starts_with(|c: char| c.is_ascii_lowercase());
            let declared = plain
                && if text {
                    schema.declare_text(&name.value).is_some()
                } else {
                    schema.declare_number(&name.value).is_some()
                };
            if !declared {
                let message = format!(
                    "`{}` cannot be declared: small letters, digits and _, no name twice, 64 fields of a kind at most",
                    name.value
                );
                reader.wrong(&name.place, message);
            }
        }
    }
    reader.end(&section);
    schema
}

fn http(reader: &mut Reader<'_>, top: &mut Section<'_>, look_up: &dyn Fn(&str) -> Option<String>) -> HttpConfig {
    let mut section = reader.section(top, "http");
    let address = |text: &str| text.parse().map_err(|_| "an address and port such as \"127.0.0.1:8080\"".to_owned());
    let listen = reader.parsed(&mut section, "listen", address).map(|found| found.value);
    let words = [("refuse", Overload::Refuse), ("rules_only", Overload::RulesOnly)];
    let overload = reader.choice(&mut section, "overload", &words).unwrap_or(Overload::Refuse);
    let max_body = as_usize(reader.size(&mut section, "max_body", 1 << 10, 128 << 20).unwrap_or(8 << 20));
    let max_connections = as_usize(reader.number(&mut section, "max_connections", 1, 100_000).unwrap_or(1_024));
    let request_timeout = milliseconds(reader.duration(&mut section, "request_timeout").unwrap_or(30_000));
    let body_timeout = milliseconds(reader.duration(&mut section, "body_timeout").unwrap_or(10_000));
    let mut keys: Vec<KeyConfig> = Vec::new();
    for (mut item, at) in reader.sections(&mut section, "keys") {
        let name =
            reader.text(&mut item, "name").map_or_else(|| format!("key {}", keys.len() + 1), |found| found.value);
        let write = reader.flag(&mut item, "write").unwrap_or(true);
        match reader.secret(&mut item, "key", look_up) {
            Some(key) if key.value.reveal().len() < 16 => {
                reader.wrong(&key.place, "a key has 16 characters or more");
            }
            Some(key) => keys.push(KeyConfig { name, key: key.value, write }),
            None if !reader.has(&item, "key") => {
                reader.wrong(&Place::Byte(at), "a key of [[http.keys]] has no `key`");
            }
            None => {}
        }
        reader.end(&item);
    }
    reader.end(&section);
    let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    HttpConfig { listen, overload, max_body, max_connections, request_timeout, body_timeout, keys }
}

fn sources(reader: &mut Reader<'_>, top: &mut Section<'_>) -> Vec<SourceConfig> {
    let mut sources: Vec<SourceConfig> = Vec::new();
    for (mut item, at) in reader.sections(top, "sources") {
        let place = Place::Byte(at);
        let file = reader.text(&mut item, "file");
        let stdin = reader.flag(&mut item, "stdin").unwrap_or(false);
        let follow = reader.flag(&mut item, "follow").unwrap_or(false);
        if stdin && follow {
            reader.wrong_at(&item, "follow", "`follow` is for files: standard input ends when its writer closes it");
        }
        let from = match (file, stdin) {
            (Some(file), false) => Some(SourceKind::File { path: file.value.into(), follow }),
            (None, true) => Some(SourceKind::StandardInput),
            _ => {
                reader.wrong(&place, "a source has either `file = \"PATH\"` or `stdin = true`");
                None
            }
        };
        let format = source_format(reader, &mut item, &from);
        let name = reader.text(&mut item, "name").map(|found| found.value);
        reader.end(&item);
        let Some(from) = from else { continue };
        let name = name.unwrap_or_else(|| match &from {
            SourceKind::File { path, .. } => path.display().to_string(),
            SourceKind::StandardInput => "standard input".to_owned(),
        });
        if sources.iter().any(|known| known.name == name || known.from == from) {
            reader.wrong(&place, format!("source `{name}` is there twice"));
        }
        sources.push(SourceConfig { name, from, format });
    }
    sources
}

/// `format` and `separator` of a source; a file's name says what they do not.
fn source_format(reader: &mut Reader<'_>, item: &mut Section<'_>, from: &Option<SourceKind>) -> RecordFormat {
    let by_name = match from {
        Some(SourceKind::File { path, .. }) => RecordFormat::of(path),
        _ => RecordFormat::Ndjson,
    };
    let formats = [("ndjson", false), ("csv", true)];
    let csv = reader.choice(item, "format", &formats).unwrap_or(by_name != RecordFormat::Ndjson);
    let found = reader.parsed(item, "separator", separator);
    match (csv, found) {
        (true, found) => by_name.as_csv(found.map(|found| found.value)),
        (false, None) => RecordFormat::Ndjson,
        (false, Some(separator)) => {
            reader.wrong(&separator.place, "`separator` is for `format = \"csv\"`");
            RecordFormat::Ndjson
        }
    }
}

fn subscribers(
    reader: &mut Reader<'_>,
    top: &mut Section<'_>,
    look_up: &dyn Fn(&str) -> Option<String>,
) -> Vec<SubscriberConfig> {
    let mut subscribers: Vec<SubscriberConfig> = Vec::new();
    for (mut item, at) in reader.sections(top, "subscribers") {
        let place = Place::Byte(at);
        let name = reader.text(&mut item, "name");
        let url = reader.text(&mut item, "url");
        let secret = reader.secret(&mut item, "secret", look_up);
        let mut verdicts = Vec::new();
        for verdict in reader.words(&mut item, "verdicts").unwrap_or_default() {
            if matches!(verdict.value.as_str(), "review" | "block") {
                verdicts.push(verdict.value);
            } else {
                reader.wrong(&verdict.place, format!("`{}` is not \"review\" or \"block\"", verdict.value));
            }
        }
        let probability = |text: &str| {
            text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "a number from 0 to 1".to_owned())
        };
        let min_score = reader.parsed(&mut item, "min_score", probability).map_or(0.0, |found| found.value);
        let allow_private = reader.flag(&mut item, "allow_private").unwrap_or(false);
        let missing: Vec<&str> = ["name", "url", "secret"].into_iter().filter(|key| !reader.has(&item, key)).collect();
        if !missing.is_empty() {
            reader.wrong(&place, format!("a subscriber has no `{}`", missing.join("`, `")));
        }
        reader.end(&item);
        let table = item.name().to_owned();
        let (Some(name), Some(url), Some(secret)) = (name, url, secret) else { continue };
        if subscribers.iter().any(|known| known.name == name.value) {
            reader.wrong(&name.place, format!("subscriber `{}` is there twice", name.value));
        }
        let (name, url, secret) = (name.value, url.value, secret.value);
        subscribers.push(SubscriberConfig { name, url, secret, verdicts, min_score, allow_private, table });
    }
    subscribers
}

#[cfg(test)]
mod tests {
    use super::{Config, DurabilityMode, RecordFormat, SourceKind};

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = Config::parse("", "caddis.toml", &[]).expect("defaults");
        assert!(config.http.listen.ip().is_loopback());
        assert_eq!(config.durability.mode, DurabilityMode::Flush);
        assert_eq!(config.base_currency.code(), "EUR");
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let text = r#"
data = "d"
[enigne]
threads = 2
[durability]
mode = "sometimes"
interval = "fast"
[http]
listen = "localhost"
port = 80
[[sources]]
name = "both"
[[subscribers]]
name = "desk"
url = "https://desk.example"
verdicts = ["allow"]
secret = "env:MISSING"
"#;
        let environment = [("CADDIS_HTTP__LISTN".to_owned(), "x".to_owned())];
        let mistakes = Config::parse(text, "caddis.toml", &environment).expect_err("mistakes").to_string();
        for said in [
            "caddis.toml:3:2: unknown key `enigne`\n  help: did you mean `engine`?",
            "caddis.toml:6:8: `durability.mode`: `sometimes` is not one of \"flush\", \"interval\", \"os\"",
            "caddis.toml:7:12: `durability.interval`: `fast` is not a duration",
            "caddis.toml:9:10: `http.listen`: `localhost` is not an address and port",
            "caddis.toml:10:1: unknown key `http.port`",
            "caddis.toml:11:1: a source has either",
            "caddis.toml:16:13: `allow` is not \"review\" or \"block\"",
            "caddis.toml:17:10: `subscribers.0.secret`: the environment has no variable MISSING",
            "environment: CADDIS_HTTP__LISTN stands for no setting",
        ] {
            assert!(mistakes.contains(said), "{said}\n---\n{mistakes}");
        }
    }

    #[test]
    fn a_variable_that_holds_a_secret_is_no_setting_and_a_secret_may_be_a_variable() {
        let text = "[[subscribers]]\nname = 'desk'\nurl = 'https://desk.example'\n";
        let parse = |text: &str, name: &str| {
            let environment = [(name.to_owned(), "whsec_x".to_owned())];
            Config::parse(text, "c.toml", &environment).map_err(|mistakes| mistakes.to_string())
        };
        for (text, name) in [
            (format!("{text}secret = 'env:CADDIS_DESK'\n"), "CADDIS_DESK"),
            (text.to_owned(), "CADDIS_SUBSCRIBERS__0__SECRET"),
        ] {
            let config = parse(&text, name).expect("a configuration");
            assert_eq!(config.subscribers[0].secret.reveal(), "whsec_x");
        }
        let said = parse(text, "CADDIS_DESK").expect_err("nobody names it");
        assert!(said.contains("CADDIS_DESK stands for no setting") && said.contains("has no `secret`"), "{said}");
        let key = parse("[[http.keys]]\nname = 'a'\n", "CADDIS_HTTP__KEYS__0__KEY").expect_err("too short");
        assert_eq!(key, "environment: CADDIS_HTTP__KEYS__0__KEY: a key has 16 characters or more");
    }

    #[test]
    fn what_cannot_be_is_refused_and_not_bent() {
        let said = |text: &str| Config::parse(text, "c.toml", &[]).expect_err("a mistake").to_string();
        let body = said("[http]\nmax_body = '1GiB'");
        assert_eq!(body, "c.toml:2:12: `http.max_body`: `1GiB` is not a size from 1KiB to 128MiB");
        let follow = said("[[sources]]\nstdin = true\nfollow = true");
        assert!(follow.starts_with("c.toml:3:10: `follow` is for files"), "{follow}");
    }

    #[test]
    fn syntax_is_told_with_its_place() {
        let mistakes = Config::parse("a = 1\nb = = 2\nc = [1,\n", "c.toml", &[]).expect_err("mistakes").to_string();
        assert!(mistakes.contains("c.toml:2:"), "{mistakes}");
    }

    #[test]
    fn the_environment_takes_the_place_of_keys() {
        let environment = [
            ("CADDIS_HTTP__LISTEN".to_owned(), "127.0.0.1:9".to_owned()),
            ("CADDIS_ENGINE__THREADS".to_owned(), "3".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ];
        let text = "[engine]\nthreads = 1\n[[sources]]\nfile = \"p.ndjson\"\n[money]\nrates = { USD = 0.92 }";
        let config = Config::parse(text, "c.toml", &environment).expect("a configuration");
        assert_eq!((config.http.listen.port(), config.engine.threads), (9, 3));
        assert_eq!(config.rates.len(), 1);
        assert_eq!(config.sources[0].from, SourceKind::File { path: "p.ndjson".into(), follow: false });
    }

    #[test]
    fn a_source_has_the_format_of_its_name_if_it_has_no_other() {
        let format = |source: &str| {
            let config = Config::parse(&format!("[[sources]]\n{source}"), "c.toml", &[]);
            config.map(|config| config.sources[0].format).map_err(|mistakes| mistakes.to_string())
        };
        for (source, expected) in [
            ("file = 'p.ndjson'", RecordFormat::Ndjson),
            ("file = 'p.CSV'", RecordFormat::Csv { separator: b',' }),
            ("file = 'p.tsv'", RecordFormat::Csv { separator: b'\t' }),
            ("file = 'p.csv'\nseparator = ';'", RecordFormat::Csv { separator: b';' }),
            ("file = 'p.csv'\nformat = 'ndjson'", RecordFormat::Ndjson),
            ("stdin = true", RecordFormat::Ndjson),
            ("stdin = true\nformat = 'csv'\nseparator = 'tab'", RecordFormat::Csv { separator: b'\t' }),
        ] {
            assert_eq!(format(source), Ok(expected), "{source}");
        }
        let wrong = format("file = 'p.csv'\nseparator = '::'").expect_err("a mistake");
        assert!(wrong.contains("c.toml:3:13: `sources.0.separator`: `::` is not \",\", \";\""), "{wrong}");
        let wrong = format("stdin = true\nseparator = ';'").expect_err("a mistake");
        assert!(wrong.contains("`separator` is for `format = \"csv\"`"), "{wrong}");
    }
}
