//! Frames over the byte stream of any peer: `[u32 big-endian length][payload]`.

use anyhow::{Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes in front of every payload.
const LENGTH_BYTES: usize = 4;

/// The largest payload that a receiver takes: as much as moorline's.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// How much is gathered by a sender that batches.
const BATCH_BYTES: usize = 64 << 10;

/// Up to here a payload is copied behind its length: one write of one piece is cheaper than the
/// copy. A larger one travels as it is.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Taken from the allocator at once for what is copied.
const COPY_RUN_BYTES: usize = 16 << 10;

/// The sending half of a byte stream, which waits where it is full.
pub(crate) trait ByteWriter: Send + 'static {
    /// Writes both; `second` may be empty.
    fn write(&mut self, first: Bytes, second: Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// The receiving half of a byte stream.
pub(crate) trait ByteReader: Send + 'static {
    /// Waits for bytes and hands them over; `false` at the end of the stream.
    fn read(&mut self, frames: &mut FrameCutter) -> impl Future<Output = Result<bool>> + Send;
}

/// Sends frames.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    bytes: W,
    /// Where small frames are copied to, each written at once.
    run: BytesMut,
    /// What was gathered and is not written yet.
    batch: BytesMut,
}

impl<W: ByteWriter> FrameWriter<W> {
    pub(crate) fn new(bytes: W) -> Self {
        Self { bytes, run: BytesMut::new(), batch: BytesMut::new() }
    }

    /// One write a frame.
    pub(crate) async fn send(&mut self, payload: &Bytes) -> Result<()> {
        let copied = payload.len() <= COPY_BYTES_MAX;
        let needed = LENGTH_BYTES + if copied { payload.len() } else { 0 };
        if self.run.capacity() < needed {
            self.run.reserve(COPY_RUN_BYTES);
        }
        self.run.put_u32(length_of(payload)?);
        let rest = if copied {
            self.run.put_slice(payload);
            Bytes::new()
        } else {
            payload.clone()
        };
        self.bytes.write(self.run.split().freeze(), rest).await
    }

    /// One write for as many frames as [`BATCH_BYTES`] hold; the last ones may stay behind.
    pub(crate) async fn send_batched(&mut self, payload: &Bytes) -> Result<()> {
        if !self.batch.is_empty() && self.batch.len() + LENGTH_BYTES + payload.len() > BATCH_BYTES {
            let full = self.batch.split().freeze();
            self.bytes.write(full, Bytes::new()).await?;
        }
        if self.batch.is_empty() {
            self.batch.reserve(BATCH_BYTES);
        }
        self.batch.put_u32(length_of(payload)?);
        self.batch.put_slice(payload);
        Ok(())
    }
}

fn length_of(payload: &Bytes) -> Result<u32> {
    ensure!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
    Ok(u32::try_from(payload.len())?)
}

/// Receives frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    bytes: R,
    frames: FrameCutter,
}

impl<R: ByteReader> FrameReader<R> {
    pub(crate) fn new(bytes: R) -> Self {
        Self { bytes, frames: FrameCutter::default() }
    }

    /// The next payload; `None` where the stream ends between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(payload) = self.frames.cut()? {
                return Ok(Some(payload));
            }
            if !self.bytes.read(&mut self.frames).await? {
                ensure!(self.frames.is_empty(), "the stream ended inside a frame");
                return Ok(None);
            }
        }
    }

    /// The next payload, which must be there.
    pub(crate) async fn expect(&mut self) -> Result<Bytes> {
        let Some(payload) = self.next().await? else {
            bail!("the stream ended where a frame was expected");
        };
        Ok(payload)
    }
}

/// Cuts what arrived into payloads. A frame that lies whole within an owned chunk is a slice of it;
/// all else is copied once.
#[derive(Debug, Default)]
pub(crate) struct FrameCutter {
    /// What arrived first, copied together.
    gathered: BytesMut,
    /// What arrived behind it.
    chunk: Bytes,
}

