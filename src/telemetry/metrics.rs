//! Every metric named once, with its meaning.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::tally::Reading;

/// What `/metrics` shows, read at the moment it is asked.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub allowed: u64,
    pub reviewed: u64,
    pub blocked: u64,
    pub late: u64,
    pub duplicates: u64,
    pub quarantined: u64,
    pub quarantine_failures: u64,
    pub labels: u64,
    pub degraded: u64,
    /// By the path of the request.
    pub decision_seconds: Vec<(&'static str, Reading)>,
    pub batch_seconds: Reading,
    pub batch_size: Reading,
    pub flush_seconds: Reading,
    pub inbox_messages: u64,
    pub journal_entries: u64,
    pub journal_bytes: u64,
    pub snapshots: u64,
    pub snapshots_failed: u64,
    pub snapshot_bytes: u64,
    pub snapshot_entry: u64,
    pub ready: bool,
    /// Of Caddis.
    pub version: &'static str,
    /// Name and version of the one in force.
    pub model: Option<(String, String)>,
    /// What only the engine knows; missing when it does not answer, for a 0 would look like a fresh start.
    pub engine: Option<EngineSnapshot>,
    pub subscribers: Vec<SubscriberSnapshot>,
}

#[derive(Debug, Clone)]
pub struct EngineSnapshot {
    pub entities: u64,
    pub approximate_entities: u64,
    pub state_bytes: u64,
    pub future: u64,
    pub ids_forgotten_early: u64,
    /// Missing before the first transaction.
    pub newest_event_ms: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct SubscriberSnapshot {
    pub name: String,
    pub delivered: u64,
    pub failed: u64,
    pub given_up: u64,
    pub pending: u64,
    /// Of attempts; missing before the first.
    pub seconds: Option<Reading>,
}

/// The snapshot in OpenMetrics' text format, which Prometheus reads.
#[must_use]
pub fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut out = String::with_capacity(16_384);
    // Writing to a string cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.decisions(&mut out)?;
        self.work(&mut out)?;
        self.state(&mut out)?;
        self.webhooks(&mut out)
    }
}

impl Snapshot {
    fn decisions(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Transactions decided, by verdict; duplicates are not counted again";
        let mut decisions = out.start("caddis_decisions", help, MetricType::Counter)?;
        for (verdict, count) in [("allow", self.allowed), ("review", self.reviewed), ("block", self.blocked)] {
            counted(&mut decisions, &[("verdict", verdict)], count)?;
        }
        out.counter(
            "caddis_late",
            "Transactions behind the watermark: decided, but they change no window",
            Some(self.late),
        )?;
        out.counter("caddis_duplicates", "Transactions whose id was decided before", Some(self.duplicates))?;
        let future = self.engine.as_ref().map(|engine| engine.future);
        out.counter("caddis_future", "Transactions refused as too far ahead of their arrival", future)?;
        out.counter("caddis_quarantined", "Records refused and kept in the quarantine", Some(self.quarantined))?;
        out.counter(
            "caddis_quarantine_failures",
            "Tries to keep a refused record that failed; each is tried again until it is kept",
            Some(self.quarantine_failures),
        )?;
        let help = "Verdicts by rules alone, of payments that could not be taken and are not remembered";
        out.counter("caddis_degraded", help, Some(self.degraded))?;
        out.counter("caddis_labels", "Labels applied", Some(self.labels))
    }

    /// How long things take, and how much goes together.
    fn work(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "From a request's arrival, its body read, to its answer, by path";
        let mut decision = out.start("caddis_decision_seconds", help, MetricType::Histogram)?;
        for (path, reading) in &self.decision_seconds {
            distributed(&mut decision, &[("path", path)], reading)?;
        }
        out.histogram(
            "caddis_batch_seconds",
            "Time the engine takes to decide, journal and publish a batch",
            &self.batch_seconds,
        )?;
        out.histogram("caddis_batch_size", "Records in a batch", &self.batch_size)?;
        out.histogram("caddis_flush_seconds", "Time the disk takes to make batches durable", &self.flush_seconds)?;
        out.counter("caddis_journal_flushes", "Times the journal was made durable", Some(self.flush_seconds.count()))?;
        out.gauge(
            "caddis_inbox_messages",
            "Messages (blocks of records, questions) that wait for the engine",
            Some(self.inbox_messages),
        )
    }

