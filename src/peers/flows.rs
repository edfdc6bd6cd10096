//! The flows of a session, each made when something is first sent or comes on it: most sessions use one
//! each way.
//!
//! Invariant: a flow that is made late has gone through what all of them went through ([`Course`]).

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, OnceLock};

use super::in_flow::{Filled, InFlow};
use super::out_flow::OutFlow;
use super::room::PeerBounds;
use crate::config::FLOW_GRANT_MIN;
use crate::lock::lock;
use crate::session::flow::{FlowId, FlowState, PerFlow};
use crate::session::flow_out::FlowViolation;

/// See the module.
#[derive(Default)]
pub(super) struct Flows {
    out: PerFlow<OnceLock<Box<OutFlow>>>,
    incoming: PerFlow<OnceLock<Box<InFlow>>>,
    filled: Filled,
    /// Held while one is made, so that it misses nothing.
    course: Mutex<Course>,
}

/// What happened to all flows so far.
#[derive(Default)]
struct Course {
    /// Of the connection that flows in go over; 0 for none.
    generation: u64,
    /// Of the one that flows out go over, and what the peer said there first of each.
    said: Option<Box<(u64, PerFlow<FlowState>)>>,
    cut: Option<Box<PerFlow<u64>>>,
    is_shut: bool,
    is_frozen: bool,
    is_over: bool,
}

/// Whether the peer may say this of a flow on which nothing was sent.
fn is_fresh(said: FlowState) -> bool {
    said.received == 0 && said.taken == 0
}

impl Flows {
    /// Which flows have something that waits to be taken.
    pub(super) fn filled(&self) -> &Filled {
        &self.filled
    }

    pub(super) fn out(&self, flow: FlowId, bounds: &PeerBounds) -> &OutFlow {
        match self.out[flow].get() {
            Some(out) => out,
            None => self.make_out(flow, bounds, &lock(&self.course)),
        }
    }

    pub(super) fn incoming(&self, flow: FlowId, bounds: &PeerBounds) -> &InFlow {
        match self.incoming[flow].get() {
            Some(incoming) => incoming,
            None => self.make_in(flow, bounds, &lock(&self.course)),
        }
    }

    /// If anything was ever sent on it.
    pub(super) fn used_out(&self, flow: FlowId) -> Option<&OutFlow> {
        self.out[flow].get().map(Box::as_ref)
    }

    /// If anything ever came on it.
    pub(super) fn used_in(&self, flow: FlowId) -> Option<&InFlow> {
        self.incoming[flow].get().map(Box::as_ref)
    }

    /// All that were used; who uses one that is not among them sees what was done before this.
    pub(super) fn all_out(&self) -> impl Iterator<Item = (FlowId, &OutFlow)> {
        drop(lock(&self.course));
        self.made_out()
    }

    /// As [`all_out`](Self::all_out), of flows in.
    pub(super) fn all_in(&self) -> impl Iterator<Item = (FlowId, &InFlow)> {
        drop(lock(&self.course));
        self.made_in()
    }

    fn made_out(&self) -> impl Iterator<Item = (FlowId, &OutFlow)> {
        FlowId::all().filter_map(|flow| Some((flow, self.used_out(flow)?)))
    }

    fn made_in(&self) -> impl Iterator<Item = (FlowId, &InFlow)> {
        FlowId::all().filter_map(|flow| Some((flow, self.used_in(flow)?)))
    }

    /// How far each flow in is.
    pub(super) fn states(&self) -> PerFlow<FlowState> {
        let unused = FlowState { credit: FLOW_GRANT_MIN as u64, ..FlowState::default() };
        PerFlow::of(|flow| self.used_in(flow).map_or(unused, InFlow::state))
    }

    // ---- what happens to all of them

    /// Flows in go over the connection of this generation from here on; what still comes over another one is
    /// left.
    pub(super) fn attach_in(&self, generation: u64) {
        let used = self.used_in_now(|course| course.generation = generation);
        used.into_iter().for_each(|(_, flow)| flow.attached(generation));
    }

