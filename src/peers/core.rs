//! One session as its frames are moved: flows out and in, requests both ways, and the link it has.

mod asking;
mod cancelled;
mod leaving;
mod outcomes;
mod submitting;
mod taking;
mod telling;
mod words;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};
use tracing::warn;

pub(crate) use self::cancelled::Cancelled;
pub(crate) use self::words::{NoLink, NotAsked};
use super::by_message::{ByMessage, News};
use super::cut::{Announced, Came};
use super::error::PeerEnded;
use super::flows::Flows;
use super::in_flow::{InFlow, Special};
use super::link::{Frames, Link, Listens, Violated};
use super::out_flow::{NotAccepted, OutFlow};
use super::room::{PeerBounds, PlacesTaken};
use super::status::{PeerChange, Status, Step};
use super::teller::Teller;
use crate::error::ConnectError;
use crate::identity::CertHash;
use crate::lock::lock;
use crate::session::effect::EndReason;
use crate::session::flow::{FlowId, FlowState, PerFlow};
use crate::session::flow_out::FlowViolation;
use crate::session::frame_head::{FrameHead, ReplyStatus};
use crate::session::handling::Handling;
use crate::session::message::{PeerLimits, Refused, SessionId, Taken};
use crate::session::requests::{RequestEnd, RequestId, Requests};
use crate::transport::session_streams::Paused;
use crate::transport::{Lane, Limit};

/// How a request ended, with the payload of a reply.
pub(crate) type Answer = (RequestEnd, Bytes);

/// See the module.
pub(crate) struct PeerCore {
    pub(crate) id: SessionId,
    pub(crate) peer: CertHash,
    pub(crate) protocol: String,
    bounds: PeerBounds,
    myself: Weak<Self>,
    node: Weak<dyn Listens>,
    flows: Flows,
    link: Mutex<Option<Arc<Link>>>,
    /// The largest payload that the peer takes; what is ours before that is known.
    peer_frame_bytes_max: AtomicU64,
    asking: Mutex<Asking>,
    handling: Mutex<Handled>,
    readable: Notify,
    /// Handles that were given out, each for itself.
    holders: AtomicUsize,
    /// What the peer is told of what was taken, and when.
    teller: Teller,
    /// Whether it has a link, as those are told who wait for one.
    is_up: AtomicBool,
    /// It has a link, or has lost or not got one, or is over.
    moved: Notify,
    ended: OnceLock<EndReason>,
    /// What the peer sends last, once it closes.
    finals: OnceLock<PerFlow<u64>>,
    /// Why nothing is accepted any more, before it is over.
    shut_by: OnceLock<PeerEnded>,
    /// This node stops, and waits for nothing being in flight.
    leaving: AtomicBool,
    rested: Notify,
    /// Replies that are about to be accepted.
    answering: AtomicUsize,
    /// Why there was no link the last time.
    failed: Mutex<Option<NoLink>>,
    failures: AtomicU64,
    /// What those are told who watch it.
    pub(crate) status: watch::Sender<Status>,
    pub(crate) by_message: ByMessage,
    /// A request has ended: another one may have its place.
    places: Notify,
}

struct Asking {
    requests: Requests,
    /// Requests that are about to be issued.
    begun: usize,
    places: PlacesTaken,
    waiting: HashMap<RequestId, oneshot::Sender<Answer>>,
}

struct Handled {
    requests: Handling,
    places: PlacesTaken,
    /// Handlers that want to know that nobody waits for their reply.
    cancels: HashMap<RequestId, Arc<Cancelled>>,
}

impl Asking {
    /// Behind whatever changed how many there are.
    fn count(&mut self) {
        self.places.are(self.requests.in_flight() + self.begun);
    }
}

impl Handled {
    /// Behind whatever changed how many there are.
    fn count(&mut self) {
        self.places.are(self.requests.in_flight());
    }
}

/// What the application takes.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Bytes),
    Request { id: RequestId, deadline: Instant, cancelled: Arc<Cancelled>, frame: Bytes },
}

pub(crate) fn flow_of(lane: Lane, replies: bool) -> FlowId {
    // Lanes are numbered as flows are.
    FlowId::new(u8::from(lane), replies).unwrap_or(FlowId::FIRST)
}

impl PeerCore {
    pub(super) fn new(
        id: SessionId,
        peer: CertHash,
        protocol: String,
        bounds: PeerBounds,
        node: Weak<dyn Listens>,
    ) -> Arc<Self> {
        let asking = Asking {
            requests: Requests::new(bounds.requests_max),
            begun: 0,
            places: PlacesTaken::none(&bounds.asking),
            waiting: HashMap::new(),
        };
        let requests = Handling::new(bounds.requests_max, bounds.early_cancels_max);
        let places = PlacesTaken::none(&bounds.handling);
        Arc::new_cyclic(|myself| Self {
            id,
            peer,
            protocol,
            myself: Weak::clone(myself),
            node,
            flows: Flows::default(),
            link: Mutex::new(None),
            peer_frame_bytes_max: AtomicU64::new(bounds.frame_bytes_max as u64),
            asking: Mutex::new(asking),
            handling: Mutex::new(Handled { requests, places, cancels: HashMap::new() }),
            readable: Notify::new(),
            holders: AtomicUsize::new(0),
            teller: Teller::default(),
            is_up: AtomicBool::new(false),
            moved: Notify::new(),
            ended: OnceLock::new(),
            finals: OnceLock::new(),
            shut_by: OnceLock::new(),
            leaving: AtomicBool::new(false),
            rested: Notify::new(),
            answering: AtomicUsize::new(0),
            failed: Mutex::default(),
            failures: AtomicU64::new(0),
            status: watch::Sender::default(),
            by_message: ByMessage::default(),
            places: Notify::new(),
            bounds,
        })
    }

