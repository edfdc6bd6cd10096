//! One flow in: what came over whichever connection, until the application takes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::cut::Came;
use super::room::{Grant, Large, Received};
use super::teller::Word;
use crate::frame::{HEADER_BYTES, Run};
use crate::lock::lock;
use crate::session::flow::FlowState;
use crate::session::flow_in::{Arrival, FlowIn};
use crate::session::flow_out::FlowViolation;
use crate::session::frame_head::{FrameHead, LENGTH_BYTES};

/// Which flows of a session have something that waits to be taken, each by its bit.
pub(super) type Filled = Arc<AtomicU8>;

/// See the module.
pub(super) struct InFlow {
    state: Mutex<State>,
    /// Changed under the lock of the flow alone.
    filled: Filled,
    bit: u8,
}

struct State {
    flow: FlowIn,
    grant: Grant,
    /// Of the connection whose frames are taken over; 0 for none.
    generation: u64,
    /// That connection's stream has begun.
    begun: bool,
    queue: VecDeque<Waiting>,
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
    /// What waits in it is said by this bit of `filled`.
    pub(super) fn new(received: &Arc<Received>, filled: &Filled, bit: u8) -> Self {
        let grant = Grant::first(received);
        let state = State {
            flow: FlowIn::new(grant.bytes()),
            grant,
            generation: 0,
            begun: false,
            queue: VecDeque::new(),
        };
        Self { state: Mutex::new(state), filled: Arc::clone(filled), bit }
    }

    fn fill(&self) {
        self.filled.fetch_or(self.bit, Ordering::Release);
    }

    /// The stream of the connection of this generation begins with the frame of this number.
    pub(super) fn begin_stream(&self, generation: u64, first: u64) -> Result<(), FlowViolation> {
        let mut state = lock(&self.state);
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
        let state = lock(&self.state);
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
        let state = &mut *lock(&self.state);
        if state.generation != generation {
            // The session has left that connection: what is not there comes again.
            return Ok(None);
        }
        match came {
            Came::Run(frames, run) => {
                state.run_arrived(frames, run)?;
                if !state.queue.is_empty() {
                    self.fill();
                }
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
                        self.fill();
                    }
                    FrameHead::Void | FrameHead::Reply { .. } => state.flow.take(number, 1, bytes),
                }
                Ok(special)
            }
        }
    }

    /// Takes up to `max` frames for good, each told to `took` under the lock. Whether the peer is to be told
    /// of that, which of small things `waits`.
    pub(super) fn take(
        &self,
        max: usize,
        waits: impl FnOnce() -> bool,
        mut took: impl FnMut(Frame),
    ) -> bool {
        let state = &mut *lock(&self.state);
        let mut left = max;
        while left > 0
            && let Some(frames) = state.take_front(left, &mut took)
        {
            left -= frames;
        }
        if state.queue.is_empty() {
            self.filled.fetch_and(!self.bit, Ordering::Relaxed);
        }
        // Read under the lock: who says later that nothing waits looks here behind that.
        left < max && state.flow.is_due(waits())
    }

    /// Frames that were taken of which the peer was not told, and whether that presses.
    pub(super) fn gathered(&self) -> (u64, bool) {
        let state = lock(&self.state);
        (state.flow.gathered(), state.flow.presses())
    }

    pub(super) fn state(&self) -> FlowState {
        lock(&self.state).flow.state()
    }

    /// What the peer is told of it with this word, if anything.
    pub(super) fn tell(&self, word: Word) -> Option<FlowState> {
        let Word { waits, on_its_way, often } = word;
        let state = &mut *lock(&self.state);
        if !state.flow.is_due(waits) {
            return None;
        }
        if state.flow.is_used_up(on_its_way) || often && state.flow.presses() {
            state.grant.double();
            state.flow.grant(state.grant.bytes());
        }
        Some(state.flow.tell(on_its_way))
    }

    /// The peer has what it was told.
    pub(super) fn word_came(&self) {
        lock(&self.state).flow.word_came();
    }

    /// The session has another connection; 0: none.
    pub(super) fn attached(&self, generation: u64) {
        let mut state = lock(&self.state);
        (state.generation, state.begun) = (generation, false);
        state.flow.attached();
    }

    /// Nothing more is taken over.
    pub(super) fn freeze(&self) {
        lock(&self.state).flow.freeze();
    }
}

