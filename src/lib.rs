//! Caddis: real-time fraud detection for payment streams. See ARCHITECTURE.md.

pub mod mistake;
pub mod models;
pub mod transaction;