    // ---- facts

    fn flow_out(&self, flow: FlowId) -> &OutFlow {
        self.flows.out(flow, &self.bounds)
    }

    fn flow_in(&self, flow: FlowId) -> &InFlow {
        self.flows.incoming(flow, &self.bounds)
    }

    pub(super) fn out(&self, lane: Lane, replies: bool) -> &OutFlow {
        self.flow_out(flow_of(lane, replies))
    }

    /// If anything was ever sent on it.
    pub(super) fn used_out(&self, lane: Lane, replies: bool) -> Option<&OutFlow> {
        self.flows.used_out(flow_of(lane, replies))
    }

    pub(super) fn inbound(&self) -> PerFlow<FlowState> {
        self.flows.states()
    }

    pub(super) fn accepted(&self) -> PerFlow<u64> {
        PerFlow::of(|flow| self.flows.used_out(flow).map_or(0, OutFlow::last_accepted))
    }

    /// A limit held something of it back.
    pub(super) fn reached(&self, limit: Limit) {
        self.bounds.counts.reached(limit);
    }

    /// The largest payload that both sides take.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let peer = self.peer_frame_bytes_max.load(Ordering::Relaxed);
        usize::try_from(peer).unwrap_or(usize::MAX).min(self.bounds.frame_bytes_max)
    }

    pub(crate) fn ended(&self) -> Option<&EndReason> {
        self.ended.get()
    }

    /// Waits until it has a link, or is over.
    pub(crate) async fn up(&self) -> Result<(), EndReason> {
        self.wait_for(Self::is_up_or_over).await
    }

    fn is_up_or_over(&self) -> Option<Result<(), EndReason>> {
        let over = self.ended.get().map(|reason| Err(reason.clone()));
        over.or_else(|| self.is_up.load(Ordering::Acquire).then_some(Ok(())))
    }

    async fn wait_for<R>(&self, look: impl Fn(&Self) -> Option<R>) -> R {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if let Some(found) = look(self) {
                return found;
            }
            moved.await;
        }
    }

    fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Somebody has a handle of its own.
    pub(super) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::AcqRel);
    }

    /// It is gone; whether it was the last one.
    pub(super) fn leave(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(super) fn has_link(&self) -> bool {
        lock(&self.link).is_some()
    }

    pub(super) fn dial_failed(&self, error: ConnectError) {
        self.no_link(NoLink::Dial(error));
    }

    pub(super) fn refused(&self, refused: Refused) {
        self.no_link(NoLink::Refused(refused));
    }

    fn no_link(&self, why: NoLink) {
        *lock(&self.failed) = Some(why);
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    /// Whether it ever had a link.
    pub(crate) fn was_up(&self) -> bool {
        self.status.borrow().was_up()
    }

    /// Waits until it is over.
    pub(super) async fn over(&self) {
        self.wait_for(|core| core.ended.get().map(drop)).await;
    }

    /// Waits until it has a link, and tells what is in the way instead: what fails from here on, if no link
    /// is `in_sight` beside.
    pub(crate) async fn first_up(&self, in_sight: impl Fn() -> bool) -> Result<(), NoLink> {
        loop {
            let seen = self.failures.load(Ordering::Acquire);
            let has_failed =
                |core: &Self| (core.failures.load(Ordering::Acquire) > seen).then_some(None);
            let up = |core: &Self| core.is_up_or_over().map(Some).or_else(|| has_failed(core));
            if let Some(up) = self.wait_for(up).await {
                return up.map_err(NoLink::Ended);
            }
            // One that the peer dialled serves as well.
            if !in_sight() {
                let ended = || NoLink::Ended(EndReason::GivenUp);
                return Err(lock(&self.failed).clone().unwrap_or_else(ended));
            }
        }
    }

    fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone()
    }

    // ---- frames out

    /// Takes a frame over for which room was taken, and tells its number.
    pub(super) fn push(
        &self,
        flow: FlowId,
        head: FrameHead,
        frame: Bytes,
        register: impl FnOnce(u64),
    ) -> Result<u64, Bytes> {
        let (number, may_go) = self.flow_out(flow).push(head, frame, register)?;
        self.pushed(flow, may_go);
        Ok(number)
    }

    /// Takes a frame over if there is room for it, and tells its number.
    pub(super) fn offer(
        &self,
        flow: FlowId,
        head: FrameHead,
        frame: Bytes,
    ) -> Result<u64, (NotAccepted, Bytes)> {
        let (number, may_go) = self.flow_out(flow).offer(head, frame)?;
        self.pushed(flow, may_go);
        Ok(number)
    }

    // ---- links and the end

    /// It has this link from here on; what is to be told of it.
    pub(super) fn attach(
        self: &Arc<Self>,
        link: Arc<Link>,
        generation: u64,
        limits: PeerLimits,
        flows: &PerFlow<FlowState>,
    ) -> Vec<PeerChange> {
        self.peer_frame_bytes_max.store(limits.frame_bytes_max, Ordering::Relaxed);
        lock(&self.asking).requests.peer_takes(limits.requests_max);
        self.places.notify_one();
        self.flows.attach_in(generation);
        *lock(&self.link) = Some(Arc::clone(&link));
        let attached = self.flows.attach_out(generation, flows, &self.bounds);
        if let Err((flow, how)) = &attached {
            warn!(%how, ?flow, "the peer resumes where it cannot be");
        }
        let session: Arc<dyn Frames> = Arc::<Self>::clone(self);
        link.attach(session, generation);
        if let (Err(_), Some(node)) = (attached, self.node.upgrade()) {
            node.violated(link.id);
            return Vec::new();
        }
        self.flows.all_out().for_each(|(flow, _)| self.pump(flow));
        self.teller.attached();
        self.tell_taken();
        // Whoever waits for the link and then watches is told that it is there.
        let changes = self.step(Step::Up);
        self.set_up(true);
        changes
    }

    /// It has no link any more; what is to be told of it.
    pub(super) fn detach(&self) -> Vec<PeerChange> {
        let left = lock(&self.link).take();
        if let Some(link) = &left {
            link.leave();
        }
        self.teller.detached();
        self.flows.detach();
        self.set_up(false);
        self.step(Step::Down(left.and_then(|link| link.over())))
    }

    fn step(&self, step: Step) -> Vec<PeerChange> {
        let mut changes = Vec::new();
        self.status.send_modify(|status| changes = status.step(step));
        changes
    }

    pub(super) fn taken_by_peer(&self, taken: &Taken) -> Result<(), Violated> {
        for (flow, state) in taken.flows.iter() {
            if let Some(state) = state {
                // Of a flow that was never used only a peer speaks that breaks a rule.
                self.flow_out(flow).taken(*state).map_err(Violated::by)?;
                self.pump(flow);
            }
        }
        self.look_at_rest();
        Ok(())
    }

    /// Nothing is accepted any more, since this comes.
    pub(super) fn shut(&self, by: PeerEnded) {
        // The first reason stays.
        let _ = self.shut_by.set(by);
        self.flows.shut();
    }
}

