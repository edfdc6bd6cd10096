//! All sessions of a node: performs what the table of sessions decides.
//!
//! ```text
//! connection up, message, lost, application, time ──> Table ──effects──> links, sessions, dials, events
//! ```
//!
//! Effects are performed in the order in which they were decided, by whoever finds nobody at it, and
//! outside the lock of the table.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use super::core::{PeerBounds, PeerCore};
use super::link::{Link, Listens, Violated};
use super::status::PeerChange;
use crate::error::{CloseCode, CloseReason, ConnectError};
use crate::identity::CertHash;
use crate::lock::lock;
use crate::session::effect::{Admission, At, Counters, Effect, LinkId, OpenError, Origin};
use crate::session::flow::{FlowState, PerFlow};
use crate::session::limits::SessionLimits;
use crate::session::message::{Incarnation, Message, SessionId};
use crate::session::table::Table;
use crate::transport::clock;
use crate::transport::core::ConnectionCore;

/// Dials a peer: a connection that carries sessions.
pub(crate) type Dial = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Arc<ConnectionCore>, ConnectError>> + Send>>
        + Send
        + Sync,
>;

/// The shortest and the longest wait before a dial that follows one that failed.
const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the last word on a connection may take.
pub(crate) const LAST_WORD_MAX: Duration = Duration::from_millis(500);

/// Sessions that peers began and nobody has taken yet, of one protocol.
const BEGUN_MAX: usize = 1_024;

/// Told what happened to a session, in order, from whichever thread: it must not block.
pub(crate) type Tell = Box<dyn Fn(&PeerCore, PeerChange) + Send + Sync>;

/// See the module.
pub(crate) struct Sessions {
    myself: Weak<Self>,
    inner: Mutex<Inner>,
    peers: Mutex<HashMap<SessionId, Entry>>,
    links: Mutex<HashMap<LinkId, Arc<Link>>>,
    next_link: AtomicU64,
    accepts: Mutex<HashMap<String, mpsc::Sender<Arc<PeerCore>>>>,
    bounds: PeerBounds,
    limits: SessionLimits,
    /// The next deadline may be another one.
    changed: Notify,
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
        let credit = self.0.bounds.granted;
        let first = || PerFlow::of(|_| FlowState { received: 0, taken: 0, credit });
        self.peer(session).map_or_else(first, |core| core.inbound())
    }

    fn accepted(&self, session: SessionId) -> PerFlow<u64> {
        self.peer(session).map(|core| core.accepted()).unwrap_or_default()
    }
}

