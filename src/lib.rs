//! Caddis: real-time fraud detection for payment streams. See ARCHITECTURE.md.

pub mod alerts;
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod drift;
pub mod engine;
pub mod features;
pub mod mistake;
pub mod models;
pub mod pipeline;
pub mod policy;
pub mod replay;
pub mod simulate;
pub mod sources;
pub mod store;
pub mod tally;
pub mod telemetry;
pub mod transaction;
pub mod written;
