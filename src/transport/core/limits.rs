//! Counts the limits that hold something of a connection back.

use bytes::Bytes;

use super::ConnectionCore;
use crate::error::{CloseCode, CloseReason, SendError};
use crate::transport::counts::Limit;
use crate::transport::ffi::status;
use crate::transport::link::lanes::Lane;
use crate::transport::link::room::Short;

impl ConnectionCore {
    #[cfg(test)]
    pub(crate) fn node_stats(&self) -> crate::transport::NodeStats {
        self.bounds.stats()
    }

    /// `limit` held something back.
    pub(crate) fn reached(&self, limit: Limit) {
        self.bounds.counts.reached(limit);
    }

    /// There was no room for a frame of `length` bytes on `lane`.
    pub(super) fn had_no_room(&self, lane: Lane, length: usize) {
        self.reached(match (self.lanes.get(lane).short(length), lane) {
            (Short::Bound | Short::Share, Lane::Control) => Limit::ControlLaneBytes,
            (Short::Bound, Lane::Data | Lane::Bulk) => Limit::LaneBytes,
            (Short::Share, Lane::Data | Lane::Bulk) => Limit::NodeSendBytes,
            (Short::Beside, _) => Limit::NodeLargeBytes,
        });
    }

    /// A stream of the peer's had to pause.
    pub(super) fn had_to_pause(&self, short: Short) {
        self.reached(match short {
            Short::Bound => Limit::InboundBytes,
            Short::Share => Limit::NodeReceiveBytes,
            Short::Beside => Limit::NodeLargeBytes,
        });
    }

    /// The error for a frame that may never go out on `lane`.
    pub(crate) fn too_large(&self, lane: Lane, length: usize, frame: Bytes) -> SendError {
        let limit = self.frame_bytes_max(lane);
        let of_lane = limit < self.limits().frame_bytes_max;
        self.reached(if of_lane { Limit::ControlLaneBytes } else { Limit::FrameBytes });
        SendError::TooLarge { length, limit, frame }
    }

    /// The error for frames that `lane` could never hold together.
    pub(crate) fn too_many(&self, lane: Lane, length: usize, limit: usize) -> SendError {
        let of_control = lane == Lane::Control;
        self.reached(if of_control { Limit::ControlLaneBytes } else { Limit::LaneBytes });
        SendError::TooLarge { length, limit, frame: Bytes::new() }
    }

    /// The connection ended for `reason`: by which limit, if it was one.
    pub(super) fn ended_by_limit(&self, reason: &CloseReason) {
        let CloseReason::Local { code } = reason else { return };
        match *code {
            CloseCode::FRAME_TOO_LARGE => self.reached(Limit::FrameBytes),
            CloseCode::FRAME_TIMEOUT => self.reached(Limit::FrameTime),
            CloseCode::LANE_STALLED => self.reached(Limit::LaneStallTime),
            _ => {}
        }
    }

    /// The library ended a connection that stood, with `status`.
    pub(super) fn ended_by_silence(&self, status: u32) {
        match status {
            status::CONNECTION_IDLE => self.reached(Limit::IdleTime),
            status::CONNECTION_TIMEOUT => self.reached(Limit::DisconnectTime),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
