//! One thing that goes wrong on a link.

use std::fmt;
use std::time::Duration;

use super::conditions::{Conditions, GilbertElliott, Loss, RateLimit};
use super::share::Share;
use super::text::{Size, Time};

/// One thing that goes wrong on a link; the table at [`Script`](super::Script) has their texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Loses datagrams.
    Lose(Loss),
    /// Holds each datagram back.
    Delay {
        /// How long at least.
        delay: Duration,
        /// How much longer at most.
        jitter: Duration,
    },
    /// Holds some datagrams back so that others overtake them.
    Reorder {
        /// How many of them.
        share: Share,
        /// How long.
        by: Duration,
    },
    /// Hands some datagrams on twice.
    Duplicate(Share),
    /// Flips one bit in some datagrams.
    Corrupt(Share),
    /// Lets no more pass in a second.
    Limit(RateLimit),
    /// Loses packets that are larger, with their IP and UDP headers, in bytes.
    Mtu(u16),
    /// Loses everything.
    BlackHole,
    /// As if nothing had been set.
    PassEverything,
    /// Gives the client another port, as the server sees it: once, for both directions.
    ChangeClientPort,
}

impl Fault {
    /// The conditions with this fault in them.
    pub(super) fn applied_to(self, mut conditions: Conditions) -> Conditions {
        match self {
            Self::Lose(loss) => conditions.loss = loss,
            Self::Delay { delay, jitter } => {
                (conditions.delay, conditions.jitter) = (delay, jitter);
            }
            Self::Reorder { share, by } => {
                (conditions.reorder, conditions.reorder_by) = (share, by);
            }
            Self::Duplicate(share) => conditions.duplicate = share,
            Self::Corrupt(share) => conditions.corrupt = share,
            Self::Limit(limit) => conditions.limit = Some(limit),
            Self::Mtu(bytes) => conditions.mtu = Some(bytes),
            Self::BlackHole => conditions.black_hole = true,
            Self::PassEverything => conditions = Conditions::default(),
            Self::ChangeClientPort => {}
        }
        conditions
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lose(Loss::None) => write!(f, "lose {}", Share::NONE),
            Self::Lose(Loss::Independent(share)) => write!(f, "lose {share}"),
            Self::Lose(Loss::Bursts(model)) => {
                let GilbertElliott { turns_bad, turns_good, loss_when_good, loss_when_bad } = model;
                write!(f, "lose {loss_when_good} when good, {loss_when_bad} when bad, ")?;
                write!(f, "turns bad {turns_bad}, turns good {turns_good}")
            }
            Self::Delay { delay, jitter } => {
                write!(f, "delay {}", Time(*delay))?;
                if jitter.is_zero() { Ok(()) } else { write!(f, " jitter {}", Time(*jitter)) }
            }
            Self::Reorder { share, by } => write!(f, "reorder {share} by {}", Time(*by)),
            Self::Duplicate(share) => write!(f, "duplicate {share}"),
            Self::Corrupt(share) => write!(f, "corrupt {share}"),
            Self::Limit(RateLimit { bytes_a_second, queue_bytes }) => {
                write!(f, "limit {}/s queue {}", Size(*bytes_a_second), Size(*queue_bytes))
            }
            Self::Mtu(bytes) => write!(f, "mtu {}", Size(u64::from(*bytes))),
            Self::BlackHole => f.write_str("black hole"),
            Self::PassEverything => f.write_str("pass everything"),
            Self::ChangeClientPort => f.write_str("change the client's port"),
        }
    }
}
