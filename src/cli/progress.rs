//! How long work shows where it is: a bar on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::Stopwatch;

/// Progress on standard error, so that results on standard output stay clean.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    started: Stopwatch,
    done: u64,
    last_line: Duration,
    quiet: bool,
}

/// How often a plain line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Starts counting `what` (`"transactions"`); `total` gives the time left.
    #[must_use]
    pub fn start(what: &'static str, total: Option<u64>, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
            let template = if total.is_some() {
                "{bar:30} {human_pos}/{human_len} {msg}  {per_sec}  {eta} left"
            } else {
                "{spinner} {human_pos} {msg}  {per_sec}  {elapsed}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        Self { what, bar, total, started: Stopwatch::start(), done: 0, last_line: Duration::ZERO, quiet }
    }

    /// `done` of the total so far.
    #[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
    pub fn at(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let elapsed = self.started.elapsed();
        if self.quiet || elapsed < self.last_line + LINE_EVERY {
            return;
        }
        self.last_line = elapsed;
        let rate = self.rate();
        let left = self.total.filter(|_| rate > 0.0).map(|total| {
            let seconds = total.saturating_sub(done) as f64 / rate;
            format!(", {} left", HumanDuration(Duration::from_secs_f64(seconds)))
        });
        eprintln!("{} {} ({:.0}/s{})", HumanCount(done), self.what, rate, left.unwrap_or_default());
    }

    /// A second on average so far.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let seconds = self.started.seconds();
        if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 }
    }

    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.started.seconds()
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
