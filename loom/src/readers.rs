//! Frames that are handed over to readers: each to one, and nobody waits beside a frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use loom::future::block_on;
use loom::thread;

use super::intake::{Intake, Perform, Waited};
use super::readers::{Reader, Received, Subscriber};
use crate::config::Limits;
use crate::error::{CloseCode, CloseReason, RecvError};
use crate::frame::{Piece, Position};
use crate::lock::lock;
use crate::polling::{play, poll_once};
use crate::sync::Mutex;
use crate::transport::link::inbound::{
    Decoded, Effects, From, Inbound, Lent, Look, Reading, StreamEnd, StreamId,
};
use crate::transport::link::lanes::Lane;
use crate::transport::link::share::Share;

/// The receiving half of a connection that has an owner and one stream of the peer's.
struct Receiving {
    intake: Intake<u8>,
    stream: StreamId,
    /// The owner was told that a frame began, and has not looked since.
    told: Mutex<bool>,
    /// What readers by message and subscribers were given.
    given: Mutex<Vec<Bytes>>,
}

impl Perform<u8> for Receiving {
    fn perform(&self, effects: Effects<u8>) {
        for lane in Lane::ALL {
            if effects.wake[lane as usize] {
                self.intake.waiting.wake(lane);
            }
        }
        if effects.watch {
            *lock(&self.told) = true;
        }
        if effects.end_taken {
            self.intake.waiting.wake_everybody();
        }
        assert!(effects.resume.is_empty() && effects.ask.is_none(), "there is always room");
    }
}

impl Receiving {
    fn new() -> Arc<Self> {
        let limits = Limits { frame_time_max: Duration::from_secs(3600), frame_rate_min: 1 };
        let mut inbound = Inbound::new(Share::alone(1 << 20), &limits);
        let stream = inbound.add(Lane::Data);
        let (told, given) = (Mutex::new(false), Mutex::new(Vec::new()));
        Arc::new(Self { intake: Intake::new(inbound, &Arc::default()), stream, told, given })
    }

    /// Frames arrive, and the first bytes of one more if it `goes_on`.
    fn arrive(&self, frames: &[&'static [u8]], goes_on: bool) {
        let mut pieces: Vec<Piece> =
            frames.iter().map(|frame| Piece::Frame(Bytes::from_static(frame))).collect();
        let position = match goes_on {
            true => Position::InBody { received: 0, announced: 100 },
            false => Position::Boundary,
        };
        let decoded = Decoded { pieces: &mut pieces, bytes: 100, held: 0, position, paused: false };
        let effects = self.intake.frames.lock().inbound.store(self.stream, decoded, Instant::now());
        self.perform(effects);
        if !frames.is_empty() {
            self.intake.deliver(self);
        }
    }

    fn close(&self) {
        let reason = CloseReason::Local { code: CloseCode::NORMAL };
        let effects = self.intake.frames.lock().inbound.close(RecvError::Closed { reason });
        self.perform(effects);
        self.intake.waiting.wake_everybody();
        self.intake.deliver(self);
    }

    /// The next frame of `from`, or why there will be none; nothing where its stream has ended.
    async fn recv(self: Arc<Self>, from: From) -> Result<Option<Bytes>, RecvError> {
        loop {
            let Reading { found: taken, effects } =
                self.intake.as_reader(|inbound| inbound.take(from))?;
            self.perform(effects);
            self.intake.pass_on(from);
            if let Some(taken) = taken {
                return taken.map(|taken| Some(taken.frame));
            }
            if matches!(from, From::Stream(id) if !self.intake.frames.lock().inbound.is_open(id)) {
                return Ok(None);
            }
            let waited = self.intake.wait(from, |_| Look::Nothing).await;
            assert_eq!(waited, Waited::Woken, "the owner watches");
        }
    }

    fn reads(self: &Arc<Self>, from: From) -> thread::JoinHandle<Option<Bytes>> {
        let receiving = Arc::clone(self);
        thread::spawn(move || block_on(receiving.recv(from)).unwrap())
    }

    fn spawn(self: &Arc<Self>, act: impl FnOnce(&Arc<Self>) + 'static) -> thread::JoinHandle<()> {
        let receiving = Arc::clone(self);
        thread::spawn(move || act(&receiving))
    }

    fn read_later(self: &Arc<Self>, is_gone: bool) {
        let reader = ByMessage { receiving: Arc::clone(self), is_gone };
        self.intake.read_later(From::All, Box::new(reader), &**self);
    }

    /// What was given, in the order of giving.
    fn given(&self) -> Vec<Bytes> {
        std::mem::take(&mut *lock(&self.given))
    }

    fn expect_nothing_left(&self) {
        assert!(!self.intake.frames.lock().inbound.has_something(From::All), "a frame is left");
    }
}

/// A reader by message.
struct ByMessage {
    receiving: Arc<Receiving>,
    is_gone: bool,
}

impl Reader for ByMessage {
    fn is_gone(&self) -> bool {
        self.is_gone
    }

