//! What a session stream may bring in a second.

use std::time::{Duration, Instant};

/// Counts what came, and lets a second's worth gather.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    messages_max: u32,
    bytes_max: u32,
    /// When all that came would be paid for.
    messages_until: Instant,
    bytes_until: Instant,
}

impl Rate {
    /// So many messages, and bytes of them, a second.
    pub(crate) fn new(now: Instant, messages_max: u32, bytes_max: u32) -> Self {
        let (messages_max, bytes_max) = (messages_max.max(1), bytes_max.max(1));
        Self { messages_max, bytes_max, messages_until: now, bytes_until: now }
    }

    /// A message of so many bytes came. Whether that is not too much.
    pub(crate) fn allows(&mut self, now: Instant, bytes: u32) -> bool {
        self.messages_until = self.messages_until.max(now) + share(1, self.messages_max);
        self.bytes_until = self.bytes_until.max(now) + share(bytes, self.bytes_max);
        self.messages_until.max(self.bytes_until) <= now + Duration::from_secs(1)
    }
}

/// What `count` of `a_second` takes.
fn share(count: u32, a_second: u32) -> Duration {
    Duration::from_secs(1) * count / a_second
}
