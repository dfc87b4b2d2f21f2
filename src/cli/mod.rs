//! The command line, one file a subcommand.

mod alerts;
mod demo;
mod desk;
mod drift;
mod features;
mod models;
mod progress;
mod quarantine;
mod replay;
mod run;
mod simulate;
mod stream;
mod train;

use std::io::Write;
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::mistake::{Mistake, Mistakes};
pub use progress::Progress;

/// Real-time fraud detection for payment streams.
#[derive(Debug, Parser)]
#[command(name = "caddis", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running; standard error says why
  2  the command line or a file you wrote has mistakes; all of them are listed
  3  done, but some records were refused";

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch simulated fraud being caught: simulate, decide, alert a subscriber of its own, sum up.
    Demo(demo::Arguments),
    /// Decide transactions: over HTTP, from files and standard input.
    Run(run::RunArguments),
    /// Look a configuration through, and all it names; every mistake is told.
    Check(run::CheckArguments),
    /// Make synthetic payments with fraud and drift, and their labels.
    Simulate(simulate::Arguments),
    /// Run the engine over a recorded stream and write one row of features a transaction.
    Features(features::Arguments),
    /// Train a model on a recorded stream and its labels, and put it into the registry.
    Train(train::Arguments),
    /// Compare a recorded stream with a model's training: which features drifted, and since when.
    Drift(drift::Arguments),
    /// The registry of models: list, import, compare, promote.
    Models(models::Arguments),
    /// Alerts, subscribers and dead letters of a data folder.
    Alerts(alerts::Arguments),
    /// Records that were refused.
    Quarantine(quarantine::Arguments),
    /// Load tests.
    Replay(replay::Arguments),
    /// Print a completion script for your shell.
    Completions { shell: clap_complete::Shell },
}

/// How a command ended, as its exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Done,
    SomeRefused,
}

/// Runs the command line and gives the exit code.
#[must_use]
#[expect(clippy::print_stderr, reason = "the one place that tells how a command failed")]
pub fn main() -> u8 {
    let ended = match Cli::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => run::check(&arguments),
        Command::Alerts(arguments) => alerts::run(&arguments),
        Command::Quarantine(arguments) => quarantine::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Features(arguments) => features::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Drift(arguments) => drift::run(&arguments),
        Command::Models(arguments) => models::run(&arguments),
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "caddis", &mut std::io::stdout());
            Ok(Ended::Done)
        }
    };
    match ended {
        Ok(Ended::Done) => 0,
        Ok(Ended::SomeRefused) => 3,
        Err(error) => {
            let mistakes = error.is::<Mistakes>();
            eprintln!("{}{}", if mistakes { "" } else { "caddis: " }, told(&error));
            if mistakes { 2 } else { 1 }
        }
    }
}

/// An error with its causes, but for those that it quotes itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Reads a file that a person wrote.
fn read_text(path: &Path) -> Result<String, Mistakes> {
    std::fs::read_to_string(path)
        .map_err(|error| Mistake::in_file(&path.display().to_string(), format!("cannot be read: {error}")).into())
}

/// A secret given on the command line, best as `env:NAME` or `file:PATH`.
#[expect(clippy::disallowed_methods, reason = "the variable is named by the user")]
fn secret(text: &str) -> anyhow::Result<String> {
    let look_up = |name: &str| std::env::var(name).ok();
    crate::config::Secret::resolve(text, &look_up).map(|secret| secret.reveal().to_owned()).map_err(anyhow::Error::msg)
}

/// One line of JSON on standard output.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say(serde_json::to_string(value)?);
    Ok(())
}

/// A line for a reader, on standard output.
fn say(line: impl std::fmt::Display) {
    // Whoever reads may have seen enough (`| head`): that is no error, and nothing is left to do.
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn a_cause_that_is_quoted_is_not_told_again() {
        #[derive(Debug, thiserror::Error)]
        #[error("the journal cannot be followed: {0}")]
        struct Quoting(#[source] std::io::Error);
        let error = anyhow::Error::from(Quoting(std::io::Error::other("entry 3 is damaged"))).context("start");
        assert_eq!(told(&error), "start: the journal cannot be followed: entry 3 is damaged");
    }
}
