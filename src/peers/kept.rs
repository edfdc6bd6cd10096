//! Frames of a flow as they are kept until the peer's application took them: encoded once, sent over as
//! many connections as it takes.

use bytes::{Buf, Bytes, BytesMut};

use crate::session::flow_out::Entry;
use crate::session::frame_head::{FrameHead, FrameLength, LENGTH_BYTES};
use crate::transport::link::batch::{Batch, PARTS_MAX, Payload, Place};
use crate::transport::link::room::Cost;
use crate::transport::session_streams::Parts;

/// Consecutive frames that go out together.
pub(super) struct Kept {
    frames: u64,
    bytes: usize,
    /// Room that they take until they are released.
    pub(super) cost: usize,
    batch: Batch,
    /// Where the heads of requests are, whose time goes on.
    requests: Vec<Asked>,
    closed: bool,
}

/// A request among them.
struct Asked {
    number: u64,
    place: Place,
}

/// What is to be said of a request that goes out (again).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// So many milliseconds are left of its time.
    Ms(u32),
    /// Nobody waits for its reply.
    Nothing,
}

impl Entry for Kept {
    fn frames(&self) -> u64 {
        self.frames
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            frames: 0,
            bytes: 0,
            cost: 0,
            batch: Batch::default(),
            requests: Vec::new(),
            closed: false,
        }
    }

    /// Nothing more fits.
    pub(super) fn is_full(&self) -> bool {
        self.closed || self.batch.is_full()
    }

    /// Adds the frame of this number. A payload that was copied comes back, to be dropped outside the
    /// caller's lock.
    pub(super) fn push(
        &mut self,
        number: u64,
        head: FrameHead,
        payload: Bytes,
        cost: usize,
    ) -> Option<Bytes> {
        let length = payload.len();
        // Its length was looked at before it was admitted.
        let encoded = head.encode(length)?;
        let copied =
            self.batch.push_headed(&encoded, Payload::Given(payload), Cost::usual(0), None);
        if let FrameHead::Request { .. } = head {
            let place = self.batch.place_of_last(encoded.len() + length);
            self.requests.push(Asked { number, place });
        }
        self.frames += 1;
        self.bytes += encoded.len() + length;
        self.cost += cost;
        copied
    }

    /// What goes out behind the first `had` frames, with what is left of the time of each request.
    pub(super) fn parts(&mut self, had: u64, left: impl Fn(u64) -> Left) -> Parts {
        self.batch.close();
        self.closed = true;
        let (mut parts, count) = self.batch.parts();
        for asked in &self.requests {
            let said = match left(asked.number) {
                Left::Ms(left) => left,
                Left::Nothing => 0,
            };
            patch(&mut parts, asked.place, said);
        }
        behind(usize::try_from(had).unwrap_or(usize::MAX), Parts { parts, count })
    }

    /// The payloads of its messages and requests, in order, each with whether it is a request.
    pub(super) fn into_payloads(mut self) -> Vec<Bytes> {
        self.batch.close();
        let (parts, count) = self.batch.parts();
        Walk::new(parts.into_iter().take(count)).collect()
    }
}

/// Writes what is left of a request's time where its head is, in memory that others read meanwhile.
fn patch(parts: &mut [Bytes; PARTS_MAX], place: Place, left: u32) {
    let Some(part) = parts.get_mut(place.part) else { return };
    let at = place.offset + LENGTH_BYTES..place.offset + LENGTH_BYTES + size_of::<u32>();
    if part.get(at.clone()).is_some_and(|now| now != left.to_be_bytes()) {
        let mut copy = BytesMut::from(&part[..]);
        copy[at].copy_from_slice(&left.to_be_bytes());
        *part = copy.freeze();
    }
}

/// Goes along frames, by their payloads.
struct Walk<P> {
    parts: P,
    /// Of the part at which it is.
    rest: Bytes,
}

impl<P: Iterator<Item = Bytes>> Walk<P> {
    fn new(parts: P) -> Self {
        Self { parts, rest: Bytes::new() }
    }
}

