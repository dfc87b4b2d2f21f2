//! Records to transactions. A [`Mapping`] says where each field is; [`JsonDecoder`] reads a JSON object, which
//! [`CsvReader`] makes of a CSV record beforehand.

pub mod body;
mod csv;
#[cfg(test)]
mod differential;
mod digits;
mod fill;
mod json;
mod layout;
mod mapping;
mod scan;
mod time;

pub use csv::{CsvReader, HeaderError};
pub use json::JsonDecoder;
pub use mapping::{AmountUnit, Mapping, Rates, TimeFormat};
