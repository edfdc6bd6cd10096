//! All sessions of a node: performs what the table of sessions decides.
//!
//! ```text
//! connection up, message, lost, application, time ──> Table ──effects──> links, sessions, dials, events
//! ```
//!
//! Effects are performed in the order in which they were decided, by whoever finds nobody at it, and
//! outside the lock of the table.

mod admitting;
mod dialling;
mod looking;
mod stopping;
mod watching;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use self::looking::Looks;
use super::admit::Admit;
use super::core::PeerCore;
use super::error::PeerEnded;
use super::link::{Frames, Link, Listens, Violated};
use super::room::PeerBounds;
use super::spacing::Spacing;
use super::status::PeerChange;
use crate::config::{FLOW_GRANT_MIN, Limits};
use crate::error::{CloseCode, CloseReason, ConnectError};
use crate::identity::CertHash;
use crate::lock::lock;
use crate::restart::BackoffSettings;
use crate::session::effect::{At, Bite, Counters, Effect, LinkId, OpenError, Origin};
use crate::session::flow::{FlowState, PerFlow};
use crate::session::message::{Incarnation, Message, SessionId};
use crate::session::table::Table;
use crate::transport::core::ConnectionCore;
use crate::transport::{Counts, Limit, clock};

/// Dials a peer: a connection that carries sessions.
pub(crate) type Dial = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Arc<ConnectionCore>, ConnectError>> + Send>>
        + Send
        + Sync,
>;

/// How long the last word on a connection may take.
pub(crate) const LAST_WORD_MAX: Duration = Duration::from_millis(500);

/// Told what happened to a session, in order, from whichever thread: it must not block.
pub(crate) type Tell = Box<dyn Fn(&PeerCore, PeerChange) + Send + Sync>;

/// See the module.
pub(crate) struct Sessions {
    myself: Weak<Self>,
    inner: Mutex<Inner>,
    peers: Mutex<HashMap<SessionId, Entry>>,
    links: Mutex<HashMap<LinkId, Arc<Link>>>,
    next_link: AtomicU64,
    accepts: Mutex<HashMap<String, Accepting>>,
    bounds: PeerBounds,
    limits: Limits,
    backoff: BackoffSettings,
    counts: Arc<Counts>,
    /// The node stops.
    leaving: AtomicBool,
    /// The next deadline is another one.
    changed: Notify,
    looks: Arc<Looks>,
    tell: Tell,
    /// Where dials run: effects are performed on whichever thread.
    runtime: Handle,
}

struct Inner {
    table: Table,
    effects: VecDeque<Effect>,
    /// Somebody performs them.
    performing: bool,
}

struct Entry {
    core: Arc<PeerCore>,
    dial: Option<Dial>,
    spacing: Spacing,
    /// The peer does not want to be dialled before.
    not_before: Option<Instant>,
    /// Somebody dials, or waits to.
    dialling: bool,
    /// There is more to know about when to dial.
    changed: Arc<Notify>,
}

/// Who takes peers that begin sessions for one protocol.
struct Accepting {
    begun: mpsc::Sender<Arc<PeerCore>>,
    admit: Option<Admit>,
}

/// What the flows say, for the table.
struct Flows<'a>(&'a Sessions);

impl Flows<'_> {
    fn peer(&self, session: SessionId) -> Option<Arc<PeerCore>> {
        self.0.peer(session)
    }
}

impl Counters for Flows<'_> {
    fn inbound(&self, session: SessionId) -> PerFlow<FlowState> {
        // One that begins just now has received nothing, and grants what all do.
        let credit = FLOW_GRANT_MIN as u64;
        let first = || PerFlow::of(|_| FlowState { received: 0, taken: 0, credit });
        self.peer(session).map_or_else(first, |core| core.inbound())
    }

    fn accepted(&self, session: SessionId) -> PerFlow<u64> {
        self.peer(session).map(|core| core.accepted()).unwrap_or_default()
    }
}

impl Sessions {
    /// Those of the node `me`. Dials and deadlines run on `runtime`.
    pub(crate) fn new(
        runtime: &Handle,
        me: CertHash,
        limits: &Limits,
        backoff: BackoffSettings,
        counts: &Arc<Counts>,
        tell: Tell,
    ) -> Arc<Self> {
        let mut random = StdRng::from_os_rng();
        let incarnation = loop {
            if let Some(number) = std::num::NonZeroU64::new(random.random()) {
                break Incarnation(number);
            }
        };
        let table = Table::new(me, incarnation, limits.clone(), random);
        let inner = Inner { table, effects: VecDeque::new(), performing: false };
        let sessions = Arc::new_cyclic(|myself| Self {
            myself: Weak::clone(myself),
            inner: Mutex::new(inner),
            peers: Mutex::default(),
            links: Mutex::default(),
            next_link: AtomicU64::new(1),
            accepts: Mutex::default(),
            bounds: PeerBounds::new(limits, counts),
            limits: limits.clone(),
            backoff,
            counts: Arc::clone(counts),
            leaving: AtomicBool::new(false),
            changed: Notify::new(),
            looks: Arc::default(),
            tell,
            runtime: runtime.clone(),
        });
        drop(runtime.spawn(Self::watch_time(Arc::downgrade(&sessions))));
        sessions
    }

