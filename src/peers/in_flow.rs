//! One flow in: what came over whichever connection, until the application takes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::cut::Came;
use super::room::{Grant, Large, Received};
use crate::frame::{HEADER_BYTES, Run};
use crate::lock::lock;
use crate::session::flow::FlowState;
use crate::session::flow_in::{Arrival, FlowIn};
use crate::session::flow_out::FlowViolation;
use crate::session::frame_head::{FrameHead, LENGTH_BYTES};

/// See the module.
pub(super) struct InFlow(Mutex<State>);

struct State {
    flow: FlowIn,
    grant: Grant,
    /// Of the connection whose frames are taken over; 0 for none.
    generation: u64,
    /// That connection's stream has begun.
    begun: bool,
    queue: VecDeque<Waiting>,
    /// Frames in it.
    waiting: u64,
}

/// What waits for the application.
enum Waiting {
    /// Messages with consecutive numbers.
    Run {
        next: u64,
        run: Run,
    },
    Frame {
        number: u64,
        head: FrameHead,
        payload: Bytes,
        large: Option<Large>,
    },
}

/// What the application takes.
pub(super) struct Frame {
    pub(super) number: u64,
    pub(super) head: FrameHead,
    pub(super) payload: Bytes,
    /// Given back with this, outside of the flow's lock.
    pub(super) large: Option<Large>,
}

/// What came and is to be looked at before the application takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Special {
    Reply { head: FrameHead, payload: Bytes },
    Void { number: u64 },
}

impl InFlow {
    pub(super) fn new(received: &Arc<Received>) -> Self {
        let grant = Grant::first(received);
        Self(Mutex::new(State {
            flow: FlowIn::new(grant.bytes()),
            grant,
            generation: 0,
            begun: false,
            queue: VecDeque::new(),
            waiting: 0,
        }))
    }

    /// The stream of the connection of this generation begins with the frame of this number.
    pub(super) fn begin_stream(&self, generation: u64, first: u64) -> Result<(), FlowViolation> {
        let mut state = lock(&self.0);
        if state.generation != generation {
            return Ok(());
        }
        if std::mem::replace(&mut state.begun, true) {
            return Err(FlowViolation::SecondStream);
        }
        state.flow.begin_stream(first)
    }

    /// A frame of so many bytes is about to come over the connection of this generation. Whether it is
    /// within what is granted.
    pub(super) fn announced(&self, generation: u64, bytes: u64) -> Result<bool, FlowViolation> {
        let state = lock(&self.0);
        if state.generation == generation { state.flow.announced(bytes) } else { Ok(true) }
    }

    /// Something came over the connection of this generation; what is neither a message nor a request is
    /// told. Replies are taken as they come. `register` is told of a request before anybody can take it.
    pub(super) fn arrived(
        &self,
        generation: u64,
        came: Came,
        register: impl FnOnce(u64, u32),
    ) -> Result<Option<Special>, FlowViolation> {
        let state = &mut *lock(&self.0);
        if state.generation != generation {
            // The session has left that connection: what is not there comes again.
            return Ok(None);
        }
        match came {
            Came::Run(run) => {
                state.run_arrived(run)?;
                Ok(None)
            }
            Came::Frame(head, payload, large) => {
                let bytes = encoded(head, payload.len());
                let Arrival::Accept(number) = state.flow.arrived(bytes)? else { return Ok(None) };
                let special = match head {
                    FrameHead::Message => None,
                    FrameHead::Request { left_ms } => {
                        register(number, left_ms);
                        None
                    }
                    FrameHead::Void => Some(Special::Void { number }),
                    FrameHead::Reply { .. } => {
                        Some(Special::Reply { head, payload: payload.clone() })
                    }
                };
                match head {
                    FrameHead::Message | FrameHead::Request { .. } => {
                        state.queue.push_back(Waiting::Frame { number, head, payload, large });
                        state.waiting += 1;
                    }
                    FrameHead::Void | FrameHead::Reply { .. } => state.flow.take(number, 1, bytes),
                }
                Ok(special)
            }
        }
    }

