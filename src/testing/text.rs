//! Numbers with units as people write them, exactly.

use std::fmt;
use std::time::Duration;

/// A decimal number in units of `10^-places`: `2.5` with two places is 250. None for what is no such
/// number, or has more places.
pub(super) fn decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rest_places = u32::try_from(rest.len()).ok()?;
    if !digits(whole) || !digits(rest) || (rest_places > places && rest != "0") {
        return None;
    }
    let scale = 10_u64.checked_pow(places)?;
    let rest = match rest {
        "0" => 0,
        rest => rest.parse::<u64>().ok()? * 10_u64.checked_pow(places - rest_places)?,
    };
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(rest)
}

/// Units of time, the largest first: name, nanoseconds, decimal places that a nanosecond leaves.
const TIMES: [(&str, u64, u32); 4] =
    [("s", 1_000_000_000, 9), ("ms", 1_000_000, 6), ("us", 1_000, 3), ("ns", 1, 0)];

/// What an error says about times.
pub(super) const TIME: &str = "a time with its unit, as in `2 s`, `1.5 s`, `40 ms` or `250 us`";

pub(super) fn time(number: &str, unit: &str) -> Option<Duration> {
    let (_, _, places) = TIMES.iter().find(|(name, ..)| *name == unit)?;
    decimal(number, *places).map(Duration::from_nanos)
}

/// A time in the largest unit that needs no places.
pub(super) struct Time(pub(super) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let fits = |unit: &&(&str, u64, u32)| nanos.is_multiple_of(u128::from(unit.1));
        let (name, each, _) = TIMES.iter().find(fits).unwrap_or(&TIMES[3]);
        write!(f, "{} {name}", nanos / u128::from(*each))
    }
}

/// Units of bytes, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What an error says about sizes.
pub(super) const SIZE: &str = "whole bytes with their unit, as in `1500 B`, `64 KiB` or `10 MiB`";

pub(super) fn size(number: &str, unit: &str) -> Option<u64> {
    let (_, each) = SIZES.iter().find(|(name, _)| *name == unit)?;
    decimal(number, 0)?.checked_mul(*each)
}

/// Bytes in the largest unit that needs no places.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(unit.1);
        let (name, each) = SIZES.iter().find(fits).unwrap_or(&SIZES[3]);
        write!(f, "{} {name}", self.0 / each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_and_sizes_are_read_back(value in any::<u64>(), zeros in 0_u32..12) {
            let value = value / 10_u64.pow(zeros) * 10_u64.pow(zeros);
            let text = Time(Duration::from_nanos(value)).to_string();
            let (number, unit) = text.split_once(' ').expect("a unit");
            prop_assert_eq!(time(number, unit), Some(Duration::from_nanos(value)));
            let text = Size(value).to_string();
            let (number, unit) = text.split_once(' ').expect("a unit");
            prop_assert_eq!(size(number, unit), Some(value));
        }
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(decimal("2.5", 2), Some(250));
        assert_eq!(decimal("18446744073709551615", 0), Some(u64::MAX));
        for wrong in ["", ".", "1.", ".5", "+1", "-1", "1e3", "0.001", "18446744073709551616"] {
            assert_eq!(decimal(wrong, 2), None, "{wrong}");
        }
    }
}
