//! Whether each limit is seen where it holds something back.

use super::*;
use crate::config::Limits;

/// How a limit that holds something back is seen.
enum Seen {
    Counted(fn(&NodeStats) -> u64),
    /// Nowhere here, for that reason.
    Nowhere(&'static str),
}
use Seen::{Counted, Nowhere};

macro_rules! each_limit {
    ($($limit:ident => $seen:expr,)+) => {
        fn each_limit() -> Vec<(&'static str, Seen)> {
            // A limit of which nothing is said does not compile.
            let Limits { $($limit: _,)+ } = Limits::default();
            vec![$((stringify!($limit), $seen),)+]
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
    path_mtu_max => Nowhere("packets are smaller, and nothing is held back"),
    peer_streams_max => Counted(|stats| stats.limits.peer_streams_max),
    connections_max => Counted(|stats| stats.admissions.too_many),
    connections_per_peer_max => Counted(|stats| stats.admissions.too_many_of_peer),
    handshakes_pending_max => Counted(|stats| stats.admissions.no_place),
    handshakes_per_address_max => Counted(|stats| stats.admissions.too_many_of_address),
    lane_stall_time_max => Counted(|stats| stats.limits.lane_stall_time_max),
    close_time_max => Counted(|stats| stats.limits.close_time_max),
}

#[test]
fn each_limit_has_a_counter_of_its_own_or_a_reason_for_none() {
    let counts = Counts::default();
    for (number, &limit) in Limit::ALL.iter().enumerate() {
        (0..100 + number).for_each(|_| counts.reached(limit));
    }
    let (no_place, too_many_of_address, too_many, too_many_of_peer, silent) = (1, 2, 3, 4, 5);
    let admissions = AdmissionCounts {
        no_place,
        too_many_of_address,
        too_many,
        too_many_of_peer,
        silent,
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
                    None => assert!(count < 6 || name == "frame_rate_min", "{name}"),
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
    assert_eq!(seen.len() + 1, all, "only the time and the rate of a frame are one");
}