    /// The next frame, for good.
    pub(super) fn take(&self) -> Option<Frame> {
        let state = &mut *lock(&self.0);
        let (number, head, payload, large) = match state.queue.front_mut()? {
            Waiting::Run { next, run } => {
                let number = *next;
                *next += 1;
                let payload = run.next();
                let is_empty = run.encoded_bytes() == 0;
                if is_empty {
                    state.queue.pop_front();
                }
                (number, FrameHead::Message, payload?, None)
            }
            Waiting::Frame { .. } => match state.queue.pop_front()? {
                Waiting::Frame { number, head, payload, large } => (number, head, payload, large),
                Waiting::Run { .. } => return None,
            },
        };
        state.waiting -= 1;
        state.flow.take(number, 1, encoded(head, payload.len()));
        Some(Frame { number, head, payload, large })
    }

    /// Whether the peer is to be told what was taken; `on_its_way`: it is being told something.
    pub(super) fn is_due(&self, on_its_way: bool) -> bool {
        lock(&self.0).flow.is_due(on_its_way)
    }

    pub(super) fn has_something(&self) -> bool {
        lock(&self.0).waiting > 0
    }

    pub(super) fn state(&self) -> FlowState {
        lock(&self.0).flow.state()
    }

    /// What the peer is told now, if it is due.
    pub(super) fn tell(&self, on_its_way: bool) -> Option<FlowState> {
        let state = &mut *lock(&self.0);
        if !state.flow.is_due(on_its_way) {
            return None;
        }
        if state.flow.is_used_up() {
            state.grant.double();
            state.flow.grant(state.grant.bytes());
        }
        Some(state.flow.tell(on_its_way))
    }

    /// The session has another connection; 0: none.
    pub(super) fn attached(&self, generation: u64) {
        let mut state = lock(&self.0);
        (state.generation, state.begun) = (generation, false);
        state.flow.attached();
    }

    /// Nothing more is taken over.
    pub(super) fn freeze(&self) {
        lock(&self.0).flow.freeze();
    }
}

impl State {
    fn run_arrived(&mut self, mut run: Run) -> Result<(), FlowViolation> {
        let mut first = None;
        let looked_at = run.clone();
        let mut accepted = 0;
        for payload in looked_at {
            match self.flow.arrived((HEADER_BYTES + payload.len()) as u64) {
                Ok(Arrival::Accept(number)) => {
                    first.get_or_insert(number);
                    accepted += 1;
                }
                // Those come first.
                Ok(Arrival::Skip) => drop(run.next()),
                Err(violation) => return Err(violation),
            }
        }
        if let Some(next) = first {
            self.queue.push_back(Waiting::Run { next, run });
            self.waiting += accepted;
        }
        Ok(())
    }
}

/// Bytes that a frame takes on the wire.
fn encoded(head: FrameHead, payload: usize) -> u64 {
    (LENGTH_BYTES + head.bytes() + payload) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::peers::room::PeerBounds;

    fn frame(payload: &'static [u8]) -> Came {
        Came::Frame(FrameHead::Message, Bytes::from_static(payload), None)
    }

    fn flow() -> InFlow {
        InFlow::new(PeerBounds::new(&Limits::default(), &Arc::default()).received())
    }

    #[test]
    fn a_connection_has_one_stream_of_a_flow_and_one_that_was_left_brings_nothing() {
        let flow = flow();
        flow.attached(1);
        assert_eq!(flow.begin_stream(1, 1), Ok(()));
        assert_eq!(flow.begin_stream(1, 1), Err(FlowViolation::SecondStream));
        assert_eq!(flow.arrived(1, frame(b"one"), |_, _| {}), Ok(None));
        flow.attached(2);
        assert_eq!(flow.begin_stream(2, 2), Ok(()));
        assert_eq!(flow.arrived(1, frame(b"late"), |_, _| {}), Ok(None), "it was left");
        assert_eq!(flow.arrived(2, frame(b"two"), |_, _| {}), Ok(None));
        let taken: Vec<_> = std::iter::from_fn(|| flow.take()).map(|it| it.payload).collect();
        assert_eq!(taken, ["one", "two"]);
    }

    #[test]
    fn a_request_is_registered_before_anybody_can_take_it() {
        let flow = flow();
        flow.attached(1);
        flow.begin_stream(1, 1).expect("the first");
        let head = FrameHead::Request { left_ms: 7 };
        let mut told = None;
        let came = Came::Frame(head, Bytes::from_static(b"question"), None);
        let register = |number, left_ms| {
            // Under the flow's lock nobody takes it.
            told = Some((number, left_ms));
        };
        assert_eq!(flow.arrived(1, came, register), Ok(None));
        assert_eq!(told, Some((1, 7)));
        assert_eq!(flow.take().map(|it| (it.number, it.head)), Some((1, head)));
    }
}
