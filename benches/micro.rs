//! What the parts of a connection cost without a network: `make bench-micro`.
//!
//! All on one thread. A figure in elements counts frames of 128 bytes.

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use moorline::internals::{Receiving, Sending, header};
use moorline::{FrameDecoder, HEADER_BYTES, Piece};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::runtime::{Builder, Runtime};

const FRAME_BYTES: usize = 128;
const FRAME: Bytes = Bytes::from_static(&[0x5a; FRAME_BYTES]);

/// What MsQuic gives to one receive callback when much waits.
const REGION_BYTES: usize = 64 * 1024;

/// Whole frames in a region.
const REGION_FRAMES: usize = REGION_BYTES / (HEADER_BYTES + FRAME_BYTES);

/// The payload of a QUIC packet: no multiple of a frame, so that most packets cut one.
const PACKET_BYTES: usize = 1200;

/// Frames in one batch.
const BATCH: usize = 64;

/// Frames that a reader takes at once.
const TAKEN: usize = 256;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec(&mut criterion);
    lane(&mut criterion);
    inbound(&mut criterion);
    mailbox(&mut criterion);
    criterion.final_summary();
}

fn region() -> Vec<u8> {
    let frame = [&header(FRAME_BYTES)[..], &FRAME].concat();
    frame.repeat(REGION_FRAMES)
}

fn elements(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

fn codec(criterion: &mut Criterion) {
    let region = region();
    let mut group = criterion.benchmark_group("codec");
    group.bench_function("header", |bencher| bencher.iter(|| header(black_box(FRAME_BYTES))));
    group.throughput(elements(REGION_FRAMES));
    let mut decode = |name: &str, part_bytes: usize| {
        group.bench_function(name, |bencher| {
            let mut decoder = FrameDecoder::new(REGION_BYTES);
            bencher.iter(|| {
                for part in black_box(&region).chunks(part_bytes) {
                    decoder.feed(part, &mut take_apart).expect("no frame over the limit");
                }
            });
        });
    };
    decode("decode 64 KiB at once", REGION_BYTES);
    decode("decode 64 KiB by packets", PACKET_BYTES);
    group.finish();
}

fn take_apart(piece: Piece) {
    match piece {
        Piece::Run(run) => run.for_each(|frame| drop(black_box(frame))),
        Piece::Frame(frame) => drop(black_box(frame)),
    }
}

fn lane(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane");
    group.throughput(elements(BATCH));
    group.bench_function("64 frames one by one", |bencher| {
        let sending = Sending::default();
        bencher.iter(|| {
            for _ in 0..BATCH {
                assert!(sending.offer(black_box(FRAME)), "there is room");
            }
            sending.acknowledge()
        });
    });
    group.bench_function("64 frames in a group", |bencher| {
        let sending = Sending::default();
        let mut frames = VecDeque::with_capacity(BATCH);
        bencher.iter(|| {
            frames.extend(std::iter::repeat_n(black_box(FRAME), BATCH));
            assert!(sending.offer_group(&mut frames), "there is room");
            sending.acknowledge()
        });
    });
    group.finish();
}

fn inbound(criterion: &mut Criterion) {
    let region = region();
    let cut = || {
        let mut pieces = Vec::new();
        let mut decoder = FrameDecoder::new(REGION_BYTES);
        decoder.feed(&region, &mut |piece| pieces.push(piece)).expect("no frame over the limit");
        pieces
    };
    let mut group = criterion.benchmark_group("inbound");
    group.throughput(elements(REGION_FRAMES));
    group.bench_function("store 64 KiB, take it by 256 frames", |bencher| {
        let mut receiving = Receiving::default();
        let mut taken = Vec::with_capacity(TAKEN);
        let store_and_take = |mut pieces: Vec<Piece>| {
            receiving.store(&mut pieces, REGION_BYTES);
            while receiving.take_many(&mut taken, TAKEN) > 0 {
                black_box(&taken);
                taken.clear();
            }
        };
        bencher.iter_batched(cut, store_and_take, BatchSize::SmallInput);
    });
    group.finish();
}

/// Gets frames and forgets them.
struct Sink;

enum ToSink {
    Frame(Bytes),
    Frames(Vec<Bytes>),
    /// Everything before it was handled.
    Flush(RpcReplyPort<()>),
}

impl Actor for Sink {
    type Msg = ToSink;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<ToSink>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<ToSink>,
        message: ToSink,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ToSink::Frame(frame) => drop(black_box(frame)),
            ToSink::Frames(frames) => frames.into_iter().for_each(|frame| drop(black_box(frame))),
            ToSink::Flush(reply) => reply.send(())?,
        }
        Ok(())
    }
}

fn mailbox(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (sink, _) = runtime.block_on(Actor::spawn(None, Sink, ())).expect("an actor");
    let mut group = criterion.benchmark_group("mailbox");
    group.bench_function("an empty round", |bencher| {
        bencher.iter(|| round(&runtime, &sink, []));
    });
    group.throughput(elements(BATCH));
    group.bench_function("64 frames one by one", |bencher| {
        bencher.iter(|| round(&runtime, &sink, (0..BATCH).map(|_| ToSink::Frame(FRAME))));
    });
    group.bench_function("64 frames in a batch", |bencher| {
        bencher.iter(|| round(&runtime, &sink, [ToSink::Frames(vec![FRAME; BATCH])]));
    });
    group.finish();
    sink.stop(None);
}

/// Sends the messages and waits until all were handled.
fn round(runtime: &Runtime, sink: &ActorRef<ToSink>, messages: impl IntoIterator<Item = ToSink>) {
    runtime.block_on(async {
        for message in messages {
            sink.cast(message).expect("the actor lives");
        }
        ractor::call!(sink, ToSink::Flush).expect("the actor lives");
    });
}
