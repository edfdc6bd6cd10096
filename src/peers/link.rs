//! A connection that carries a session: its session streams, and whose frames its other streams bring.

mod inside;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use bytes::Bytes;
use tracing::warn;

use self::inside::InsideFrames;
use super::cut::{self, Announced, Came, Cutter};
use crate::config::Limits;
use crate::error::{CloseCode, CloseReason};
use crate::lock::lock;
use crate::session::effect::LinkId;
use crate::session::flow::FlowId;
use crate::session::flow_out::FlowViolation;
use crate::session::frame_head::{FLOW_STREAM_HEAD_BYTES, StreamHead};
use crate::session::message::{Decoder, Message};
use crate::session::rate::Rate;
use crate::transport::core::ConnectionCore;
use crate::transport::session_streams::{
    Carrier, Inlet, InletEnd, OutStream, Outlet, Parts, Paused,
};
use crate::transport::{Limit, clock};

/// The session stream goes before every lane.
const SESSION_PRIORITY: u16 = 0xf000;

/// Bytes of the session stream that the peer has not acknowledged: a peer that takes no more of them is
/// of no use.
const SESSION_BYTES_MAX: usize = 256 * 1024;

/// Set in what a submission of the session stream is named by, if it tells what was taken.
const TELLS_TAKEN: u64 = 1 << 63;

/// What the session of a link does with what its streams bring.
pub(super) trait Frames: Send + Sync {
    /// A stream begins with the frame of this number; whether that may be.
    fn begin_stream(&self, generation: u64, flow: FlowId, first: u64) -> Result<(), Violated>;
    /// A frame of so many bytes begins that does not come whole at once: `stream` is resumed when there is
    /// room for one that has to wait.
    fn announced(
        &self,
        generation: u64,
        flow: FlowId,
        bytes: usize,
        stream: &Arc<dyn Paused>,
    ) -> Result<Announced, FlowViolation>;
    /// Frames came.
    fn arrived(&self, generation: u64, flow: FlowId, came: Came) -> Result<(), Violated>;
    /// All of the flow's that arrived together was told.
    fn rest(&self, flow: FlowId);
    /// The peer has what it was told to be taken.
    fn was_told(&self, link: &Link);
    /// Looks at what gathered for the peer to be told.
    fn look_at_telling(&self);
    /// The largest payload that it takes.
    fn frame_bytes_max(&self) -> usize;
}

/// What the node of a link is told.
pub(super) trait Listens: Send + Sync {
    fn message(&self, link: LinkId, message: Message);
    fn violated(&self, link: LinkId);
    /// How many messages and bytes of them a session stream may bring in a second.
    fn rate(&self) -> (u32, u32);
    /// A limit ended something.
    fn reached(&self, limit: Limit);
    /// The session looks in a while at what gathered for the peer to be told.
    fn look_later(&self, session: Weak<dyn Frames>);
}

/// The peer broke the protocol: how, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violated(pub(super) String);

