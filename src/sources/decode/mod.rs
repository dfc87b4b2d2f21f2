//! Records to transactions. A [`Mapping`] says where each field is; [`JsonDecoder`] reads a JSON object.

pub mod body;
mod json;
mod mapping;
mod scan;
mod time;

pub use json::JsonDecoder;
pub use mapping::{AmountUnit, Mapping, Rates, TimeFormat};
