//! Who moves frames around a table: the flows of one node's sessions, and the application at them.

use std::collections::{BTreeMap, VecDeque};

use super::teller::Teller;
use crate::config::FLOW_GRANT_MIN;
use crate::session::effect::{Counters, EndReason, LinkId};
use crate::session::flow::{FlowId, FlowState, PerFlow};
use crate::session::flow_fault::Planted;
use crate::session::flow_in::{Arrival, FlowIn};
use crate::session::flow_out::{Entry, Fate, FlowOut, FlowViolation};
use crate::session::message::{SessionId, Taken};

/// Bytes that each flow grants: the least that is a grant.
pub(super) const GRANT: u64 = FLOW_GRANT_MIN as u64;

/// Frames with consecutive numbers: what the world calls each, and its bytes.
#[derive(Debug, Clone)]
pub(super) struct Batch(pub(super) Vec<(u64, u64)>);

impl Entry for Batch {
    fn frames(&self) -> u64 {
        self.0.len() as u64
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// One session at one node, also after its end.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) out: PerFlow<FlowOut<Batch>>,
    pub(super) inn: PerFlow<FlowIn>,
    /// Frames that were accepted for sending, by number.
    pub(super) sent: PerFlow<Vec<u64>>,
    /// Frames that came and are not taken: number, frame, bytes.
    queue: PerFlow<VecDeque<(u64, u64, u64)>>,
    /// Frames that the application took, by number.
    pub(super) taken: PerFlow<Vec<u64>>,
    pub(super) theirs: Option<SessionId>,
    pub(super) attached: Option<(LinkId, u64)>,
    /// A stream of the present link was begun.
    begun: PerFlow<bool>,
    /// The number that the stream of each flow brings next.
    next: PerFlow<u64>,
    pub(super) teller: Teller,
    pub(super) closing: bool,
    pub(super) peer_finals: Option<PerFlow<u64>>,
    pub(super) ended: Option<EndReason>,
    /// Frames that were handed back at the end.
    pub(super) left: Vec<u64>,
}

impl Data {
    pub(super) fn new(fault: Planted) -> Self {
        Self {
            out: PerFlow::of(|_| FlowOut::new(fault)),
            inn: PerFlow::of(|_| FlowIn::new(GRANT)),
            sent: PerFlow::of(|_| Vec::new()),
            queue: PerFlow::of(|_| VecDeque::new()),
            taken: PerFlow::of(|_| Vec::new()),
            theirs: None,
            attached: None,
            begun: PerFlow::of(|_| false),
            next: PerFlow::of(|_| 0),
            teller: Teller::default(),
            closing: false,
            peer_finals: None,
            ended: None,
            left: Vec::new(),
        }
    }

    pub(super) fn inbound(&self) -> PerFlow<FlowState> {
        PerFlow::of(|flow| self.inn[flow].state())
    }

    /// The application sends: into the last entry if there is room, as a batch of its own else.
    pub(super) fn send(&mut self, flow: FlowId, frames: &[(u64, u64)], extend: bool) {
        if self.ended.is_some() || self.closing || self.peer_finals.is_some() {
            return;
        }
        let appended = extend
            && self.out[flow]
                .extend_last(|_, batch| {
                    let fits = batch.bytes() + Batch(frames.to_vec()).bytes() <= GRANT;
                    if fits {
                        batch.0.extend(frames);
                    }
                    fits
                })
                .unwrap_or(false);
        if appended || self.out[flow].push(Batch(frames.to_vec())).is_ok() {
            self.sent[flow].extend(frames.iter().map(|(frame, _)| *frame));
            self.teller.spoke();
        }
    }

    /// The next that goes over the link: whether its stream begins with it, its number, its frames.
    pub(super) fn submit(&mut self, flow: FlowId) -> Option<(bool, u64, Batch)> {
        self.attached?;
        let (first, batch) = self.out[flow].next_to_submit()?;
        let batch = batch.clone();
        self.out[flow].submitted();
        self.out[flow].release_taken(&mut |_, _| {});
        let begins = !std::mem::replace(&mut self.begun[flow], true);
        // Only the first frame of a stream says its number.
        let expected = std::mem::replace(&mut self.next[flow], first + batch.frames());
        assert!(begins || first == expected, "{flow:?}: {first} goes where {expected} is next");
        Some((begins, first, batch))
    }

    pub(super) fn arrived(
        &mut self,
        flow: FlowId,
        frame: u64,
        bytes: u64,
    ) -> Result<(), FlowViolation> {
        if let Arrival::Accept(number) = self.inn[flow].arrived(bytes)? {
            self.queue[flow].push_back((number, frame, bytes));
        }
        Ok(())
    }

