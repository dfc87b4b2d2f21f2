//! Comparisons in single precision, said in double: a tool that rounds a value to `f32` before it compares
//! decides as a comparison of the value itself with another threshold does.

/// The greatest double `x` for which `x as f32 <= threshold`, or `<` where `strictly`. Only for a finite
/// threshold; below the lowest finite one nothing but -inf is less, and that is what the rounding gives.
pub(super) fn greatest(threshold: f32, strictly: bool) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked about")]
    let holds = |x: f64| {
        let x = x as f32;
        if strictly { x < threshold } else { x <= threshold }
    };
    // Doubles in their own order as integers: the answer is found by halving.
    let (mut yes, mut no) = (ordered(f64::NEG_INFINITY), ordered(f64::INFINITY));
    while no - yes > 1 {
        let middle = yes + (no - yes) / 2;
        if holds(from_ordered(middle)) { yes = middle } else { no = middle }
    }
    from_ordered(yes)
}

fn ordered(value: f64) -> i128 {
    let bits = i128::from(value.to_bits() & !(1 << 63));
    if value.is_sign_negative() { -bits } else { bits }
}

fn from_ordered(at: i128) -> f64 {
    let magnitude = f64::from_bits(u64::try_from(at.abs()).unwrap_or_default());
    if at < 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::greatest;

    #[test]
    fn a_comparison_in_single_precision_is_one_in_double() {
        let thresholds =
            [0.0, -0.0, 1.0, -1.0, 0.1, 1e-45, -1e-45, 1e30, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 16_777_216.0];
        for threshold in thresholds {
            for strictly in [false, true] {
                let cut = greatest(threshold, strictly);
                assert!(cut.is_finite());
                let near = f64::from(threshold);
                let further = [near, f64::from(threshold.next_up()), f64::from(threshold.next_down()), cut, 0.0, -0.0];
                for value in further.into_iter().flat_map(|x| [x, x.next_up(), x.next_down(), x / 3.0]) {
                    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is tested")]
                    let single = value as f32;
                    let theirs = if strictly { single < threshold } else { single <= threshold };
                    assert_eq!(value <= cut, theirs, "{value} and {threshold}");
                }
            }
        }
    }
}