    fn state(&self, out: &mut Out<'_>) -> fmt::Result {
        out.gauge("caddis_journal_entries", "Entries in the journal", Some(self.journal_entries))?;
        out.gauge("caddis_journal_bytes", "Bytes in the journal", Some(self.journal_bytes))?;
        out.counter("caddis_snapshots", "Snapshots of state taken since the start", Some(self.snapshots))?;
        let help = "Snapshots given up since the start; the log says why";
        out.counter("caddis_snapshots_failed", help, Some(self.snapshots_failed))?;
        let taken = |value: u64| (self.snapshots > 0).then_some(value);
        out.gauge("caddis_snapshot_bytes", "Bytes of the newest snapshot", taken(self.snapshot_bytes))?;
        let help = "The journal entry at which the newest snapshot begins: a restart follows the journal from there";
        out.gauge("caddis_snapshot_entry", help, taken(self.snapshot_entry))?;
        let engine = self.engine.as_ref();
        out.gauge("caddis_entities", "Entities with state in memory", engine.map(|engine| engine.entities))?;
        out.gauge(
            "caddis_approximate_entities",
            "Entities so busy that their oldest events are kept as totals only",
            engine.map(|engine| engine.approximate_entities),
        )?;
        out.gauge(
            "caddis_state_bytes",
            "Bytes of memory that entity state holds",
            engine.map(|engine| engine.state_bytes),
        )?;
        out.counter(
            "caddis_ids_forgotten_early",
            "Transaction ids given up before the dedupe horizon",
            engine.map(|engine| engine.ids_forgotten_early),
        )?;
        out.gauge(
            "caddis_newest_event_seconds",
            "Newest event time seen, seconds since 1970",
            engine.and_then(|engine| engine.newest_event_ms).map(|ms| ms as f64 / 1_000.0),
        )?;
        out.gauge("caddis_ready", "1 when records are taken", Some(u64::from(self.ready)))?;
        let mut model = out.start("caddis_model", "The model in force", MetricType::Gauge)?;
        if let Some((name, version)) = &self.model {
            gauged(&mut model, &[("name", name), ("version", version)], 1)?;
        }
        let mut build = out.start("caddis_build", "The version of Caddis", MetricType::Info)?;
        let version: Labels<'_> = &[("version", self.version)];
        build.encode_info(&version)
    }

    fn webhooks(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Webhook attempts, by subscriber and outcome";
        let mut deliveries = out.start("caddis_webhook_deliveries", help, MetricType::Counter)?;
        for SubscriberSnapshot { name, delivered, failed, given_up, .. } in &self.subscribers {
            for (outcome, count) in [("delivered", *delivered), ("failed", *failed), ("dead", *given_up)] {
                counted(&mut deliveries, &[("subscriber", name), ("outcome", outcome)], count)?;
            }
        }
        let mut pending = out.start("caddis_webhook_pending", "Alerts waiting for a subscriber", MetricType::Gauge)?;
        for subscriber in &self.subscribers {
            gauged(&mut pending, &[("subscriber", &subscriber.name)], subscriber.pending)?;
        }
        let help = "Time of a webhook attempt, by subscriber";
        let mut seconds = out.start("caddis_webhook_seconds", help, MetricType::Histogram)?;
        for subscriber in &self.subscribers {
            if let Some(reading) = &subscriber.seconds {
                distributed(&mut seconds, &[("subscriber", &subscriber.name)], reading)?;
            }
        }
        Ok(())
    }
}

