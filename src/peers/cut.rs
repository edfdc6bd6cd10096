//! Cuts what a flow's stream brings into frames, each byte copied once.

use bytes::{Bytes, BytesMut};

use super::room::Large;
use crate::frame::{RUN_BYTES_MAX, Run};
use crate::session::flow_out::FlowViolation;
use crate::session::frame_head::{FrameHead, FrameLength, HeadError, LENGTH_BYTES};

/// A body that is not whole yet starts with at most this much memory and then grows as it arrives.
const BODY_BYTES_INITIAL: usize = 64 * 1024;

/// What came whole.
pub(super) enum Came {
    /// Messages that arrived together: how many.
    Run(u64, Run),
    /// With the room that a large one has.
    Frame(FrameHead, Bytes, Option<Large>),
}

/// What becomes of a frame that does not come whole at once.
pub(super) enum Announced {
    /// It is within what is granted.
    Within,
    /// It has room of its own.
    Has(Large),
    /// It has to wait.
    Waits,
}

/// Why a stream is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CutError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("a frame of {announced} bytes was announced, the limit is {limit}")]
    TooLarge { announced: usize, limit: usize },
    #[error(transparent)]
    Flow(#[from] FlowViolation),
}

/// See the module.
pub(super) struct Cutter {
    frame_bytes_max: usize,
    /// The frame that is not whole, its length included.
    held: BytesMut,
    /// Bytes of it altogether, once its length is known and there is room.
    wanted: Option<(FrameLength, usize)>,
    large: Option<Large>,
}

/// Whom the frames are told.
pub(super) trait Frames {
    /// One of so many bytes begins, its length included, and does not come whole at once.
    fn announced(&mut self, bytes: usize) -> Result<Announced, FlowViolation>;
    /// It came whole.
    fn came(&mut self, came: Came);
}

impl Cutter {
    /// At the beginning of the frames, for payloads of up to `frame_bytes_max` bytes.
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, held: BytesMut::new(), wanted: None, large: None }
    }

    /// Whether it is inside a frame, for which there is room.
    pub(super) fn is_unfinished(&self) -> bool {
        let waits = self.wanted.is_none() && self.held.len() == LENGTH_BYTES;
        !self.held.is_empty() && !waits
    }

    /// Hands every frame that became whole to `sink`, in order. Takes all of `input`, unless there is no
    /// room for a large frame; returns how much was taken.
    pub(super) fn feed(&mut self, input: &[u8], sink: &mut impl Frames) -> Result<usize, CutError> {
        let mut left = input;
        while !left.is_empty() {
            if self.held.is_empty() {
                let (frames, whole) = self.whole(left, true)?;
                if whole > 0 {
                    let run = Run::of(Bytes::copy_from_slice(&left[..whole]));
                    sink.came(Came::Run(frames, run));
                    left = &left[whole..];
                    continue;
                }
                let (_, whole) = self.whole(left, false)?;
                if whole > 0 {
                    others(Bytes::copy_from_slice(&left[..whole]), sink)?;
                    left = &left[whole..];
                    continue;
                }
            }
            match self.hold(left, sink)? {
                Some(rest) => left = rest,
                None => break,
            }
        }
        Ok(input.len() - left.len())
    }

    /// The frames and the length of the longest prefix that is whole frames, all messages or none, and fits
    /// one run.
    fn whole(&self, input: &[u8], messages: bool) -> Result<(u64, usize), CutError> {
        let (mut frames, mut whole) = (0, 0);
        while let Some(header) = input[whole..].first_chunk::<LENGTH_BYTES>() {
            let length = match self.check(*header) {
                Ok(length) => length,
                Err(_) if whole > 0 => break,
                Err(error) => return Err(error),
            };
            let end = whole + LENGTH_BYTES + length.length;
            let fits = end <= input.len() && (whole == 0 || end <= RUN_BYTES_MAX);
            if !fits || length.is_message() != messages {
                break;
            }
            (frames, whole) = (frames + 1, end);
        }
        Ok((frames, whole))
    }

    fn check(&self, header: [u8; LENGTH_BYTES]) -> Result<FrameLength, CutError> {
        let length = FrameLength::decode(header)?;
        let limit = self.frame_bytes_max + length.head_bytes();
        if length.length > limit {
            return Err(CutError::TooLarge { announced: length.length, limit });
        }
        Ok(length)
    }

    /// Adds to the frame that is not whole; returns what it did not need, or nothing if it has to wait.
    fn hold<'a>(
        &mut self,
        input: &'a [u8],
        sink: &mut impl Frames,
    ) -> Result<Option<&'a [u8]>, CutError> {
        let wanted = self.wanted.map_or(LENGTH_BYTES, |(_, wanted)| wanted);
        let (part, rest) = input.split_at(input.len().min(wanted - self.held.len()));
        self.grow(part.len(), wanted);
        self.held.extend_from_slice(part);
        if self.held.len() < wanted {
            return Ok(Some(rest));
        }
        let Some((length, _)) = self.wanted else {
            let header = *self.held.first_chunk::<LENGTH_BYTES>().unwrap_or(&[0; LENGTH_BYTES]);
            let length = self.check(header)?;
            let bytes = LENGTH_BYTES + length.length;
            match sink.announced(bytes)? {
                Announced::Within => {}
                Announced::Has(large) => self.large = Some(large),
                // Whoever feeds the rest again asks again.
                Announced::Waits if rest.len() == input.len() => return Ok(None),
                Announced::Waits => return Ok(Some(rest)),
            }
            self.wanted = Some((length, bytes));
            if length.length > 0 {
                return Ok(Some(rest));
            }
            self.finish(length, sink)?;
            return Ok(Some(rest));
        };
        self.finish(length, sink)?;
        Ok(Some(rest))
    }

    fn finish(&mut self, length: FrameLength, sink: &mut impl Frames) -> Result<(), CutError> {
        self.wanted = None;
        let mut frame = std::mem::take(&mut self.held).freeze();
        let head = length.head(&frame[LENGTH_BYTES..])?;
        let payload = frame.split_off(LENGTH_BYTES + head.bytes());
        sink.came(Came::Frame(head, payload, self.large.take()));
        Ok(())
    }

    /// Doubling, and never beyond what was announced.
    fn grow(&mut self, more: usize, wanted: usize) {
        let needed = self.held.len() + more;
        if needed > self.held.capacity() {
            let target = needed.max(self.held.capacity() * 2).max(BODY_BYTES_INITIAL).min(wanted);
            self.held.reserve(target - self.held.len());
        }
    }
}

