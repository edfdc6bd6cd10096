//! The wire format of a frame: `[u32 big-endian length][payload]`, cut from any split of the bytes.
//!
//! Pure: no clock, no socket, no lock. The decoder copies each byte once, never allocates by an
//! announced length, and tells where it stands, so that an end of stream can be judged.
//!
//! Invariants: what comes out does not depend on how the input was split; `held_bytes` never
//! passes what was fed; an announced length over the limit is refused before its body is touched.

use bytes::{Buf, Bytes, BytesMut};

use crate::never::never;

/// Bytes in front of every payload: its length as a big-endian `u32`.
pub const HEADER_BYTES: usize = 4;

/// Whole frames that arrived together share one allocation of at most this many bytes, so that a
/// receiver who keeps one small frame keeps at most this much alive.
pub(crate) const RUN_BYTES_MAX: usize = 64 * 1024;

/// A body that is not whole yet starts with at most this much memory and then grows as it arrives.
const BODY_BYTES_INITIAL: usize = 64 * 1024;

/// The header of a payload of `length` bytes.
///
/// `length` was checked against a limit that fits `u32` before.
pub(crate) fn header(length: usize) -> [u8; HEADER_BYTES] {
    let announced = u32::try_from(length).unwrap_or_else(|_| {
        never!("a frame of {} bytes", length);
        u32::MAX
    });
    announced.to_be_bytes()
}

/// A frame announced more bytes than the limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes was announced, the limit is {limit}")]
pub struct FrameTooLarge {
    /// The length the peer announced, in bytes.
    pub announced: u64,
    /// The largest payload allowed, in bytes.
    pub limit: usize,
}

/// Where in the stream of frames the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Position {
    /// Between two frames: the only place where a stream may end.
    Boundary,
    /// Inside the length prefix.
    InLength {
        /// Bytes of the prefix that have arrived (1 to 3).
        received: usize,
    },
    /// Inside the payload.
    InBody {
        /// Bytes of the payload that have arrived.
        received: usize,
        /// Bytes of the payload that were announced.
        announced: usize,
    },
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boundary => f.write_str("between two frames"),
            Self::InLength { received } => {
                write!(f, "inside a length prefix ({received} of {HEADER_BYTES} bytes)")
            }
            Self::InBody { received, announced } => {
                write!(f, "inside a payload ({received} of {announced} bytes)")
            }
        }
    }
}

/// What the decoder hands out.
#[derive(Debug)]
pub enum Piece {
    /// Whole frames that arrived together, cut when they are taken.
    Run(Run),
    /// One payload that arrived in parts, or alone.
    Frame(Bytes),
}

/// Whole frames in one allocation; an iterator over their payloads.
#[derive(Debug, Clone)]
pub struct Run {
    /// Headers and payloads, whole frames only.
    encoded: Bytes,
}

impl Run {
    /// Of whole frames, whose lengths have nothing but a length in their lower thirty bits.
    pub(crate) fn of(encoded: Bytes) -> Self {
        Self { encoded }
    }

    /// Bytes not taken yet, headers included.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.encoded.len()
    }
}

impl Iterator for Run {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let Some(header) = self.encoded.first_chunk::<HEADER_BYTES>() else {
            never!(!self.encoded.is_empty(), "a run ends in {} bytes", self.encoded.len());
            return None;
        };
        let length = u32::from_be_bytes(*header) as usize;
        if never!(self.encoded.len() - HEADER_BYTES < length, "a run ends inside a frame") {
            self.encoded.clear();
            return None;
        }
        self.encoded.advance(HEADER_BYTES);
        Some(self.encoded.split_to(length))
    }
}

#[derive(Debug)]
enum State {
    /// Reading a header; the bytes of it that have arrived.
    Header { bytes: [u8; HEADER_BYTES], received: usize },
    /// Reading a body of `announced` bytes.
    Body { body: BytesMut, announced: usize },
}

impl State {
    const BOUNDARY: Self = Self::Header { bytes: [0; HEADER_BYTES], received: 0 };
}

/// Cuts a byte stream into frames.
///
/// # Examples
///
/// ```
/// use moorline::{FrameDecoder, Piece};
///
/// let mut decoder = FrameDecoder::new(1024);
/// let mut frames = Vec::new();
/// for part in [&b"\0\0"[..], b"\0\x05he", b"llo\0\0\0\x00"] {
///     decoder.feed(part, &mut |piece| match piece {
///         Piece::Run(run) => frames.extend(run),
///         Piece::Frame(frame) => frames.push(frame),
///     })?;
/// }
/// assert_eq!(frames, ["hello", ""]);
/// # Ok::<(), moorline::FrameTooLarge>(())
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    frame_bytes_max: usize,
    /// The largest body that came whole: what its sender has paid for is reserved at once again.
    proven: usize,
    state: State,
}

