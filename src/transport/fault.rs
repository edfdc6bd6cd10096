//! Faults that tests plant, to see that the simulator or loom finds them. None is ever there otherwise.

/// What can be planted: each is one that was there once, or is as easily made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
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
    /// What was acknowledged becomes free twice, which cannot happen.
    RoomComesBackTwice,
    /// The end of a submission is told to a callback that panics.
    CallbackPanics,

    // Found by loom: an order of steps among threads.
    /// Whoever watches finds nothing, lets go and does not look once more.
    WatchRestsWithoutALook,
    /// Who waits for room looks, and says behind it whom to wake.
    WakerComesBehindTheLook,
    /// Who waits at the node sees that the lane is open, and says behind it whom to tell of its end.
    ShutMissesWhoComes,
    /// A reader looks, and waits behind it.
    ReaderLooksBeforeItWaits,
    /// Whoever delivers looks, and says behind it that it has ended.
    DeliveryEndsBehindItsLook,
    /// Who tells what was taken looks, and says behind it that nothing waits.
    TellerLooksBeforeItRests,
}

#[cfg(not(any(test, moorline_loom)))]
#[inline(always)]
pub(crate) fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(any(test, moorline_loom))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// On this thread, until another call.
#[cfg(any(test, moorline_loom))]
pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

#[cfg(any(test, moorline_loom))]
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
