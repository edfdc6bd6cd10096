//! A share of all datagrams, exact, so that a text says the same as the value.

use std::fmt;
use std::str::FromStr;

/// Parts of a whole.
pub(super) const PARTS: u32 = 1_000_000;

/// A share of the whole, in millionths: from none of it to all.
///
/// As text `30 %` or `0.25 %`, with up to four places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// None of it.
    pub const NONE: Self = Self(0);
    /// All of it.
    pub const ALL: Self = Self(PARTS);

    /// So many percent; more than 100 are 100.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self::millionths(percent.saturating_mul(10_000))
    }

    /// So many millionths; more than a million are a million.
    #[must_use]
    pub const fn millionths(millionths: u32) -> Self {
        if millionths > PARTS { Self::ALL } else { Self(millionths) }
    }

    /// The nearest share to a number from 0 to 1.
    #[must_use]
    pub(super) fn nearest(fraction: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        Self((fraction.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u32)
    }

    pub(super) const fn parts(self) -> u32 {
        self.0
    }

    /// From 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(PARTS)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, places) = (self.0 / 10_000, self.0 % 10_000);
        if places == 0 {
            return write!(f, "{whole} %");
        }
        let places = format!("{places:04}");
        write!(f, "{whole}.{} %", places.trim_end_matches('0'))
    }
}

/// A share that nobody understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no share: write a number from 0 to 100 with at most four places, as in `2.5 %`")]
pub struct ParseShareError(String);

impl FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim().strip_suffix('%').map(str::trim_end);
        let parts = number.and_then(|number| super::text::decimal(number, 4));
        let parts = parts.and_then(|parts| u32::try_from(parts).ok()).filter(|it| *it <= PARTS);
        parts.map(Self).ok_or_else(|| ParseShareError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_share_is_read_back_as_it_was_written(parts in 0..=PARTS) {
            let share = Share(parts);
            prop_assert_eq!(share.to_string().parse::<Share>(), Ok(share));
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["", "%", "30", "101 %", "-1 %", "1.00001 %", "x %", ". %", "1e1 %"] {
            let error = text.parse::<Share>().unwrap_err();
            assert!(error.to_string().contains("write a number from 0 to 100"), "{error}");
        }
        assert_eq!("2.5%".parse(), Ok(Share::millionths(25_000)));
    }
}