impl FrameDecoder {
    /// A decoder at the start of a stream that refuses payloads over `frame_bytes_max` bytes.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, proven: 0, state: State::BOUNDARY }
    }

    /// Takes all of `input` and hands every frame that became whole to `sink`, in order.
    ///
    /// # Errors
    ///
    /// [`FrameTooLarge`] if a header announces more than the limit. The decoder is of no further
    /// use then: the stream cannot be resynchronised.
    pub fn feed(
        &mut self,
        input: &[u8],
        sink: &mut impl FnMut(Piece),
    ) -> Result<(), FrameTooLarge> {
        let mut input = self.finish_partial(input, sink)?;
        while !input.is_empty() {
            let whole = self.whole_frames(input)?;
            if whole == 0 {
                return self.start_partial(input, sink);
            }
            sink(Piece::Run(Run { encoded: Bytes::copy_from_slice(&input[..whole]) }));
            input = &input[whole..];
        }
        Ok(())
    }

    /// Where the stream would end if it ended here.
    #[must_use]
    pub fn position(&self) -> Position {
        match &self.state {
            State::Header { received: 0, .. } => Position::Boundary,
            State::Header { received, .. } => Position::InLength { received: *received },
            State::Body { body, announced } => {
                Position::InBody { received: body.len(), announced: *announced }
            }
        }
    }

    /// Bytes of the unfinished frame that are held here.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Header { received, .. } => *received,
            State::Body { body, .. } => body.len(),
        }
    }

    /// Adds to the frame in progress; returns what it did not need.
    fn finish_partial<'a>(
        &mut self,
        mut input: &'a [u8],
        sink: &mut impl FnMut(Piece),
    ) -> Result<&'a [u8], FrameTooLarge> {
        if matches!(self.state, State::Header { received: 0, .. }) {
            return Ok(input);
        }
        if let State::Header { bytes, received } = &mut self.state {
            let take = (HEADER_BYTES - *received).min(input.len());
            bytes[*received..*received + take].copy_from_slice(&input[..take]);
            *received += take;
            input = &input[take..];
            if *received < HEADER_BYTES {
                return Ok(input);
            }
            let announced = check(u32::from_be_bytes(*bytes), self.frame_bytes_max)?;
            let body = BytesMut::new();
            self.state = State::Body { body, announced };
        }
        if let State::Body { body, announced } = &mut self.state {
            let take = (*announced - body.len()).min(input.len());
            grow(body, take, *announced, self.proven);
            body.extend_from_slice(&input[..take]);
            input = &input[take..];
            if body.len() == *announced {
                let frame = std::mem::take(body).freeze();
                self.proven = self.proven.max(frame.len());
                self.state = State::BOUNDARY;
                sink(Piece::Frame(frame));
            }
        }
        Ok(input)
    }

    /// The length of the longest prefix of `input` that is whole frames and fits one run.
    fn whole_frames(&self, input: &[u8]) -> Result<usize, FrameTooLarge> {
        let mut whole = 0;
        while let Some(header) = input[whole..].first_chunk::<HEADER_BYTES>() {
            let length = match check(u32::from_be_bytes(*header), self.frame_bytes_max) {
                Ok(length) => length,
                // The good frames in front of the bad one are delivered first.
                Err(_) if whole > 0 => break,
                Err(error) => return Err(error),
            };
            let end = whole + HEADER_BYTES + length;
            if end > input.len() || (whole > 0 && end > RUN_BYTES_MAX) {
                break;
            }
            whole = end;
        }
        Ok(whole)
    }

    /// Keeps the beginning of a frame whose rest has not arrived.
    fn start_partial(
        &mut self,
        input: &[u8],
        sink: &mut impl FnMut(Piece),
    ) -> Result<(), FrameTooLarge> {
        let mut bytes = [0; HEADER_BYTES];
        let received = input.len().min(HEADER_BYTES);
        bytes[..received].copy_from_slice(&input[..received]);
        self.state = State::Header { bytes, received };
        if received == HEADER_BYTES {
            // Turns the header into a body and stores what there is of it.
            self.state = State::Header { bytes, received: HEADER_BYTES - 1 };
            let rest = self.finish_partial(&input[HEADER_BYTES - 1..], sink)?;
            never!(!rest.is_empty(), "a whole frame was taken for a partial one");
        }
        Ok(())
    }
}

fn check(announced: u32, limit: usize) -> Result<usize, FrameTooLarge> {
    let length = announced as usize;
    if length > limit {
        return Err(FrameTooLarge { announced: u64::from(announced), limit });
    }
    Ok(length)
}