    /// The session with this peer for this protocol: the one there is, or another one, which is dialled.
    pub(crate) fn open(
        &self,
        peer: CertHash,
        protocol: &str,
        dial: Dial,
    ) -> Result<Arc<PeerCore>, OpenError> {
        let mut opened = Err(OpenError::GoingAway);
        self.decide(|table, at| match table.open(at, peer, protocol) {
            Err(error) => {
                if let OpenError::Full(_) = error {
                    self.reached(Limit::Sessions);
                }
                opened = Err(error);
                Vec::new()
            }
            Ok((id, effects)) => {
                // Before anybody performs what follows.
                opened = Ok(self.entry(id, peer, protocol, Some(dial)));
                effects
            }
        });
        opened
    }

    /// Whether the session has a connection, or one that may become its.
    pub(crate) fn has_link_in_sight(&self, core: &PeerCore) -> bool {
        lock(&self.inner).table.has_link_in_sight(core.id)
    }

    /// A connection stands.
    pub(crate) fn link_up(&self, core: Arc<ConnectionCore>, origin: Origin) {
        let Some(peer) = core.remote_identity() else { return };
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let node: Weak<dyn Listens> = self.myself.clone();
        let link = Link::new(id, Arc::clone(&core), node, &self.limits);
        lock(&self.links).insert(id, Arc::clone(&link));
        self.decide(|table, at| table.link_up(at, id, peer, origin));
        link.begin();
        let myself = self.myself.clone();
        core.on_over(Box::new(move |reason| {
            if let Some(sessions) = myself.upgrade() {
                sessions.link_lost(id, reason);
            }
        }));
    }

    fn link_lost(&self, id: LinkId, reason: &CloseReason) {
        let known = lock(&self.links).remove(&id);
        if known.is_some() {
            let code = match reason {
                CloseReason::Peer { code } => Some(*code),
                _ => None,
            };
            self.decide(|table, at| table.link_lost(at, id, code));
        }
    }

    /// The session ends once the peer's application took everything, or the time for it is over.
    pub(crate) fn close(&self, core: &PeerCore, code: CloseCode) {
        core.shut(PeerEnded::Closing);
        self.decide(|table, at| table.close(at, core.id, code));
    }

    /// It ends at once.
    pub(crate) fn give_up(&self, core: &PeerCore) {
        core.shut(PeerEnded::GivenUp);
        self.decide(|table, at| table.give_up(at, core.id));
    }

    /// The application took what the peer sent before its close, or will take no more.
    pub(crate) fn drained(&self, core: &PeerCore) {
        self.decide(|table, at| table.drained(at, core.id));
    }

    /// Of a session that is over, the application took more of what had come.
    pub(crate) fn taken_late(&self, core: &PeerCore) {
        lock(&self.inner).table.taken_late(core.id, core.inbound());
    }

    fn entry(
        &self,
        id: SessionId,
        peer: CertHash,
        protocol: &str,
        dial: Option<Dial>,
    ) -> Arc<PeerCore> {
        let node: Weak<dyn Listens> = self.myself.clone();
        let mut peers = lock(&self.peers);
        let entry = peers.entry(id).or_insert_with(|| {
            let bounds = self.bounds.clone();
            let core = PeerCore::new(id, peer, protocol.to_owned(), bounds, node);
            let spacing = Spacing::new(self.backoff, self.limits.sessions.session_time_max);
            Entry {
                core,
                dial: None,
                spacing,
                not_before: None,
                dialling: false,
                changed: Arc::default(),
            }
        });
        if dial.is_some() {
            entry.dial = dial;
        }
        Arc::clone(&entry.core)
    }

    fn peer(&self, id: SessionId) -> Option<Arc<PeerCore>> {
        lock(&self.peers).get(&id).map(|entry| Arc::clone(&entry.core))
    }

