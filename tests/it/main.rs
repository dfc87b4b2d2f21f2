//! One binary for all integration tests: it links once.

mod architecture;
mod commands;
mod engine;
mod restart;
mod service;
mod support;
mod webhooks;
