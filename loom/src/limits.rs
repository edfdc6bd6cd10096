//! Of the library's limits those that frames in look at.

use std::time::Duration;

/// As the library's.
pub(crate) struct Limits {
    pub(crate) frame_time_max: Duration,
    pub(crate) frame_rate_min: usize,
}
