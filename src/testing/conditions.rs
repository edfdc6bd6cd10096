//! What a link does to the datagrams of one direction.

use std::time::Duration;

use super::share::Share;

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Towards {
    /// From the side that dialled.
    Server,
    /// Back to it.
    Client,
}

impl Towards {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Server, Self::Client];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Server => 0,
            Self::Client => 1,
        }
    }
}

/// What a link does to the datagrams of one direction; the default passes everything at once.
///
/// A datagram meets the black hole first, then the MTU, the loss, the rate, the delay, and last
/// corruption and duplication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conditions {
    /// Which datagrams are lost.
    pub loss: Loss,
    /// How long each one takes. What came first stays first, also where the delay becomes shorter.
    pub delay: Duration,
    /// How much longer it may take, evenly spread.
    pub jitter: Duration,
    /// Which datagrams take longer than those behind them.
    pub reorder: Share,
    /// How much longer those take.
    pub reorder_by: Duration,
    /// Which datagrams come twice.
    pub duplicate: Share,
    /// Which datagrams have one bit flipped.
    pub corrupt: Share,
    /// How many bytes a second pass.
    pub limit: Option<RateLimit>,
    /// The largest packet that passes, with its IP and UDP headers, in bytes.
    pub mtu: Option<u16>,
    /// Whether everything is lost.
    pub black_hole: bool,
}

impl Conditions {
    /// A long path: 20 ms each way, 40 ms there and back, and 1 % of the datagrams is lost, each for itself.
    #[must_use]
    pub fn wan() -> Self {
        Self::far(20, 1)
    }

    /// A longer one over the air: 60 ms each way, 120 ms there and back, and 3 % are lost, each for itself.
    #[must_use]
    pub fn mobile() -> Self {
        Self::far(60, 3)
    }

    fn far(delay_ms: u64, lost_percent: u32) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            loss: Loss::Independent(Share::percent(lost_percent)),
            ..Self::default()
        }
    }
}

/// Which datagrams are lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// This share of them, each for itself.
    Independent(Share),
    /// Many in a row, then none for a while.
    Bursts(GilbertElliott),
}

/// The model of Gilbert and Elliott: a link is good or bad, may change with each datagram, and loses
/// another share in each of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GilbertElliott {
    /// How likely a good link turns bad, for each datagram.
    pub turns_bad: Share,
    /// How likely a bad link turns good, for each datagram.
    pub turns_good: Share,
    /// What is lost while it is good.
    pub loss_when_good: Share,
    /// What is lost while it is bad.
    pub loss_when_bad: Share,
}

impl GilbertElliott {
    /// Loses `share` of all datagrams, `length` in a row on average, and none between.
    ///
    /// A share that would need the link to turn bad more than once for each datagram (90 % in bursts of
    /// 4) becomes the largest that is possible with this length.
    #[must_use]
    pub fn bursts(share: Share, length: u32) -> Self {
        let length = f64::from(length.max(1));
        let (turns_bad, turns_good) = if share == Share::ALL {
            (1.0, 0.0)
        } else {
            (share.fraction() / (1.0 - share.fraction()) / length, 1.0 / length)
        };
        Self {
            turns_bad: Share::nearest(turns_bad),
            turns_good: Share::nearest(turns_good),
            loss_when_good: Share::NONE,
            loss_when_bad: Share::ALL,
        }
    }
}

/// A bottleneck: what comes faster waits in its queue, and what does not fit there is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes of datagrams, without headers, that pass in a second; 0 is taken as 1.
    pub bytes_a_second: u64,
    /// Bytes that may wait.
    pub queue_bytes: u64,
}
