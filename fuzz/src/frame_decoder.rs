//! Any bytes in any split: the decoder must agree with a loop over the whole buffer.
//!
//! An input is `[limit][mode][n][n part lengths][stream]`, one byte each but the last:
//!
//! - `limit` picks the largest payload allowed, see [`LIMITS`];
//! - bit 0 of `mode` says how the stream is written, literally or as lengths of whole frames (see
//!   [`stream_of_frames`]), and bit 1 multiplies the part lengths, so that parts reach past the
//!   decoder's own thresholds;
//! - the part lengths are used in turn, again and again, until the stream has been fed.
//!
//! Run with a low `-malloc_limit_mb` the target also proves that an announced length alone
//! allocates nothing: limits go up to 4 GiB, streams to 256 KiB.

use bytes::Bytes;

use crate::frame::{FrameDecoder, FrameTooLarge, HEADER_BYTES, Piece, Position};

/// Payload limits in bytes: none at all, small ones that random lengths pass and fail, the default
/// (16 MiB), and all that a length can say.
const LIMITS: [usize; 8] = [0, 1, 5, 200, 70_000, 1 << 16, 16 << 20, u32::MAX as usize];

/// Bytes of the longest stream made from frame lengths: four times what the decoder puts into one
/// run, and little enough for the fuzzer to stay quick.
const STREAM_BYTES_MAX: usize = 256 << 10;

/// Parts a stream is fed in before the rest is fed at once; also for the fuzzer's speed.
const PARTS_MAX: usize = 4096;

/// What a large part length is multiplied by: 255 of these are over 64 KiB.
const PART_SCALE: usize = 259;

/// What a decoder made of a stream.
#[derive(Debug, PartialEq)]
struct Decoded {
    frames: Vec<Bytes>,
    /// Where it ended: a position, or the refusal of a length.
    end: Result<Position, FrameTooLarge>,
}

/// One input, taken apart.
struct Case {
    limit: usize,
    part_lengths: Vec<usize>,
    stream: Vec<u8>,
}

impl Case {
    fn parse(input: &[u8]) -> Option<Self> {
        let (&[limit, mode, parts], rest) = input.split_first_chunk::<3>()?;
        let (parts, stream) = rest.split_at_checked(usize::from(parts))?;
        let scale = if mode & 2 == 0 { 1 } else { PART_SCALE };
        Some(Self {
            limit: LIMITS[usize::from(limit) % LIMITS.len()],
            part_lengths: parts.iter().map(|&part| usize::from(part) * scale).collect(),
            stream: if mode & 1 == 0 { stream.to_vec() } else { stream_of_frames(stream) },
        })
    }

    /// The stream in its parts, empty ones among them.
    fn parts(&self) -> Vec<&[u8]> {
        let mut parts = Vec::new();
        let mut rest = self.stream.as_slice();
        for &length in self.part_lengths.iter().cycle().take(PARTS_MAX) {
            let (part, more) = rest.split_at(length.min(rest.len()));
            parts.push(part);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        parts.push(rest);
        parts
    }
}

/// Writes a frame for each pair of bytes, its big-endian length; an odd byte at the end cuts that
/// many bytes off the stream. Payloads are distinct, so that mixed-up frames show.
fn stream_of_frames(lengths: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut filler = 0_u8;
    let (pairs, cut) = lengths.as_chunks::<2>();
    for &pair in pairs {
        let length = usize::from(u16::from_be_bytes(pair));
        if stream.len() + HEADER_BYTES + length > STREAM_BYTES_MAX {
            break;
        }
        stream.extend_from_slice(&[0, 0, pair[0], pair[1]]);
        stream.extend(std::iter::repeat_with(|| filler).take(length));
        filler = filler.wrapping_add(1);
    }
    let cut = cut.first().map_or(0, |&cut| usize::from(cut));
    stream.truncate(stream.len().saturating_sub(cut));
    stream
}

/// The reference: one loop over the whole stream, and where in it a refused length ends.
fn decode_whole(stream: &[u8], limit: usize) -> (Decoded, Option<usize>) {
    let mut frames = Vec::new();
    let mut rest = stream;
    loop {
        let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            let end = match rest.len() {
                0 => Position::Boundary,
                received => Position::InLength { received },
            };
            return (Decoded { frames, end: Ok(end) }, None);
        };
        let announced = u32::from_be_bytes(*header);
        let length = announced as usize;
        if length > limit {
            let error = FrameTooLarge { announced: u64::from(announced), limit };
            return (Decoded { frames, end: Err(error) }, Some(stream.len() - body.len()));
        }
        if length > body.len() {
            let end = Position::InBody { received: body.len(), announced: length };
            return (Decoded { frames, end: Ok(end) }, None);
        }
        let (payload, after) = body.split_at(length);
        frames.push(Bytes::copy_from_slice(payload));
        rest = after;
    }
}

/// The decoder under test; its memory and the moment of its refusal are checked on the way.
fn decode_parts(case: &Case, refused_at: Option<usize>) -> Decoded {
    let mut decoder = FrameDecoder::new(case.limit);
    let mut frames: Vec<Bytes> = Vec::new();
    let mut framed_bytes = 0;
    let mut fed_bytes = 0;
    for part in case.parts() {
        let result = decoder.feed(part, &mut |piece| {
            let before = frames.len();
            match piece {
                Piece::Run(run) => frames.extend(run),
                Piece::Frame(frame) => frames.push(frame),
            }
            framed_bytes += frames[before..].iter().map(|f| HEADER_BYTES + f.len()).sum::<usize>();
        });
        fed_bytes += part.len();
        if let Err(error) = result {
            assert!(refused_at.is_some_and(|at| at <= fed_bytes), "refused too early");
            return Decoded { frames, end: Err(error) };
        }
        assert!(refused_at.is_none_or(|at| at > fed_bytes), "a refused length was passed over");
        let unfinished = fed_bytes - framed_bytes;
        let held = decoder.held_bytes();
        assert!(held <= unfinished, "{held} bytes held of an unfinished frame's {unfinished}");
    }
    Decoded { frames, end: Ok(decoder.position()) }
}

/// One input.
pub fn run(input: &[u8]) {
    let Some(case) = Case::parse(input) else { return };
    let (expected, refused_at) = decode_whole(&case.stream, case.limit);
    assert_eq!(decode_parts(&case, refused_at), expected);
}
