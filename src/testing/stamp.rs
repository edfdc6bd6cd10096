//! What a numbered frame says of itself.

use bytes::{BufMut, Bytes, BytesMut};

use super::rng::Rng;
use crate::transport::Lane;

/// Bytes of a stamp: the smallest numbered frame.
pub const STAMP_BYTES: usize = 32;

/// Tells a numbered frame from any other.
const MAGIC: u32 = 0x4D4F_4F52;

/// Who sent a frame, on which lane, and the how many-th it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Stamp {
    /// The sender, as it was numbered.
    pub sender: u32,
    /// The lane it was sent on.
    pub lane: Lane,
    /// Counted from 0 for each sender and lane.
    pub number: u64,
}

/// A frame that is not as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StampError {
    /// It is shorter than a stamp.
    #[error("{length} bytes are no numbered frame, which has {STAMP_BYTES} at least")]
    Short {
        /// Its bytes.
        length: usize,
    },
    /// It does not begin as a numbered frame does.
    #[error("it does not begin as a numbered frame does")]
    Foreign,
    /// It says that it had another length.
    #[error("it was sent with {sent} bytes and came with {came}")]
    Length {
        /// What it says.
        sent: u64,
        /// What came.
        came: u64,
    },
    /// Its bytes are not those that were sent.
    #[error("its checksum does not fit its bytes")]
    Checksum,
}

impl Stamp {
    /// Of a frame that somebody else numbers.
    #[must_use]
    pub fn new(sender: u32, lane: Lane, number: u64) -> Self {
        Self { sender, lane, number }
    }

    /// A frame of `bytes` bytes, at least [`STAMP_BYTES`], that says all this, and whose every byte is checked.
    #[must_use]
    pub fn frame(&self, bytes: usize) -> Bytes {
        let length = bytes.max(STAMP_BYTES);
        let mut frame = BytesMut::with_capacity(length);
        frame.put_u32(MAGIC);
        frame.put_u32(u32::try_from(lane_index(self.lane)).unwrap_or_default());
        frame.put_u64(self.number);
        // A frame may be at most 1 GiB.
        frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        frame.put_u32(self.sender);
        frame.put_u64(0);
        let mut filler = Rng::of(u64::from(self.sender), self.number);
        while frame.len() + 8 <= length {
            frame.put_u64(filler.next());
        }
        frame.put_bytes(0xA5, length - frame.len());
        let checksum = checksum(&frame);
        frame[24..STAMP_BYTES].copy_from_slice(&checksum.to_be_bytes());
        frame.freeze()
    }

    /// What a frame says of itself.
    ///
    /// # Errors
    ///
    /// [`StampError`] if it is not, bit by bit, a frame that [`frame`](Self::frame) made.
    pub fn read(frame: &[u8]) -> Result<Self, StampError> {
        let Some(head) = frame.first_chunk::<STAMP_BYTES>() else {
            return Err(StampError::Short { length: frame.len() });
        };
        let word = |at: usize| {
            head[at..at + 4].iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
        };
        let long = |at: usize| word(at) << 32 | word(at + 4);
        if word(0) != u64::from(MAGIC) {
            return Err(StampError::Foreign);
        }
        let (sent, came) = (word(16), frame.len() as u64);
        if sent != came {
            return Err(StampError::Length { sent, came });
        }
        let lane = Lane::ALL.into_iter().find(|lane| lane_index(*lane) as u64 == word(4));
        match lane {
            Some(lane) if long(24) == checksum(frame) => {
                let sender = u32::try_from(word(20)).unwrap_or_default();
                Ok(Self { sender, lane, number: long(8) })
            }
            _ => Err(StampError::Checksum),
        }
    }
}

/// Its place in [`Lane::ALL`].
pub(super) fn lane_index(lane: Lane) -> usize {
    Lane::ALL.iter().position(|other| *other == lane).unwrap_or_default()
}

/// Of all bytes but those of the checksum itself. Each step can be undone, so that no change of a single
/// word is missed.
fn checksum(frame: &[u8]) -> u64 {
    let (head, body) = frame.split_at(STAMP_BYTES.min(frame.len()));
    let words = |bytes: &[u8], mut sum: u64| {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            sum = step(sum, u64::from_be_bytes(*chunk));
        }
        rest.iter().fold(sum, |sum, byte| step(sum, u64::from(*byte)))
    };
    words(body, words(&head[..24], 0))
}

fn step(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stamp_is_read_back(
            sender in any::<u32>(), lane in 0..Lane::ALL.len(), number in any::<u64>(), bytes in 0_usize..2_000,
        ) {
            let stamp = Stamp::new(sender, Lane::ALL[lane], number);
            let frame = stamp.frame(bytes);
            prop_assert_eq!(frame.len(), bytes.max(STAMP_BYTES));
            prop_assert_eq!(Stamp::read(&frame), Ok(stamp));
        }

        #[test]
        fn no_flipped_bit_and_no_missing_byte_is_overlooked(
            number in any::<u64>(), bytes in 0_usize..500, flip in any::<prop::sample::Index>(),
        ) {
            let frame = Stamp::new(1, Lane::Data, number).frame(bytes);
            let mut damaged = frame.to_vec();
            let bit = flip.index(damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Stamp::read(&damaged).is_err(), "bit {bit}");
            prop_assert!(Stamp::read(&frame[..flip.index(frame.len())]).is_err());
        }
    }

    #[test]
    fn a_foreign_frame_is_told_from_a_damaged_one() {
        assert_eq!(Stamp::read(b"hello"), Err(StampError::Short { length: 5 }));
        assert_eq!(Stamp::read(&[b'x'; 100]), Err(StampError::Foreign));
        let frame = Stamp::new(0, Lane::Bulk, 0).frame(100);
        let cut = Stamp::read(&frame[..50]);
        assert_eq!(cut, Err(StampError::Length { sent: 100, came: 50 }));
    }
}
