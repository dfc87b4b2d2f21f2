//! The run itself: threads that take turns at the requests of one schedule.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use hyper::body::Bytes;

use super::client::{Client, Target};
use super::report::Report;
use super::scenario::LoadScenario;
use crate::clock::Stopwatch;

/// Payments to be sent, one a line.
pub struct Records {
    bytes: Vec<u8>,
    /// Where each line begins.
    starts: Vec<usize>,
    /// What each payment's id begins with in this run, and how many milliseconds later it happens.
    stamp: Option<(String, i64)>,
}

const ID: &[u8] = b"\"transaction_id\":\"";
const TIME: &[u8] = b"\"event_time\":";

impl Records {
    /// Lines as they are.
    #[must_use]
    pub fn recorded(bytes: Vec<u8>) -> Self {
        let mut starts = vec![0];
        starts.extend(memchr::memchr_iter(b'\n', &bytes).map(|at| at + 1));
        if starts.last().is_some_and(|last| *last < bytes.len()) {
            starts.push(bytes.len());
        }
        Self { bytes, starts, stamp: None }
    }

    /// Simulated payments: each gets `run` in front of its id, and all are moved in time so that the last of
    /// `count` happens at `now_ms`. Their pace stays the simulation's: sent at thousands a second and stamped
    /// with the time of sending, every account would look like a burst of fraud.
    #[must_use]
    pub fn simulated(bytes: Vec<u8>, count: u64, run: String, now_ms: i64) -> Self {
        let mut records = Self::recorded(bytes);
        let last = usize::try_from(count).unwrap_or(usize::MAX).min(records.len()).saturating_sub(1);
        let shift = now_ms - records.event_time(last).unwrap_or(now_ms);
        records.stamp = Some((run, shift));
        records
    }

    /// When the first of them happens, milliseconds since 1970; `None` for records as they are.
    #[must_use]
    pub fn first_event_time(&self) -> Option<i64> {
        let (_, shift) = self.stamp.as_ref()?;
        Some(self.event_time(0)? + shift)
    }

    fn event_time(&self, index: usize) -> Option<i64> {
        let line = self.line(index);
        let at = memchr::memmem::find(line, TIME)? + TIME.len();
        let digits = line.get(at..)?.split(|byte| !byte.is_ascii_digit()).next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// A record without its newline.
    fn line(&self, index: usize) -> &[u8] {
        let span = self.starts.get(index).zip(self.starts.get(index + 1));
        span.and_then(|(start, end)| self.bytes.get(*start..*end)).unwrap_or_default().trim_ascii_end()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds record `index` to `body`, without its newline.
    fn add(&self, index: usize, body: &mut Vec<u8>) {
        let line = self.line(index);
        let Some((run, shift)) = &self.stamp else {
            body.extend_from_slice(line);
            return;
        };
        let find = |what: &[u8]| memchr::memmem::find(line, what).map(|at| at + what.len());
        let (Some(id), Some(time), Some(happened)) = (find(ID), find(TIME), self.event_time(index)) else {
            body.extend_from_slice(line);
            return;
        };
        let digits = line.get(time..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
        body.extend_from_slice(line.get(..id).unwrap_or_default());
        body.extend_from_slice(run.as_bytes());
        body.extend_from_slice(line.get(id..time).unwrap_or_default());
        // Writing to a vector cannot fail.
        let _ = write!(body, "{}", happened + shift);
        body.extend_from_slice(line.get(time + digits..).unwrap_or_default());
    }
}

/// What one thread saw.
struct Seen {
    latencies: Histogram<u64>,
    /// From the moment of sending: what a closed loop would have said.
    service: Histogram<u64>,
    records: u64,
    ok: u64,
    refused_records: u64,
    busy: u64,
    failed: u64,
    first_error: Option<String>,
    /// Requests that could not be sent within a millisecond of their time.
    sent_late: u64,
    last_answer: Duration,
}

fn histogram() -> Histogram<u64> {
    // Nanoseconds up to an hour, three digits.
    #[expect(clippy::expect_used, reason = "constant bounds")]
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("bounds that hold")
}

/// Runs a load. `progress` is told now and then how many requests are done.
///
/// # Errors
/// The service cannot be reached at the start, or the URL is none.
pub fn run(
    url: &str,
    key: Option<String>,
    scenario: &LoadScenario,
    records: &Records,
    progress: impl FnMut(u64) + Send,
) -> anyhow::Result<Report> {
    scenario.check().map_err(anyhow::Error::msg)?;
    let target = target(url, key, scenario)?;
    let (warm_up, total) = scenario.requests();
    let needed = total * scenario.records_per_request as u64;
    anyhow::ensure!(
        records.len() as u64 >= needed,
        "{} records are too few: {needed} are needed, since one sent twice would be a duplicate",
        records.len()
    );
    let interval = Duration::from_secs_f64(scenario.records_per_request as f64 / scenario.rate);
    let mut clients = Vec::new();
    for _ in 0..scenario.connections {
        let mut client = Client::new(target.clone())?;
        client.connect().map_err(|error| anyhow::anyhow!("cannot reach the service: {error}"))?;
        clients.push(client);
    }
    let next = AtomicU64::new(0);
    let started = Stopwatch::start();
    let plan = Plan { records, scenario, next: &next, started, interval, warm_up, total };
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || drive(client, plan))).collect();
        let mut progress = progress;
        while next.load(Ordering::Relaxed) < total && threads.iter().any(|thread| !thread.is_finished()) {
            progress(next.load(Ordering::Relaxed).min(total));
            std::thread::sleep(Duration::from_millis(200));
        }
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    anyhow::ensure!(seen.len() == scenario.connections, "a thread of the load panicked");
    let mut all = Report::new(url, scenario, histogram(), histogram());
    for seen in seen {
        all.latencies.add(&seen.latencies)?;
        all.service.add(&seen.service)?;
        all.records += seen.records;
        all.ok += seen.ok;
        all.refused_records += seen.refused_records;
        all.busy += seen.busy;
        all.failed += seen.failed;
        all.sent_late += seen.sent_late;
        all.first_error = all.first_error.or(seen.first_error);
        all.seconds = all.seconds.max(seen.last_answer.as_secs_f64() - scenario.warm_up);
    }
    Ok(all)
}

#[derive(Clone, Copy)]
struct Plan<'a> {
    records: &'a Records,
    scenario: &'a LoadScenario,
    /// The next request nobody has taken.
    next: &'a AtomicU64,
    started: Stopwatch,
    interval: Duration,
    warm_up: u64,
    total: u64,
}

