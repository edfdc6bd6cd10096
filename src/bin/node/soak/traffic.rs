//! What members say to each other: frames on all lanes and requests, in each session both ways.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use moorline::{CloseCode, Incoming, Lane, Node, Peer, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::book::{Book, Sent, StreamId, Violation};
use super::story::Story;

/// What members speak.
const PROTOCOL: &str = "soak/1";

/// In front of what fills a frame: stream, lane, number.
const HEAD_BYTES: usize = 8 + 1 + 8;

/// Requests of one session in flight.
const ASKED_AT_ONCE: usize = 8;

/// How long an answer may take: some do not come in time, and that is part of it.
const ANSWER_TIME: Duration = Duration::from_secs(4);

/// Between two looks at what has become true.
const LOOK: Duration = Duration::from_millis(20);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Run,
    /// Nothing new is sent.
    Drain,
    /// Sessions are closed.
    Close,
}

/// What all have in common.
pub(crate) struct World {
    book: Mutex<Book>,
    story: Story,
    phase: watch::Sender<Phase>,
    /// Sessions, of which both ends count, and those of them that have delivered all.
    ends: AtomicU64,
    quiet: AtomicU64,
    /// Members whose applications do not read.
    pub(crate) stopped: Vec<AtomicBool>,
}

impl World {
    pub(crate) fn new(members: usize, story: Story) -> Arc<Self> {
        Arc::new(Self {
            book: Mutex::default(),
            story,
            phase: watch::Sender::new(Phase::Run),
            ends: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            stopped: (0..members).map(|_| AtomicBool::new(false)).collect(),
        })
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn story(&self) -> &Story {
        &self.story
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Sessions' ends at present, and those of them that have delivered all.
    pub(crate) fn quiet(&self) -> (u64, u64) {
        (self.ends.load(Ordering::SeqCst), self.quiet.load(Ordering::SeqCst))
    }

    fn judge(&self, judged: Result<(), Violation>) {
        if let Err(violation) = judged {
            self.story.broken(violation);
        }
    }
}

/// Waits until it is that far, or further.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // Its sender lives as long as anybody waits.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

/// One member's part: ends when it is dropped.
pub(crate) fn member(
    world: &Arc<World>,
    me: usize,
    node: &Node,
    targets: Vec<(usize, Target)>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut peers = node.accept(PROTOCOL);
    let accepting = Arc::clone(world);
    tasks.spawn(async move {
        let mut sessions = JoinSet::new();
        while let Some(peer) = peers.next().await {
            while sessions.try_join_next().is_some() {}
            let name = format!("{me} to {}", peer.identity().short());
            sessions.spawn(session(Arc::clone(&accepting), me, name, peer, false));
        }
    });
    for (other, target) in targets {
        let (world, node) = (Arc::clone(world), node.clone());
        tasks.spawn(async move {
            while *world.phase.borrow() == Phase::Run {
                if let Ok(peer) = node.peer(target.clone(), PROTOCOL).await {
                    let name = format!("{me} to {other}");
                    session(Arc::clone(&world), me, name, peer, true).await;
                }
                // not synchronisation: the next session begins a little later
                tokio::time::sleep(LOOK).await;
            }
        });
    }
    tasks
}

/// One end of a session.
struct End {
    world: Arc<World>,
    peer: Peer,
    out: StreamId,
    /// What comes, once its first frame told which it is.
    coming: Mutex<Option<StreamId>>,
    me: usize,
    is_quiet: AtomicBool,
}

impl Drop for End {
    /// Also where its member is killed.
    fn drop(&mut self) {
        if self.is_quiet.load(Ordering::SeqCst) {
            self.world.quiet.fetch_sub(1, Ordering::SeqCst);
        }
        self.world.ends.fetch_sub(1, Ordering::SeqCst);
        let mut book = self.world.book();
        let judged = book.sending_ended(self.out, Sent::Killed);
        let coming = *self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let taking = coming.map_or(Ok(()), |id| book.taking_ended(id));
        drop(book);
        self.world.judge(judged.and(taking));
    }
}

async fn session(world: Arc<World>, me: usize, name: String, peer: Peer, dialled: bool) {
    let out = world.book().open(name);
    world.ends.fetch_add(1, Ordering::SeqCst);
    let (coming, is_quiet) = (Mutex::default(), AtomicBool::new(false));
    let end = End { world, peer, out, coming, me, is_quiet };
    let reason = {
        let receiving = end.receive();
        let sending = async {
            end.work().await;
            end.drain(dialled).await;
        };
        tokio::pin!(receiving, sending);
        tokio::select! {
            reason = &mut receiving => reason,
            () = &mut sending => receiving.await,
        }
    };
    let counts = end.peer.deliveries();
    end.world.story.tell(format_args!("session {} is over: {reason}", end.out.0));
    let judged = end.world.book().sending_ended(end.out, Sent::Ended(reason, counts));
    end.world.judge(judged);
}

impl End {
    /// Sends and asks until that is to stop, or the session is over.
    async fn work(&self) {
        let mut phase = self.world.phase.subscribe();
        let works = async {
            tokio::join!(
                self.send(Lane::Control, 64, Duration::from_millis(10)),
                self.send(Lane::Data, 4_000, Duration::from_millis(2)),
                self.send(Lane::Bulk, 200_000, Duration::from_millis(30)),
                self.ask(),
            )
        };
        tokio::select! {
            _ = works => std::future::pending().await,
            () = reached(&mut phase, Phase::Drain) => {}
        }
    }

    /// Frames of up to so many bytes, on average one in `pause`.
    async fn send(&self, lane: Lane, bytes_max: usize, pause: Duration) {
        let mut random = StdRng::seed_from_u64(self.out.0);
        loop {
            let number = self.world.book().next(self.out, lane);
            let bytes = random.random_range(0..=bytes_max);
            let frame = frame(self.out, lane, number, bytes);
            if self.peer.send_on(lane, frame).await.is_err() {
                return;
            }
            // Nothing is awaited between: what was accepted is counted.
            self.world.book().accepted(self.out, lane);
            // not synchronisation: the load
            tokio::time::sleep(pause.mul_f64(random.random_range(0.0..2.0))).await;
        }
    }

    async fn ask(&self) {
        let ask = || async {
            loop {
                let number = self.world.book().ask(self.out);
                let asked = frame(self.out, Lane::Data, number, 100);
                let end = match self.peer.request(asked, ANSWER_TIME).await {
                    Ok(answer) => match read(&answer) {
                        Some((_, _, number)) => Ok(number),
                        None => Ok(0),
                    },
                    Err(error) => Err(error.may_have_run()),
                };
                let judged = self.world.book().answered(self.out, number, end);
                self.world.judge(judged);
                if self.peer.ended().is_some() {
                    return;
                }
                // not synchronisation: the load
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let all: [_; ASKED_AT_ONCE] = std::array::from_fn(|_| ask());
        futures_join(all).await;
    }

    /// Takes what comes until the session is over; tells why it is.
    async fn receive(&self) -> moorline::PeerEnded {
        loop {
            while self.world.stopped[self.me].load(Ordering::Relaxed) {
                // not synchronisation: the fault that is played
                tokio::time::sleep(LOOK).await;
            }
            match self.peer.recv().await {
                Ok(Incoming::Message(frame)) => self.took(&frame),
                Ok(Incoming::Request(mut request)) => {
                    let asked = request.take_frame();
                    let Some((id, _, number)) = read(&asked) else {
                        self.damaged(&asked);
                        continue;
                    };
                    self.comes(id);
                    let judged = self.world.book().handled(id, number);
                    self.world.judge(judged);
                    // Whether it comes in time is its caller's to say.
                    drop(request.reply(asked).await);
                }
                Err(ended) => {
                    let id = *self.coming.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(id) = id {
                        let judged = self.world.book().taking_ended(id);
                        self.world.judge(judged);
                    }
                    return ended;
                }
            }
        }
    }

    fn took(&self, frame: &Bytes) {
        let Some((id, lane, number)) = read(frame) else { return self.damaged(frame) };
        self.comes(id);
        let judged = self.world.book().taken(id, lane, number);
        self.world.judge(judged);
    }

    /// All that comes in a session is of one stream.
    fn comes(&self, id: StreamId) {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *coming.get_or_insert(id);
        drop(coming);
        if first != id {
            let what =
                format!("what was sent on stream {} came in the session of {}", id.0, first.0);
            self.world.story.broken(Violation { stream: format!("to {}", self.me), what });
        }
    }

    fn damaged(&self, frame: &Bytes) {
        let what = format!("a frame of {} bytes came that was not sent so", frame.len());
        self.world.story.broken(Violation { stream: format!("to {}", self.me), what });
    }

    /// Whether the session is over, of which frames had their end first.
    async fn ends(&self) -> bool {
        const LOOKS: u32 = 250;
        for _ in 0..LOOKS {
            if self.peer.ended().is_some() {
                return true;
            }
            // not synchronisation: looked at again, for 5 s
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// Waits until everything was delivered, and closes when all are that far.
    async fn drain(&self, dialled: bool) {
        let open = |counts: [moorline::DeliveryCounts; 3]| {
            counts.iter().any(|of| of.accepted != of.delivered + of.not_sent + of.maybe_sent)
        };
        while open(self.peer.deliveries()) {
            // not synchronisation: looked at again; the end of all has a limit
            tokio::time::sleep(LOOK).await;
        }
        let counts = self.peer.deliveries();
        if counts.iter().any(|of| of.delivered != of.accepted) && !self.ends().await {
            let what = format!("not all was delivered in a session that stands: {counts:?}");
            self.world.story.broken(Violation { stream: format!("stream {}", self.out.0), what });
        }
        self.is_quiet.store(true, Ordering::SeqCst);
        self.world.quiet.fetch_add(1, Ordering::SeqCst);
        reached(&mut self.world.phase.subscribe(), Phase::Close).await;
        if dialled {
            self.peer.close(CloseCode::NORMAL).await;
        }
    }
}

/// Awaits all of them.
async fn futures_join<const N: usize>(all: [impl Future<Output = ()>; N]) {
    let mut all = all.map(Box::pin).map(Some);
    std::future::poll_fn(|context| {
        for one in &mut all {
            if one.as_mut().is_some_and(|it| it.as_mut().poll(context).is_ready()) {
                *one = None;
            }
        }
        if all.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

fn frame(id: StreamId, lane: Lane, number: u64, filler: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + filler);
    frame.put_u64(id.0);
    frame.put_u8(u8::from(lane));
    frame.put_u64(number);
    frame.put_bytes(number as u8, filler);
    frame.freeze()
}

fn read(frame: &Bytes) -> Option<(StreamId, Lane, u64)> {
    let (id, rest) = frame.split_first_chunk::<8>()?;
    let (lane, rest) = rest.split_first()?;
    let (number, filler) = rest.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*number);
    let lane = Lane::try_from(*lane).ok()?;
    let intact = filler.iter().all(|byte| *byte == number as u8);
    intact.then_some((StreamId(u64::from_be_bytes(*id)), lane, number))
}