    /// Asks the table, and performs what it says unless somebody is at it.
    fn decide(&self, decide: impl FnOnce(&mut Table, At<'_>) -> Vec<Effect>) {
        let mut inner = lock(&self.inner);
        let flows = Flows(self);
        let at = At { now: clock::now(), counters: &flows };
        let deadline = inner.table.next_deadline();
        let effects = decide(&mut inner.table, at);
        inner.effects.extend(effects);
        if inner.table.next_deadline() != deadline {
            self.changed.notify_one();
        }
        if std::mem::replace(&mut inner.performing, true) {
            return;
        }
        while let Some(effect) = inner.effects.pop_front() {
            drop(inner);
            self.perform(effect);
            inner = lock(&self.inner);
        }
        inner.performing = false;
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Send(id, message) => {
                if let Some(link) = self.link(id) {
                    link.say(&message);
                }
            }
            Effect::CloseLink(id, code) => {
                let link = lock(&self.links).remove(&id);
                if let Some(link) = link {
                    self.close_link(link, code);
                }
            }
            Effect::AskAdmit { link, peer, protocol } => self.ask_admit(link, peer, protocol),
            Effect::Began { session, peer, protocol } => self.began(session, peer, &protocol),
            Effect::Attach { session, link, generation, limits, flows, .. } => {
                if let (Some(core), Some(link)) = (self.peer(session), self.link(link)) {
                    if let Some(entry) = lock(&self.peers).get_mut(&session) {
                        entry.spacing.attached(clock::now());
                    }
                    let changes = core.attach(link, generation, limits, &flows);
                    self.tell(&core, changes);
                }
            }
            Effect::Detach { session, .. } => {
                if let Some(core) = self.peer(session) {
                    self.tell(&core, core.detach());
                    if self.leaving.load(Ordering::Acquire) {
                        // Nobody comes to a node that stops.
                        self.give_up(&core);
                    }
                }
            }
            Effect::NeedLink { session, not_before } => self.dial(session, not_before),
            Effect::Taken(session, taken) => {
                let core = self.peer(session);
                let taken = core.as_ref().map(|core| core.taken_by_peer(&taken));
                if let Some(Err(Violated(how))) = taken {
                    warn!(how, "the peer broke the protocol of sessions");
                    self.session_violated(session);
                }
            }
            Effect::Cancel(session, cancel) => {
                if let Some(core) = self.peer(session) {
                    core.cancelled_by_peer(cancel);
                }
            }
            Effect::PeerClosing { session, code, finals } => {
                if let Some(core) = self.peer(session) {
                    core.peer_closes(code, finals);
                    if core.is_drained() {
                        // Everything was taken before.
                        self.drained(&core);
                    }
                }
            }
            Effect::GoingAway { session, last, .. } => {
                if let Some(core) = self.peer(session) {
                    core.cut(&last);
                }
            }
            Effect::Refused(session, refused) => {
                if let Some(core) = self.peer(session) {
                    core.refused(refused);
                }
            }
            Effect::Limited(bite) => self.reached(match bite {
                Bite::Sessions => Limit::Sessions,
                Bite::Tombstones => Limit::Tombstones,
                Bite::Identities => Limit::Identities,
                Bite::Incarnations => Limit::Incarnations,
                Bite::SessionTime => Limit::SessionTime,
                Bite::HelloTime => Limit::HelloTime,
                Bite::CloseTime => Limit::CloseTime,
            }),
            Effect::Ended { session, reason, flows } => {
                let entry = lock(&self.peers).remove(&session);
                if let Some(Entry { core, .. }) = entry {
                    debug!(?reason, peer = %core.peer.short(), "session over");
                    let changes = core.end(reason, flows.as_ref());
                    self.tell(&core, changes);
                }
            }
        }
    }

    fn tell(&self, core: &PeerCore, changes: Vec<PeerChange>) {
        changes.into_iter().for_each(|change| (self.tell)(core, change));
    }

    /// What runs beside the calls of applications runs there.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends a connection, behind what was said last if the peer takes it soon.
    fn close_link(&self, link: Arc<Link>, code: CloseCode) {
        if link.close(code) {
            self.runtime.spawn(async move {
                tokio::time::sleep(LAST_WORD_MAX).await;
                link.core().cut(code);
            });
        }
    }

    fn link(&self, id: LinkId) -> Option<Arc<Link>> {
        lock(&self.links).get(&id).cloned()
    }

    fn session_violated(&self, session: SessionId) {
        self.decide(|table, at| match table.attached(session) {
            Some((link, _)) => table.violated(at, link),
            None => Vec::new(),
        });
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("sessions", &lock(&self.peers).len())
            .finish_non_exhaustive()
    }
}

impl Listens for Sessions {
    fn message(&self, link: LinkId, message: Message) {
        self.decide(|table, at| table.message(at, link, message));
    }

    fn violated(&self, link: LinkId) {
        self.decide(|table, at| table.violated(at, link));
    }

    fn rate(&self) -> (u32, u32) {
        let limits = &self.limits.sessions;
        (limits.control_messages_max, limits.control_bytes_max)
    }

    fn reached(&self, limit: Limit) {
        self.counts.reached(limit);
    }

    fn look_later(&self, session: Weak<dyn Frames>) {
        self.looks.add(session, &self.runtime);
    }
}
