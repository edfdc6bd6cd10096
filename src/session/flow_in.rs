//! Frames of one flow as they come: numbers, credit, and when the peer is told. The frames themselves
//! are whose moves them.
//!
//! Taken is irrevocable: frames that a reader gave back were never reported as taken, since nobody
//! calls [`FlowIn::take`] for them.

use super::flow::FlowState;
use super::flow_out::FlowViolation;

/// The part of a grant after which the peer is told at once what was taken, so that it need not stop.
const TOLD_PART: u64 = 4;

/// The part of a grant that is taken within a round trip where it is too small.
const USED_UP_PART: u64 = 4;

/// What is to be done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the next one, and has this number.
    Accept(u64),
    /// It came before, or is not taken over any more.
    Skip,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FlowIn {
    received: u64,
    /// All up to here are taken.
    taken: u64,
    /// Taken behind that, by readers that overtook others: first and last number, in order.
    ahead: Vec<(u64, u64)>,
    /// Bytes that came and were not taken.
    untaken: u64,
    granted: u64,
    /// Number of the frame that the present stream brings next; none without one.
    next: Option<u64>,
    /// What the peer was told last to be taken.
    told: u64,
    /// Bytes taken since then.
    untold: u64,
    /// Bytes taken since the last word that was told when none was on its way: until that is there, in about
    /// a round trip.
    round: u64,
    /// That was much.
    used_up: bool,
    /// Nothing more is taken over.
    frozen: bool,
}

impl FlowIn {
    /// Before its first frame, with so many bytes granted.
    pub(crate) fn new(granted: u64) -> Self {
        Self {
            received: 0,
            taken: 0,
            ahead: Vec::new(),
            untaken: 0,
            granted,
            next: None,
            told: 0,
            untold: 0,
            round: 0,
            used_up: false,
            frozen: false,
        }
    }

    /// A connection's stream begins with the frame of this number.
    ///
    /// # Errors
    ///
    /// [`FlowViolation::Gap`]: frames before it never came.
    pub(crate) fn begin_stream(&mut self, first: u64) -> Result<(), FlowViolation> {
        let expected = self.received + 1;
        if first > expected && !self.frozen {
            return Err(FlowViolation::Gap { number: first, expected });
        }
        self.next = Some(first);
        Ok(())
    }

    /// The present stream brought a frame of so many bytes, its heads included.
    ///
    /// # Errors
    ///
    /// [`FlowViolation`]: the peer must not send it.
    pub(crate) fn arrived(&mut self, bytes: u64) -> Result<Arrival, FlowViolation> {
        let expected = self.received + 1;
        let number = self.next.ok_or(FlowViolation::Gap { number: 0, expected })?;
        self.next = Some(number.saturating_add(1));
        if number < expected || self.frozen {
            return Ok(Arrival::Skip);
        }
        let untaken = self.check_credit(bytes)?;
        (self.received, self.untaken) = (number, untaken);
        Ok(Arrival::Accept(number))
    }

    /// As [`arrived`](Self::arrived) for so many frames of so many bytes together, if each of them is to be
    /// accepted without a further look: the number of the first one.
    pub(crate) fn all_arrived(&mut self, frames: u64, bytes: u64) -> Option<u64> {
        let first = self.next.filter(|next| *next == self.received + 1 && !self.frozen)?;
        let untaken = self.untaken.saturating_add(bytes);
        if frames == 0 || untaken > self.granted {
            return None;
        }
        (self.received, self.untaken) = (self.received + frames, untaken);
        self.next = Some(first.saturating_add(frames));
        Some(first)
    }

    /// A frame of so many bytes, its heads included, is about to come on the present stream. Whether it is
    /// within what is granted: a larger one needs room of its own.
    ///
    /// # Errors
    ///
    /// [`FlowViolation`]: the peer must not send it.
    pub(crate) fn announced(&self, bytes: u64) -> Result<bool, FlowViolation> {
        let is_next = self.next.is_some_and(|number| number > self.received);
        if is_next && !self.frozen {
            self.check_credit(bytes)?;
        }
        Ok(bytes <= self.granted)
    }

    fn check_credit(&self, bytes: u64) -> Result<u64, FlowViolation> {
        let untaken = self.untaken.saturating_add(bytes);
        if self.untaken > 0 && untaken > self.granted {
            return Err(FlowViolation::OverCredit { untaken, granted: self.granted });
        }
        Ok(untaken)
    }

    /// The application took, for good, so many frames from this number on.
    pub(crate) fn take(&mut self, first: u64, frames: u64, bytes: u64) {
        if frames == 0 {
            return;
        }
        self.untaken -= bytes.min(self.untaken);
        self.untold += bytes;
        self.round += bytes;
        // Of frames as large as that the peer could not send one while another one is taken.
        self.used_up |= frames == 1 && bytes >= self.granted / 2;
        let last = first + frames - 1;
        debug_assert!(first > self.taken && last <= self.received, "{first} to {last}: {self:?}");
        if first == self.taken + 1 && self.ahead.is_empty() {
            self.taken = last;
            return;
        }
        let place = self.ahead.partition_point(|(earlier, _)| *earlier < first);
        self.ahead.insert(place, (first, last));
        let joined = self.ahead.iter().take_while(|(first, last)| {
            let follows = *first == self.taken + 1;
            self.taken = if follows { *last } else { self.taken };
            follows
        });
        let joined = joined.count();
        self.ahead.drain(..joined);
    }

    /// Nothing more is taken over: what comes from here on is skipped.
    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Grants more than before; a grant is never taken back.
    pub(crate) fn grant(&mut self, bytes: u64) {
        self.granted = self.granted.max(bytes);
    }

    /// The word that was told when none was on its way is there.
    pub(crate) fn word_came(&mut self) {
        self.used_up |= self.took_much();
    }

    /// Whether the application took a quarter of what is granted within about a round trip: the peer could go
    /// faster with more. (One that takes slowly needs no more, however much waits for it.)
    pub(crate) fn is_used_up(&self, on_its_way: bool) -> bool {
        self.used_up || on_its_way && self.took_much()
    }

    fn took_much(&self) -> bool {
        self.round >= self.granted / USED_UP_PART
    }

    /// For a Hello and the like.
    pub(crate) fn state(&self) -> FlowState {
        FlowState { received: self.received, taken: self.taken, credit: self.granted }
    }

    /// Frames that were taken of which the peer was not told.
    pub(crate) fn gathered(&self) -> u64 {
        self.taken - self.told
    }

    /// Whether so much was taken that the peer is to be told at once: a quarter of what is granted.
    pub(crate) fn presses(&self) -> bool {
        self.taken > self.told && self.untold >= self.granted / TOLD_PART
    }

    /// Whether the peer is to be told: of anything, or while that `waits` of what presses.
    pub(crate) fn is_due(&self, waits: bool) -> bool {
        if waits { self.presses() } else { self.gathered() > 0 }
    }

    /// What the peer is told now; `on_its_way`: the word before is.
    pub(crate) fn tell(&mut self, on_its_way: bool) -> FlowState {
        (self.told, self.untold, self.used_up) = (self.taken, 0, false);
        if !on_its_way {
            self.round = 0;
        }
        self.state()
    }

    /// The session has another link: what was told on an earlier one may not have come, and streams begin
    /// again.
    pub(crate) fn attached(&mut self) {
        (self.told, self.next, self.round) = (0, None, 0);
    }

    /// Bytes that came and were not taken.
    pub(crate) fn untaken_bytes(&self) -> u64 {
        self.untaken
    }
}