/// Tells whole frames that are no messages, all in one allocation.
fn others(mut encoded: Bytes, sink: &mut impl Frames) -> Result<(), CutError> {
    while let Some(header) = encoded.first_chunk::<LENGTH_BYTES>() {
        let length = FrameLength::decode(*header)?;
        let mut frame = encoded.split_to(LENGTH_BYTES + length.length);
        let head = length.head(&frame[LENGTH_BYTES..])?;
        let payload = frame.split_off(LENGTH_BYTES + head.bytes());
        sink.came(Came::Frame(head, payload, None));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Has room for everything.
    struct Found<'a>(&'a mut Vec<(FrameHead, Bytes)>);

    impl Frames for Found<'_> {
        fn announced(&mut self, _: usize) -> Result<Announced, FlowViolation> {
            Ok(Announced::Within)
        }

        fn came(&mut self, came: Came) {
            match came {
                Came::Run(_, run) => self.0.extend(run.map(|it| (FrameHead::Message, it))),
                Came::Frame(head, payload, _) => self.0.push((head, payload)),
            }
        }
    }

    fn head() -> impl Strategy<Value = (FrameHead, usize)> {
        let length = prop_oneof![0..40_usize, 0..40_000_usize];
        let request = |left_ms| FrameHead::Request { left_ms };
        prop_oneof![
            6 => length.clone().prop_map(|length| (FrameHead::Message, length)),
            1 => (any::<u32>(), length).prop_map(move |(left, length)| (request(left), length)),
            1 => Just((FrameHead::Void, 0)),
        ]
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_how_the_bytes_were_split(
            frames in proptest::collection::vec(head(), 0..30),
            splits in proptest::collection::vec(1..5_000_usize, 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (number, (head, length)) in frames.into_iter().enumerate() {
                let payload = vec![number as u8; length];
                bytes.extend_from_slice(&head.encode(length).expect("short"));
                bytes.extend_from_slice(&payload);
                expected.push((head, Bytes::from(payload)));
            }
            let (mut cutter, mut found, mut rest) = (Cutter::new(40_000), Vec::new(), &bytes[..]);
            for split in splits.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, behind) = rest.split_at(split.min(rest.len()));
                rest = behind;
                let taken = cutter.feed(part, &mut Found(&mut found)).expect("well formed");
                prop_assert_eq!(taken, part.len());
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_behind_what_came_before_it() {
        let mut cutter = Cutter::new(10);
        let mut found = Vec::new();
        cutter.feed(&[0, 0, 0, 1, 7], &mut Found(&mut found)).unwrap();
        let error = cutter.feed(&[0, 0, 0, 11, 7], &mut Found(&mut found)).unwrap_err();
        assert_eq!(error, CutError::TooLarge { announced: 11, limit: 10 });
        assert_eq!(found.len(), 1);
    }

    /// Has room for no large frame until it is told.
    struct Short(bool, Vec<Bytes>);

    impl Frames for Short {
        fn announced(&mut self, _: usize) -> Result<Announced, FlowViolation> {
            Ok(if self.0 { Announced::Within } else { Announced::Waits })
        }

        fn came(&mut self, came: Came) {
            match came {
                Came::Run(_, run) => self.1.extend(run),
                Came::Frame(_, payload, _) => self.1.push(payload),
            }
        }
    }

    #[test]
    fn a_frame_without_room_waits_and_nothing_of_it_is_taken_but_its_length() {
        let mut bytes = FrameHead::Message.encode(100).expect("short").to_vec();
        bytes.extend([7; 100]);
        for split in [2, 4, 5, 50] {
            let (mut cutter, mut sink) = (Cutter::new(1_000), Short(false, Vec::new()));
            let first = cutter.feed(&bytes[..split], &mut sink).unwrap();
            assert_eq!(first, split.min(LENGTH_BYTES));
            for _ in 0..2 {
                let more = cutter.feed(&bytes[first..split + 1], &mut sink).unwrap();
                assert!(more + first <= LENGTH_BYTES, "{split}: {more}");
                if more > 0 {
                    break;
                }
            }
            sink.0 = true;
            let taken = first.max((split + 1).min(LENGTH_BYTES));
            let rest = cutter.feed(&bytes[taken..], &mut sink).unwrap();
            assert_eq!((taken + rest, sink.1.len()), (bytes.len(), 1), "{split}");
        }
    }
}
