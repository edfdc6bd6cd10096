//! Faults that are planted in the flows of a session, to see that what should find them does. None is ever
//! there otherwise.

/// How a flow breaks its promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "public where it can be planted")
)]
pub enum FlowFault {
    /// A frame that the last connection had and the peer did not receive is dropped when the session goes on
    /// over another one, and those behind it take its number.
    FrameDropped,
    /// A frame that the peer has goes again over the next connection without its number: with the one that
    /// the peer expects.
    NumberMissing,
    /// What the peer took does not become free on the sender's side, until the next connection.
    CreditKept,
}

/// Which one, if any, a flow has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Planted(#[cfg(any(test, feature = "testing"))] Option<FlowFault>);

impl Planted {
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn new(fault: Option<FlowFault>) -> Self {
        Self(fault)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is(self, fault: FlowFault) -> bool {
        self.0 == Some(fault)
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[inline(always)]
    pub(crate) fn is(self, _fault: FlowFault) -> bool {
        false
    }
}
