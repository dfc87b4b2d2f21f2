//! What a setting's text stands for.

use std::fmt;

/// `250ms`, `5s`, `10m`, `1h`, `7d`, in milliseconds.
pub fn duration(text: &str) -> Result<i64, String> {
    let expected = || "a duration such as \"250ms\", \"5s\", \"10m\", \"1h\" or \"7d\"".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(expected)?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(expected)
}

/// `512`, `64KiB`, `8MiB`, `2GiB`, in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = || "a size such as \"64KiB\", \"8MiB\" or \"2GiB\"".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(expected)?;
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(expected)
}

/// A size as [`size`] reads it, in the largest unit that divides it.
pub fn shown_size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(scale, _)| bytes > 0 && bytes.is_multiple_of(*scale));
    unit.map_or_else(|| bytes.to_string(), |(scale, unit)| format!("{}{unit}", bytes / scale))
}

/// Something that no log line, error or listing may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// `env:NAME` is that variable, `file:PATH` that file's first line, anything else the secret itself.
    pub fn resolve(text: &str, look_up: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let value = if let Some(name) = text.strip_prefix("env:") {
            look_up(name).ok_or_else(|| format!("the environment has no variable {name}"))?
        } else if let Some(path) = text.strip_prefix("file:") {
            let content = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            content.lines().next().unwrap_or_default().trim().to_owned()
        } else {
            text.to_owned()
        };
        if value.is_empty() { Err("the secret is empty".into()) } else { Ok(Self(value)) }
    }

    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, duration, size};

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(duration("250ms"), Ok(250));
        assert_eq!(duration("7d"), Ok(604_800_000));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        for wrong in ["", "5", "5 s", "-1s", "1w", "99999999999999999999d", "é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(size("8MB").is_err());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::resolve("env:KEY", &|name| (name == "KEY").then(|| "hunter2".to_owned())).expect("there");
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(format!("{secret:?}"), "(secret)");
        assert!(Secret::resolve("env:NO", &|_| None).is_err());
    }
}
