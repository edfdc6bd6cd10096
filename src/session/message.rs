//! What the two session streams of a connection carry, one each way. `fields.rs` has the encoding.
//!
//! | kind | message | fields by key |
//! |---|---|---|
//! | 0 | [`Hello`] | 0 oldest version, 1 newest version, 2 incarnation, 3 attempt, 4 nonce, 5 echo, 6 mine, 7 yours, 8 known generation, 9 held generation, 10 frame bytes at most, 11 requests at most, 16 protocol, 17 flows: received, taken, credit |
//! | 1 | [`Attach`] | 0 generation, 1 echo, 2 yours |
//! | 2 | [`Taken`] | 17 flows: received, taken, credit; those that changed |
//! | 3 | [`Cancel`] | 0 lane, 1 number |
//! | 4 | [`Close`] | 0 code, 17 flows: last number |
//! | 5 | [`Closed`] | 17 flows: taken |
//! | 6 | [`Ended`] | 0 mine, 1 yours, 2 reason, 3 code, 4 whether the flows are known (1), 17 flows: received, taken |
//! | 7 | [`GoAway`] | 0 delay in ms, 17 flows: last number that is taken over |
//! | 8 | [`Refused`] | 0 code, 1 final (1) or not, 2 generation, 3 yours, 16 text |
//!
//! Other kinds are skipped. "Mine" and "yours" are those of the sender. Every message says a state and
//! may come again.

use super::fields::{BODY_BYTES_MAX, Fields};
use super::flow::{FlowState, PerFlow};
use crate::config::FLOW_GRANT_MIN;
use crate::error::CloseCode;

pub(crate) use super::fields::MessageError;

/// Bytes of a protocol's name at most.
pub(crate) const PROTOCOL_BYTES_MAX: usize = 64;

/// Bytes of a text at most.
pub(crate) const TEXT_BYTES_MAX: usize = super::fields::TEXT_BYTES_MAX;

/// A session as one side names it: a random number, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) std::num::NonZeroU64);

/// One start of one node: a random number, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Incarnation(pub(crate) std::num::NonZeroU64);

/// Who speaks, which session is meant, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The lowest version of this protocol that the sender speaks.
    pub(crate) version_oldest: u64,
    /// The highest one.
    pub(crate) version_newest: u64,
    /// The sender's.
    pub(crate) incarnation: Incarnation,
    /// Of the dial that made this connection, rising in a session; 0 from who accepted it.
    pub(crate) attempt: u64,
    /// To be echoed by who is alive; never 0.
    pub(crate) nonce: u64,
    /// The receiver's nonce of this connection; 0 if it is not known yet.
    pub(crate) echo: u64,
    /// What the applications speak.
    pub(crate) protocol: String,
    /// The sender's id of the session; none: it has no session for this protocol.
    pub(crate) mine: Option<SessionId>,
    /// The receiver's id of the session as the sender knows it.
    pub(crate) yours: Option<SessionId>,
    /// The highest generation of the session that the sender has heard of.
    pub(crate) known: u64,
    /// The generation of the connection that the session has at the sender; 0 for none.
    pub(crate) held: u64,
    /// What the sender of this message takes.
    pub(crate) limits: PeerLimits,
    /// What the sender of this message received and took, and what it grants.
    pub(crate) flows: PerFlow<FlowState>,
}

/// What one side takes from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PeerLimits {
    /// Bytes of a frame's payload at most.
    pub(crate) frame_bytes_max: u64,
    /// Requests in flight at most.
    pub(crate) requests_max: u64,
}

/// The session has this connection from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attach {
    /// Higher than every one before it in the session.
    pub(crate) generation: u64,
    /// The receiver's nonce.
    pub(crate) echo: u64,
    /// The receiver's id of the session.
    pub(crate) yours: SessionId,
}

/// How far the receiving of some flows is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    /// Those of which there is something to say.
    pub(crate) flows: PerFlow<Option<FlowState>>,
}

/// The answer to a request is not wanted any more. May come before the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cancel {
    /// The lane of the request.
    pub(crate) lane: u8,
    /// Its number.
    pub(crate) number: u64,
}

/// Nothing is sent behind these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Close {
    /// The application's reason.
    pub(crate) code: CloseCode,
    /// The last number of each flow.
    pub(crate) finals: PerFlow<u64>,
}

/// The application took everything up to the numbers of `Close`, or will take no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed {
    /// The last number taken of each flow.
    pub(crate) taken: PerFlow<u64>,
}

/// Why a session is over, as its other side is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedReason {
    /// It was closed.
    Closed,
    /// It was without a connection, or closing, for too long.
    Time,
    /// The other side broke the protocol.
    ProtocolError,
    /// The application gave it up, or opened another one.
    GivenUp,
    /// Another incarnation came.
    Replaced,
    /// Nothing is known of it.
    Unknown,
}

/// A session is over at the sender, and this is what it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The sender's id of it.
    pub(crate) mine: SessionId,
    /// The receiver's id of it.
    pub(crate) yours: SessionId,
    /// Why.
    pub(crate) reason: EndedReason,
    /// The application's reason, where it was closed.
    pub(crate) code: CloseCode,
    /// What was received and taken; none if it is not known any more.
    pub(crate) flows: Option<PerFlow<FlowState>>,
}

