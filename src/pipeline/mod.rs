//! The loop around the engine: records in, decode, decide, commit to the journal, publish. Start at
//! `service`; `ports` has the traits that adapters implement.

pub mod entry;
pub mod label;
pub mod ports;
pub mod processor;
pub mod recent;
pub mod recovery;
pub mod service;
pub mod snapshots;
pub mod status;
