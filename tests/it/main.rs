//! One binary for all integration tests: it links once.
#![expect(clippy::indexing_slicing, reason = "a test may fail by a panic")]

mod architecture;
mod commands;
mod damage;
mod drift;
mod engine;
mod imports;
mod kill;
mod licences;
mod limits;
mod restart;
mod service;
mod simulation;
mod snapshots;
mod support;
mod webhooks;
