//! Over real connections.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::error::CloseReason;
use crate::identity::NetCredential;
use crate::transport::core::ConnectionCore;
use crate::transport::{MsQuicNetConnection, MsQuicTransport};

const LIMIT: Duration = Duration::from_secs(20);

async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: too late"))
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Bytes(Vec<u8>),
    Ended(InletEnd),
    Sent { token: u64, acknowledged: bool },
    Gone,
}

/// Tells what it is told.
#[derive(Clone)]
struct Teller(UnboundedSender<Told>);

impl Carrier for Teller {
    fn stream_came(&self, _stream: Arc<dyn Paused>) -> Box<dyn Inlet> {
        Box::new(Gathering { told: self.0.clone(), bytes: Vec::new() })
    }
}

impl Outlet for Teller {
    fn sent(&self, token: u64, acknowledged: bool) {
        let _ = self.0.send(Told::Sent { token, acknowledged });
    }

    fn gone(&self) {
        let _ = self.0.send(Told::Gone);
    }
}

struct Gathering {
    told: UnboundedSender<Told>,
    bytes: Vec<u8>,
}

impl Inlet for Gathering {
    fn received(&mut self, part: &[u8]) -> usize {
        self.bytes.extend_from_slice(part);
        part.len()
    }

    fn rest(&mut self) {
        let _ = self.told.send(Told::Bytes(std::mem::take(&mut self.bytes)));
    }

    fn ended(&mut self, end: InletEnd) {
        let _ = self.told.send(Told::Ended(end));
    }
}

fn teller() -> (Teller, UnboundedReceiver<Told>) {
    let (sender, receiver) = unbounded_channel();
    (Teller(sender), receiver)
}

/// All bytes until something else is told.
async fn bytes(told: &mut UnboundedReceiver<Told>, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match within("bytes", told.recv()).await.expect("it tells") {
            Told::Bytes(more) => all.extend(more),
            other => panic!("{other:?} after {} bytes", all.len()),
        }
    }
    all
}

struct Pair {
    dialled: MsQuicNetConnection,
    accepted: MsQuicNetConnection,
}

impl Pair {
    async fn new() -> Self {
        let credential = NetCredential::generate_self_signed(&["test"], &[]).expect("one");
        let credential = credential.clone().trust_hash(credential.identity());
        let transport = MsQuicTransport::new();
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = transport.create_listener(address, &[SESSION_ALPN], credential.clone());
        let listener = within("a listener", listener).await.expect("a listener");
        let accept = async {
            let request = listener.accept().await.expect("a peer");
            request.accept().await.expect("a connection")
        };
        let dial = transport.connect(listener.local_addr(), &[SESSION_ALPN], credential);
        let (accepted, dialled) =
            within("a connection", async { tokio::join!(accept, dial) }).await;
        Self { dialled: dialled.expect("a connection"), accepted }
    }
}

fn open(core: &Arc<ConnectionCore>, outlet: &Teller) -> Arc<OutStream<ConnectionCore>> {
    core.open_outlet(0x8000, Arc::new(outlet.clone())).expect("a stream")
}

fn numbers(count: usize) -> Bytes {
    (0..count).map(|number| (number % 251) as u8).collect()
}

#[tokio::test]
async fn what_comes_before_anybody_reads_waits_and_comes_whole() {
    let pair = Pair::new().await;
    let (outlet, mut sent) = teller();
    let (all, half) = (numbers(200_000), 100_000);
    let stream = open(pair.dialled.core(), &outlet);
    for (token, range) in [(7, 0..half), (8, half..2 * half)] {
        assert!(stream.send(Parts::of(all.slice(range)), token));
    }
    // The first bytes are there, and nobody has taken them.
    let (carrier, mut told) = teller();
    assert!(told.try_recv().is_err());
    let carrier: Arc<dyn Carrier> = Arc::new(carrier);
    pair.accepted.core().carry(&carrier);
    assert!(bytes(&mut told, all.len()).await == all);
    for token in [7, 8] {
        let end = within("an acknowledgement", sent.recv()).await;
        assert_eq!(end, Some(Told::Sent { token, acknowledged: true }));
    }
}

#[tokio::test]
async fn streams_go_both_ways_and_their_ends_are_told() {
    let pair = Pair::new().await;
    let ends = [pair.dialled.core(), pair.accepted.core()];
    let mut told = Vec::new();
    for core in ends {
        let (carrier, receiver) = teller();
        let carrier: Arc<dyn Carrier> = Arc::new(carrier);
        core.carry(&carrier);
        told.push(receiver);
    }
    for (from, core) in ends.into_iter().enumerate() {
        let (outlet, mut sent) = teller();
        let stream = open(core, &outlet);
        let mut parts = Parts::of(Bytes::from_static(b"head"));
        (parts.parts[1], parts.count) = (numbers(10_000), 2);
        assert!(stream.send(parts, 1));
        let expected = [&b"head"[..], &numbers(10_000)].concat();
        assert!(bytes(&mut told[1 - from], expected.len()).await == expected);
        let end = within("an acknowledgement", sent.recv()).await;
        assert_eq!(end, Some(Told::Sent { token: 1, acknowledged: true }));
        let code = CloseCode::application(0x123).expect("one");
        stream.reset(code);
        assert!(!stream.send(Parts::of(numbers(1)), 2), "it was given up");
        let end = within("the reset", told[1 - from].recv()).await;
        assert_eq!(end, Some(Told::Ended(InletEnd::Reset(code))));
        assert_eq!(within("its end", sent.recv()).await, Some(Told::Gone));
    }
}

#[tokio::test]
async fn what_is_on_its_way_when_the_connection_ends_is_told_as_not_acknowledged() {
    let pair = Pair::new().await;
    let (outlet, mut sent) = teller();
    let stream = open(pair.dialled.core(), &outlet);
    // Nobody reads: the peer's window takes a part of it.
    assert!(stream.send(Parts::of(numbers(64 << 20)), 3));
    pair.accepted.core().cut(CloseCode::GOING_AWAY);
    let end = within("its end", sent.recv()).await;
    assert_eq!(end, Some(Told::Sent { token: 3, acknowledged: false }));
    assert_eq!(within("the stream's end", sent.recv()).await, Some(Told::Gone));
    let reason = within("the end", pair.dialled.watch_close()).await;
    assert_eq!(reason, CloseReason::Peer { code: CloseCode::GOING_AWAY });
}
