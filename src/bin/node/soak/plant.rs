//! Faults of the library itself: what looks for broken promises must find those that are broken on purpose.

use clap::ValueEnum;
use moorline::testing::failpoint::{FlowFault, PlantedFlowFault};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlantedFault {
    /// A frame is dropped when a session goes on over another connection
    FrameDropped,
    /// A frame that came goes again without its number
    NumberMissing,
    /// What was taken does not become free
    CreditKept,
}

impl PlantedFault {
    /// In all sessions that begin as long as that lives.
    pub(crate) fn plant(self) -> PlantedFlowFault {
        let fault = match self {
            Self::FrameDropped => FlowFault::FrameDropped,
            Self::NumberMissing => FlowFault::NumberMissing,
            Self::CreditKept => FlowFault::CreditKept,
        };
        fault.plant()
    }
}