impl<P: Iterator<Item = Bytes>> Iterator for Walk<P> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            self.rest = self.parts.next()?;
        }
        let length = FrameLength::decode(*self.rest.first_chunk::<LENGTH_BYTES>()?).ok()?;
        let head = length.head(&self.rest[LENGTH_BYTES..]).ok()?;
        self.rest.advance(LENGTH_BYTES + head.bytes());
        let payload = length.length - head.bytes();
        if self.rest.len() >= payload {
            Some(self.rest.split_to(payload))
        } else {
            // A large payload is a part of its own.
            self.parts.next()
        }
    }
}

/// What is behind the first frames.
fn behind(frames: usize, Parts { parts, count }: Parts) -> Parts {
    if frames == 0 {
        return Parts { parts, count };
    }
    let mut walk = Walk::new(parts.into_iter().take(count));
    walk.by_ref().take(frames).for_each(drop);
    let (mut parts, mut count) = (<[Bytes; PARTS_MAX]>::default(), 0);
    let rest = Some(walk.rest).filter(|rest| !rest.is_empty());
    for (place, part) in parts.iter_mut().zip(rest.into_iter().chain(walk.parts)) {
        (*place, count) = (part, count + 1);
    }
    Parts { parts, count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::cut::{Announced, Came, Cutter, Frames};
    use crate::session::flow_out::FlowViolation;

    #[derive(Default)]
    struct Found(Vec<(FrameHead, Bytes)>);

    impl Frames for Found {
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

    fn frame(number: u64, length: usize) -> Bytes {
        (0..length).map(|at| (number as usize + at) as u8).collect()
    }

    fn decoded(parts: &Parts) -> Vec<(FrameHead, Bytes)> {
        let mut cutter = Cutter::new(1 << 20);
        let mut found = Found::default();
        for part in &parts.parts[..parts.count] {
            cutter.feed(part, &mut found).unwrap();
        }
        found.0
    }

    #[test]
    fn what_is_kept_goes_out_whole_each_time_and_comes_back_as_it_was() {
        let lengths = [10, 0, 9_000, 300, 8_192, 20_000];
        let mut kept = Kept::new();
        for (number, length) in (1..).zip(lengths) {
            kept.push(number, FrameHead::Message, frame(number, length), 1);
        }
        let expected: Vec<_> = (1..).zip(lengths).map(|(n, length)| frame(n, length)).collect();
        for _ in 0..2 {
            let parts = kept.parts(0, |_| Left::Nothing);
            let found: Vec<_> = decoded(&parts).into_iter().map(|(_, payload)| payload).collect();
            assert_eq!(found, expected);
        }
        for had in 0..6 {
            let parts = kept.parts(had as u64, |_| Left::Nothing);
            let found: Vec<_> = decoded(&parts).into_iter().map(|(_, payload)| payload).collect();
            assert_eq!(found, expected[had..]);
        }
        assert_eq!((kept.frames(), kept.cost), (6, 6));
        assert_eq!(kept.into_payloads(), expected);
    }

    #[test]
    fn what_is_left_of_a_request_is_said_anew_each_time() {
        let mut kept = Kept::new();
        kept.push(1, FrameHead::Message, frame(1, 100), 1);
        kept.push(2, FrameHead::Request { left_ms: 500 }, frame(2, 50), 1);
        kept.push(3, FrameHead::Request { left_ms: 600 }, frame(3, 12_000), 1);
        for left in [500, 17] {
            let parts =
                kept.parts(0, |number| if number == 2 { Left::Ms(left) } else { Left::Nothing });
            let heads: Vec<_> = decoded(&parts).into_iter().map(|(head, _)| head).collect();
            let request = |left_ms| FrameHead::Request { left_ms };
            assert_eq!(heads, [FrameHead::Message, request(left), request(0)]);
        }
        assert_eq!(kept.into_payloads(), [frame(1, 100), frame(2, 50), frame(3, 12_000)]);
    }
}
