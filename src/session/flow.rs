//! Names and counters of a session's flows.

use std::ops::{Index, IndexMut};

/// Lanes of a session: control, data, bulk.
pub(crate) const LANES: usize = 3;

/// Flows of a session: per lane one of messages and requests, and one of replies.
pub(crate) const FLOWS_MAX: usize = 2 * LANES;

/// A flow: what has its own numbers, counters and credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowId(u8);

impl FlowId {
    /// Messages of the first lane.
    pub(crate) const FIRST: Self = Self(0);

    /// Messages and requests of a lane, or its replies; none of a lane that does not exist.
    pub(crate) const fn new(lane: u8, replies: bool) -> Option<Self> {
        if (lane as usize) < LANES { Some(Self(2 * lane + replies as u8)) } else { None }
    }

    /// By its number in messages: two times the lane, and one more for replies.
    pub(crate) const fn from_wire(number: u64) -> Option<Self> {
        if number < FLOWS_MAX as u64 { Some(Self(number as u8)) } else { None }
    }

    /// See [`from_wire`](Self::from_wire).
    pub(crate) const fn number(self) -> u8 {
        self.0
    }

    /// The lane's ordinal.
    pub(crate) const fn lane(self) -> u8 {
        self.0 / 2
    }

    /// Whether it carries replies.
    pub(crate) const fn is_replies(self) -> bool {
        self.0 % 2 == 1
    }

    /// All there are.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..FLOWS_MAX as u8).map(Self)
    }
}

/// Something of each flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PerFlow<T>(pub(crate) [T; FLOWS_MAX]);

impl<T> PerFlow<T> {
    /// With what `of` makes for each flow.
    pub(crate) fn of(of: impl FnMut(FlowId) -> T) -> Self {
        let mut of = of;
        Self(std::array::from_fn(|index| of(FlowId(index as u8))))
    }

    /// Each flow with what is of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &T)> {
        FlowId::all().zip(&self.0)
    }
}

impl<T> Index<FlowId> for PerFlow<T> {
    type Output = T;

    fn index(&self, flow: FlowId) -> &T {
        &self.0[usize::from(flow.0)]
    }
}

impl<T> IndexMut<FlowId> for PerFlow<T> {
    fn index_mut(&mut self, flow: FlowId) -> &mut T {
        &mut self.0[usize::from(flow.0)]
    }
}

/// What the receiver of a flow tells its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FlowState {
    /// Number of the last frame that came; 0 before the first.
    pub(crate) received: u64,
    /// Number of the last frame that the application took, and all before it; at most `received`.
    pub(crate) taken: u64,
    /// Encoded bytes of frames that may be sent and not taken at a time.
    pub(crate) credit: u64,
}
