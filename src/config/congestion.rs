//! Which congestion control connections send by.

use std::net::SocketAddr;

/// How much a connection has on its way, and what it takes a lost packet for.
///
/// `docs/benchmarks.md` has figures of both on the same paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Congestion {
    /// [`Cubic`](Self::Cubic) for connections that are dialled on this machine's loopback, where nothing is
    /// lost; [`Bbr`](Self::Bbr) for all others.
    #[default]
    Automatic,
    /// RFC 9438: each lost packet is a sign of a full queue. Fair to TCP, and quick for small frames beside
    /// a saturated lane; slow where packets are lost for other reasons (1 % over 40 ms: a tenth of BBR).
    ///
    /// With the bundled MsQuic a connection that was *accepted* can fall silent for good behind an outage of
    /// several round trips (`SECURITY.md`): its peer notices within
    /// [`disconnect_time_max`](super::Limits::disconnect_time_max) and dials again.
    Cubic,
    /// BBR, by what the path was seen to carry: it fills long and lossy paths. Where a path becomes much longer
    /// than it was at first it is slow for up to 10 s, until it believes that.
    Bbr,
}

/// What [`Congestion`] comes to for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Cubic,
    Bbr,
}

impl Congestion {
    /// For connections that a listener takes.
    pub(crate) fn of_accepted(self) -> Algorithm {
        match self {
            Self::Cubic => Algorithm::Cubic,
            Self::Automatic | Self::Bbr => Algorithm::Bbr,
        }
    }

    /// For a connection that dials `peer`.
    pub(crate) fn of_dialled(self, peer: SocketAddr) -> Algorithm {
        match self {
            Self::Automatic if !peer.ip().to_canonical().is_loopback() => Algorithm::Bbr,
            Self::Automatic | Self::Cubic => Algorithm::Cubic,
            Self::Bbr => Algorithm::Bbr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dials_this_machine_is_cubic_by_itself() {
        let of = |peer: &str| Congestion::Automatic.of_dialled(peer.parse().expect("an address"));
        for near in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(of(near), Algorithm::Cubic, "{near}");
        }
        for far in ["192.0.2.1:1", "10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
            assert_eq!(of(far), Algorithm::Bbr, "{far}");
        }
        assert_eq!(Congestion::Automatic.of_accepted(), Algorithm::Bbr);
        for given in [Congestion::Cubic, Congestion::Bbr] {
            assert_eq!(given.of_accepted(), given.of_dialled("127.0.0.1:1".parse().expect("one")));
        }
    }
}
