//! Replay: drives a running service as hard as told, and measures what its callers would.
//!
//! The load is *open loop*: every request has an intended send time that does not depend on earlier
//! answers, and its latency counts from then, so that a stall is paid for by every request that it held up
//! (no coordinated omission; Gil Tene, "How NOT to Measure Latency", 2015).

mod client;
mod load;
mod report;
mod scenario;

pub use load::{Records, run};
pub use report::Report;
pub use scenario::{Endpoint, LoadScenario};
