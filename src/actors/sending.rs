//! Sending by message: room first, then the frames, then one answer.
//!
//! ```text
//! credit.rs ... room in a lane, held until its message comes or it is dropped
//! reserve.rs .. that room asked for by message, where an actor must not wait
//! one.rs ...... one frame: its credit, its way into the lane, its outcome
//! many.rs ..... many frames, all or none, and one answer for all
//! ```

pub(crate) mod credit;
pub(super) mod many;
pub(super) mod one;
pub(super) mod reserve;
