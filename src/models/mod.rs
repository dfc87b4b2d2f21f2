//! Models: compiled, scored and explained without I/O (`compiled`, `scorer`, `reasons`, `metrics`); trained by
//! `train`; kept on disk by `registry`, the only part that touches files.

pub mod compiled;
pub mod metrics;
pub mod reasons;
pub mod scorer;
pub mod synthetic;
pub mod train;