    /// The application takes the first frame, or the second one before the first.
    pub(super) fn take(&mut self, flow: FlowId, overtaking: bool) -> bool {
        let Some((number, frame, bytes)) = self.queue[flow].pop_front() else { return false };
        let second = if overtaking { self.queue[flow].pop_front() } else { None };
        if let Some((number, _, bytes)) = second {
            self.inn[flow].take(number, 1, bytes);
        }
        self.inn[flow].take(number, 1, bytes);
        self.taken[flow].push(frame);
        self.taken[flow].extend(second.map(|(_, frame, _)| frame));
        if self.inn[flow].is_due(self.teller.waits()) {
            self.teller.call();
        }
        true
    }

    pub(super) fn has_taken_to(&self, finals: PerFlow<u64>) -> bool {
        finals.iter().all(|(flow, last)| self.inn[flow].state().taken >= *last)
    }

    pub(super) fn attach(
        &mut self,
        link: LinkId,
        generation: u64,
        flows: PerFlow<FlowState>,
    ) -> Result<(), FlowViolation> {
        self.attached = Some((link, generation));
        for (flow, state) in flows.iter() {
            self.begun[flow] = false;
            self.inn[flow].attached();
            self.out[flow].resume(*state, |_, _| {})?;
        }
        self.teller.attached();
        Ok(())
    }

    pub(super) fn detach(&mut self) {
        self.attached = None;
        self.teller.detached();
        for flow in FlowId::all() {
            self.out[flow].link_lost();
        }
    }

    pub(super) fn heard_taken(&mut self, taken: &Taken) -> Result<(), FlowViolation> {
        for (flow, state) in taken.flows.iter() {
            if let Some(state) = state {
                self.out[flow].taken(*state, |_, _| {})?;
            }
        }
        Ok(())
    }

    pub(super) fn cut(&mut self, last: PerFlow<u64>) -> Result<(), FlowViolation> {
        for (flow, last) in last.iter().filter(|(flow, _)| !flow.is_replies()) {
            let left = &mut self.left;
            self.out[flow].cut(*last, |_, batch| left.extend(batch.0.iter().map(|(id, _)| *id)))?;
        }
        Ok(())
    }

    pub(super) fn end(&mut self, reason: EndReason, flows: Option<PerFlow<FlowState>>) {
        self.attached = None;
        for flow in FlowId::all() {
            let left = &mut self.left;
            self.out[flow].end(flows.map(|flows| flows[flow]), |_, batch| {
                left.extend(batch.0.iter().map(|(id, _)| *id));
            });
        }
        self.ended = Some(reason);
    }

    /// Everything that was accepted has an end, and it is true: `taken` is what the other side took.
    pub(super) fn check_outcomes(&self, taken: &PerFlow<Vec<u64>>) -> Result<(), String> {
        for (flow, sent) in self.sent.iter() {
            let mut counted = [0; 3];
            for (number, frame) in (1..).zip(sent) {
                let fate = self.out[flow].fate(number);
                let was_taken = taken[flow].contains(frame);
                match fate {
                    Some(Fate::Delivered) if was_taken => counted[0] += 1,
                    Some(Fate::NotSent) if !was_taken => counted[1] += 1,
                    Some(Fate::MaybeSent) => counted[2] += 1,
                    Some(Fate::Delivered | Fate::NotSent) | None => {
                        return Err(format!("{flow:?} {number}: {fate:?}, taken {was_taken}"));
                    }
                }
                if fate == Some(Fate::NotSent) && !self.left.contains(frame) {
                    return Err(format!("{flow:?} {number}: was not sent and is not handed back"));
                }
            }
            let outcomes = self.out[flow].outcomes();
            let told = [outcomes.delivered, outcomes.not_sent, outcomes.maybe_sent];
            if told != counted || outcomes.accepted != sent.len() as u64 {
                return Err(format!("{flow:?}: {outcomes:?} are not {counted:?}"));
            }
        }
        Ok(())
    }
}

impl Counters for BTreeMap<SessionId, Data> {
    fn inbound(&self, session: SessionId) -> PerFlow<FlowState> {
        self.get(&session).map_or_else(|| Data::new(Planted::default()).inbound(), Data::inbound)
    }

    fn accepted(&self, session: SessionId) -> PerFlow<u64> {
        PerFlow::of(|flow| self.get(&session).map_or(0, |data| data.out[flow].last_accepted()))
    }
}