    fn give(self: Box<Self>, result: Result<Received, RecvError>) -> Result<(), Received> {
        match result {
            Ok(received) if self.is_gone => Err(received),
            Ok(received) => {
                lock(&self.receiving.given).push(received.frame);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }
}

struct Subscribed(Arc<Receiving>);

impl Subscriber for Subscribed {
    fn give(&mut self, lent: Lent) -> Result<(), Lent> {
        lock(&self.0.given).extend(lent.frames);
        Ok(())
    }
}

// ---- readers that wait

/// A frame comes while one waits.
pub fn who_waits_for_a_frame_gets_it() {
    play(|| {
        let receiving = Receiving::new();
        let reads = receiving.reads(From::All);
        receiving.arrive(&[b"a"], false);
        assert_eq!(reads.join().unwrap().unwrap(), "a");
        receiving.expect_nothing_left();
    });
}

/// Two frames that come together wake one, which wakes the other.
pub fn a_wake_up_is_passed_on() {
    play(|| {
        let receiving = Receiving::new();
        let reads = [receiving.reads(From::All), receiving.reads(From::All)];
        receiving.arrive(&[b"a", b"b"], false);
        let mut read = reads.map(|reader| reader.join().unwrap().unwrap());
        read.sort();
        assert_eq!(read, ["a", "b"]);
        receiving.expect_nothing_left();
    });
}

/// Readers of everything and of one lane, each its own waiters.
pub fn a_reader_of_a_lane_and_one_of_all_get_a_frame_each() {
    play(|| {
        let receiving = Receiving::new();
        let reads = [receiving.reads(From::All), receiving.reads(From::Lane(Lane::Data))];
        receiving.arrive(&[b"a"], false);
        receiving.arrive(&[b"b"], false);
        let mut read = reads.map(|reader| reader.join().unwrap().unwrap());
        read.sort();
        assert_eq!(read, ["a", "b"]);
        receiving.expect_nothing_left();
    });
}

/// A reader goes that may have been woken: another one is woken in its place.
pub fn a_reader_that_goes_leaves_its_turn_to_another() {
    play(|| {
        let receiving = Receiving::new();
        let mut first = Box::pin(Arc::clone(&receiving).recv(From::All));
        assert!(poll_once(first.as_mut()).is_pending());
        let second = receiving.reads(From::All);
        let goes = thread::spawn(move || drop(first));
        receiving.arrive(&[b"a"], false);
        goes.join().unwrap();
        assert_eq!(second.join().unwrap().unwrap(), "a");
        receiving.expect_nothing_left();
    });
}

/// The connection ends behind a frame: one of two gets it, the other one the end.
pub fn who_waits_is_told_of_the_end_behind_the_last_frame() {
    play(|| {
        let receiving = Receiving::new();
        let reads = [(); 2].map(|()| {
            let receiving = Arc::clone(&receiving);
            thread::spawn(move || block_on(receiving.recv(From::All)))
        });
        receiving.arrive(&[b"a"], false);
        receiving.close();
        let read = reads.map(|reader| reader.join().unwrap());
        assert_eq!(read.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(read.iter().filter(|result| result.is_err()).count(), 1);
    });
}

/// A reader of one stream learns that the stream has ended.
pub fn who_reads_a_stream_learns_its_end() {
    play(|| {
        let receiving = Receiving::new();
        let from = From::Stream(receiving.stream);
        let reads = receiving.reads(from);
        let ends = receiving.spawn(|it| {
            let ended = it.intake.frames.lock().inbound.end(it.stream, StreamEnd::Finished);
            it.perform(ended.effects);
            it.intake.waiting.wake_readers_of_streams();
        });
        assert_eq!(reads.join().unwrap(), None);
        ends.join().unwrap();
    });
}

// ---- readers by message, and subscribers

/// A frame comes while one asks.
pub fn who_asks_by_message_is_given_a_frame() {
    play(|| {
        let receiving = Receiving::new();
        let asks = receiving.spawn(|it| it.read_later(false));
        receiving.arrive(&[b"a"], false);
        asks.join().unwrap();
        assert_eq!(receiving.given(), ["a"]);
        receiving.expect_nothing_left();
    });
}

/// Two arrive at once for two that asked: each is given once, one at a time.
pub fn who_delivers_sees_what_comes_meanwhile() {
    play(|| {
        let receiving = Receiving::new();
        receiving.read_later(false);
        receiving.read_later(false);
        let arrives = receiving.spawn(|it| it.arrive(&[b"a"], false));
        receiving.arrive(&[b"b"], false);
        arrives.join().unwrap();
        let mut given = receiving.given();
        given.sort();
        assert_eq!(given, ["a", "b"]);
        receiving.expect_nothing_left();
    });
}

/// One that is gone hands its frame back, and another one has it.
pub fn a_frame_for_one_that_is_gone_is_given_to_another() {
    play(|| {
        let receiving = Receiving::new();
        receiving.read_later(true);
        let asks = receiving.spawn(|it| it.read_later(false));
        receiving.arrive(&[b"a"], false);
        asks.join().unwrap();
        assert_eq!(receiving.given(), ["a"]);
        receiving.expect_nothing_left();
    });
}

/// The same, where the other one waits: it is woken again, although it was when the frame came.
pub fn who_waits_has_what_one_that_is_gone_hands_back() {
    play(|| {
        let receiving = Receiving::new();
        receiving.read_later(true);
        let reads = receiving.reads(From::All);
        receiving.arrive(&[b"a"], false);
        assert_eq!(reads.join().unwrap().unwrap(), "a");
        receiving.expect_nothing_left();
    });
}

/// A subscriber comes while one waits, who is refused although no frame comes.
pub fn who_waits_is_refused_when_a_subscriber_comes() {
    play(|| {
        let receiving = Receiving::new();
        let reading = Arc::clone(&receiving);
        let reads = thread::spawn(move || block_on(reading.recv(From::All)));
        let subscriber = Box::new(Subscribed(Arc::clone(&receiving)));
        assert!(receiving.intake.subscribe(subscriber, Arc::new(|| false), &*receiving));
        assert!(matches!(reads.join().unwrap(), Err(RecvError::Subscribed)));
        // They know each other.
        drop(receiving.intake.frames.lock().delivery.end_subscription(0));
    });
}

/// A subscriber comes while one waits: that one is refused, and the frame is one of theirs.
pub fn a_subscriber_and_a_reader_share_no_frame() {
    play(|| {
        let receiving = Receiving::new();
        let reading = Arc::clone(&receiving);
        let reads = thread::spawn(move || block_on(reading.recv(From::All)));
        let arrives = receiving.spawn(|it| it.arrive(&[b"a"], false));
        let subscriber = Box::new(Subscribed(Arc::clone(&receiving)));
        assert!(receiving.intake.subscribe(subscriber, Arc::new(|| false), &*receiving));
        arrives.join().unwrap();
        let read = reads.join().unwrap();
        assert_eq!(receiving.given().len(), usize::from(read.is_err()), "{read:?}");
        assert!(!matches!(read, Err(RecvError::Closed { .. })));
        receiving.expect_nothing_left();
        // They know each other.
        drop(receiving.intake.frames.lock().delivery.end_subscription(0));
    });
}

// ---- the owner

/// A frame goes on, another one begins, and the owner looks: no frame is unfinished unwatched.
pub fn a_frame_that_begins_is_watched() {
    play(|| {
        let receiving = Receiving::new();
        receiving.arrive(&[], true);
        let arrives = receiving.spawn(|it| {
            it.arrive(&[b"a"], false);
            it.arrive(&[], true);
        });
        *lock(&receiving.told) = false;
        let look = receiving.intake.frames.lock().inbound.look(Instant::now());
        arrives.join().unwrap();
        let watched = *lock(&receiving.told) || matches!(look, Look::At(_));
        assert!(watched, "a frame has begun and nobody looks");
    });
}