impl FrameCutter {
    /// Takes what arrived, without a copy. [`Self::cut`] must have found nothing more before.
    pub(crate) fn push_owned(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "what arrived before is gathered");
        self.chunk = chunk;
    }

    /// Where bytes that arrive are to be written to.
    pub(crate) fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.chunk.is_empty()
    }

    fn cut(&mut self) -> Result<Option<Bytes>> {
        if self.gathered.is_empty() {
            if let Some(length) = payload_length(&self.chunk)?
                && self.chunk.len() >= LENGTH_BYTES + length
            {
                self.chunk.advance(LENGTH_BYTES);
                return Ok(Some(self.chunk.split_to(length)));
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
        }
        self.gather(LENGTH_BYTES);
        let Some(length) = payload_length(&self.gathered)? else { return Ok(None) };
        self.gather(LENGTH_BYTES + length);
        if self.gathered.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.gathered.advance(LENGTH_BYTES);
        Ok(Some(self.gathered.split_to(length).freeze()))
    }

    /// Fills `gathered` up to `length` bytes from the chunk, and has room for them.
    fn gather(&mut self, length: usize) {
        let missing = length.saturating_sub(self.gathered.len());
        if missing > 0 {
            self.gathered.reserve(missing);
            let piece = self.chunk.split_to(missing.min(self.chunk.len()));
            self.gathered.put_slice(&piece);
        }
    }
}

fn payload_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(length) = bytes.first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    ensure!(length <= PAYLOAD_BYTES_MAX, "a frame announces {length} bytes");
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lengths: &[usize]) -> (Vec<Bytes>, Bytes) {
        let mut payloads = Vec::new();
        let mut stream = BytesMut::new();
        for (index, length) in lengths.iter().enumerate() {
            let payload: Bytes = (0..*length).map(|at| (at * 31 + index) as u8).collect();
            stream.put_u32(payload.len() as u32);
            stream.put_slice(&payload);
            payloads.push(payload);
        }
        (payloads, stream.freeze())
    }

    #[test]
    fn frames_come_out_as_they_went_in_wherever_the_stream_is_cut() {
        let (payloads, stream) = stream(&[0, 1, 128, 3, 0, 5000, 128]);
        for step in [1, 2, 3, 5, 64, 131, 132, 1200, stream.len()] {
            for owned in [true, false] {
                let (mut frames, mut found) = (FrameCutter::default(), Vec::new());
                for piece in stream.chunks(step) {
                    if owned {
                        frames.push_owned(Bytes::copy_from_slice(piece));
                    } else {
                        frames.gathered().put_slice(piece);
                    }
                    while let Some(payload) = frames.cut().unwrap() {
                        found.push(payload);
                    }
                }
                assert_eq!(found, payloads, "step {step}, owned {owned}");
                assert!(frames.is_empty());
            }
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused() {
        let mut frames = FrameCutter::default();
        frames.push_owned(Bytes::from_static(&[0x7f, 0, 0, 0]));
        assert!(frames.cut().is_err());
    }

    #[derive(Default)]
    struct Written(Vec<usize>, BytesMut);

    impl ByteWriter for Written {
        async fn write(&mut self, first: Bytes, second: Bytes) -> Result<()> {
            self.0.push(first.len() + second.len());
            self.1.put_slice(&first);
            self.1.put_slice(&second);
            Ok(())
        }
    }

    #[tokio::test]
    async fn one_send_is_one_write_and_a_batch_holds_64_kib() {
        let (payloads, stream) = stream(&[128, 0, 100_000, 128]);
        let mut writer = FrameWriter::new(Written::default());
        for payload in &payloads {
            writer.send(payload).await.unwrap();
        }
        assert_eq!(writer.bytes.0, [132, 4, 100_004, 132]);
        assert_eq!(writer.bytes.1, stream);

        let mut writer = FrameWriter::new(Written::default());
        for _ in 0..2 * BATCH_BYTES / 132 {
            writer.send_batched(&payloads[0]).await.unwrap();
        }
        assert_eq!(writer.bytes.0, [BATCH_BYTES / 132 * 132]);
    }
}
