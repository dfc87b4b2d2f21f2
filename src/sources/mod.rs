//! Where records come from, and how their bytes become transactions.

pub mod decode;
pub mod file;