impl Frames for PeerCore {
    fn begin_stream(&self, generation: u64, flow: FlowId, first: u64) -> Result<(), Violated> {
        self.flow_in(flow).begin_stream(generation, first).map_err(Violated::by)
    }

    fn announced(
        &self,
        generation: u64,
        flow: FlowId,
        bytes: usize,
        stream: &Arc<dyn Paused>,
    ) -> Result<Announced, FlowViolation> {
        if self.flow_in(flow).announced(generation, bytes as u64)? {
            return Ok(Announced::Within);
        }
        let room = self.bounds.received().large(flow.is_replies(), bytes, stream);
        Ok(room.map_or(Announced::Waits, Announced::Has))
    }

    fn arrived(&self, generation: u64, flow: FlowId, came: Came) -> Result<(), Violated> {
        let is_reply = matches!(came, Came::Frame(FrameHead::Reply { .. }, ..));
        if flow.is_replies() != is_reply {
            return Err(Violated::by("a reply where none may be, or the other way round"));
        }
        let mut refused = None;
        let register = |number, left_ms| refused = self.request_arrived(flow, number, left_ms);
        let special = self.flow_in(flow).arrived(generation, came, register);
        if let Some(id) = refused {
            self.reply_now(id, ReplyStatus::Refused);
        }
        match special.map_err(Violated::by)? {
            None => {}
            Some(Special::Reply { head, payload }) => self.replied(flow, head, payload)?,
            Some(Special::Void { number }) => {
                lock(&self.handling).requests.passed(flow.lane(), number);
            }
        }
        Ok(())
    }

    fn rest(&self, flow: FlowId) {
        // Each of them may read another lane.
        self.readable.notify_waiters();
        self.invite(News::Came);
        // Replies are taken as they come.
        let (gathered, presses) = self.flow_in(flow).gathered();
        if presses || gathered > 0 && !self.teller.waits() {
            self.tell_taken();
        }
    }

    fn was_told(&self, link: &Link) {
        self.word_came(link);
    }

    fn look_at_telling(&self) {
        self.look_at_what_gathers();
    }

    fn frame_bytes_max(&self) -> usize {
        self.bounds.frame_bytes_max
    }
}
