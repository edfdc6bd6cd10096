//! The three lanes of a connection, and what each of them is for.

use super::bounds::{Bounds, Share};
use super::lane::SendLane;

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

    /// What MsQuic sends first; its default is 0x7fff (`QUIC_PARAM_STREAM_PRIORITY`).
    pub(super) fn priority(self) -> u16 {
        match self {
            Self::Control => 0xc000,
            Self::Data => 0x8000,
            Self::Bulk => 0x4000,
        }
    }
}

/// The lanes of one connection.
pub(super) struct Lanes([SendLane; 3]);

impl Lanes {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let limits = &bounds.limits;
        Self(Lane::ALL.map(|lane| {
            SendLane::new(match lane {
                Lane::Control => Share::alone(limits.control_lane_bytes_max),
                Lane::Data | Lane::Bulk => Share::new(&bounds.sending, limits.lane_bytes_max),
            })
        }))
    }

    pub(super) fn get(&self, lane: Lane) -> &SendLane {
        &self.0[lane as usize]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SendLane> {
        self.0.iter()
    }
}