fn drive(mut client: Client, plan: Plan<'_>) -> Seen {
    let mut seen = Seen {
        latencies: histogram(),
        service: histogram(),
        records: 0,
        ok: 0,
        refused_records: 0,
        busy: 0,
        failed: 0,
        first_error: None,
        sent_late: 0,
        last_answer: Duration::ZERO,
    };
    let per = plan.scenario.records_per_request;
    loop {
        let request = plan.next.fetch_add(1, Ordering::Relaxed);
        if request >= plan.total {
            return seen;
        }
        let intended = Duration::from_secs_f64(plan.interval.as_secs_f64() * request as f64);
        if let Some(wait) = intended.checked_sub(plan.started.elapsed()) {
            std::thread::sleep(wait);
        }
        let mut body = Vec::with_capacity(per * 320);
        let first = usize::try_from(request).unwrap_or(usize::MAX).saturating_mul(per);
        for index in first..first + per {
            plan.records.add(index, &mut body);
            if per > 1 {
                body.push(b'\n');
            }
        }
        let sent = plan.started.elapsed();
        let answer = client.post(Bytes::from(body));
        let answered = plan.started.elapsed();
        if request < plan.warm_up {
            continue;
        }
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Beyond the histogram's hour everything counts as an hour.
        seen.latencies.saturating_record(nanoseconds(answered.saturating_sub(intended)));
        seen.service.saturating_record(nanoseconds(answered.saturating_sub(sent)));
        seen.records += per as u64;
        seen.sent_late += u64::from(sent.saturating_sub(intended) > Duration::from_millis(1));
        seen.last_answer = answered;
        match answer {
            Ok(answer) if answer.status == 200 => {
                seen.ok += 1;
                seen.refused_records +=
                    memchr::memmem::find_iter(&answer.body, b"\"status\":\"refused\"").count() as u64;
            }
            Ok(answer) if answer.status == 429 => seen.busy += 1,
            Ok(answer) => {
                seen.failed += 1;
                let said: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
                seen.first_error.get_or_insert(format!("HTTP {}: {said}", answer.status));
            }
            Err(error) => {
                seen.failed += 1;
                seen.first_error.get_or_insert(error);
            }
        }
    }
}

fn target(url: &str, key: Option<String>, scenario: &LoadScenario) -> anyhow::Result<Target> {
    let parsed = url::Url::parse(url).map_err(|error| anyhow::anyhow!("`{url}` is no URL: {error}"))?;
    anyhow::ensure!(parsed.scheme() == "http", "`{url}`: load is driven over http:// only; put no TLS between");
    let host = parsed.host_str().ok_or_else(|| anyhow::anyhow!("`{url}` has no host"))?.to_owned();
    let content_type = if scenario.records_per_request > 1 { "application/x-ndjson" } else { "application/json" };
    let path = scenario.endpoint.path().to_owned();
    Ok(Target { host, port: parsed.port_or_known_default().unwrap_or(80), path, key, content_type })
}

#[cfg(test)]
mod tests {
    use super::Records;

    #[test]
    fn simulated_payments_get_an_id_and_time_of_this_run() {
        let line = b"{\"transaction_id\":\"t1\",\"event_time\":1700000000000,\"amount\":\"1.00\"}\n".to_vec();
        let mut body = Vec::new();
        let records = Records::simulated([line.clone(), line.clone()].concat(), 1, "r7-".into(), 5);
        assert_eq!((records.len(), records.first_event_time()), (2, Some(5)));
        records.add(0, &mut body);
        assert_eq!(
            String::from_utf8_lossy(&body),
            "{\"transaction_id\":\"r7-t1\",\"event_time\":5,\"amount\":\"1.00\"}"
        );
        body.clear();
        Records::recorded(line.clone()).add(0, &mut body);
        assert_eq!(body, line.trim_ascii_end());
    }
}