impl Sessions {
    /// Those of the node `me`. On a runtime of tokio, where dials and deadlines run.
    pub(crate) fn new(
        me: CertHash,
        limits: SessionLimits,
        bounds: PeerBounds,
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
            bounds,
            limits,
            changed: Notify::new(),
            tell,
            runtime: Handle::current(),
        });
        tokio::spawn(watch_time(Arc::downgrade(&sessions)));
        sessions
    }

    /// Peers may begin sessions for this protocol from here on: they come by what is returned.
    pub(crate) fn accept(&self, protocol: &str) -> mpsc::Receiver<Arc<PeerCore>> {
        let (sender, receiver) = mpsc::channel(BEGUN_MAX);
        lock(&self.accepts).insert(protocol.to_owned(), sender);
        self.decide(|table, _| {
            table.accept(protocol, true);
            Vec::new()
        });
        receiver
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

    /// A connection stands.
    pub(crate) fn link_up(&self, core: Arc<ConnectionCore>, origin: Origin) {
        let Some(peer) = core.remote_identity() else { return };
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let node: Weak<dyn Listens> = self.myself.clone();
        let link = Link::new(id, Arc::clone(&core), node);
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
        core.shut();
        self.decide(|table, at| table.close(at, core.id, code));
    }

    /// It ends at once.
    pub(crate) fn give_up(&self, core: &PeerCore) {
        core.shut();
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

    /// The node stops: its peers are told.
    pub(crate) fn go_away(&self, delay: Duration) {
        let cores: Vec<_> =
            lock(&self.peers).values().map(|entry| Arc::clone(&entry.core)).collect();
        cores.iter().for_each(|core| core.freeze());
        self.decide(|table, at| table.go_away(at, delay));
    }

    /// The node has ended.
    pub(crate) fn end_all(&self) {
        let cores: Vec<_> =
            lock(&self.peers).values().map(|entry| Arc::clone(&entry.core)).collect();
        cores.iter().for_each(|core| self.give_up(core));
        // Whoever takes peers is told that none will come.
        drop(std::mem::take(&mut *lock(&self.accepts)));
        let links: Vec<_> = lock(&self.links).drain().map(|(_, link)| link).collect();
        for link in links {
            self.close_link(link, CloseCode::GOING_AWAY);
        }
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
            Entry { core, dial: None }
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
        let effects = decide(&mut inner.table, at);
        inner.effects.extend(effects);
        self.changed.notify_one();
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
            Effect::AskAdmit { link, .. } => {
                self.decide(|table, at| table.admitted(at, link, Admission::Accept));
            }
            Effect::Began { session, peer, protocol } => {
                let core = self.entry(session, peer, &protocol, None);
                let sender = lock(&self.accepts).get(&protocol).cloned();
                let taken = sender.is_some_and(|sender| sender.try_send(core.clone()).is_ok());
                if !taken {
                    self.give_up(&core);
                }
            }
            Effect::Attach { session, link, generation, limits, flows, .. } => {
                if let (Some(core), Some(link)) = (self.peer(session), self.link(link)) {
                    let changes = core.attach(link, generation, limits, &flows);
                    self.tell(&core, changes);
                }
            }
            Effect::Detach { session, .. } => {
                if let Some(core) = self.peer(session) {
                    self.tell(&core, core.detach());
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
            Effect::PeerClosing { session, finals, .. } => {
                if let Some(core) = self.peer(session) {
                    core.peer_closes(finals);
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

    /// Dials until a link of the session is up, or the session has ended.
    fn dial(&self, session: SessionId, not_before: Option<std::time::Instant>) {
        let dial = lock(&self.peers).get(&session).and_then(|entry| entry.dial.clone());
        let (Some(dial), myself) = (dial, self.myself.clone()) else { return };
        self.runtime.spawn(async move {
            if let Some(not_before) = not_before {
                tokio::time::sleep_until(not_before.into()).await;
            }
            let mut wait = REDIAL.0;
            loop {
                let dialled = dial().await;
                let Some(sessions) = myself.upgrade() else { return };
                let Some(core) = sessions.peer(session) else {
                    // It has ended meanwhile.
                    if let Ok(connection) = dialled {
                        connection.cut(CloseCode::DROPPED);
                    }
                    return;
                };
                match dialled {
                    Ok(connection) => {
                        return sessions.link_up(connection, Origin::Dialled(session));
                    }
                    Err(error) => core.dial_failed(error),
                }
                if core.has_link() {
                    return;
                }
                drop((core, sessions));
                let part = rand::rng().random_range(0.5..1.0);
                tokio::time::sleep(wait.mul_f64(part)).await;
                wait = (wait * 2).min(REDIAL.1);
            }
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
        (self.limits.control_messages_max, self.limits.control_bytes_max)
    }
}

/// Does what is due, as long as there is anybody.
async fn watch_time(sessions: Weak<Sessions>) {
    loop {
        let Some(strong) = sessions.upgrade() else { return };
        let next = lock(&strong.inner).table.next_deadline();
        // Looked at now and then, so that this ends with the node.
        let longest = clock::now() + Duration::from_secs(1);
        let until = next.map_or(longest, |next| next.min(longest));
        let changed = strong.changed.notified();
        tokio::pin!(changed);
        tokio::select! {
            () = &mut changed => {}
            () = tokio::time::sleep_until(until.into()) => {
                if next.is_some_and(|next| next <= clock::now()) {
                    strong.decide(|table, at| table.time(at));
                }
            }
        }
    }
}
