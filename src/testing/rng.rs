//! Randomness by a seed, the same in every version and on every machine.

use super::share::{PARTS, Share};

/// SplitMix64 (Steele, Lea and Flood, 2014). Generators of crates may change what a seed means.
#[derive(Debug, Clone)]
pub(super) struct Rng {
    state: u64,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One of many generators of the same seed that know nothing of each other.
    pub(super) fn of(seed: u64, index: u64) -> Self {
        let mut rng = Self::new(seed);
        let mixed = rng.next() ^ index.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Self::new(Self::new(mixed).next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `max`, both included.
    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        // The upper half of a product: no division, and a bias of max / 2^64.
        let wide = u128::from(self.next()) * (u128::from(max) + 1);
        u64::try_from(wide >> 64).unwrap_or(max)
    }

    /// Whether it happens this time. For the same draw, what happens with one share happens with every
    /// larger one.
    pub(super) fn happens(&mut self, share: Share) -> bool {
        self.up_to(u64::from(PARTS) - 1) < u64::from(share.parts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference of the algorithm's authors for the seed 1234567.
    #[test]
    fn a_seed_means_the_same_everywhere() {
        let mut rng = Rng::new(1_234_567);
        let first = [rng.next(), rng.next(), rng.next()];
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn a_share_is_met_over_many_draws() {
        for percent in [0_u32, 1, 30, 100] {
            let share = Share::percent(percent);
            let mut rng = Rng::new(7);
            let hits = (0..100_000).filter(|_| rng.happens(share)).count();
            let expected = 1_000 * percent as usize;
            assert!(hits.abs_diff(expected) < 500, "{share}: {hits}");
        }
    }
}
