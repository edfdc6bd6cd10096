//! Any bytes on the stream of a flow, in any split, for a reader that has room or not.
//!
//! An input is `[limit][waits][n][n part lengths][stream]`, one byte each but the last:
//!
//! - `limit` picks the largest payload allowed, see [`LIMITS`];
//! - a frame that does not come whole waits for room so often as the low bits of `waits` say, each time it is
//!   asked for;
//! - the part lengths are used in turn, again and again.
//!
//! The cutter must find what a loop over the whole stream finds, in whatever parts it came and however often a
//! frame had to wait. Run with a low `-malloc_limit_mb` the target also proves that an announced length alone
//! allocates nothing.

use bytes::Bytes;

use crate::cut::{Announced, Came, CutError, Cutter, Frames};
use crate::flow_violation::FlowViolation;
use crate::frame_head::{FrameHead, FrameLength, LENGTH_BYTES};

/// Payload limits in bytes: none at all, small ones, and the default (16 MiB).
const LIMITS: [usize; 6] = [0, 1, 40, 5_000, 70_000, 16 << 20];

/// Parts a stream is fed in before the rest is fed at once, for the fuzzer's speed.
const PARTS_MAX: usize = 4096;

/// What a stream came to.
#[derive(Debug, PartialEq)]
struct Found {
    frames: Vec<(FrameHead, Bytes)>,
    end: Result<(), CutError>,
}

/// Takes what comes; a frame that is not whole has to wait before.
struct Reader {
    frames: Vec<(FrameHead, Bytes)>,
    waits: u8,
    waited: u8,
}

impl Frames for Reader {
    fn announced(&mut self, bytes: usize) -> Result<Announced, FlowViolation> {
        // What is within the least grant, as a frame without a body, waits for nothing.
        if bytes > LENGTH_BYTES && self.waited < self.waits {
            self.waited += 1;
            return Ok(Announced::Waits);
        }
        self.waited = 0;
        Ok(Announced::Within)
    }

    fn came(&mut self, came: Came) {
        match came {
            Came::Run(count, run) => {
                let before = self.frames.len();
                self.frames.extend(run.map(|it| (FrameHead::Message, it)));
                assert_eq!(self.frames.len() - before, count as usize);
            }
            Came::Frame(head, payload, _) => self.frames.push((head, payload)),
        }
    }
}

fn cut(limit: usize, waits: u8, lengths: &[u8], stream: &[u8]) -> Found {
    let mut reader = Reader { frames: Vec::new(), waits, waited: 0 };
    let (mut cutter, mut rest) = (Cutter::new(limit), stream);
    let mut lengths = lengths.iter().cycle().take(PARTS_MAX);
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |&length| usize::from(length).max(1));
        // What was not taken is told again, together with what came meanwhile.
        match cutter.feed(&rest[..length.min(rest.len())], &mut reader) {
            Ok(taken) => rest = &rest[taken..],
            Err(error) => return Found { frames: reader.frames, end: Err(error) },
        }
    }
    Found { frames: reader.frames, end: Ok(()) }
}

/// What must come out.
fn expected(limit: usize, stream: &[u8]) -> Found {
    let (mut frames, mut rest) = (Vec::new(), stream);
    let end = loop {
        let Some((header, body)) = rest.split_first_chunk::<LENGTH_BYTES>() else { break Ok(()) };
        let length = match FrameLength::decode(*header) {
            Ok(length) => length,
            Err(error) => break Err(error.into()),
        };
        let limit = limit + length.head_bytes();
        if length.length > limit {
            break Err(CutError::TooLarge { announced: length.length, limit });
        }
        let Some((body, more)) = body.split_at_checked(length.length) else { break Ok(()) };
        let head = match length.head(body) {
            Ok(head) => head,
            Err(error) => break Err(error.into()),
        };
        frames.push((head, Bytes::copy_from_slice(&body[head.bytes()..])));
        rest = more;
    };
    Found { frames, end }
}

/// One input.
pub fn run(input: &[u8]) {
    let Some((&[limit, waits, count], rest)) = input.split_first_chunk::<3>() else { return };
    let Some((lengths, stream)) = rest.split_at_checked(count.into()) else { return };
    let limit = LIMITS[usize::from(limit) % LIMITS.len()];
    assert_eq!(cut(limit, waits & 3, lengths, stream), expected(limit, stream));
}
