//! A payment attempt in Caddis's own words. Imports nothing of the rest.

pub mod money;
