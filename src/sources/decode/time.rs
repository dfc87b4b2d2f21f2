//! Event times from text.

use super::TimeFormat;
use crate::transaction::{EVENT_TIMES, EventTime};

impl TimeFormat {
    /// What a value of this format looks like, for a refusal.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Milliseconds => "a time in milliseconds since 1970 (before the year 2200)",
            Self::Seconds => "a time in seconds since 1970 (before the year 2200)",
            Self::Rfc3339 => "an RFC 3339 time such as 2026-11-24T09:30:00Z (from 1970 up to 2200)",
            Self::Auto => {
                "milliseconds since 1970 or an RFC 3339 time such as 2026-11-24T09:30:00Z (from 1970 up to 2200)"
            }
        }
    }

    pub(super) fn parse(self, text: &str) -> Option<EventTime> {
        let number = |scale| crate::transaction::money::parse_major(text.as_bytes(), scale).ok();
        let time = match self {
            Self::Milliseconds => number(0),
            Self::Seconds => seconds(text),
            Self::Rfc3339 => rfc3339(text),
            // Milliseconds since 1970 have ten to thirteen digits, an RFC 3339 time more than sixteen characters.
            Self::Auto if text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit()) => number(0),
            Self::Auto => rfc3339(text),
        }?;
        taken(time)
    }

    /// How many decimals a plain number in this format may have to be milliseconds at last: `None` where
    /// no number is a time.
    pub(super) fn decimals(self) -> Option<u8> {
        match self {
            Self::Milliseconds | Self::Auto => Some(0),
            Self::Seconds => Some(3),
            Self::Rfc3339 => None,
        }
    }
}

/// The time, if it is one that Caddis takes.
#[inline]
pub(super) fn taken(time: EventTime) -> Option<EventTime> {
    EVENT_TIMES.contains(&time).then_some(time)
}

/// Seconds with any number of decimals; what is finer than a millisecond is cut off.
fn seconds(text: &str) -> Option<EventTime> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let millis = part.bytes().chain(*b"000").take(3).fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    whole.parse::<i64>().ok()?.checked_mul(1_000)?.checked_add(millis)
}

fn rfc3339(text: &str) -> Option<EventTime> {
    utc(text.as_bytes()).or_else(|| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond))
}

/// The common form, `2026-11-24T09:30:00Z` with or without decimals, without the general parser.
fn utc(text: &[u8]) -> Option<EventTime> {
    let (date, rest) = text.split_at_checked(19)?;
    let rest = rest.strip_suffix(b"Z")?;
    let part = match rest.split_first() {
        None => &[][..],
        Some((b'.', part)) if !part.is_empty() => part,
        Some(_) => return None,
    };
    let number = |from: usize, to: usize| {
        date.get(from..to)?.iter().try_fold(0_i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    if !matches!(date, [_, _, _, _, b'-', _, _, b'-', _, _, b'T', _, _, b':', _, _, b':', ..]) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    if part.iter().any(|b| !b.is_ascii_digit()) {
        return None;
    }
    let millis = part.iter().chain(b"000").take(3).fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    // Days since 1970 of a date in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms"): years start in March, so that the leap day comes last.
    let shifted = year - i64::from(month <= 2);
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000 + millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{TimeFormat, rfc3339, utc};

    proptest! {
        #[test]
        fn the_short_way_agrees_with_jiff(time in 0..7_258_118_400_000_i64) {
            let stamp = jiff::Timestamp::from_millisecond(time).expect("in range");
            prop_assert_eq!(utc(stamp.to_string().as_bytes()), Some(time));
        }

        #[test]
        fn any_date_is_refused_or_what_jiff_says(text in "[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z") {
            let jiff = text.parse::<jiff::Timestamp>().ok().map(|stamp| stamp.as_millisecond());
            prop_assert_eq!(rfc3339(&text).filter(|time| *time >= 0), jiff.filter(|time| *time >= 0));
        }
    }

    #[test]
    fn times_of_every_format() {
        let noon = Some(1_795_521_600_000);
        for (format, text, time) in [
            (TimeFormat::Auto, "2026-11-24T12:00:00Z", noon),
            (TimeFormat::Rfc3339, "2026-11-24T13:00:00.000+01:00", noon),
            (TimeFormat::Auto, "1795521600000", noon),
            (TimeFormat::Seconds, "1795521600", noon),
            (TimeFormat::Seconds, "1795521600.0009", noon),
            (TimeFormat::Milliseconds, "1795521600000", noon),
            (TimeFormat::Milliseconds, "1795521600000.5", None),
            (TimeFormat::Milliseconds, "-1", None),
            (TimeFormat::Milliseconds, "1e400", None),
            (TimeFormat::Seconds, "NaN", None),
            (TimeFormat::Rfc3339, "2026-02-30T12:00:00Z", None),
            (TimeFormat::Rfc3339, "2300-01-01T00:00:00Z", None),
            (TimeFormat::Auto, "yesterday", None),
        ] {
            assert_eq!(format.parse(text), time, "{format:?} {text}");
        }
    }
}
