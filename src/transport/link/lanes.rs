//! The three lanes of a connection: what each is for, which stream is whose, and which gives way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Which lane a frame goes out on.
///
/// Each lane is a stream of its own: frames of one lane stay in order, frames of different lanes
/// have none between them. A lane has precedence over those behind it: while `Data` alone could
/// fill the path, `Bulk` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Lane {
    /// Small and urgent: its room of `Limits::control_lane_bytes_max` is its own, whatever else
    /// the node sends, and no frame may be larger than that.
    Control,
    /// What the methods without a lane use.
    Data,
    /// Large transfers that may wait for all the others.
    Bulk,
}

impl Lane {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Bulk];

    /// The lane of the peer's stream with this number, counted from 0: they take turns, so that the
    /// other end knows the lane of a stream without a byte about it.
    pub(in crate::transport) fn of_ordinal(ordinal: u64) -> Self {
        match ordinal % 3 {
            0 => Self::Data,
            1 => Self::Control,
            _ => Self::Bulk,
        }
    }

    /// What MsQuic sends first; its default is 0x7fff (`QUIC_PARAM_STREAM_PRIORITY`).
    pub(in crate::transport) fn priority(self) -> u16 {
        match self {
            Self::Control => 0xc000,
            Self::Data => 0x8000,
            Self::Bulk => 0x4000,
        }
    }
}

/// A number that is no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no lane: 0 is control, 1 is data, 2 is bulk")]
pub struct NoLane(u8);

/// From its place in [`Lane::ALL`].
impl TryFrom<u8> for Lane {
    type Error = NoLane;

    fn try_from(number: u8) -> Result<Self, NoLane> {
        Self::ALL.get(usize::from(number)).copied().ok_or(NoLane(number))
    }
}

impl From<Lane> for u8 {
    fn from(lane: Lane) -> Self {
        lane as Self
    }
}

/// For how long bulk gives way after a frame on another lane.
const NARROW_MS: u64 = 1_000;

/// While the other lanes are in use bulk keeps little on its way: what was handed over goes
/// before anything that comes later, whatever its lane.
#[derive(Debug, Default)]
pub(in crate::transport) struct GivingWay {
    bulk_used: AtomicBool,
    /// Milliseconds of the connection's age.
    narrow_until: AtomicU64,
}

impl GivingWay {
    /// Something is to be handed over on `lane`, at `age_ms`: whether the lane gives way.
    pub(in crate::transport) fn narrow(&self, lane: Lane, age_ms: impl FnOnce() -> u64) -> bool {
        match lane {
            Lane::Bulk => {
                self.bulk_used.store(true, Ordering::Relaxed);
                let until = self.narrow_until.load(Ordering::Relaxed);
                until > 0 && age_ms() < until
            }
            Lane::Control | Lane::Data => {
                if self.bulk_used.load(Ordering::Relaxed) {
                    self.narrow_until.store(age_ms() + NARROW_MS, Ordering::Relaxed);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_gives_way_for_a_second_after_each_use_of_another_lane() {
        let lanes = GivingWay::default();
        assert!(!lanes.narrow(Lane::Data, || unreachable!("nobody has to give way")));
        assert!(!lanes.narrow(Lane::Bulk, || 5));
        assert!(!lanes.narrow(Lane::Control, || 10));
        assert!(lanes.narrow(Lane::Bulk, || 1_009));
        assert!(!lanes.narrow(Lane::Bulk, || 1_010));
        assert!(!lanes.narrow(Lane::Data, || 2_000), "only bulk gives way");
        assert!(lanes.narrow(Lane::Bulk, || 2_999));
    }
}
