//! Places on Earth.

use super::entity::NO_PLACE;

/// A place in one word: latitude and longitude as two `f32`s (about a metre).
#[expect(clippy::cast_possible_truncation, reason = "a metre is enough")]
pub(super) fn place(latitude: f64, longitude: f64) -> u64 {
    if latitude.is_nan() || longitude.is_nan() {
        return NO_PLACE;
    }
    u64::from((latitude as f32).to_bits()) << 32 | u64::from((longitude as f32).to_bits())
}

/// The great-circle distance (haversine) on a sphere of 6371.0088 km, the Earth's mean radius.
#[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
pub(super) fn kilometres(from: u64, to: u64) -> f64 {
    if from == to {
        return 0.0;
    }
    let degrees =
        |place: u64| (f64::from(f32::from_bits((place >> 32) as u32)), f64::from(f32::from_bits(place as u32)));
    let ((lat_a, lon_a), (lat_b, lon_b)) = (degrees(from), degrees(to));
    let half = |a: f64, b: f64| ((b - a).to_radians() / 2.0).sin().powi(2);
    let h = half(lat_a, lat_b) + lat_a.to_radians().cos() * lat_b.to_radians().cos() * half(lon_a, lon_b);
    2.0 * 6_371.008_8 * h.sqrt().min(1.0).asin()
}
