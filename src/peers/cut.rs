//! Cuts what a flow's stream brings into frames, each byte copied once.

use bytes::{Bytes, BytesMut};

use crate::frame::{RUN_BYTES_MAX, Run};
use crate::session::frame_head::{FrameHead, FrameLength, HeadError, LENGTH_BYTES};

/// A body that is not whole yet starts with at most this much memory and then grows as it arrives.
const BODY_BYTES_INITIAL: usize = 64 * 1024;

/// What came whole.
pub(super) enum Came {
    /// Messages that arrived together.
    Run(Run),
    Frame(FrameHead, Bytes),
}

/// Why a stream is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CutError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("a frame of {announced} bytes was announced, the limit is {limit}")]
    TooLarge { announced: usize, limit: usize },
}

/// See the module.
pub(super) struct Cutter {
    frame_bytes_max: usize,
    /// The frame that is not whole, its length included.
    held: BytesMut,
    /// Bytes of it altogether, once its length is known.
    wanted: Option<(FrameLength, usize)>,
}

impl Cutter {
    /// At the beginning of the frames, for payloads of up to `frame_bytes_max` bytes.
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, held: BytesMut::new(), wanted: None }
    }

    /// Takes all of `input` and hands every frame that became whole to `sink`, in order.
    pub(super) fn feed(
        &mut self,
        mut input: &[u8],
        sink: &mut dyn FnMut(Came),
    ) -> Result<(), CutError> {
        while !input.is_empty() {
            if self.held.is_empty() {
                let whole = self.whole_messages(input)?;
                if whole > 0 {
                    sink(Came::Run(Run::of(Bytes::copy_from_slice(&input[..whole]))));
                    input = &input[whole..];
                    continue;
                }
            }
            input = self.hold(input, sink)?;
        }
        Ok(())
    }

    /// The length of the longest prefix that is whole messages and fits one run.
    fn whole_messages(&self, input: &[u8]) -> Result<usize, CutError> {
        let mut whole = 0;
        while let Some(header) = input[whole..].first_chunk::<LENGTH_BYTES>() {
            let length = match self.check(*header) {
                Ok(length) => length,
                Err(_) if whole > 0 => break,
                Err(error) => return Err(error),
            };
            let end = whole + LENGTH_BYTES + length.length;
            let fits = end <= input.len() && (whole == 0 || end <= RUN_BYTES_MAX);
            if !fits || !length.is_message() {
                break;
            }
            whole = end;
        }
        Ok(whole)
    }

    fn check(&self, header: [u8; LENGTH_BYTES]) -> Result<FrameLength, CutError> {
        let length = FrameLength::decode(header)?;
        let limit = self.frame_bytes_max + length.head_bytes();
        if length.length > limit {
            return Err(CutError::TooLarge { announced: length.length, limit });
        }
        Ok(length)
    }

    /// Adds to the frame that is not whole; returns what it did not need.
    fn hold<'a>(
        &mut self,
        input: &'a [u8],
        sink: &mut dyn FnMut(Came),
    ) -> Result<&'a [u8], CutError> {
        let wanted = self.wanted.map_or(LENGTH_BYTES, |(_, wanted)| wanted);
        let (part, rest) = input.split_at(input.len().min(wanted - self.held.len()));
        self.grow(part.len(), wanted);
        self.held.extend_from_slice(part);
        if self.held.len() < wanted {
            return Ok(rest);
        }
        let Some((length, _)) = self.wanted else {
            let header = *self.held.first_chunk::<LENGTH_BYTES>().unwrap_or(&[0; LENGTH_BYTES]);
            let length = self.check(header)?;
            self.wanted = Some((length, LENGTH_BYTES + length.length));
            if length.length > 0 {
                return Ok(rest);
            }
            self.finish(length, sink)?;
            return Ok(rest);
        };
        self.finish(length, sink)?;
        Ok(rest)
    }

    fn finish(&mut self, length: FrameLength, sink: &mut dyn FnMut(Came)) -> Result<(), CutError> {
        self.wanted = None;
        let mut frame = std::mem::take(&mut self.held).freeze();
        let head = length.head(&frame[LENGTH_BYTES..])?;
        let payload = frame.split_off(LENGTH_BYTES + head.bytes());
        sink(Came::Frame(head, payload));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                cutter.feed(part, &mut |came| match came {
                    Came::Run(run) => found.extend(run.map(|it| (FrameHead::Message, it))),
                    Came::Frame(head, payload) => found.push((head, payload)),
                }).expect("well formed");
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_behind_what_came_before_it() {
        let mut cutter = Cutter::new(10);
        let mut found = 0;
        let mut sink = |_: Came| found += 1;
        cutter.feed(&[0, 0, 0, 1, 7], &mut sink).unwrap();
        let error = cutter.feed(&[0, 0, 0, 11, 7], &mut sink).unwrap_err();
        assert_eq!(error, CutError::TooLarge { announced: 11, limit: 10 });
        assert_eq!(found, 1);
    }
}