impl Violated {
    pub(super) fn by(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// See the module.
pub(super) struct Link {
    pub(super) id: LinkId,
    core: Arc<ConnectionCore>,
    myself: Weak<Self>,
    node: Weak<dyn Listens>,
    session_stream: OnceLock<Option<Arc<OutStream<ConnectionCore>>>>,
    /// Held over the sending: messages keep their order.
    sending: Mutex<()>,
    unacknowledged: AtomicUsize,
    /// The peer's session stream has come.
    heard: AtomicBool,
    /// It ends once the peer has what was said.
    closing: OnceLock<CloseCode>,
    inside: InsideFrames,
    carries: Mutex<Carries>,
}

/// Whose frames the link carries.
enum Carries {
    /// Nobody's yet; these streams came before.
    Nobody(Vec<Arc<dyn Paused>>),
    Session(Arc<dyn Frames>, u64),
    /// Nobody's any more.
    Left,
}

/// Whose frames a stream brings.
enum Whose {
    Session(Arc<dyn Frames>),
    /// That is not known yet.
    Later,
    /// Nobody takes them.
    Nobody,
}

impl Link {
    pub(super) fn new(
        id: LinkId,
        core: Arc<ConnectionCore>,
        node: Weak<dyn Listens>,
        limits: &Limits,
    ) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            id,
            core,
            myself: Weak::clone(myself),
            node,
            session_stream: OnceLock::new(),
            sending: Mutex::new(()),
            unacknowledged: AtomicUsize::new(0),
            heard: AtomicBool::new(false),
            closing: OnceLock::new(),
            inside: InsideFrames::new(limits),
            carries: Mutex::new(Carries::Nobody(Vec::new())),
        })
    }

    /// From here on it is read.
    pub(super) fn begin(self: &Arc<Self>) {
        let carrier: Arc<dyn Carrier> = Arc::<Self>::clone(self);
        self.core.carry(&carrier);
    }

    pub(super) fn core(&self) -> &Arc<ConnectionCore> {
        &self.core
    }

    /// The generation of the session's connection that it is; 0 for none.
    pub(super) fn generation(&self) -> u64 {
        match &*lock(&self.carries) {
            Carries::Session(_, generation) => *generation,
            Carries::Nobody(_) | Carries::Left => 0,
        }
    }

    /// It carries this session from here on; streams that waited for that go on.
    pub(super) fn attach(&self, session: Arc<dyn Frames>, generation: u64) {
        let before = {
            let mut carries = lock(&self.carries);
            std::mem::replace(&mut *carries, Carries::Session(session, generation))
        };
        resume(before);
    }

    /// It carries nothing from here on.
    pub(super) fn leave(&self) {
        let before = std::mem::replace(&mut *lock(&self.carries), Carries::Left);
        resume(before);
    }

    /// Ends the connection, behind what was said last: at once if the peer has it. Whether that is still
    /// on its way: then somebody ends it in a while in any case.
    pub(super) fn close(&self, code: CloseCode) -> bool {
        self.leave();
        let _ = self.closing.set(code);
        let waits = self.unacknowledged.load(Ordering::Acquire) > 0;
        if !waits {
            self.core.cut(code);
        }
        waits
    }

    /// Why the connection is over, or will be by this side's wish.
    pub(super) fn over(&self) -> Option<CloseReason> {
        let wished = || Some(CloseReason::Local { code: *self.closing.get()? });
        self.core.close_reason().or_else(wished)
    }

    /// Ends the connection if the peer stopped inside a frame.
    pub(super) fn look_at_frames(&self, now: Instant) {
        if self.inside.is_overdue(now) {
            warn!(peer = ?self.core.remote_identity(), "the peer stopped inside a frame");
            self.core.cut(CloseCode::FRAME_TIMEOUT);
        }
    }

    pub(super) fn say(&self, message: &Message) {
        if !self.put(message) {
            self.stalled();
        }
    }

    /// As [`say`](Self::say), for who holds a lock; no: [`stalled`](Self::stalled) must follow behind it.
    #[must_use]
    pub(super) fn put(&self, message: &Message) -> bool {
        let token = if let Message::Taken(_) = message { TELLS_TAKEN } else { 0 };
        let mut encoded = Vec::new();
        let _in_order = lock(&self.sending);
        let opened = self.session_stream.get_or_init(|| {
            StreamHead::Session.encode(&mut encoded);
            let outlet = Arc::new(SessionOutlet(Weak::clone(&self.myself)));
            self.core.open_outlet(SESSION_PRIORITY, outlet).ok()
        });
        message.encode(&mut encoded);
        let bytes = encoded.len();
        let unacknowledged = self.unacknowledged.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let parts = Parts::of(Bytes::from(encoded));
        let sent = opened.as_ref().is_some_and(|stream| stream.send(parts, token | bytes as u64));
        sent && unacknowledged <= SESSION_BYTES_MAX
    }

    /// The session stream does not go on, or the connection is ending, which is told by itself.
    pub(super) fn stalled(&self) {
        self.core.cut(CloseCode::LANE_STALLED);
    }

    fn whose(&self, generation: u64, stream: &Arc<dyn Paused>) -> Whose {
        match &mut *lock(&self.carries) {
            Carries::Nobody(waiting) => {
                waiting.push(Arc::clone(stream));
                Whose::Later
            }
            Carries::Session(session, present) if *present == generation => {
                Whose::Session(Arc::clone(session))
            }
            Carries::Session(..) | Carries::Left => Whose::Nobody,
        }
    }

    fn session(&self) -> Option<Arc<dyn Frames>> {
        match &*lock(&self.carries) {
            Carries::Session(session, _) => Some(Arc::clone(session)),
            Carries::Nobody(_) | Carries::Left => None,
        }
    }

    fn violated(&self, how: &Violated) {
        warn!(how = how.0, "the peer broke the protocol of sessions");
        match self.node.upgrade() {
            Some(node) => node.violated(self.id),
            None => self.core.cut(CloseCode::GOING_AWAY),
        }
    }
}

