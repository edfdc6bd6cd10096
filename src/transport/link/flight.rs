//! How much is on its way at a time: of a lane, or of a flow of a session.
//!
//! A submission costs 2 to 3 µs, little beside a packet and much beside a small frame. So while enough is on
//! its way small frames gather, and leave together with the next acknowledgement. On a long path that would be
//! a wait, and one submission a frame is little beside it: there more of them are on their way before anything
//! gathers.

use super::batch::BATCH_BYTES;

/// Submissions in flight before small frames gather, on a short path.
const SUBMISSIONS: usize = 8;

/// Submissions in flight at most: MsQuic walks a list of those it has not taken over yet.
const SUBMISSIONS_MAX: usize = 64;

/// Below this many unacknowledged bytes a frame never waits for an acknowledgement: fewer than
/// three packets may be acknowledged late (RFC 9000, section 13.2.1).
const PROMPT_BYTES: usize = 3 * 1200;

/// The fastest path that is kept busy: 1 GiB/s. With a round trip of 50 ms that are 50 MiB in flight,
/// so that the limits of the lane decide.
const BYTES_PER_MICROSECOND: usize = 1074;

/// What keeps a path busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Path {
    /// Bytes in flight up to which a full batch never waits.
    bytes: usize,
    /// The same without what queues on the path add.
    least_bytes: usize,
}

impl Path {
    /// By the round trip of the path, and that of the empty path, in microseconds.
    pub(crate) fn of_round_trip(now: u32, least: u32) -> Self {
        let bytes = |microseconds: u32| {
            usize::try_from(microseconds)
                .map_or(usize::MAX, |it| it.saturating_mul(BYTES_PER_MICROSECOND))
        };
        Self { bytes: bytes(now), least_bytes: bytes(least) }
    }

    /// Bytes that keep the empty path busy.
    pub(crate) fn least_bytes(self) -> usize {
        self.least_bytes
    }

    /// Whether another submission may go out beside so many, of so many bytes; `is_full`: nothing more fits it.
    pub(crate) fn may_submit(
        self,
        in_flight: usize,
        in_flight_bytes: usize,
        is_full: impl FnOnce() -> bool,
    ) -> bool {
        // As many as the batches that the empty path holds.
        let apart = (self.least_bytes / BATCH_BYTES).clamp(SUBMISSIONS, SUBMISSIONS_MAX);
        in_flight < apart
            || (in_flight < SUBMISSIONS_MAX
                && (in_flight_bytes < PROMPT_BYTES || (in_flight_bytes < self.bytes && is_full())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Submissions of so many bytes that go out before anything is acknowledged.
    fn go_out(path: Path, bytes: usize, is_full: bool) -> usize {
        (0..)
            .find(|&count| !path.may_submit(count, count * bytes, || is_full))
            .unwrap_or(usize::MAX)
    }

    #[test]
    fn small_frames_gather_on_a_short_path_behind_eight_and_three_packets() {
        for round_trip in [0, 50, 900] {
            let path = Path::of_round_trip(round_trip, round_trip);
            assert_eq!(go_out(path, 1_200, false), SUBMISSIONS, "{round_trip} µs");
            assert_eq!(go_out(path, 140, false), PROMPT_BYTES.div_ceil(140), "{round_trip} µs");
        }
    }

    #[test]
    fn on_a_long_path_a_small_frame_does_not_wait_for_an_acknowledgement() {
        let path = Path::of_round_trip(40_000, 40_000);
        assert_eq!(go_out(path, 1_200, false), SUBMISSIONS_MAX);
        let path = Path::of_round_trip(2_000, 2_000);
        assert_eq!(go_out(path, 1_200, false), 16);
    }

    #[test]
    fn what_queues_on_the_path_lets_full_batches_go_and_no_small_ones() {
        let path = Path::of_round_trip(10_000, 100);
        assert_eq!(go_out(path, 1_200, false), SUBMISSIONS);
        assert_eq!(go_out(path, BATCH_BYTES, true), SUBMISSIONS_MAX);
        let path = Path::of_round_trip(2_000, 100);
        assert_eq!(go_out(path, BATCH_BYTES, true), 17);
        assert_eq!(Path::of_round_trip(u32::MAX, 0).least_bytes(), 0);
    }
}
