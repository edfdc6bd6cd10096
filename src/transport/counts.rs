//! What the connections of a node count together.

use std::sync::atomic::{AtomicU64, Ordering};

use super::admission::AdmissionCounts;

/// How a node is doing, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// What became of the peers that asked for a connection.
    pub admissions: AdmissionCounts,
    /// How often which limit held something back.
    pub limits: LimitCounts,
    /// What happened that cannot: each is a fault of this library. It is logged as an error, once for
    /// each place in the code, and the connection that it happened to is closed with
    /// [`CloseCode::INTERNAL`](crate::CloseCode::INTERNAL), so that it goes no further. In a build with
    /// debug assertions it panics instead.
    pub impossible: u64,
}

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident: $limit:ident,)+) => {
        /// How often each limit of a node refused, delayed or ended something, since its start; each is
        /// named as in [`Limits`](crate::Limits) and [`SessionLimits`](crate::SessionLimits).
        ///
        /// Those of handshakes and of the number of connections are [`AdmissionCounts`]. Not here are
        /// `frame_rate_min`, which is part of `frame_time_max`, and `control_bytes_max`, which is part of
        /// `control_messages_max`; `window_bytes_max`, which only the peer sees, who waits;
        /// `keep_alive_interval`, `path_mtu_max`, `congestion` and `away_time`, which hold nothing back.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct LimitCounts {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl LimitCounts {
            /// All of them, with their names.
            #[must_use]
            pub fn by_name(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)+]
            }
        }

        /// A limit that is counted here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Limit {
            $($limit,)+
        }

        #[cfg(test)]
        impl Limit {
            const ALL: &[Self] = &[$(Self::$limit,)+];
        }

        #[derive(Debug, Default)]
        struct Reached {
            $($field: AtomicU64,)+
        }

        impl Reached {
            fn of(&self, limit: Limit) -> &AtomicU64 {
                match limit {
                    $(Limit::$limit => &self.$field,)+
                }
            }

            fn counts(&self) -> LimitCounts {
                LimitCounts { $($field: self.$field.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

limits! {
    /// Frames that were too large: of callers, and of peers, whose connections ended with
    /// `FRAME_TOO_LARGE`.
    frame_bytes_max: FrameBytes,
    /// Connections whose peer stopped inside a frame (`FRAME_TIMEOUT`).
    frame_time_max: FrameTime,
    /// Operations that were given up for it: sends that were not admitted or whose outcome was not
    /// known in time, and streams.
    stream_op_timeout: StreamOperation,
    /// Sends that had to wait or were refused because their lane had all it may hold of what its peer had
    /// not acknowledged; also groups that no lane could hold.
    lane_bytes_max: LaneBytes,
    /// The same, where the lane's share of the node's budget was less than its own bound.
    node_send_bytes_max: NodeSendBytes,
    /// The same for control lanes, with frames that were too large for one.
    control_lane_bytes_max: ControlLaneBytes,
    /// Streams of peers that had to pause because their connection had as much as may wait for readers.
    inbound_bytes_max: InboundBytes,
    /// The same, where the connection's share of the node's budget was less than its own bound.
    node_receive_bytes_max: NodeReceiveBytes,
    /// Large frames, in either direction, that had to wait or were refused because others had the
    /// node's room for them.
    node_large_bytes_max: NodeLargeBytes,
    /// Connections that got a smaller window because there were many.
    node_window_bytes_max: NodeWindowBytes,
    /// Handshakes of peers, and dials, that took too long.
    handshake_time_max: HandshakeTime,
    /// Connections that ended because nothing came for so long.
    idle_time_max: IdleTime,
    /// Connections that ended because nothing was acknowledged for so long.
    disconnect_time_max: DisconnectTime,
    /// Peers that said that they wanted more streams than they may have.
    peer_streams_max: PeerStreams,
    /// Connections that ended because a lane stood still (`LANE_STALLED`).
    lane_stall_time_max: LaneStallTime,
    /// Closes that were cut before all was sent, or all was taken.
    close_time_max: CloseTime,
    /// Sessions that were not opened, or refused to a peer (`NODE_FULL`), because the node had so many.
    sessions_max: Sessions,
    /// Sessions of peers that ended because so many waited to be taken.
    begun_max: Begun,
    /// Sessions that ended and were forgotten before their time.
    tombstones_max: Tombstones,
    /// Peers of which what was remembered was forgotten for others.
    identities_max: Identities,
    /// Replaced starts of a peer that were forgotten for later ones.
    incarnations_max: Incarnations,
    /// Sessions that ended because they were without a connection for so long.
    session_time_max: SessionTime,
    /// Connections that ended because Hello, Attach or the word of the application took so long.
    hello_time_max: HelloTime,
    /// Frames for peers that had to wait or were refused because their flow kept all it may.
    flow_bytes_max: FlowBytes,
    /// The same, where the flow's share of what all with a connection may keep was less than its own bound.
    kept_bytes_max: KeptBytes,
    /// The same, of those without a connection.
    absent_bytes_max: AbsentBytes,
    /// Flows that were granted as much as one may be.
    granted_bytes_max: GrantedBytes,
    /// Flows that were not granted more, because others have it.
    node_granted_bytes_max: NodeGrantedBytes,
    /// Large frames of peers that had to wait until others were taken.
    large_bytes_max: LargeBytes,
    /// Requests that were not issued, or refused to a peer, because so many were in flight.
    requests_max: Requests,
    /// The same, because all sessions of the node had so many.
    node_requests_max: NodeRequests,
    /// Requests that were given up before they came, and forgotten.
    early_cancels_max: EarlyCancels,
    /// Peers that broke the protocol with more messages or bytes on a session stream than it may bring.
    control_messages_max: ControlMessages,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    reached: Reached,
    impossible: AtomicU64,
}

impl Counts {
    /// `limit` held something back.
    pub(crate) fn reached(&self, limit: Limit) {
        self.reached.of(limit).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn impossible(&self, times: u64) {
        self.impossible.fetch_add(times, Ordering::Relaxed);
    }

    /// Without what is counted elsewhere.
    pub(crate) fn stats(&self) -> NodeStats {
        NodeStats {
            limits: self.reached.counts(),
            impossible: self.impossible.load(Ordering::Relaxed),
            ..NodeStats::default()
        }
    }
}

#[cfg(test)]
mod tests;
