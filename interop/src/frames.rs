//! Frames to exchange, and the wire format read and written a second time.

use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use moorline::Limits;

/// Bytes in front of every payload (`docs/wire-format.md`).
const LENGTH_BYTES: usize = 4;

/// How many frames share one write.
const FRAMES_PER_WRITE: usize = 100;

/// The payload that is spread over many writes, and how much of it each write carries: neither
/// divides the other, nor the length of a packet.
const SPREAD_BYTES: usize = 10_007;
const SPREAD_STEP: usize = 97;

/// The sending end of a foreign peer's stream.
pub trait Outgoing: Send {
    /// Hands `bytes` to the stream in one write.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Ends the stream behind everything that was written.
    fn finish(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// The receiving end of a foreign peer's stream.
pub trait Incoming: Send {
    /// What arrived next; `None` at the end of the stream.
    fn read(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;
}

/// Bytes after which a payload repeats itself: a prime, so that nothing that goes by packets,
/// buffers or pages can exchange two parts of it unnoticed.
const NOISE_BYTES: usize = 65_521;

/// A payload of `length` bytes. Another `seed` begins at another place of the same noise: making it
/// is a copy, for a test that computes does not answer its peer.
#[must_use]
pub fn frame(seed: usize, length: usize) -> Bytes {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(noise);
    let mut begin = seed * 7_919 % NOISE_BYTES;
    let mut payload = BytesMut::with_capacity(length);
    while payload.len() < length {
        let end = NOISE_BYTES.min(begin + length - payload.len());
        payload.put_slice(&NOISE[begin..end]);
        begin = 0;
    }
    payload.freeze()
}

/// SplitMix64.
fn noise() -> Vec<u8> {
    let mut state = 0_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    words.flat_map(u64::to_be_bytes).take(NOISE_BYTES).collect()
}

/// A frame as it is on the wire.
#[must_use]
pub fn encode(payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut encoded = BytesMut::with_capacity(LENGTH_BYTES + payload.len());
    encoded.put_u32(length);
    encoded.put_slice(payload);
    encoded.freeze()
}

/// Payloads of every length that matters: empty, one byte, some, more than a packet, more than a
/// window, and exactly as much as the limit allows.
pub(crate) fn frames_of_every_size() -> Vec<Bytes> {
    let lengths = [0, 1, 128, 64 << 10, 1 << 20, Limits::default().frame_bytes_max];
    lengths.iter().enumerate().map(|(seed, &length)| frame(seed, length)).collect()
}

/// Frames that a foreign peer sends, and the stream writes it sends them with.
pub(crate) struct Script {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) writes: Vec<Bytes>,
}

/// One write a frame, then many frames in one write, then one frame over many writes.
pub(crate) fn script() -> Script {
    let mut frames = frames_of_every_size();
    let mut writes: Vec<_> = frames.iter().map(|frame| encode(frame)).collect();

    let together: Vec<_> = (0..FRAMES_PER_WRITE).map(|seed| frame(seed, seed % 7 * 50)).collect();
    let encoded: Vec<_> = together.iter().map(|frame| encode(frame)).collect();
    writes.push(encoded.concat().into());
    frames.extend(together);

    let spread = frame(frames.len(), SPREAD_BYTES);
    writes.extend(spread_over_writes(&spread));
    frames.push(spread);
    Script { frames, writes }
}

/// One frame in many writes: the length a byte at a time, the payload in steps.
pub(crate) fn spread_over_writes(payload: &[u8]) -> Vec<Bytes> {
    let mut encoded = encode(payload);
    let mut length = encoded.split_to(LENGTH_BYTES);
    let mut writes = Vec::new();
    while !length.is_empty() {
        writes.push(length.split_to(1));
    }
    while !encoded.is_empty() {
        writes.push(encoded.split_to(SPREAD_STEP.min(encoded.len())));
    }
    writes
}

/// Reads frames from a foreign peer's stream.
#[derive(Debug)]
pub struct FrameReader<I> {
    incoming: I,
    unread: BytesMut,
}

impl<I: Incoming> FrameReader<I> {
    /// At the start of a stream.
    pub fn new(incoming: I) -> Self {
        Self { incoming, unread: BytesMut::new() }
    }

    /// The next payload; `None` where the stream ends between two frames.
    ///
    /// # Errors
    ///
    /// If the stream fails, or ends inside a frame.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            match self.incoming.read().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Ok(None),
                None => bail!("the stream ended {} bytes into a frame", self.unread.len()),
            }
        }
    }

    /// The next payload, which must be there.
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next), and if the stream ends.
    pub async fn expect(&mut self) -> Result<Bytes> {
        self.next().await?.context("the stream ended where a frame was expected")
    }

    fn take(&mut self) -> Option<Bytes> {
        let length = u32::from_be_bytes(*self.unread.first_chunk()?) as usize;
        if self.unread.len() < LENGTH_BYTES + length {
            self.unread.reserve(LENGTH_BYTES + length - self.unread.len());
            return None;
        }
        self.unread.advance(LENGTH_BYTES);
        Some(self.unread.split_to(length).freeze())
    }
}
