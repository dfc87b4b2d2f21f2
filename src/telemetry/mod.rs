//! Every metric named once, and how logs are written.

use std::fmt::{self, Write};
use std::io::IsTerminal;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Sends log lines to standard error. `filter` is a level (`info`) or a filter such as `caddis=debug`.
///
/// # Errors
/// The filter cannot be read, or logs were set up before.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| format!("log filter `{filter}`: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let done = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    done.map_err(|error| error.to_string())
}

/// What `/metrics` shows, read at the moment it is asked.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub allowed: u64,
    pub reviewed: u64,
    pub blocked: u64,
    pub late: u64,
    pub duplicates: u64,
    pub future: u64,
    pub quarantined: u64,
    pub quarantine_failures: u64,
    pub labels: u64,
    pub flushes: u64,
    pub journal_entries: u64,
    pub journal_bytes: u64,
    pub entities: u64,
    pub state_bytes: u64,
    pub newest_event_ms: i64,
    pub ids_forgotten_early: u64,
    pub ready: bool,
    /// By subscriber: delivered, failed attempts, dead letters, waiting.
    pub subscribers: Vec<SubscriberSnapshot>,
    pub model: String,
    pub model_version: String,
}

#[derive(Debug, Clone, Default)]
pub struct SubscriberSnapshot {
    pub name: String,
    pub delivered: u64,
    pub failed: u64,
    pub dead: u64,
    pub pending: u64,
}

/// The snapshot in Prometheus' text format (OpenMetrics 1.0 without exemplars).
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(4_096);
    // Writing to a string cannot fail.
    let _ = write_all(snapshot, &mut out);
    out
}

fn write_all(s: &Snapshot, out: &mut String) -> fmt::Result {
    head(out, "caddis_decisions", "counter", "Transactions decided, by verdict; duplicates are not counted again.")?;
    for (verdict, count) in [("allow", s.allowed), ("review", s.reviewed), ("block", s.blocked)] {
        writeln!(out, "caddis_decisions_total{{verdict=\"{verdict}\"}} {count}")?;
    }
    let counters = [
        ("caddis_late", "Transactions behind the watermark: decided, but they change no window.", s.late),
        ("caddis_duplicates", "Transactions whose id was decided before.", s.duplicates),
        ("caddis_future", "Transactions refused as too far ahead of their arrival.", s.future),
        ("caddis_quarantined", "Records refused and kept in the quarantine.", s.quarantined),
        ("caddis_quarantine_failures", "Refused records that the quarantine did not take.", s.quarantine_failures),
        ("caddis_labels", "Labels applied.", s.labels),
        ("caddis_journal_flushes", "Times the journal was made durable.", s.flushes),
        ("caddis_ids_forgotten_early", "Transaction ids given up before the dedupe horizon.", s.ids_forgotten_early),
    ];
    for (name, help, value) in counters {
        head(out, name, "counter", help)?;
        writeln!(out, "{name}_total {value}")?;
    }
    let gauges = [
        ("caddis_journal_entries", "Entries in the journal.", s.journal_entries as f64),
        ("caddis_journal_bytes", "Bytes in the journal.", s.journal_bytes as f64),
        ("caddis_entities", "Entities with state in memory.", s.entities as f64),
        ("caddis_state_bytes", "Bytes of memory that entity state holds.", s.state_bytes as f64),
        (
            "caddis_newest_event_seconds",
            "Newest event time seen, seconds since 1970.",
            s.newest_event_ms as f64 / 1_000.0,
        ),
        ("caddis_ready", "1 when records are taken.", f64::from(u8::from(s.ready))),
    ];
    for (name, help, value) in gauges {
        head(out, name, "gauge", help)?;
        writeln!(out, "{name} {value}")?;
    }
    head(out, "caddis_model", "gauge", "The model in force.")?;
    writeln!(out, "caddis_model{{name=\"{}\",version=\"{}\"}} 1", escaped(&s.model), escaped(&s.model_version))?;
    head(out, "caddis_webhook_deliveries", "counter", "Webhook attempts, by subscriber and outcome.")?;
    for subscriber in &s.subscribers {
        let name = escaped(&subscriber.name);
        let outcomes = [("delivered", subscriber.delivered), ("failed", subscriber.failed), ("dead", subscriber.dead)];
        for (outcome, count) in outcomes {
            writeln!(out, "caddis_webhook_deliveries_total{{subscriber=\"{name}\",outcome=\"{outcome}\"}} {count}")?;
        }
    }
    head(out, "caddis_webhook_pending", "gauge", "Alerts waiting for a subscriber.")?;
    for subscriber in &s.subscribers {
        writeln!(out, "caddis_webhook_pending{{subscriber=\"{}\"}} {}", escaped(&subscriber.name), subscriber.pending)?;
    }
    out.push_str("# EOF\n");
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, SubscriberSnapshot, render};

    #[test]
    fn metrics_are_lines_of_name_and_value() {
        let subscribers =
            vec![SubscriberSnapshot { name: "a\"b".into(), delivered: 3, ..SubscriberSnapshot::default() }];
        let text = render(&Snapshot { allowed: 5, subscribers, ..Snapshot::default() });
        assert!(text.contains("caddis_decisions_total{verdict=\"allow\"} 5\n"), "{text}");
        assert!(text.contains("{subscriber=\"a\\\"b\",outcome=\"delivered\"} 3"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