impl State {
    /// Takes up to `max` of what is at the front together; how many, if there is anything.
    fn take_front(&mut self, max: usize, took: &mut impl FnMut(Frame)) -> Option<usize> {
        let first = match self.queue.front_mut()? {
            Waiting::Run { next, run } => {
                let (first, before) = (*next, run.encoded_bytes());
                for payload in run.by_ref().take(max) {
                    let number = *next;
                    *next += 1;
                    took(Frame { number, head: FrameHead::Message, payload, large: None });
                }
                let (frames, bytes) = (*next - first, before - run.encoded_bytes());
                if frames == 0 || run.encoded_bytes() == 0 {
                    self.queue.pop_front();
                }
                self.flow.take(first, frames, bytes as u64);
                return Some(usize::try_from(frames).unwrap_or(max));
            }
            Waiting::Frame { .. } => self.queue.pop_front()?,
        };
        if let Waiting::Frame { number, head, payload, large } = first {
            self.flow.take(number, 1, encoded(head, payload.len()));
            took(Frame { number, head, payload, large });
        }
        Some(1)
    }

    fn run_arrived(&mut self, frames: u64, mut run: Run) -> Result<(), FlowViolation> {
        let mut first = self.flow.all_arrived(frames, run.encoded_bytes() as u64);
        if first.is_none() {
            for length in run.clone().map(|payload| payload.len()) {
                match self.flow.arrived((HEADER_BYTES + length) as u64)? {
                    Arrival::Accept(number) => drop(first.get_or_insert(number)),
                    // Those come first.
                    Arrival::Skip => drop(run.next()),
                }
            }
        }
        if let Some(next) = first {
            self.queue.push_back(Waiting::Run { next, run });
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
    use crate::config::{FLOW_GRANT_MIN, Limits};
    use crate::peers::room::PeerBounds;

    fn frame(payload: &'static [u8]) -> Came {
        Came::Frame(FrameHead::Message, Bytes::from_static(payload), None)
    }

    fn flow() -> InFlow {
        let bounds = PeerBounds::new(&Limits::default(), &Arc::default());
        InFlow::new(bounds.received(), &Filled::default(), 1)
    }

    fn take_all(flow: &InFlow) -> Vec<Frame> {
        let mut taken = Vec::new();
        flow.take(usize::MAX, || true, |frame| taken.push(frame));
        taken
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
        let taken: Vec<_> = take_all(&flow).into_iter().map(|it| it.payload).collect();
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
        let taken: Vec<_> = take_all(&flow).iter().map(|it| (it.number, it.head)).collect();
        assert_eq!(taken, [(1, head)]);
    }

    #[test]
    fn a_flow_is_granted_more_when_words_that_press_follow_each_other() {
        for (often, granted) in [(false, FLOW_GRANT_MIN), (true, 2 * FLOW_GRANT_MIN)] {
            let flow = flow();
            flow.attached(1);
            flow.begin_stream(1, 1).expect("the first");
            let payload = Bytes::from(vec![7; FLOW_GRANT_MIN / 4]);
            let came = Came::Frame(FrameHead::Message, payload, None);
            assert_eq!(flow.arrived(1, came, |_, _| {}), Ok(None));
            assert_eq!(take_all(&flow).len(), 1);
            // Neither within a round trip nor in one frame of half the grant.
            let word = Word { waits: true, on_its_way: false, often };
            let told = flow.tell(word).expect("a quarter of the grant presses");
            assert_eq!((told.taken, told.credit), (1, granted as u64), "often: {often}");
        }
    }

    #[test]
    fn messages_of_a_run_and_requests_are_taken_in_order_and_no_more_than_wanted() {
        let flow = flow();
        flow.attached(1);
        flow.begin_stream(1, 1).expect("the first");
        let run = Bytes::from_static(b"\0\0\0\x01a\0\0\0\0\0\0\0\x02bc");
        let request =
            Came::Frame(FrameHead::Request { left_ms: 7 }, Bytes::from_static(b"d"), None);
        for came in [Came::Run(3, Run::of(run.clone())), request, Came::Run(3, Run::of(run))] {
            assert_eq!(flow.arrived(1, came, |_, _| {}), Ok(None));
        }
        let mut taken = Vec::new();
        for max in [2, 1, 3, 5] {
            assert_ne!(flow.filled.load(Ordering::Relaxed), 0);
            let is_due = flow.take(max, || false, |it| taken.push((it.number, it.payload)));
            assert!(is_due, "nothing of it was told");
        }
        assert_eq!(flow.filled.load(Ordering::Relaxed), 0);
        assert!(!flow.take(1, || false, |_| panic!("nothing is left")));
        let expected = ["a", "", "bc", "d", "a", "", "bc"];
        let expected: Vec<_> =
            (1..).zip(expected.map(|it| Bytes::from_static(it.as_bytes()))).collect();
        assert_eq!(taken, expected);
    }
}
