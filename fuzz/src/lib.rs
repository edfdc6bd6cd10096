//! What is fuzzed, and what must hold of it: a module for each target. They stand on the library's own files, and
//! on what those take from elsewhere.

pub mod frame_decoder;
mod identity;
pub mod session_intake;
pub mod session_messages;

pub use identity::{certificates, credentials};

#[allow(dead_code)]
#[path = "../../src/peers/cut.rs"]
mod cut;
#[allow(dead_code)]
#[path = "../../src/session/fields.rs"]
mod fields;
#[allow(dead_code)]
#[path = "../../src/session/flow.rs"]
mod flow;
#[allow(dead_code)]
#[path = "../../src/session/flow_violation.rs"]
mod flow_violation;
#[allow(dead_code)]
#[path = "../../src/frame.rs"]
mod frame;
#[allow(dead_code)]
#[path = "../../src/session/frame_head.rs"]
mod frame_head;
#[allow(dead_code)]
#[path = "../../src/session/message.rs"]
mod message;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../src/never.rs"]
mod never;

mod session {
    pub(crate) use crate::{flow_violation as flow_out, frame_head};
}

mod room {
    /// Nobody has more room here than what is granted.
    pub(crate) enum Large {}
}

/// What messages take from elsewhere: of a close code, its number.
mod error {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct CloseCode(u64);

    impl CloseCode {
        pub(crate) const fn from_wire(code: u64) -> Self {
            Self(code)
        }

        pub(crate) const fn value(self) -> u64 {
            self.0
        }
    }
}

mod config {
    pub(crate) const FLOW_GRANT_MIN: usize = 16 << 10;
}
