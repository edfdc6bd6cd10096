//! The three lanes of a connection: what each is for, and which stream is whose.

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