fn resume(before: Carries) {
    if let Carries::Nobody(waiting) = before {
        waiting.into_iter().for_each(|stream| stream.resume());
    }
}

impl Carrier for Link {
    fn stream_came(&self, stream: Arc<dyn Paused>) -> Box<dyn Inlet> {
        let link = Weak::clone(&self.myself);
        Box::new(LinkInlet { link, stream, at: At::Head(Vec::new()), inside: false })
    }
}

/// Is told of the session stream.
struct SessionOutlet(Weak<Link>);

impl Outlet for SessionOutlet {
    fn sent(&self, token: u64, acknowledged: bool) {
        let Some(link) = self.0.upgrade() else { return };
        let bytes = usize::try_from(token & !TELLS_TAKEN).unwrap_or(0);
        let rest = link.unacknowledged.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        if let (0, Some(code)) = (rest, link.closing.get()) {
            return link.core.cut(*code);
        }
        if token & TELLS_TAKEN > 0
            && acknowledged
            && let Some(session) = link.session()
        {
            session.was_told(&link);
        }
    }

    fn gone(&self) {}
}

/// One stream of the peer's.
struct LinkInlet {
    link: Weak<Link>,
    stream: Arc<dyn Paused>,
    at: At,
    /// Counted as inside a frame.
    inside: bool,
}

enum At {
    Head(Vec<u8>),
    Session(Decoder, Rate),
    Flow {
        generation: u64,
        flow: FlowId,
        first: u64,
    },
    Frames {
        generation: u64,
        flow: FlowId,
        session: Arc<dyn Frames>,
        cutter: Cutter,
    },
    /// What comes is thrown away.
    Ignored,
}

impl LinkInlet {
    /// So many bytes came, and this is how far it is.
    fn count(&mut self, link: &Link, bytes: usize) {
        let inside = matches!(&self.at, At::Frames { cutter, .. } if cutter.is_unfinished());
        let was = std::mem::replace(&mut self.inside, inside);
        link.inside.moved(bytes, was, inside);
    }

