//! What goes out as one submission: small frames copied behind each other, large payloads as they
//! are.

use bytes::{BufMut, Bytes, BytesMut};

use super::outcome::OutcomeSink;
use super::room::Cost;
use crate::frame::{self, HEADER_BYTES};
use crate::never::never;

/// Parts of a batch at most: as many as a submission has buffers.
pub(crate) const PARTS_MAX: usize = 8;

/// Payloads up to this size are copied behind each other; larger ones are worth a part of their
/// own.
const COPY_BYTES_MAX: usize = 8 * 1024;

/// From this size on memory that is full is sent as it is and more is taken, instead of moved to
/// where there is room for all.
const MOVE_BYTES_MAX: usize = 16 * 1024;

/// A batch is submitted on its own from this size on: enough to amortise a submission (2 to 3 µs),
/// small enough to keep several on their way.
pub(crate) const BATCH_BYTES: usize = 128 * 1024;

/// A batch with a payload that is not copied is submitted from this size on: behind it there is
/// nothing to amortise, and a lane that gives way has one batch too many on its way.
const LARGE_BATCH_BYTES: usize = 64 * 1024;

/// Larger payloads go out in pieces of this size: each is acknowledged by itself, so that a slow path
/// shows that it moves (with 1 MiB, a path of 300 kbit/s within the default time for a stall).
pub(crate) const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// The parts that one more frame may add: the small frames in front of it, its header (where it
/// needs memory of its own) and itself.
const PARTS_OF_ONE: usize = 3;

/// What a submission carries until it is acknowledged.
#[derive(Default)]
pub(crate) struct Sent {
    pub(super) frames: u64,
    /// Bytes on the wire.
    pub(super) bytes: usize,
    /// Those of them that are payload.
    pub(super) payload: usize,
    /// It goes on with a payload whose beginning is in the batch before it.
    pub(super) continues: bool,
    /// The payload at its end goes on in the next batch.
    pub(super) splits: bool,
    /// Bytes of admission to give back.
    pub(super) cost: usize,
    /// The same, to the node's room for large frames.
    pub(super) large: usize,
    pub(crate) sinks: Vec<(Bytes, OutcomeSink)>,
}

/// Where something is in a batch that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) part: usize,
    pub(crate) offset: usize,
}

/// A payload that is handed over, or may only be looked at and cloned.
pub(crate) enum Payload<'a> {
    Given(Bytes),
    Lent(&'a Bytes),
    /// In two parts, of which the first is copied.
    Behind(&'a [u8], Bytes),
}

impl Payload<'_> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.head().len() + self.body().len()
    }

    #[inline]
    fn head(&self) -> &[u8] {
        match self {
            Self::Given(_) | Self::Lent(_) => &[],
            Self::Behind(head, _) => head,
        }
    }

    #[inline]
    pub(crate) fn body(&self) -> &Bytes {
        match self {
            Self::Given(body) | Self::Behind(_, body) => body,
            Self::Lent(body) => body,
        }
    }

    fn into_body(self) -> Bytes {
        match self {
            Self::Given(body) | Self::Behind(_, body) => body,
            Self::Lent(body) => body.clone(),
        }
    }

    /// Back to the one who gave it.
    #[inline]
    fn given(self) -> Option<Bytes> {
        match self {
            Self::Given(body) | Self::Behind(_, body) => Some(body),
            Self::Lent(_) => None,
        }
    }
}

/// Frames that will be one submission.
pub(crate) struct Batch {
    parts: [Bytes; PARTS_MAX],
    count: usize,
    /// Small frames not closed into a part yet.
    tail: BytesMut,
    /// From this size on it is full.
    enough: usize,
    pub(super) sent: Sent,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            parts: <[Bytes; PARTS_MAX]>::default(),
            count: 0,
            tail: BytesMut::new(),
            enough: BATCH_BYTES,
            sent: Sent::default(),
        }
    }
}

