//! A peer of `moorline/1` over quinn, written from `docs/wire-format.md`: one connection of it.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::session_message::{SessionMessage, kind};
use crate::{LIMIT, within};

/// The protocol of connections that carry sessions.
pub const SESSION_ALPN: &str = "moorline/1";

/// Messages and requests of the lane that is used where none is named.
pub const DATA: u64 = 2;

/// Its replies.
pub const DATA_REPLIES: u64 = 3;

/// The lane itself.
const DATA_LANE: u8 = 1;

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameKind {
    /// Its payload alone.
    Message,
    /// To be answered within so many milliseconds.
    Request(u32),
    /// Of the request with this number on the lane of data, with this status.
    Reply(u64, u8),
}

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedFrame {
    /// Of the connection, as its stream says.
    pub generation: u64,
    /// The number of its flow.
    pub flow: u64,
    /// Its number there.
    pub number: u64,
    /// What it is.
    pub kind: FrameKind,
    /// Its payload.
    pub payload: Bytes,
}

/// A connection, and the streams that were opened on it.
#[derive(Debug)]
pub struct SessionPeer {
    /// The connection itself.
    pub connection: Connection,
    session_stream: SendStream,
    flows: HashMap<u64, SendStream>,
    messages: UnboundedReceiver<SessionMessage>,
    frames: UnboundedReceiver<NumberedFrame>,
    reads_frames: watch::Sender<bool>,
}

impl SessionPeer {
    /// Over a connection that stands. Nothing is said yet but the head of the session stream.
    ///
    /// # Errors
    ///
    /// If no stream can be opened.
    pub async fn new(connection: Connection) -> Result<Self> {
        let peer = Self::deaf(connection).await?;
        peer.read_frames();
        Ok(peer)
    }

    /// As [`new`](Self::new), and reads no stream of frames before [`read_frames`](Self::read_frames).
    ///
    /// # Errors
    ///
    /// If no stream can be opened.
    pub async fn deaf(connection: Connection) -> Result<Self> {
        let mut session_stream = connection.open_uni().await?;
        session_stream.write_all(&[0]).await?;
        let (message, messages) = unbounded_channel();
        let (frame, frames) = unbounded_channel();
        let (reads_frames, reads) = watch::channel(false);
        let streams = connection.clone();
        tokio::spawn(async move {
            while let Ok(stream) = streams.accept_uni().await {
                // Each ends with the connection; what is missing is missed by the test.
                tokio::spawn(read(stream, message.clone(), frame.clone(), reads.clone()));
            }
        });
        let flows = HashMap::new();
        Ok(Self { connection, session_stream, flows, messages, frames, reads_frames })
    }

    /// Reads what its streams of frames bring, from here on.
    pub fn read_frames(&self) {
        self.reads_frames.send_replace(true);
    }

