//! What a connection does with frames, as plain state: no MsQuic, no clock, no runtime, no lock.
//!
//! ```text
//! inbound.rs ......... frames in: which stream may bring more, which reader gets what
//! ├── inbound/reading.rs ... taking frames, lending them, putting them back
//! ├── inbound/room.rs ...... the bounds: how much each stream may bring, who goes on
//! └── inbound/queue.rs ..... the frames of one stream
//! outgoing.rs ........ frames out: one lane
//! ├── outgoing/admission.rs .... room before a frame is taken over
//! ├── outgoing/submitting.rs ... what goes out next
//! ├── outgoing/ending.rs ....... the end of the lane and of its stream
//! └── outgoing/effects.rs ...... what it answers, and what comes of a change
//! batch.rs ........... frames that go out as one submission
//! outcome.rs ......... how frames end
//! closing.rs ......... how a connection ends in order
//! flight.rs .......... how much is on its way at a time
//! lanes.rs ........... what each lane is for, and which gives way
//! patience.rs ........ how long a frame may stay unfinished
//! stall.rs ........... whether the lanes move
//! watch.rs ........... who is told that there is a deadline to watch
//! room.rs ............ room in a lane, which grows and shrinks
//! fair.rs ............ room in the order of asking
//! share.rs ........... what is shared among those who are busy
//! ```
//!
//! Time is an argument, a stream is a generic handle, and what is to be done comes back as values:
//! whoever holds the lock does it after letting go.

pub(crate) mod batch;
pub(crate) mod closing;
pub(crate) mod fair;
pub(crate) mod flight;
pub(in crate::transport) mod inbound;
pub(in crate::transport) mod lanes;
pub(crate) mod outcome;
pub(in crate::transport) mod outgoing;
pub(crate) mod patience;
pub(crate) mod room;
pub(crate) mod share;
pub(in crate::transport) mod stall;
pub(crate) mod watch;