/// Where metrics go.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn start<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, &format!("{help}."), None, kind)
    }

    fn counter(&mut self, name: &str, help: &str, count: Option<u64>) -> fmt::Result {
        let mut metric = self.start(name, help, MetricType::Counter)?;
        count.map_or(Ok(()), |count| metric.encode_counter::<NoLabelSet, _, u64>(&count, None))
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<impl EncodeGaugeValue>) -> fmt::Result {
        let mut metric = self.start(name, help, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    fn histogram(&mut self, name: &str, help: &str, reading: &Reading) -> fmt::Result {
        let mut metric = self.start(name, help, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(reading.sum, reading.count(), &reading.buckets, None)
    }
}

fn counted(metric: &mut MetricEncoder<'_>, labels: Labels<'_>, count: u64) -> fmt::Result {
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn gauged(metric: &mut MetricEncoder<'_>, labels: Labels<'_>, value: u64) -> fmt::Result {
    metric.encode_family(&labels)?.encode_gauge(&value)
}

fn distributed(metric: &mut MetricEncoder<'_>, labels: Labels<'_>, reading: &Reading) -> fmt::Result {
    let mut metric = metric.encode_family(&labels)?;
    metric.encode_histogram::<NoLabelSet>(reading.sum, reading.count(), &reading.buckets, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{EngineSnapshot, Snapshot, SubscriberSnapshot, render};
    use crate::tally::Tally;

    fn snapshot() -> Snapshot {
        let (times, sizes) = (Tally::of_times(), Tally::of_sizes());
        [1, 3, 30].into_iter().for_each(|ms| times.add_time(Duration::from_millis(ms)));
        sizes.add(5);
        let subscriber = SubscriberSnapshot {
            name: "a\"b".into(),
            delivered: 3,
            failed: 0,
            given_up: 0,
            pending: 1,
            seconds: Some(times.reading()),
        };
        let engine = EngineSnapshot {
            entities: 4,
            approximate_entities: 1,
            state_bytes: 1_000,
            future: 0,
            ids_forgotten_early: 0,
            newest_event_ms: Some(1_767_268_800_500),
        };
        Snapshot {
            allowed: 5,
            reviewed: 0,
            blocked: 1,
            late: 0,
            duplicates: 2,
            quarantined: 0,
            quarantine_failures: 0,
            labels: 0,
            degraded: 0,
            decision_seconds: vec![("/v1/decisions", times.reading())],
            batch_seconds: times.reading(),
            batch_size: sizes.reading(),
            flush_seconds: times.reading(),
            inbox_messages: 0,
            journal_entries: 7,
            journal_bytes: 700,
            snapshots: 2,
            snapshots_failed: 1,
            snapshot_bytes: 900,
            snapshot_entry: 5,
            ready: true,
            version: "1.2.3",
            model: Some(("baseline".into(), "abc".into())),
            engine: Some(engine),
            subscribers: vec![subscriber],
        }
    }

    #[test]
    fn metrics_are_lines_of_openmetrics() {
        let text = render(snapshot());
        for expected in [
            "# TYPE caddis_decisions counter\ncaddis_decisions_total{verdict=\"allow\"} 5\n",
            "\ncaddis_duplicates_total 2\n",
            "\ncaddis_journal_flushes_total 3\n",
            "\ncaddis_newest_event_seconds 1767268800.5\n",
            "\ncaddis_model{name=\"baseline\",version=\"abc\"} 1\n",
            "\ncaddis_build_info{version=\"1.2.3\"} 1\n",
            "{subscriber=\"a\\\"b\",outcome=\"delivered\"} 3\n",
            "\ncaddis_decision_seconds_count{path=\"/v1/decisions\"} 3\n",
            "\ncaddis_batch_seconds_bucket{le=\"0.001\"} 1\n",
            "\ncaddis_batch_seconds_bucket{le=\"0.005\"} 2\n",
            "\ncaddis_batch_seconds_bucket{le=\"+Inf\"} 3\n",
            "\ncaddis_batch_size_bucket{le=\"16.0\"} 1\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        let mut told = std::collections::BTreeSet::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                family = described.split(' ').next().expect("a name").to_owned();
                assert!(told.insert(family.clone()), "{family} is there twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&family), "{line} is not of {family}");
                let (_, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(told.len() > 25, "{told:?}");
    }

    #[test]
    fn what_the_engine_did_not_tell_is_missing() {
        let text = render(Snapshot { engine: None, model: None, ..snapshot() });
        assert!(text.contains("# TYPE caddis_entities gauge\n"));
        assert!(!text.contains("\ncaddis_entities ") && !text.contains("\ncaddis_future_total "), "{text}");
    }
}
