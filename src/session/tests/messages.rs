//! Messages and heads: what is written is read, and nothing that comes does harm.

use std::num::NonZeroU64;

use proptest::prelude::*;

use crate::config::FLOW_GRANT_MIN;
use crate::error::CloseCode;
use crate::session::flow::{FlowId, FlowState, PerFlow};
use crate::session::frame_head::{
    FRAME_BYTES_MAX, FrameHead, FrameLength, HeadError, ReplyStatus, StreamHead,
};
use crate::session::message::{
    Attach, Cancel, Close, Closed, Decoder, Ended, EndedReason, GoAway, Hello, Incarnation,
    Message, MessageError, PROTOCOL_BYTES_MAX, PeerLimits, Refused, SessionId, TEXT_BYTES_MAX,
    Taken, shortened,
};

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn decoded(bytes: &[u8]) -> Result<Vec<Message>, MessageError> {
    let mut messages = Vec::new();
    Decoder::default().feed(bytes, &mut |message| messages.push(message))?;
    Ok(messages)
}

/// A message as a peer could write it, with its length in front.
fn raw(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes()[..], body].concat()
}

fn state() -> impl Strategy<Value = FlowState> {
    let credit = prop_oneof![Just(0), FLOW_GRANT_MIN as u64..=u64::MAX];
    (any::<u64>(), any::<u64>(), credit).prop_map(|(one, other, credit)| FlowState {
        received: one.max(other),
        taken: one.min(other),
        credit,
    })
}

fn per_flow<T: std::fmt::Debug + Clone + 'static>(
    of: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = PerFlow<T>> {
    [of.clone(), of.clone(), of.clone(), of.clone(), of.clone(), of].prop_map(PerFlow)
}

fn id() -> impl Strategy<Value = NonZeroU64> + Clone {
    (1..=u64::MAX).prop_map(|id| NonZeroU64::new(id).expect("from 1 on"))
}

fn code() -> impl Strategy<Value = CloseCode> {
    any::<u64>().prop_map(CloseCode::from_wire)
}

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = any::<[u64; 8]>();
    let ids = (id(), id(), proptest::option::of(id()), proptest::option::of(id()));
    (numbers, ids, "[a-zäß/0-9]{1,32}", per_flow(state().boxed())).prop_map(
        |(numbers, (incarnation, nonce, mine, yours), protocol, flows)| Hello {
            version_oldest: numbers[0],
            version_newest: numbers[1],
            incarnation: Incarnation(incarnation),
            attempt: numbers[2],
            nonce: nonce.get(),
            echo: numbers[3],
            protocol,
            mine: mine.map(SessionId),
            yours: yours.map(SessionId),
            known: numbers[4],
            held: numbers[5],
            limits: PeerLimits { frame_bytes_max: numbers[6], requests_max: numbers[7] },
            flows,
        },
    )
}

