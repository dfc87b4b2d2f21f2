//! When a failed delivery is tried again.

/// Delays before each further attempt, as the Standard Webhooks specification proposes: the last attempt
/// comes three days after the first. Milliseconds.
const DELAYS: [i64; 9] =
    [5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000];

/// Attempts before a delivery is a dead letter.
pub const ATTEMPTS: u32 = 10;

/// How long to wait after attempt number `attempts` (the first is 1) failed; `None` after the last. Up to
/// a tenth more or less, by the delivery's id, so that what failed together is not tried again together.
#[must_use]
pub fn delay_ms(id: &str, attempts: u32) -> Option<i64> {
    let delay = *DELAYS.get(usize::try_from(attempts.checked_sub(1)?).ok()?)?;
    let hash = blake3::hash(format!("{id} {attempts}").as_bytes());
    let byte = i64::from(hash.as_bytes().first().copied().unwrap_or_default());
    Some(delay + delay * (byte - 128) / 1_280)
}

#[cfg(test)]
mod tests {
    use super::{ATTEMPTS, DELAYS, delay_ms};

    #[test]
    fn delays_grow_and_end() {
        for attempts in 1..ATTEMPTS {
            let delay = delay_ms("alert_1", attempts).expect("another try");
            let nominal = DELAYS[attempts as usize - 1];
            assert!((delay - nominal).abs() <= nominal / 10, "{delay}");
        }
        assert_eq!(delay_ms("alert_1", ATTEMPTS), None);
        assert_ne!(delay_ms("alert_1", 2), delay_ms("alert_2", 2));
    }
}
