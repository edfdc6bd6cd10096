//! Faults of sessions: flows of those that begin have what is planted then.

use std::sync::Mutex;

use crate::lock::lock;
use crate::session::flow_fault::{FlowFault, Planted};

/// Those that are planted; the last one counts.
static PLANTED: Mutex<Vec<FlowFault>> = Mutex::new(Vec::new());

impl FlowFault {
    /// Plants it in all sessions of the process that begin as long as that lives.
    #[must_use = "it is planted for as long as this lives"]
    pub fn plant(self) -> PlantedFlowFault {
        lock(&PLANTED).push(self);
        PlantedFlowFault(self)
    }
}

/// A fault that is planted in sessions; dropped, those that begin do not have it any more.
#[derive(Debug)]
pub struct PlantedFlowFault(FlowFault);

impl Drop for PlantedFlowFault {
    fn drop(&mut self) {
        let mut all = lock(&PLANTED);
        if let Some(at) = all.iter().position(|fault| *fault == self.0) {
            all.remove(at);
        }
    }
}

/// What the flows of a session that begins break.
pub(crate) fn flow_fault() -> Planted {
    Planted::new(lock(&PLANTED).last().copied())
}