fn ended() -> impl Strategy<Value = Ended> {
    let reason = prop_oneof![
        Just(EndedReason::Closed),
        Just(EndedReason::Time),
        Just(EndedReason::ProtocolError),
        Just(EndedReason::GivenUp),
        Just(EndedReason::Replaced),
        Just(EndedReason::Unknown),
    ];
    let uncredited = state().prop_map(|state| FlowState { credit: 0, ..state }).boxed();
    (id(), id(), reason, code(), proptest::option::of(per_flow(uncredited))).prop_map(
        |(mine, yours, reason, code, flows)| Ended {
            mine: SessionId(mine),
            yours: SessionId(yours),
            reason,
            code,
            flows,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = || per_flow(any::<u64>().boxed());
    let refused = (code(), any::<bool>(), proptest::option::of(id()), any::<u64>(), "\\PC{0,60}");
    prop_oneof![
        hello().prop_map(|hello| Message::Hello(Box::new(hello))),
        (id(), any::<u64>(), id()).prop_map(|(generation, echo, yours)| {
            Message::Attach(Attach { generation: generation.get(), echo, yours: SessionId(yours) })
        }),
        per_flow(proptest::option::of(state()).boxed())
            .prop_map(|flows| Message::Taken(Taken { flows })),
        (any::<u8>(), any::<u64>())
            .prop_map(|(lane, number)| Message::Cancel(Cancel { lane, number })),
        (code(), numbers()).prop_map(|(code, finals)| Message::Close(Close { code, finals })),
        numbers().prop_map(|taken| Message::Closed(Closed { taken })),
        ended().prop_map(|ended| Message::Ended(Box::new(ended))),
        (any::<u64>(), numbers())
            .prop_map(|(delay_ms, last)| Message::GoAway(GoAway { delay_ms, last })),
        refused.prop_map(|(code, is_final, yours, generation, text)| {
            let (yours, text) = (yours.map(SessionId), shortened(&text).to_owned());
            Message::Refused(Refused { code, is_final, yours, generation, text })
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        messages in proptest::collection::vec(message(), 0..5),
        cuts in proptest::collection::vec(1_usize..40, 1..40),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(encoded).collect();
        let (mut decoder, mut read, mut rest) = (Decoder::default(), Vec::new(), &bytes[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, behind) = rest.split_at(rest.len().min(*cut));
            decoder.feed(part, &mut |message| read.push(message)).expect("it was written here");
            rest = behind;
        }
        prop_assert_eq!(decoder.held_bytes(), 0);
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn no_bytes_do_harm(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::default();
        let fed = decoder.feed(&body, &mut |message| drop(encoded(&message)));
        prop_assert!(fed.is_err() || decoder.held_bytes() <= 2 + 1024);
        let _ = decoded(&raw(&body));
    }

    #[test]
    fn damage_is_found_or_leaves_a_message(
        message in message(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = encoded(&message);
        for (at, byte) in damage {
            let at = 2 + at.index(bytes.len() - 2);
            bytes[at] = byte;
        }
        for read in decoded(&bytes).unwrap_or_default() {
            let again = encoded(&read);
            prop_assert!(again.len() <= 2 + 1024);
            prop_assert_eq!(decoded(&again), Ok(vec![read]));
        }
    }

    #[test]
    fn heads_are_read_as_they_were_written(
        (generation, first) in (1..=u64::MAX, 1..=u64::MAX),
        flow in 0_u64..6,
        (lane, number, left_ms) in (any::<u8>(), any::<u64>(), any::<u32>()),
        payload in 0_usize..1_000_000,
    ) {
        let flow = FlowId::from_wire(flow).expect("there are six");
        let head = StreamHead::Flow { generation, flow, first };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        for end in 0..bytes.len() {
            prop_assert_eq!(StreamHead::decode(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(StreamHead::decode(&bytes), Ok(Some((head, bytes.len()))));

        for head in [
            FrameHead::Message,
            FrameHead::Request { left_ms },
            FrameHead::Reply { lane, number, status: ReplyStatus::Refused },
        ] {
            let encoded = head.encode(payload).expect("it is not too long");
            let (length, rest) = encoded.split_first_chunk().expect("four bytes");
            let length = FrameLength::decode(*length).expect("it was written here");
            prop_assert_eq!(length.length, head.bytes() + payload);
            prop_assert_eq!(length.head(rest), Ok(head));
        }
    }
}

#[test]
fn the_longest_hello_is_well_within_the_limit() {
    let most = FlowState { received: u64::MAX, taken: u64::MAX, credit: u64::MAX };
    let hello = Hello {
        version_oldest: u64::MAX,
        version_newest: u64::MAX,
        incarnation: Incarnation(NonZeroU64::MAX),
        attempt: u64::MAX,
        nonce: u64::MAX,
        echo: u64::MAX,
        protocol: "p".repeat(PROTOCOL_BYTES_MAX),
        mine: Some(SessionId(NonZeroU64::MAX)),
        yours: Some(SessionId(NonZeroU64::MAX)),
        known: u64::MAX,
        held: u64::MAX,
        limits: PeerLimits { frame_bytes_max: u64::MAX, requests_max: u64::MAX },
        flows: PerFlow::of(|_| most),
    };
    let message = Message::Hello(Box::new(hello));
    assert!(encoded(&message).len() < 512, "{}", encoded(&message).len());
    assert_eq!(decoded(&encoded(&message)), Ok(vec![message]));
}

/// These bytes are the wire format: a peer may be written from them.
#[test]
fn messages_have_these_bytes() {
    let number = |number| SessionId(NonZeroU64::new(number).expect("not 0"));
    let attach = Message::Attach(Attach { generation: 1, echo: 0x1234, yours: number(7) });
    assert_eq!(encoded(&attach), raw(b"\x82\x01\xa3\x00\x01\x01\x19\x12\x34\x02\x07"));
    let mut flows = PerFlow::default();
    flows[FlowId::new(1, false).expect("a lane")] =
        Some(FlowState { received: 5, taken: 4, credit: 20_000 });
    let taken = Message::Taken(Taken { flows });
    assert_eq!(encoded(&taken), raw(b"\x82\x02\xa1\x11\xa1\x02\x83\x05\x04\x19\x4e\x20"));
}

#[test]
fn what_is_not_known_is_skipped() {
    // Kind 99; and kind 3 with a field 40 that holds a nested map, before a field that is known.
    let unknown = raw(b"\x82\x18\x63\xa1\x00\x01");
    let extended = raw(b"\x82\x03\xa3\x18\x28\xa1\x61a\x82\x01\xf6\x00\x01\x01\x05");
    let cancel = Message::Cancel(Cancel { lane: 1, number: 5 });
    assert_eq!(decoded(&[unknown, extended].concat()), Ok(vec![cancel]));
}

#[test]
fn what_is_wrong_is_named() {
    let too_long = decoded(&[0x04, 0x01]);
    assert_eq!(too_long, Err(MessageError::TooLong { announced: 1025 }));
    for malformed in [&b""[..], b"\x81\x01", b"\x82\x01\xbf\xff", b"\x82\x03\xa0\x00", b"\x82\x03"]
    {
        assert_eq!(decoded(&raw(malformed)), Err(MessageError::Malformed), "{malformed:?}");
    }
    // Attach without a generation; Taken with more taken than received; Cancel of lane 256.
    for (body, kind, key) in [
        (&b"\x82\x01\xa0"[..], 1, 0),
        (b"\x82\x02\xa1\x11\xa1\x00\x82\x01\x02", 2, 17),
        (b"\x82\x03\xa1\x00\x19\x01\x00", 3, 0),
    ] {
        assert_eq!(decoded(&raw(body)), Err(MessageError::Field { kind, key }), "{body:?}");
    }
    let long = format!("\u{fffd}{}", "x".repeat(TEXT_BYTES_MAX));
    assert_eq!(shortened(&long).len(), TEXT_BYTES_MAX);
    assert_eq!(shortened(&"ä".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX);
}

#[test]
fn a_credit_is_0_or_at_least_what_a_sender_submits_at_once() {
    let taken = |credit| {
        let flows = PerFlow::of(|_| Some(FlowState { received: 0, taken: 0, credit }));
        (2, Message::Taken(Taken { flows }))
    };
    let hello = |credit| {
        let said = FlowState { received: 0, taken: 0, credit };
        let hello = Hello {
            version_oldest: 1,
            version_newest: 1,
            incarnation: Incarnation(NonZeroU64::MIN),
            attempt: 1,
            nonce: 1,
            echo: 0,
            protocol: "orders/1".to_owned(),
            mine: Some(SessionId(NonZeroU64::MIN)),
            yours: None,
            known: 0,
            held: 0,
            limits: PeerLimits::default(),
            flows: PerFlow::of(|flow| if flow.lane() == 1 { said } else { FlowState::default() }),
        };
        (0, Message::Hello(Box::new(hello)))
    };
    let least = FLOW_GRANT_MIN as u64;
    for credit in [1, 2, least / 2, least - 1] {
        for (kind, message) in [hello(credit), taken(credit)] {
            let refused = Err(MessageError::Field { kind, key: 17 });
            assert_eq!(decoded(&encoded(&message)), refused, "{credit} in {message:?}");
        }
    }
    for credit in [0, least, least + 1, u64::MAX] {
        for (_, message) in [hello(credit), taken(credit)] {
            assert_eq!(decoded(&encoded(&message)), Ok(vec![message]), "{credit}");
        }
    }
}

#[test]
fn heads_that_cannot_be_are_refused() {
    assert_eq!(StreamHead::decode(&[2]), Err(HeadError::StreamKind(2)));
    assert_eq!(StreamHead::decode(&[0, 9]), Ok(Some((StreamHead::Session, 1))));
    let flow = |generation: u64, lane: u8, flow: u8, first: u64| {
        let head = [&[1][..], &generation.to_be_bytes(), &[lane, flow], &first.to_be_bytes()];
        StreamHead::decode(&head.concat())
    };
    assert_eq!(flow(1, 3, 0, 1), Err(HeadError::Flow { lane: 3, flow: 0 }));
    assert_eq!(flow(1, 0, 2, 1), Err(HeadError::Flow { lane: 0, flow: 2 }));
    assert_eq!(flow(0, 0, 0, 1), Err(HeadError::Zero { generation: 0, first: 1 }));
    assert_eq!(flow(1, 0, 0, 0), Err(HeadError::Zero { generation: 1, first: 0 }));

    let length = |word: u32| FrameLength::decode(word.to_be_bytes());
    let refused = |kind, length| Err(HeadError::Length { kind, length });
    assert_eq!(length(1 << 30 | 3), refused(1, 3));
    assert_eq!(length(2 << 30 | 9), refused(2, 9));
    assert_eq!(length(3 << 30 | 1), refused(3, 1));
    let reply = length(2 << 30 | 10).expect("the shortest reply");
    assert_eq!(reply.head(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 9]), Err(HeadError::Status(9)));
    assert_eq!(length(3 << 30).and_then(|void| void.head(&[])), Ok(FrameHead::Void));
    assert_eq!(FrameHead::Message.encode(FRAME_BYTES_MAX + 1), None);
    assert_eq!(FrameHead::Request { left_ms: 0 }.encode(FRAME_BYTES_MAX - 3), None);
}

#[test]
fn a_plain_message_has_the_bytes_of_a_plain_frame() {
    let head = FrameHead::Message.encode(70_000).expect("it is not too long");
    assert_eq!(*head, 70_000_u32.to_be_bytes());
}