/// Makes room for `more` bytes: doubling, never beyond the announced length, and by the announced
/// length alone only as far as the stream has brought a body of that size before. (A peer that
/// announces much and sends little costs little.)
fn grow(body: &mut BytesMut, more: usize, announced: usize, proven: usize) {
    let needed = body.len() + more;
    if needed > body.capacity() {
        let start = BODY_BYTES_INITIAL.max(proven);
        let target = needed.max(body.capacity() * 2).max(start).min(announced);
        body.reserve(target - body.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(frames: &mut Vec<Bytes>, piece: Piece) {
        match piece {
            Piece::Run(run) => frames.extend(run),
            Piece::Frame(frame) => frames.push(frame),
        }
    }

    fn encode(frames: &[Vec<u8>]) -> Vec<u8> {
        frames.iter().flat_map(|f| header(f.len()).into_iter().chain(f.iter().copied())).collect()
    }

    /// Feeds `input` in parts that end at the given fractions.
    fn decode(input: &[u8], cuts: &[usize], limit: usize) -> (Vec<Bytes>, Option<FrameTooLarge>) {
        let mut decoder = FrameDecoder::new(limit);
        let mut frames = Vec::new();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        cuts.push(input.len());
        cuts.sort_unstable();
        let (mut from, mut error) = (0, None);
        for to in cuts {
            if let Err(e) = decoder.feed(&input[from..to], &mut |p| collect(&mut frames, p)) {
                error = Some(e);
                break;
            }
            assert!(decoder.held_bytes() <= to, "holds more than it was given");
            from = to;
        }
        (frames, error)
    }

    #[test]
    fn empty_input_yields_nothing_and_stays_at_the_boundary() {
        let mut decoder = FrameDecoder::new(8);
        decoder.feed(b"", &mut |_| panic!("no frame was sent")).unwrap();
        assert_eq!(decoder.position(), Position::Boundary);
    }

    #[test]
    fn position_names_the_place_inside_the_length_and_inside_the_body() {
        let mut decoder = FrameDecoder::new(8);
        let mut frames = Vec::new();
        let mut feed = |part: &[u8]| {
            decoder.feed(part, &mut |p| collect(&mut frames, p)).unwrap();
            decoder.position()
        };
        assert_eq!(feed(b"\0\0"), Position::InLength { received: 2 });
        assert_eq!(feed(b"\0\x03a"), Position::InBody { received: 1, announced: 3 });
        assert_eq!(feed(b"bc"), Position::Boundary);
        assert_eq!(feed(b"\0\0\0\x01"), Position::InBody { received: 0, announced: 1 });
    }

    #[test]
    fn length_over_the_limit_is_refused_without_memory() {
        let mut decoder = FrameDecoder::new(8);
        let error = decoder.feed(&u32::MAX.to_be_bytes(), &mut |_| ()).unwrap_err();
        assert_eq!(error, FrameTooLarge { announced: u64::from(u32::MAX), limit: 8 });
        assert!(decoder.held_bytes() <= HEADER_BYTES);
    }

    #[test]
    fn frames_before_an_oversized_one_are_delivered() {
        let mut input = encode(&[b"good".to_vec()]);
        input.extend_from_slice(&9u32.to_be_bytes());
        let (frames, error) = decode(&input, &[], 8);
        assert_eq!(frames, ["good"]);
        assert_eq!(error, Some(FrameTooLarge { announced: 9, limit: 8 }));
    }

    #[test]
    fn announced_length_alone_reserves_nothing() {
        let mut decoder = FrameDecoder::new(1 << 30);
        decoder.feed(&(1u32 << 30).to_be_bytes(), &mut |_| ()).unwrap();
        decoder.feed(b"x", &mut |_| ()).unwrap();
        let State::Body { body, .. } = &decoder.state else { panic!("not in a body") };
        assert!(body.capacity() <= BODY_BYTES_INITIAL, "reserved {}", body.capacity());
    }

    #[test]
    fn a_size_that_came_whole_is_reserved_at_once_the_next_time() {
        const LENGTH: usize = 1 << 20;
        let mut decoder = FrameDecoder::new(1 << 30);
        decoder.feed(&encode(&[vec![7; LENGTH]])[..100], &mut |_| ()).unwrap();
        decoder.feed(&vec![7; LENGTH - 96], &mut |_| ()).unwrap();
        assert_eq!(decoder.position(), Position::Boundary);
        decoder.feed(&(2 * LENGTH as u32).to_be_bytes(), &mut |_| ()).unwrap();
        decoder.feed(b"x", &mut |_| ()).unwrap();
        let State::Body { body, .. } = &decoder.state else { panic!("not in a body") };
        assert_eq!(body.capacity(), LENGTH, "what came before, not what is announced");
    }

    #[test]
    fn a_run_never_keeps_more_than_its_bound_alive() {
        let input = encode(&vec![vec![7; 1000]; 1000]);
        FrameDecoder::new(1000)
            .feed(&input, &mut |piece| {
                if let Piece::Run(run) = piece {
                    assert!(run.encoded_bytes() <= RUN_BYTES_MAX);
                }
            })
            .unwrap();
    }

    proptest! {
        #[test]
        fn any_split_of_any_frames_yields_the_same_frames(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..40),
            cuts in proptest::collection::vec(any::<usize>(), 0..60),
        ) {
            let input = encode(&frames);
            let (got, error) = decode(&input, &cuts, 200);
            prop_assert_eq!(error, None);
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn any_split_of_any_bytes_ends_the_same_way(
            input in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..400),
            cuts in proptest::collection::vec(any::<usize>(), 0..60),
        ) {
            prop_assert_eq!(decode(&input, &cuts, 300), decode(&input, &[], 300));
        }
    }
}
