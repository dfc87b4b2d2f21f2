//! Payments as lines of JSON in Caddis's own names, and their labels in a file of their own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};

use super::payment::{Payment, Typology};
use super::random::Random;
use super::{DAY_MS, Scenario, Simulator, population};

const LABEL: u64 = 7;
/// Bytes gathered before they are written.
const BLOCK: usize = 1 << 18;

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    pub transactions: u64,
    pub frauds: u64,
    pub by_typology: Vec<(&'static str, u64)>,
    pub labels: u64,
}

/// Writes a scenario's payments as NDJSON, and its labels if they are wanted: frauds only, each when it
/// becomes known. An analyst finds a fifth of them within hours; the others come back as chargebacks, after
/// five days in the median (log-normal). `progress` is told how many payments are written, now and then,
/// and may stop it by answering `false`.
///
/// # Errors
/// A writer's own.
pub fn write(
    scenario: &Scenario,
    payments: &mut dyn Write,
    mut labels: Option<&mut dyn Write>,
    mut progress: impl FnMut(u64) -> bool,
) -> io::Result<Summary> {
    let mut simulator = Simulator::new(scenario);
    let mut lines = Lines::default();
    let mut summary = Summary::default();
    let mut counts = [0_u64; Typology::ALL.len()];
    let mut waiting: BinaryHeap<Reverse<(i64, u64, Typology)>> = BinaryHeap::new();
    while let Some(payment) = simulator.next() {
        let number = summary.transactions;
        summary.transactions += 1;
        lines.payment(number, &payment);
        if let Some(typology) = payment.typology {
            summary.frauds += 1;
            if let Some(count) = counts.get_mut(typology as usize) {
                *count += 1;
            }
            if labels.is_some() {
                waiting.push(Reverse((payment.time + delay(scenario.seed, number), number, typology)));
            }
        }
        if let Some(labels) = &mut labels {
            while waiting.peek().is_some_and(|Reverse((time, ..))| *time <= payment.time) {
                summary.labels += label(waiting.pop(), &mut **labels)?;
            }
        }
        if lines.bytes.len() >= BLOCK {
            payments.write_all(&lines.bytes)?;
            lines.bytes.clear();
            if !progress(summary.transactions) {
                break;
            }
        }
    }
    payments.write_all(&lines.bytes)?;
    payments.flush()?;
    if let Some(labels) = &mut labels {
        while !waiting.is_empty() {
            summary.labels += label(waiting.pop(), &mut **labels)?;
        }
        labels.flush()?;
    }
    summary.by_typology = Typology::ALL.iter().zip(counts).map(|(typology, count)| (typology.name(), count)).collect();
    Ok(summary)
}

fn delay(seed: u64, number: u64) -> i64 {
    let mut random = Random::of(seed, LABEL, number, 0);
    let days =
        if random.chance(0.2) { random.between(0.05, 0.5) } else { (5.0_f64.ln() + 0.6 * random.normal()).exp() };
    #[expect(clippy::cast_possible_truncation, reason = "days in milliseconds")]
    let delay = (days.min(60.0) * DAY_MS as f64) as i64;
    delay
}

fn label(due: Option<Reverse<(i64, u64, Typology)>>, to: &mut dyn Write) -> io::Result<u64> {
    let Some(Reverse((time, number, typology))) = due else { return Ok(0) };
    let name = typology.name();
    writeln!(
        to,
        "{{\"transaction_id\":\"t{number:010}\",\"fraud\":true,\"typology\":\"{name}\",\"label_time\":{time}}}"
    )?;
    Ok(1)
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    number: itoa::Buffer,
}

impl Lines {
    fn payment(&mut self, number: u64, payment: &Payment) {
        self.text("{\"transaction_id\":\"t");
        self.padded(number, 10);
        self.text("\",\"event_time\":");
        self.number(payment.time.cast_unsigned());
        self.text(",\"amount\":\"");
        let cents = payment.amount.unsigned_abs();
        self.number(cents / 100);
        self.text(".");
        self.padded(cents % 100, 2);
        self.text("\",\"currency\":\"EUR\",\"account\":\"a");
        self.padded(u64::from(payment.account), 8);
        self.text("\",\"card\":\"c");
        self.padded(u64::from(payment.account), 8);
        let merchant = population::merchant(payment.terminal);
        self.text("\",\"merchant\":\"m");
        self.padded(u64::from(merchant), 7);
        self.text("\",\"terminal\":\"t");
        self.padded(u64::from(payment.terminal), 7);
        if payment.device != u64::MAX {
            self.text("\",\"device\":\"d");
            self.number(payment.device);
        }
        self.text("\",\"ip\":\"");
        for (at, part) in payment.ip.to_be_bytes().into_iter().enumerate() {
            if at > 0 {
                self.text(".");
            }
            self.number(u64::from(part));
        }
        self.text("\",\"country\":\"");
        self.text(payment.country);
        if let Some((latitude, longitude)) = payment.place {
            self.text("\",\"latitude\":");
            self.degrees(latitude);
            self.text(",\"longitude\":");
            self.degrees(longitude);
            self.text(",\"channel\":\"");
        } else {
            self.text("\",\"channel\":\"");
        }
        self.text(payment.channel.name());
        self.text("\",\"mcc\":\"");
        self.text(population::mcc(merchant));
        self.text("\"}\n");
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.bytes.extend_from_slice(self.number.format(number).as_bytes());
    }

    fn padded(&mut self, number: u64, width: usize) {
        let digits = self.number.format(number).as_bytes();
        self.bytes.resize(self.bytes.len() + width.saturating_sub(digits.len()), b'0');
        self.bytes.extend_from_slice(digits);
    }

    /// Four decimals: eleven metres.
    fn degrees(&mut self, degrees: f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 180 degrees")]
        let parts = (degrees.abs() * 10_000.0).round() as u64;
        if degrees < 0.0 {
            self.text("-");
        }
        self.number(parts / 10_000);
        self.text(".");
        self.padded(parts % 10_000, 4);
    }
}