impl Batch {
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.sent.bytes >= self.enough || self.count + PARTS_OF_ONE > PARTS_MAX
    }

    /// Adds a frame whose body has up to [`PIECE_BYTES_MAX`] bytes. A body that was copied comes back:
    /// whoever holds a lock drops it behind that, for it is the caller's.
    // Always: a payload that is moved through each of them costs as much as its copy.
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Option<Bytes> {
        let header = frame::header(frame.len());
        self.push_headed(&header, frame, cost, sink)
    }

    /// As [`Batch::push`], with `header` in front of the payload as it is; the body may be of any size.
    #[inline(always)]
    pub(crate) fn push_headed(
        &mut self,
        header: &[u8],
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Option<Bytes> {
        if frame.body().len() <= COPY_BYTES_MAX {
            self.copy(header, frame.head(), frame.body(), cost, sink);
            return frame.given();
        }
        self.push_large(header, frame, cost, sink);
        None
    }

    fn push_large(
        &mut self,
        header: &[u8],
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) {
        self.begin_frame(header, &frame);
        self.sent.bytes += header.len() + frame.len();
        self.sent.payload += frame.len();
        self.finish_frame(frame.body(), cost, sink);
        self.close_tail();
        self.add_part(frame.into_body());
        self.enough = LARGE_BATCH_BYTES;
    }

    /// The way of most frames: all of it behind those before it.
    fn copy(
        &mut self,
        header: &[u8],
        head: &[u8],
        body: &Bytes,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) {
        let payload = head.len() + body.len();
        self.make_room(header.len() + payload);
        // A length that is known here is one store instead of a call.
        match <&[u8; HEADER_BYTES]>::try_from(header) {
            Ok(usual) => self.tail.put_slice(usual),
            Err(_) => self.tail.put_slice(header),
        }
        if !head.is_empty() {
            self.tail.put_slice(head);
        }
        self.tail.put_slice(body);
        self.sent.bytes += header.len() + payload;
        self.sent.payload += payload;
        self.finish_frame(body, cost, sink);
    }

    /// Adds the beginning of a frame with a larger body; the batches that are returned go on with it.
    pub(crate) fn split(
        &mut self,
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Vec<Self> {
        let head = frame.head().len();
        self.begin_frame(&frame::header(frame.len()), &frame);
        let body = frame.into_body();
        let mut rest = body.clone();
        self.close_tail();
        self.add_part(rest.split_to(PIECE_BYTES_MAX));
        self.sent.bytes += HEADER_BYTES + head + PIECE_BYTES_MAX;
        self.sent.payload += head + PIECE_BYTES_MAX;
        (self.enough, self.sent.splits) = (0, true);
        let mut pieces = Vec::with_capacity(rest.len().div_ceil(PIECE_BYTES_MAX));
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
            let mut batch = Self { enough: 0, ..Self::default() };
            (batch.sent.continues, batch.sent.splits) = (true, !rest.is_empty());
            (batch.sent.bytes, batch.sent.payload) = (piece.len(), piece.len());
            batch.add_part(piece);
            pieces.push(batch);
        }
        match pieces.last_mut() {
            Some(last) => last.finish_frame(&body, cost, sink),
            None => {
                never!("{} bytes are one piece", body.len());
                self.finish_frame(&body, cost, sink);
            }
        }
        pieces
    }

    /// What stands in front of a body that is not copied.
    fn begin_frame(&mut self, header: &[u8], frame: &Payload<'_>) {
        self.make_room(header.len() + frame.head().len());
        self.tail.put_slice(header);
        self.tail.put_slice(frame.head());
    }

    /// The frame ends in this batch, and meets its end with it.
    #[inline]
    fn finish_frame(&mut self, frame: &Bytes, cost: Cost, sink: Option<OutcomeSink>) {
        self.sent.frames += 1;
        *if cost.is_large { &mut self.sent.large } else { &mut self.sent.cost } += cost.bytes;
        if let Some(sink) = sink {
            self.sent.sinks.push((frame.clone(), sink));
        }
    }

    /// Room for `length` bytes in the tail. What a batch has doubles each time it is too little, and
    /// never passes what makes it full.
    #[inline]
    fn make_room(&mut self, length: usize) {
        let room = self.tail.capacity() - self.tail.len();
        if length > room && self.tail.len() >= MOVE_BYTES_MAX {
            self.close_tail();
            never!(
                self.sent.bytes >= BATCH_BYTES,
                "a batch of {} bytes is not full",
                self.sent.bytes
            );
            let rest = BATCH_BYTES.saturating_sub(self.sent.bytes);
            self.tail.reserve(self.sent.bytes.min(rest).max(length));
        } else {
            self.tail.reserve(length);
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail).freeze();
            self.add_part(tail);
        }
    }

    fn add_part(&mut self, part: Bytes) {
        self.parts[self.count] = part;
        self.count += 1;
    }

    /// Where the frame begins that was added last, with `bytes` altogether.
    pub(crate) fn place_of_last(&self, bytes: usize) -> Place {
        // It is in the tail, or its payload is the last part and the rest ends the part before that.
        if self.tail.is_empty() {
            let large = self.parts[self.count - 1].len();
            let part = self.count - 2;
            Place { part, offset: self.parts[part].len() - (bytes - large) }
        } else {
            Place { part: self.count, offset: self.tail.len() - bytes }
        }
    }

    /// What goes out, once it is closed.
    pub(crate) fn parts(&self) -> ([Bytes; PARTS_MAX], usize) {
        (self.parts.clone(), self.count)
    }

    /// Nothing is added from here on.
    pub(crate) fn close(&mut self) {
        self.close_tail();
        self.enough = 0;
    }

    /// What goes out, one part behind the other, and what to remember of it.
    pub(crate) fn into_parts(self) -> ([Bytes; PARTS_MAX], usize, Sent) {
        (self.parts, self.count, self.sent)
    }

    /// What [`Batch::into_parts`] gave.
    pub(crate) fn from_parts((parts, count, sent): ([Bytes; PARTS_MAX], usize, Sent)) -> Self {
        Self { parts, count, tail: BytesMut::new(), enough: 0, sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes payloads of `lengths`, over and over, until the batch is full; returns what would be
    /// sent, what should be, and the memory that small frames were gathered in.
    fn fill(lengths: &[usize]) -> (Vec<u8>, Vec<u8>, usize) {
        let (mut batch, mut expected, mut gathered) = (Batch::default(), Vec::new(), 0);
        for (number, &length) in lengths.iter().cycle().enumerate() {
            if batch.is_full() {
                break;
            }
            let frame = Bytes::from(vec![number as u8; length]);
            expected.extend_from_slice(&frame::header(length));
            expected.extend_from_slice(&frame);
            let parts = batch.count;
            let before = batch.tail.capacity();
            batch.push(Payload::Given(frame), Cost::usual(HEADER_BYTES + length), None);
            if batch.count > parts {
                gathered += before;
            }
        }
        gathered += batch.tail.capacity();
        let (parts, count, sent) = {
            batch.close();
            batch.into_parts()
        };
        assert_eq!(sent.bytes, expected.len());
        (parts[..count].concat(), expected, gathered)
    }

    #[test]
    fn what_is_gathered_goes_out_in_order_and_takes_at_most_twice_its_memory() {
        for lengths in [&[0][..], &[100], &[1_000, 3, 8_192], &[8_192], &[50, 60_000]] {
            let (sent, expected, gathered) = fill(lengths);
            assert!(sent == expected, "{lengths:?}");
            assert!(gathered <= 2 * expected.len() + COPY_BYTES_MAX, "{lengths:?}: {gathered}");
        }
    }

    #[test]
    fn large_frames_and_small_ones_between_them_never_take_more_parts_than_there_are() {
        for lengths in [&[9_000][..], &[9_000, 10], &[8_000, 8_000, 8_000, 9_000], &[200_000]] {
            let (sent, expected, _) = fill(lengths);
            assert!(sent == expected, "{lengths:?}");
        }
    }
}
