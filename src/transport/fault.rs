//! Faults that the simulator's tests plant, to see that it finds them. None is ever there otherwise.

/// What can be planted: each is one that was there once, or is as easily made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Something is awaited between taking a frame and returning it.
    AwaitBehindTaking,
    /// No stream has a part of the queue of its own, nor may a frame pass the share.
    OneQueueForAll,
    /// What other frames bring does not count as progress.
    DeadlineBehindOthers,
    /// The deadline goes on while a frame is paused.
    DeadlineOutlivesPause,
    /// Room for a large frame is kept while more is asked for.
    RoomIsKept,
    /// Streams that ended stay.
    EndedStreamsStay,
    /// The end of a lane goes with the stream that it was said on.
    EndIsLost,
    /// What was acknowledged does not become free.
    RoomDoesNotComeBack,
    /// Frames that go back come again in another order.
    BackInAnotherOrder,
}

#[cfg(not(test))]
#[inline(always)]
pub(super) fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(test)]
pub(super) use planting::{plant, planted};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// On this thread, until another call.
    pub(in crate::transport) fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    pub(in crate::transport) fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}