    /// Says something on the session stream.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub async fn say(&mut self, message: &SessionMessage) -> Result<()> {
        Ok(self.session_stream.write_all(&message.encode()?).await?)
    }

    /// The next message, which must be of this kind; what was taken may be told before it.
    ///
    /// # Errors
    ///
    /// If it is another one, or the connection ends.
    pub async fn hear(&mut self, kind: u64) -> Result<SessionMessage> {
        loop {
            let message = self.hear_any().await?;
            if message.kind == kind {
                return Ok(message);
            }
            ensure!(message.kind == kind::TAKEN, "{message:?} instead of kind {kind}");
        }
    }

    /// The next message, of whatever kind.
    ///
    /// # Errors
    ///
    /// If the connection ends.
    pub async fn hear_any(&mut self) -> Result<SessionMessage> {
        let next = within(LIMIT, "moorline says something", self.messages.recv()).await;
        next.context("the connection has ended")
    }

    /// The next frame, of whichever flow.
    ///
    /// # Errors
    ///
    /// If the connection ends.
    pub async fn frame(&mut self) -> Result<NumberedFrame> {
        let next = within(LIMIT, "moorline sends a frame", self.frames.recv()).await;
        next.context("the connection has ended")
    }

    /// Opens the stream of a flow on the lane of data, with the number of its first frame.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub async fn begin_flow(&mut self, generation: u64, flow: u64, first: u64) -> Result<()> {
        let mut stream = self.connection.open_uni().await?;
        let mut head = vec![1];
        head.extend(generation.to_be_bytes());
        head.extend([DATA_LANE, u8::from(flow == DATA_REPLIES)]);
        head.extend(first.to_be_bytes());
        stream.write_all(&head).await?;
        self.flows.insert(flow, stream);
        Ok(())
    }

    /// Begins a message of so many bytes on the stream of its flow, with the first ones of them.
    ///
    /// # Errors
    ///
    /// If there is none, or the connection is gone.
    pub async fn begin_message(&mut self, flow: u64, length: u32, part: &[u8]) -> Result<()> {
        self.go_on(flow, &[&length.to_be_bytes(), part].concat()).await
    }

    /// Sends more of a message that was begun.
    ///
    /// # Errors
    ///
    /// If the flow has no stream, or the connection is gone.
    pub async fn go_on(&mut self, flow: u64, part: &[u8]) -> Result<()> {
        let stream = self.flows.get_mut(&flow).context("the flow has no stream")?;
        Ok(stream.write_all(part).await?)
    }

    /// Sends a frame on the stream of its flow.
    ///
    /// # Errors
    ///
    /// If there is none, or the connection is gone.
    pub async fn send(&mut self, flow: u64, kind: &FrameKind, payload: &[u8]) -> Result<()> {
        let (number, head) = match kind {
            FrameKind::Message => (0_u32, Vec::new()),
            FrameKind::Request(left) => (1, left.to_be_bytes().to_vec()),
            FrameKind::Reply(request, status) => {
                let mut head = vec![DATA_LANE];
                head.extend(request.to_be_bytes());
                head.push(*status);
                (2, head)
            }
        };
        let length = u32::try_from(head.len() + payload.len())?;
        let mut frame = (number << 30 | length).to_be_bytes().to_vec();
        frame.extend(head);
        frame.extend(payload);
        self.go_on(flow, &frame).await
    }
}

async fn read(
    mut stream: RecvStream,
    messages: UnboundedSender<SessionMessage>,
    frames: UnboundedSender<NumberedFrame>,
    mut reads: watch::Receiver<bool>,
) -> Result<()> {
    match array::<1>(&mut stream).await? {
        [0] => loop {
            let length = u16::from_be_bytes(array(&mut stream).await?);
            let mut body = vec![0; length.into()];
            stream.read_exact(&mut body).await?;
            messages.send(SessionMessage::decode(&body)?)?;
        },
        [1] => {
            reads.wait_for(|reads| *reads).await?;
            read_flow(stream, frames).await
        }
        [other] => bail!("a stream of kind {other}"),
    }
}

async fn read_flow(mut stream: RecvStream, frames: UnboundedSender<NumberedFrame>) -> Result<()> {
    let generation = u64::from_be_bytes(array(&mut stream).await?);
    let [lane, replies] = array(&mut stream).await?;
    let flow = 2 * u64::from(lane) + u64::from(replies);
    let first = u64::from_be_bytes(array(&mut stream).await?);
    for number in first.. {
        let word = u32::from_be_bytes(array(&mut stream).await?);
        let length = (word & (u32::MAX >> 2)) as usize;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let mut body = Bytes::from(body);
        let kind = match word >> 30 {
            0 => FrameKind::Message,
            1 => FrameKind::Request(u32::from_be_bytes(body.split_to(4)[..].try_into()?)),
            2 => {
                let head = body.split_to(10);
                ensure!(head[0] == DATA_LANE, "a reply on lane {}", head[0]);
                FrameKind::Reply(u64::from_be_bytes(head[1..9].try_into()?), head[9])
            }
            other => bail!("a frame of kind {other}"),
        };
        frames.send(NumberedFrame { generation, flow, number, kind, payload: body })?;
    }
    Ok(())
}

async fn array<const COUNT: usize>(stream: &mut RecvStream) -> Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
