//! A load scenario: what is sent, how fast, for how long.

use serde::{Deserialize, Serialize};

/// Which path records are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `POST /v1/decisions`
    Decisions,
    /// `POST /v1/transactions`
    Transactions,
}

impl Endpoint {
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Decisions => "/v1/decisions",
            Self::Transactions => "/v1/transactions",
        }
    }
}

/// One load run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadScenario {
    /// What it is for, in a sentence.
    pub about: String,
    pub endpoint: Endpoint,
    /// Records a second.
    pub rate: f64,
    /// Seconds that are measured.
    pub seconds: f64,
    /// Seconds before them that are not.
    pub warm_up: f64,
    /// Connections, each a thread: one request at a time on each.
    pub connections: usize,
    /// Records a request; more than one are sent as NDJSON.
    pub records_per_request: usize,
    /// Accounts of the simulated payments.
    pub accounts: u32,
}

impl Default for LoadScenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            endpoint: Endpoint::Decisions,
            rate: 1_000.0,
            seconds: 10.0,
            warm_up: 2.0,
            connections: 16,
            records_per_request: 1,
            accounts: 20_000,
        }
    }
}

impl LoadScenario {
    /// # Errors
    /// What is wrong with the numbers.
    pub fn check(&self) -> Result<(), String> {
        if !(0.1..=10_000_000.0).contains(&self.rate) {
            return Err(format!("rate {} is not from 0.1 to 10000000 records a second", self.rate));
        }
        if !(0.1..=86_400.0).contains(&self.seconds) || !(0.0..=86_400.0).contains(&self.warm_up) {
            return Err("seconds and warm_up are at most a day, seconds at least 0.1".into());
        }
        if !(1..=1_024).contains(&self.connections) || !(1..=10_000).contains(&self.records_per_request) {
            return Err("connections are 1 to 1024, records_per_request 1 to 10000".into());
        }
        Ok(())
    }

    /// Requests before measuring starts, and requests in all.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small and positive")]
    pub fn requests(&self) -> (u64, u64) {
        let a_second = self.rate / self.records_per_request as f64;
        ((self.warm_up * a_second).ceil() as u64, ((self.warm_up + self.seconds) * a_second).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::LoadScenario;

    #[test]
    fn requests_are_rate_times_time() {
        let scenario = LoadScenario { rate: 5_000.0, seconds: 30.0, warm_up: 5.0, ..LoadScenario::default() };
        assert_eq!(scenario.requests(), (25_000, 175_000));
        assert!(LoadScenario { rate: 0.0, ..scenario }.check().is_err());
    }
}