    /// Takes some of `part`; none: it has to wait.
    fn step(&mut self, link: &Arc<Link>, part: &[u8]) -> Result<usize, Violated> {
        match &mut self.at {
            At::Head(held) => {
                held.push(part[0]);
                match StreamHead::decode(held).map_err(Violated::by)? {
                    None => {}
                    Some((StreamHead::Session, _)) => {
                        if link.heard.swap(true, Ordering::AcqRel) {
                            return Err(Violated::by("a second session stream"));
                        }
                        let (messages, bytes) =
                            link.node.upgrade().map_or((0, 0), |node| node.rate());
                        let rate = Rate::new(clock::now(), messages, bytes);
                        self.at = At::Session(Decoder::default(), rate);
                    }
                    Some((StreamHead::Flow { generation, flow, first }, _)) => {
                        self.at = At::Flow { generation, flow, first };
                    }
                }
                Ok(1)
            }
            At::Session(decoder, rate) => {
                let mut messages = Vec::new();
                let fed = decoder.feed(part, &mut |message| messages.push(message));
                let now = clock::now();
                let bytes = u32::try_from(part.len()).unwrap_or(u32::MAX);
                let mut allowed = rate.allows(now, bytes);
                let Some(node) = link.node.upgrade() else { return Ok(part.len()) };
                for message in messages {
                    allowed &= rate.allows(now, 0);
                    node.message(link.id, message);
                }
                fed.map_err(Violated::by)?;
                if allowed {
                    Ok(part.len())
                } else {
                    node.reached(Limit::ControlMessages);
                    Err(Violated::by("more than the session stream may bring in a second"))
                }
            }
            At::Flow { generation, flow, first } => {
                match link.whose(*generation, &self.stream) {
                    Whose::Later => return Ok(0),
                    Whose::Nobody => self.at = At::Ignored,
                    Whose::Session(session) => {
                        session.begin_stream(*generation, *flow, *first)?;
                        let cutter = Cutter::new(session.frame_bytes_max());
                        let (generation, flow) = (*generation, *flow);
                        self.at = At::Frames { generation, flow, session, cutter };
                    }
                }
                self.step(link, part)
            }
            At::Frames { generation, flow, session, cutter } => {
                let (generation, flow) = (*generation, *flow);
                let session = &**session;
                let mut brought =
                    Brought { session, generation, flow, stream: &self.stream, result: Ok(()) };
                let cut = cutter.feed(part, &mut brought);
                brought.result.and(cut.map_err(Violated::by))
            }
            At::Ignored => Ok(part.len()),
        }
    }
}

/// What one stream of a flow brings, for the session.
struct Brought<'a> {
    session: &'a dyn Frames,
    generation: u64,
    flow: FlowId,
    stream: &'a Arc<dyn Paused>,
    result: Result<(), Violated>,
}

impl cut::Frames for Brought<'_> {
    fn announced(&mut self, bytes: usize) -> Result<Announced, FlowViolation> {
        self.session.announced(self.generation, self.flow, bytes, self.stream)
    }

    fn came(&mut self, came: Came) {
        if self.result.is_ok() {
            self.result = self.session.arrived(self.generation, self.flow, came);
        }
    }
}

impl Inlet for LinkInlet {
    fn received(&mut self, part: &[u8]) -> usize {
        let Some(link) = self.link.upgrade() else { return part.len() };
        let mut taken = 0;
        while taken < part.len() {
            match self.step(&link, &part[taken..]) {
                Ok(0) => break,
                Ok(more) => taken += more,
                Err(violated) => {
                    self.at = At::Ignored;
                    self.count(&link, 0);
                    link.violated(&violated);
                    return part.len();
                }
            }
        }
        self.count(&link, taken);
        taken
    }

    fn rest(&mut self) {
        if let At::Frames { session, flow, .. } = &self.at {
            session.rest(*flow);
        }
    }

    fn ended(&mut self, end: InletEnd) {
        // The end of a stream means nothing; where a session stream ends, its connection does.
        if let (At::Session(..), Some(link)) = (&self.at, self.link.upgrade()) {
            let _ = end;
            link.core.cut(CloseCode::PROTOCOL_ERROR);
        }
    }
}

impl Drop for LinkInlet {
    fn drop(&mut self) {
        self.at = At::Ignored;
        if let Some(link) = self.link.upgrade() {
            self.count(&link, 0);
        }
    }
}

const _: () = assert!(FLOW_STREAM_HEAD_BYTES < 64, "heads are read byte by byte");
