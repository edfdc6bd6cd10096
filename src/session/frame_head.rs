//! What stands in front of streams and frames of `moorline/1`. All integers are big-endian.
//!
//! ```text
//! stream  = [u8 kind: 0 session stream, 1 flow] and of a flow
//!           [u64 generation][u8 lane][u8 flow: 0 messages, 1 replies][u64 number of its first frame]
//! frame   = [u32: two top bits kind, thirty bits length of all that follows] then of a
//!           0 message   nothing more
//!           1 request   [u32 milliseconds left]
//!           2 reply     [u8 lane][u64 number of the request][u8 status]
//!           3 void      nothing more, and no payload
//!           and the payload
//! status  = 0 reply, 1 dropped without a reply, 2 refused, 3 its time was over before it was handled
//! ```
//!
//! A message has the same bytes as a frame of `moorline/0`.

use super::flow::FlowId;

/// The most bytes that may follow the four of a frame's length.
pub(crate) const FRAME_BYTES_MAX: usize = (1 << 30) - 1;

/// Bytes of the head of a session stream.
pub(crate) const SESSION_STREAM_HEAD_BYTES: usize = 1;

/// Bytes of the head of a flow's stream.
pub(crate) const FLOW_STREAM_HEAD_BYTES: usize = 19;

/// Bytes of the longest head of a frame.
pub(crate) const FRAME_HEAD_BYTES_MAX: usize = 14;

/// Bytes of the length in front of every frame.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// A stream of a kind that there is not.
    #[error("a stream of the unknown kind {0}")]
    StreamKind(u8),
    /// A flow that there is not.
    #[error("a stream of lane {lane}, flow {flow}")]
    Flow {
        /// The lane it names.
        lane: u8,
        /// The flow it names.
        flow: u8,
    },
    /// Generations and frames are counted from 1.
    #[error("a stream that begins with generation {generation}, frame {first}")]
    Zero {
        /// The generation it names.
        generation: u64,
        /// The number it names.
        first: u64,
    },
    /// A frame is shorter than its head, or a void one has a payload.
    #[error("a frame of kind {kind} with {length} bytes")]
    Length {
        /// The frame's kind.
        kind: u8,
        /// Bytes that follow its length.
        length: usize,
    },
    /// A reply with a status that there is not.
    #[error("a reply with the unknown status {0}")]
    Status(u8),
}

/// The head of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamHead {
    /// Carries messages.
    Session,
    /// Carries frames.
    Flow {
        /// Of the connection within the session.
        generation: u64,
        /// Which flow.
        flow: FlowId,
        /// Number of its first frame.
        first: u64,
    },
}

impl StreamHead {
    /// Appends it.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Session => out.push(0),
            Self::Flow { generation, flow, first } => {
                out.push(1);
                out.extend(generation.to_be_bytes());
                out.extend([flow.lane(), u8::from(flow.is_replies())]);
                out.extend(first.to_be_bytes());
            }
        }
    }

    /// Reads it from the beginning of a stream, with how many bytes it has; none before it is whole.
    ///
    /// # Errors
    ///
    /// [`HeadError`]: the stream is of no use.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        match bytes.first() {
            None => return Ok(None),
            Some(0) => return Ok(Some((Self::Session, SESSION_STREAM_HEAD_BYTES))),
            Some(1) => {}
            Some(kind) => return Err(HeadError::StreamKind(*kind)),
        }
        let Some(head) = bytes.first_chunk::<FLOW_STREAM_HEAD_BYTES>() else { return Ok(None) };
        let (generation, first) = (number(&head[1..9]), number(&head[11..19]));
        let (lane, flow) = (head[9], head[10]);
        if generation == 0 || first == 0 {
            return Err(HeadError::Zero { generation, first });
        }
        let flow = match flow {
            0 | 1 => FlowId::new(lane, flow == 1),
            _ => None,
        }
        .ok_or(HeadError::Flow { lane, flow })?;
        Ok(Some((Self::Flow { generation, flow, first }, FLOW_STREAM_HEAD_BYTES)))
    }
}

/// What became of a request, as its reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyStatus {
    /// The payload is the handler's.
    Reply,
    /// The handler dropped it.
    NoReply,
    /// It was not handed to a handler: too many, or none.
    Refused,
    /// It was not handed to a handler: its time was over.
    DeadlineExceeded,
}