/// The sender stops: it takes over no more than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoAway {
    /// For how long the receiver is not to dial, in milliseconds.
    pub(crate) delay_ms: u64,
    /// The last number of each flow that is taken over.
    pub(crate) last: PerFlow<u64>,
}

/// This connection is not wanted; its receiver closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) code: CloseCode,
    /// The receiver is not to come back.
    pub(crate) is_final: bool,
    /// The receiver's id of the session that it is about, if the sender had heard of one.
    pub(crate) yours: Option<SessionId>,
    /// The generation that is kept, of a duplicate; else 0.
    pub(crate) generation: u64,
    /// For people.
    pub(crate) text: String,
}

/// A message of the session stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// See [`Hello`].
    Hello(Box<Hello>),
    /// See [`Attach`].
    Attach(Attach),
    /// See [`Taken`].
    Taken(Taken),
    /// See [`Cancel`].
    Cancel(Cancel),
    /// See [`Close`].
    Close(Close),
    /// See [`Closed`].
    Closed(Closed),
    /// See [`Ended`].
    Ended(Box<Ended>),
    /// See [`GoAway`].
    GoAway(GoAway),
    /// See [`Refused`].
    Refused(Refused),
}

impl EndedReason {
    const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Closed,
        Self::Time,
        Self::ProtocolError,
        Self::GivenUp,
        Self::Replaced,
    ];

    /// Its number is its place among all; one that is not known means [`Unknown`](Self::Unknown).
    fn from_wire(number: u64) -> Self {
        let known = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number));
        known.copied().unwrap_or(Self::Unknown)
    }

    fn number(self) -> u64 {
        Self::ALL.iter().position(|reason| *reason == self).unwrap_or(0) as u64
    }
}

/// As much of a text as a message may carry.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Message {
    /// Appends the message with its length in front.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, fields) = self.fields();
        fields.encode(kind, out);
    }

    fn fields(&self) -> (u64, Fields) {
        let flows = |state: FlowState| [state.received, state.taken, state.credit];
        let single = |numbers: &PerFlow<u64>| {
            PerFlow::of(|flow| (numbers[flow] > 0).then_some([numbers[flow], 0, 0]))
        };
        match self {
            Self::Hello(hello) => (0, hello.fields()),
            Self::Attach(Attach { generation, echo, yours }) => {
                (1, Fields::numbered(&[*generation, *echo, yours.0.get()]))
            }
            Self::Taken(taken) => {
                let flows = PerFlow::of(|flow| taken.flows[flow].map(flows));
                (2, Fields { flows, ..Fields::default() })
            }
            Self::Cancel(Cancel { lane, number }) => {
                (3, Fields::numbered(&[u64::from(*lane), *number]))
            }
            Self::Close(Close { code, finals }) => {
                (4, Fields { flows: single(finals), ..Fields::numbered(&[code.value()]) })
            }
            Self::Closed(Closed { taken }) => {
                (5, Fields { flows: single(taken), ..Fields::default() })
            }
            Self::Ended(ended) => (6, ended.fields()),
            Self::GoAway(GoAway { delay_ms, last }) => {
                (7, Fields { flows: single(last), ..Fields::numbered(&[*delay_ms]) })
            }
            Self::Refused(Refused { code, is_final, yours, generation, text }) => {
                let yours = yours.map_or(0, |yours| yours.0.get());
                let numbers = [code.value(), u64::from(*is_final), *generation, yours];
                let text = Some(shortened(text).to_owned());
                (8, Fields { text, ..Fields::numbered(&numbers) })
            }
        }
    }

    /// Reads one body; none of a kind that is not known.
    fn decode(body: &[u8]) -> Result<Option<Self>, MessageError> {
        let (kind, fields) = Fields::decode(body)?;
        let wrong = |key| MessageError::Field { kind, key };
        let single = || PerFlow::of(|flow| fields.flows[flow].map_or(0, |[number, ..]| number));
        let state = |[received, taken, credit]: [u64; 3]| FlowState { received, taken, credit };
        let session = |key| id(&fields, key).map(SessionId).ok_or(wrong(key as u64));
        let code = |key| CloseCode::from_wire(fields.number(key));
        let ahead = |values: &[u64; 3]| values[1] > values[0];
        // A sender gathers this much into one submission before it knows what it is granted.
        let too_little = |values: &[u64; 3]| (1..FLOW_GRANT_MIN as u64).contains(&values[2]);
        let flows = || fields.flows.0.iter().flatten();
        if matches!(kind, 0 | 2 | 6) && flows().any(ahead)
            || matches!(kind, 0 | 2) && flows().any(too_little)
        {
            return Err(wrong(17));
        }
        Ok(Some(match kind {
            0 => Self::Hello(Box::new(Hello::of(&fields).map_err(wrong)?)),
            1 => Self::Attach(Attach {
                generation: id(&fields, 0).ok_or(wrong(0))?.get(),
                echo: fields.number(1),
                yours: session(2)?,
            }),
            2 => Self::Taken(Taken { flows: PerFlow::of(|flow| fields.flows[flow].map(state)) }),
            3 => Self::Cancel(Cancel {
                lane: u8::try_from(fields.number(0)).map_err(|_| wrong(0))?,
                number: fields.number(1),
            }),
            4 => Self::Close(Close { code: code(0), finals: single() }),
            5 => Self::Closed(Closed { taken: single() }),
            6 => Self::Ended(Box::new(Ended {
                mine: session(0)?,
                yours: session(1)?,
                reason: EndedReason::from_wire(fields.number(2)),
                code: code(3),
                flows: (fields.number(4) == 1).then(|| {
                    PerFlow::of(|flow| {
                        let [received, taken, _] = fields.flows[flow].unwrap_or_default();
                        FlowState { received, taken, credit: 0 }
                    })
                }),
            })),
            7 => Self::GoAway(GoAway { delay_ms: fields.number(0), last: single() }),
            8 => Self::Refused(Refused {
                code: code(0),
                is_final: fields.number(1) == 1,
                yours: id(&fields, 3).map(SessionId),
                generation: fields.number(2),
                text: fields.text.unwrap_or_default(),
            }),
            _ => return Ok(None),
        }))
    }
}