    /// And flows out, behind what the peer received; the first that it cannot have.
    pub(super) fn attach_out(
        &self,
        generation: u64,
        said: &PerFlow<FlowState>,
        bounds: &PeerBounds,
    ) -> Result<(), (FlowId, FlowViolation)> {
        // Of a flow that was never used the peer has nothing.
        for (flow, _) in said.iter().filter(|(_, said)| !is_fresh(**said)) {
            self.out(flow, bounds);
        }
        let used = self.used_out_now(|course| course.said = Some(Box::new((generation, *said))));
        let mut attached = Ok(());
        for (flow, out) in used {
            let result = out.attach(generation, said[flow]).map_err(|how| (flow, how));
            attached = attached.and(result);
        }
        attached
    }

    /// They go over no connection.
    pub(super) fn detach(&self) {
        let left = |course: &mut Course| (course.generation, course.said) = (0, None);
        self.used_out_now(left).into_iter().for_each(|(_, out)| out.detach());
        self.attach_in(0);
    }

    /// Nothing is accepted any more.
    pub(super) fn shut(&self) {
        let used = self.used_out_now(|course| course.is_shut = true);
        used.into_iter().for_each(|(_, out)| out.shut());
    }

    /// The peer takes no message and no request over behind these numbers. Replies go on.
    pub(super) fn cut(&self, last: &PerFlow<u64>) {
        let used = self.used_out_now(|course| course.cut = Some(Box::new(*last)));
        for (flow, out) in used.into_iter().filter(|(flow, _)| !flow.is_replies()) {
            // A peer that took more over than it says now is a matter for its next message.
            let _ = out.cut(last[flow]);
        }
    }

    /// The session is over, and this is what the peer took in the end, where that is known.
    pub(super) fn end(&self, known: Option<&PerFlow<FlowState>>) {
        for (flow, out) in self.used_out_now(|course| course.is_over = true) {
            out.end(known.map(|known| known[flow]));
        }
    }

    /// No message and no request is taken over any more. Replies are.
    pub(super) fn freeze(&self) {
        let used = self.used_in_now(|course| course.is_frozen = true);
        let messages = used.into_iter().filter(|(flow, _)| !flow.is_replies());
        messages.for_each(|(_, flow)| flow.freeze());
    }

    /// Records what is done to all, for flows that are made from here on; and those out that are there.
    fn used_out_now(&self, what: impl FnOnce(&mut Course)) -> Vec<(FlowId, &OutFlow)> {
        let mut course = lock(&self.course);
        what(&mut course);
        self.made_out().collect()
    }

    /// As [`used_out_now`](Self::used_out_now), of flows in.
    fn used_in_now(&self, what: impl FnOnce(&mut Course)) -> Vec<(FlowId, &InFlow)> {
        let mut course = lock(&self.course);
        what(&mut course);
        self.made_in().collect()
    }

    #[cold]
    fn make_out(
        &self,
        flow: FlowId,
        bounds: &PeerBounds,
        course: &MutexGuard<'_, Course>,
    ) -> &OutFlow {
        let make = || {
            let bytes_max = bounds.flow_bytes_max.max(OutFlow::cost(bounds.frame_bytes_max));
            let out = OutFlow::new(&bounds.keeping, bytes_max);
            // Nobody waits for anything of it yet. What the peer said was looked at before.
            if let Some((generation, said)) = course.said.as_deref() {
                let _ = out.attach(*generation, said[flow]);
            }
            if let Some(last) = course.cut.as_ref().filter(|_| !flow.is_replies()) {
                let _ = out.cut(last[flow]);
            }
            if course.is_shut {
                out.shut();
            }
            if course.is_over {
                out.end(None);
            }
            Box::new(out)
        };
        self.out[flow].get_or_init(make)
    }

    #[cold]
    fn make_in(
        &self,
        flow: FlowId,
        bounds: &PeerBounds,
        course: &MutexGuard<'_, Course>,
    ) -> &InFlow {
        let make = || {
            let incoming = InFlow::new(bounds.received(), &self.filled, 1 << flow.number());
            incoming.attached(course.generation);
            if course.is_frozen && !flow.is_replies() {
                incoming.freeze();
            }
            Box::new(incoming)
        };
        self.incoming[flow].get_or_init(make)
    }
}
