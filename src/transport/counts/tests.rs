//! Whether each limit is seen where it holds something back.

use super::*;
use crate::config::{Limits, SessionLimits};

/// How a limit that holds something back is seen.
enum Seen {
    Counted(fn(&NodeStats) -> u64),
    /// Nowhere here, for that reason.
    Nowhere(&'static str),
}
use Seen::{Counted, Nowhere};

macro_rules! each_limit {
    (
        $($limit:ident => $seen:expr,)+
        [of sessions] $($of_sessions:ident => $seen_there:expr,)+
    ) => {
        fn each_limit() -> Vec<(&'static str, Seen)> {
            // A limit of which nothing is said does not compile.
            let Limits { $($limit: _,)+ sessions } = Limits::default();
            let SessionLimits { $($of_sessions: _,)+ } = sessions;
            vec![
                $((stringify!($limit), $seen),)+
                $((stringify!($of_sessions), $seen_there),)+
            ]
        }
    };
}

each_limit! {
    frame_bytes_max => Counted(|stats| stats.limits.frame_bytes_max),
    frame_time_max => Counted(|stats| stats.limits.frame_time_max),
    frame_rate_min => Counted(|stats| stats.limits.frame_time_max),
    stream_op_timeout => Counted(|stats| stats.limits.stream_op_timeout),
    lane_bytes_max => Counted(|stats| stats.limits.lane_bytes_max),
    node_send_bytes_max => Counted(|stats| stats.limits.node_send_bytes_max),
    control_lane_bytes_max => Counted(|stats| stats.limits.control_lane_bytes_max),
    inbound_bytes_max => Counted(|stats| stats.limits.inbound_bytes_max),
    node_receive_bytes_max => Counted(|stats| stats.limits.node_receive_bytes_max),
    node_large_bytes_max => Counted(|stats| stats.limits.node_large_bytes_max),
    window_bytes_max => Nowhere("the peer waits, and the library does not tell"),
    node_window_bytes_max => Counted(|stats| stats.limits.node_window_bytes_max),
    handshake_time_max => Counted(|stats| stats.limits.handshake_time_max),
    handshake_answer_max => Counted(|stats| stats.admissions.silent),
    keep_alive_interval => Nowhere("it holds nothing back"),
    idle_time_max => Counted(|stats| stats.limits.idle_time_max),
    disconnect_time_max => Counted(|stats| stats.limits.disconnect_time_max),
    congestion => Nowhere("how fast it goes, not how much"),
    path_mtu_max => Nowhere("packets are smaller, and nothing is held back"),
    peer_streams_max => Counted(|stats| stats.limits.peer_streams_max),
    connections_max => Counted(|stats| stats.admissions.too_many),
    connections_per_peer_max => Counted(|stats| stats.admissions.too_many_of_peer),
    handshakes_pending_max => Counted(|stats| stats.admissions.no_place),
    handshakes_per_address_max => Counted(|stats| stats.admissions.too_many_of_address),
    connections_per_minute_max => Counted(|stats| stats.admissions.too_often),
    connections_burst_max => Counted(|stats| stats.admissions.too_often),
    lane_stall_time_max => Counted(|stats| stats.limits.lane_stall_time_max),
    close_time_max => Counted(|stats| stats.limits.close_time_max),
    [of sessions]
    sessions_max => Counted(|stats| stats.limits.sessions_max),
    begun_max => Counted(|stats| stats.limits.begun_max),
    tombstones_max => Counted(|stats| stats.limits.tombstones_max),
    identities_max => Counted(|stats| stats.limits.identities_max),
    incarnations_max => Counted(|stats| stats.limits.incarnations_max),
    session_time_max => Counted(|stats| stats.limits.session_time_max),
    hello_time_max => Counted(|stats| stats.limits.hello_time_max),
    away_time => Nowhere("it holds nothing back here"),
    flow_bytes_max => Counted(|stats| stats.limits.flow_bytes_max),
    kept_bytes_max => Counted(|stats| stats.limits.kept_bytes_max),
    absent_bytes_max => Counted(|stats| stats.limits.absent_bytes_max),
    granted_bytes_max => Counted(|stats| stats.limits.granted_bytes_max),
    node_granted_bytes_max => Counted(|stats| stats.limits.node_granted_bytes_max),
    large_bytes_max => Counted(|stats| stats.limits.large_bytes_max),
    requests_max => Counted(|stats| stats.limits.requests_max),
    node_requests_max => Counted(|stats| stats.limits.node_requests_max),
    early_cancels_max => Counted(|stats| stats.limits.early_cancels_max),
    control_messages_max => Counted(|stats| stats.limits.control_messages_max),
    control_bytes_max => Counted(|stats| stats.limits.control_messages_max),
}

#[test]
fn each_limit_has_a_counter_of_its_own_or_a_reason_for_none() {
    let counts = Counts::default();
    for (number, &limit) in Limit::ALL.iter().enumerate() {
        (0..100 + number).for_each(|_| counts.reached(limit));
    }
    let (no_place, too_many_of_address, too_many, too_many_of_peer, silent) = (1, 2, 3, 4, 5);
    let too_often = 6;
    let admissions = AdmissionCounts {
        no_place,
        too_many_of_address,
        too_many,
        too_many_of_peer,
        silent,
        too_often,
        ..AdmissionCounts::default()
    };
    let stats = NodeStats { admissions, ..counts.stats() };
    let mut left = stats.limits.by_name();
    let mut seen = Vec::new();
    for (name, how) in each_limit() {
        match how {
            Counted(count) => {
                let count = count(&stats);
                assert!(count > 0, "{name}");
                match left.iter().position(|(counter, _)| *counter == name) {
                    Some(at) => assert_eq!(left.swap_remove(at).1, count, "{name}"),
                    None => assert!(
                        count < 7 || ["frame_rate_min", "control_bytes_max"].contains(&name),
                        "{name}"
                    ),
                }
                seen.push(count);
            }
            Nowhere(reason) => assert!(!reason.is_empty(), "{name}"),
        }
    }
    assert_eq!(left, [], "counters of no limit");
    seen.sort_unstable();
    let all = seen.len();
    seen.dedup();
    assert_eq!(
        seen.len() + 3,
        all,
        "a frame's time and rate, messages and their bytes, two of arrivals"
    );
}