impl ReplyStatus {
    const ALL: [Self; 4] = [Self::Reply, Self::NoReply, Self::Refused, Self::DeadlineExceeded];
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameHead {
    /// Nothing but its payload.
    Message,
    /// To be answered.
    Request {
        /// What is left of its time, in milliseconds.
        left_ms: u32,
    },
    /// Answers a request.
    Reply {
        /// The request's lane.
        lane: u8,
        /// The request's number.
        number: u64,
        /// What became of it.
        status: ReplyStatus,
    },
    /// Stands for a frame that is not sent any more.
    Void,
}

impl FrameHead {
    const fn kind(self) -> u8 {
        match self {
            Self::Message => 0,
            Self::Request { .. } => 1,
            Self::Reply { .. } => 2,
            Self::Void => 3,
        }
    }

    /// Bytes between the length and the payload.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Message | Self::Void => 0,
            Self::Request { .. } => 4,
            Self::Reply { .. } => 10,
        }
    }

    /// The length and the head of a frame with this payload; none if it is too long.
    pub(crate) fn encode(self, payload: usize) -> Option<Encoded> {
        let length =
            payload.checked_add(self.bytes()).filter(|length| *length <= FRAME_BYTES_MAX)?;
        let mut bytes = [0; FRAME_HEAD_BYTES_MAX];
        let word = u32::from(self.kind()) << 30 | u32::try_from(length).ok()?;
        bytes[..LENGTH_BYTES].copy_from_slice(&word.to_be_bytes());
        match self {
            Self::Message | Self::Void => {}
            Self::Request { left_ms } => bytes[4..8].copy_from_slice(&left_ms.to_be_bytes()),
            Self::Reply { lane, number, status } => {
                bytes[4] = lane;
                bytes[5..13].copy_from_slice(&number.to_be_bytes());
                bytes[13] = status as u8;
            }
        }
        Some(Encoded { bytes, length: LENGTH_BYTES + self.bytes() })
    }

    /// Reads the head behind the length of a frame whose kind is known.
    ///
    /// # Errors
    ///
    /// [`HeadError`] where the frame cannot be one.
    fn decode(kind: u8, head: &[u8]) -> Result<Self, HeadError> {
        let short = HeadError::Length { kind, length: head.len() };
        match kind {
            0 => Ok(Self::Message),
            1 => {
                let left = head.first_chunk::<4>().ok_or(short)?;
                Ok(Self::Request { left_ms: u32::from_be_bytes(*left) })
            }
            2 => {
                let head = head.first_chunk::<10>().ok_or(short)?;
                let status = ReplyStatus::ALL.get(usize::from(head[9]));
                let status = *status.ok_or(HeadError::Status(head[9]))?;
                Ok(Self::Reply { lane: head[0], number: number(&head[1..9]), status })
            }
            _ if head.is_empty() => Ok(Self::Void),
            _ => Err(short),
        }
    }
}

/// The first four bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameLength {
    kind: u8,
    /// Bytes that follow.
    pub(crate) length: usize,
}

impl FrameLength {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`HeadError::Length`] if no frame of the kind has that length.
    pub(crate) fn decode(bytes: [u8; LENGTH_BYTES]) -> Result<Self, HeadError> {
        let word = u32::from_be_bytes(bytes);
        let (kind, length) = ((word >> 30) as u8, (word & ((1 << 30) - 1)) as usize);
        let fits = match kind {
            0 => true,
            1 => length >= 4,
            2 => length >= 10,
            _ => length == 0,
        };
        if fits { Ok(Self { kind, length }) } else { Err(HeadError::Length { kind, length }) }
    }

    /// Whether nothing but a payload follows.
    pub(crate) fn is_message(self) -> bool {
        self.kind == 0
    }

    /// Bytes of its head, behind the length.
    pub(crate) fn head_bytes(self) -> usize {
        match self.kind {
            1 => 4,
            2 => 10,
            _ => 0,
        }
    }

    /// Cuts what follows the four bytes into its head and how many bytes that has.
    ///
    /// # Errors
    ///
    /// [`HeadError`] where it cannot be one.
    pub(crate) fn head(self, body: &[u8]) -> Result<FrameHead, HeadError> {
        FrameHead::decode(self.kind, body)
    }
}

/// The length and the head of a frame, as they go in front of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoded {
    bytes: [u8; FRAME_HEAD_BYTES_MAX],
    length: usize,
}

impl std::ops::Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
