//! What a load run found.

use std::fmt;
use std::io;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::scenario::LoadScenario;

/// Latencies are in nanoseconds, from the intended send time.
pub struct Report {
    pub url: String,
    pub scenario: LoadScenario,
    pub latencies: Histogram<u64>,
    /// From the moment of sending, for comparison: it hides what waiting costs.
    pub service: Histogram<u64>,
    pub seconds: f64,
    pub records: u64,
    pub ok: u64,
    pub refused_records: u64,
    pub busy: u64,
    pub failed: u64,
    pub sent_late: u64,
    pub first_error: Option<String>,
}

#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    p99_99: f64,
    max: f64,
    mean: f64,
}

const PERCENTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
    Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p99_9: at(0.999),
        p99_99: at(0.9999),
        max: milliseconds(histogram.max()),
        mean: histogram.mean() / 1e6,
    }
}

impl Report {
    pub(super) fn new(url: &str, scenario: &LoadScenario, latencies: Histogram<u64>, service: Histogram<u64>) -> Self {
        Self {
            url: url.to_owned(),
            scenario: scenario.clone(),
            latencies,
            service,
            seconds: 0.0,
            records: 0,
            ok: 0,
            refused_records: 0,
            busy: 0,
            failed: 0,
            sent_late: 0,
            first_error: None,
        }
    }

    /// Whether every request was answered with a 200.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.busy == 0 && self.failed == 0
    }

    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "url": self.url,
            "scenario": self.scenario,
            "seconds": self.seconds,
            "records": self.records,
            "records_per_second": self.records as f64 / self.seconds.max(1e-9),
            "requests_ok": self.ok,
            "requests_busy": self.busy,
            "requests_failed": self.failed,
            "records_refused": self.refused_records,
            "requests_sent_late": self.sent_late,
            "first_error": self.first_error,
            "latency_ms_from_intended_time": percentiles(&self.latencies),
            "latency_ms_from_send": percentiles(&self.service),
        })
    }

    /// Writes the percentile distribution that HdrHistogram's own plotter reads (`.hgrm`), in milliseconds.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_hgrm(&self, to: &mut dyn io::Write) -> io::Result<()> {
        writeln!(to, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
        let histogram = &self.latencies;
        for value in histogram.iter_quantiles(5) {
            let quantile = value.quantile_iterated_to();
            let inverse = if quantile < 1.0 { format!("{:14.2}", 1.0 / (1.0 - quantile)) } else { String::new() };
            writeln!(
                to,
                "{:12.3} {quantile:14.12} {:10} {inverse}",
                milliseconds(value.value_iterated_to()),
                histogram.count_between(0, value.value_iterated_to())
            )?;
        }
        writeln!(
            to,
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
            histogram.mean() / 1e6,
            histogram.stdev() / 1e6
        )?;
        writeln!(to, "#[Max     = {:12.3}, Total count    = {:12}]", milliseconds(histogram.max()), histogram.len())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} records to {} in {:.1} s: {:.0}/s of {:.0}/s intended",
            self.records,
            self.scenario.endpoint.path(),
            self.seconds,
            self.records as f64 / self.seconds.max(1e-9),
            self.scenario.rate
        )?;
        write!(f, "requests: {} good, {} told to come again, {} failed", self.ok, self.busy, self.failed)?;
        if self.refused_records > 0 {
            write!(f, "; {} records refused", self.refused_records)?;
        }
        if let Some(error) = &self.first_error {
            write!(f, "; first failure: {error}")?;
        }
        writeln!(f, "\nlatency in ms        from intended time    from sending")?;
        for (name, quantile) in PERCENTILES {
            writeln!(
                f,
                "  {name:<10} {:>24.3} {:>15.3}",
                milliseconds(self.latencies.value_at_quantile(quantile)),
                milliseconds(self.service.value_at_quantile(quantile))
            )?;
        }
        writeln!(
            f,
            "  {:<10} {:>24.3} {:>15.3}",
            "max",
            milliseconds(self.latencies.max()),
            milliseconds(self.service.max())
        )?;
        write!(f, "{} of the requests were sent more than 1 ms after their time", self.sent_late)
    }
}
