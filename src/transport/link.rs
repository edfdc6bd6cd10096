//! What a connection does with frames, as plain state: no MsQuic, no clock, no runtime, no lock.
//!
//! ```text
//! inbound.rs ......... frames in: which stream may bring more, which reader gets what
//! ├── inbound/reading.rs ... taking frames, lending them, putting them back
//! ├── inbound/room.rs ...... the bounds: how much each stream may bring, who goes on
//! ├── inbound/queue.rs ..... the frames of one stream
//! └── inbound/patience.rs .. the deadline of frames that are not whole
//! lanes.rs ........... what each lane is for
//! stall.rs ........... whether the lanes move
//! large.rs ........... room for large frames, that all connections of a node share
//! ```
//!
//! Time is an argument, a stream is a generic handle, and what is to be done comes back as values:
//! whoever holds the lock does it after letting go.

pub(in crate::transport) mod inbound;
pub(in crate::transport) mod lanes;
pub(in crate::transport) mod large;
pub(in crate::transport) mod stall;