impl Hello {
    fn fields(&self) -> Fields {
        let number = |id: Option<SessionId>| id.map_or(0, |id| id.0.get());
        let fields = Fields::numbered(&[
            self.version_oldest,
            self.version_newest,
            self.incarnation.0.get(),
            self.attempt,
            self.nonce,
            self.echo,
            number(self.mine),
            number(self.yours),
            self.known,
            self.held,
            self.limits.frame_bytes_max,
            self.limits.requests_max,
        ]);
        let flows = PerFlow::of(|flow| {
            let FlowState { received, taken, credit } = self.flows[flow];
            (self.flows[flow] != FlowState::default()).then_some([received, taken, credit])
        });
        Fields { text: Some(self.protocol.clone()), flows, ..fields }
    }

    /// Else the key of the field that is wrong.
    fn of(fields: &Fields) -> Result<Self, u64> {
        let protocol = fields.text.clone().unwrap_or_default();
        if protocol.is_empty() || protocol.len() > PROTOCOL_BYTES_MAX {
            return Err(16);
        }
        Ok(Self {
            version_oldest: fields.number(0),
            version_newest: fields.number(1),
            incarnation: id(fields, 2).map(Incarnation).ok_or(2_u64)?,
            attempt: fields.number(3),
            nonce: id(fields, 4).ok_or(4_u64)?.get(),
            echo: fields.number(5),
            protocol,
            mine: id(fields, 6).map(SessionId),
            yours: id(fields, 7).map(SessionId),
            known: fields.number(8),
            held: fields.number(9),
            limits: PeerLimits {
                frame_bytes_max: fields.number(10),
                requests_max: fields.number(11),
            },
            flows: PerFlow::of(|flow| {
                let [received, taken, credit] = fields.flows[flow].unwrap_or_default();
                FlowState { received, taken, credit }
            }),
        })
    }
}

impl Ended {
    fn fields(&self) -> Fields {
        let known = u64::from(self.flows.is_some());
        let (mine, yours) = (self.mine.0.get(), self.yours.0.get());
        let numbers = [mine, yours, self.reason.number(), self.code.value(), known];
        let flows = PerFlow::of(|flow| {
            self.flows.map(|flows| [flows[flow].received, flows[flow].taken, 0])
        });
        Fields { flows, ..Fields::numbered(&numbers) }
    }
}

fn id(fields: &Fields, key: usize) -> Option<std::num::NonZeroU64> {
    std::num::NonZeroU64::new(fields.number(key))
}

/// Cuts what a session stream brings into messages. Holds one message at most.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The length and the body, as far as they came.
    held: Vec<u8>,
}

impl Decoder {
    /// Takes all of `input` and hands each message that became whole to `sink`, in order.
    ///
    /// # Errors
    ///
    /// [`MessageError`]: the stream is of no further use.
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        sink: &mut dyn FnMut(Message),
    ) -> Result<(), MessageError> {
        let mut input = input;
        loop {
            let wanted = match self.held.first_chunk::<2>() {
                None => 2,
                Some(length) => 2 + usize::from(u16::from_be_bytes(*length)),
            };
            if wanted > 2 + BODY_BYTES_MAX {
                return Err(MessageError::TooLong { announced: wanted - 2 });
            }
            let (part, rest) = input.split_at(input.len().min(wanted - self.held.len()));
            self.held.extend_from_slice(part);
            input = rest;
            if self.held.len() < wanted {
                return Ok(());
            }
            // With the length alone there, the body is next; an empty one is no message.
            if wanted > 2 || self.held == [0, 0] {
                let message = Message::decode(&self.held[2..])?;
                self.held.clear();
                message.into_iter().for_each(&mut *sink);
            }
        }
    }

    /// Bytes of a message that is not whole: where they are none, the stream may end.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.len()
    }
}
