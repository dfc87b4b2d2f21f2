//! One binary for all integration tests: it links once.
#![expect(clippy::indexing_slicing, reason = "a test may fail by a panic")]

mod architecture;
mod commands;
mod engine;
mod imports;
mod licences;
mod restart;
mod service;
mod support;
mod webhooks;
