//! A session under load on all lanes, both ways, and what must hold of it whatever happened meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moorline::testing::{Ledger, LedgerReport, Stamp};
use moorline::{CloseCode, Delivery, DeliveryCounts, Incoming, Lane, Peer, PeerEnded, Receipt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{until, within, within_limit};

/// Longer than all of a test.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// How often each sender may send some more: enough for a load, and something left for the others on the
/// machine.
const PACE: Duration = Duration::from_millis(2);

/// Requests of one side in flight on one lane.
const ASKERS: u64 = 4;

/// One end of a session, and its name in the ledger.
#[derive(Clone)]
pub(crate) struct Side {
    name: String,
    pub(crate) peer: Peer,
    ledger: Ledger,
    over: Arc<AtomicBool>,
    /// The session may end, or its peer stop, before the load does.
    may_end: bool,
}

impl Side {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Messages on one lane, until it is told to stop or nothing is accepted any more; some of them with a
    /// receipt, or all.
    async fn send(self, lane: Lane, seed: u64) {
        let (sender, mut rng) = (self.ledger.sender(&self.name), StdRng::seed_from_u64(seed));
        let mut receipts: Vec<(Stamp, Receipt)> = Vec::new();
        let mut ticks = paced();
        'sending: while self.goes_on() {
            ticks.tick().await;
            for _ in 0..rng.random_range(0..at_once(lane)) {
                let frame = sender.frame(lane, bytes(lane, &mut rng));
                let stamp = Stamp::read(&frame).expect("it was made here");
                let sent = if self.may_end || rng.random_ratio(1, 16) {
                    let sending = self.peer.send_tracked(lane, frame);
                    let sent = within_limit(LONG, "room", sending).await;
                    sent.map(|receipt| receipts.push((stamp, receipt)))
                } else {
                    within_limit(LONG, "room", self.peer.send_on(lane, frame)).await
                };
                if let Err(error) = sent {
                    assert!(self.may_end, "{error}");
                    self.ledger.excuse(stamp);
                    break 'sending;
                }
            }
        }
        for (stamp, receipt) in receipts {
            if within("a receipt", receipt.delivery()).await != Delivery::Delivered {
                self.ledger.excuse(stamp);
            }
        }
    }

    /// Requests on one lane, one after the other; each comes back as long as the session lives.
    async fn ask(self, lane: Lane, asker: u64, seed: u64) {
        let sender = self.ledger.sender(&format!("{}, asker {asker}", self.name));
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ticks = paced();
        while self.goes_on() {
            ticks.tick().await;
            let frame = sender.frame(lane, bytes(lane, &mut rng));
            let asking = self.peer.request_on(lane, frame.clone(), LONG);
            match within_limit(LONG, "an answer", asking).await {
                Ok(answer) => assert_eq!(answer, frame),
                Err(error) => {
                    assert!(self.may_end, "{error}");
                    self.ledger.excuse(Stamp::read(&frame).expect("it was made here"));
                    break;
                }
            }
        }
    }

    /// Takes what comes, and answers what is asked, each answer when it is its turn.
    async fn take(self) -> PeerEnded {
        let mut answers = JoinSet::new();
        loop {
            match self.peer.recv().await {
                Ok(Incoming::Message(frame)) => {
                    self.ledger.receive(&frame).expect("an undamaged frame");
                }
                Ok(Incoming::Request(mut request)) => {
                    let frame = request.take_frame();
                    self.ledger.receive(&frame).expect("an undamaged request");
                    let may_end = self.may_end;
                    answers.spawn(async move {
                        let answered = request.reply(frame).await;
                        assert!(may_end || answered.is_ok(), "it waits");
                    });
                }
                Err(ended) => return ended,
            }
            while let Some(answered) = answers.try_join_next() {
                answered.expect("no panic");
            }
        }
    }

    /// Of all lanes together.
    pub(crate) fn deliveries(&self) -> DeliveryCounts {
        let mut sum = DeliveryCounts::default();
        for lane in self.peer.deliveries() {
            sum.accepted += lane.accepted;
            sum.delivered += lane.delivered;
            sum.not_sent += lane.not_sent;
            sum.maybe_sent += lane.maybe_sent;
        }
        sum
    }

    fn is_at_rest(&self) -> bool {
        let all = self.deliveries();
        all.accepted == all.delivered
    }
}

fn paced() -> Interval {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What a connection carries in the short time that it has goes to the other lanes first: bulk has to get its turn.
fn at_once(lane: Lane) -> u64 {
    match lane {
        Lane::Control | Lane::Data => 4,
        Lane::Bulk => 2,
    }
}

/// Mostly small, on bulk up to what is not gathered with others.
fn bytes(lane: Lane, rng: &mut StdRng) -> usize {
    match lane {
        Lane::Control => rng.random_range(32..256),
        Lane::Data => rng.random_range(32..1_000),
        Lane::Bulk => rng.random_range(32..12_000),
    }
}

/// Both ends of a session, and whoever sends, asks and takes there.
pub(crate) struct Load {
    pub(crate) sides: [Side; 2],
    ledger: Ledger,
    takers: [JoinHandle<PeerEnded>; 2],
    tasks: JoinSet<()>,
}

impl Load {
    /// Of a session that stays: its end is a fault.
    pub(crate) fn start(ends: [Peer; 2], seed: u64) -> Self {
        Self::with(ends, seed, false)
    }

    /// Of a session that may end at any time: it is known of each message what became of it.
    pub(crate) fn of_a_session_that_ends(ends: [Peer; 2], seed: u64) -> Self {
        Self::with(ends, seed, true)
    }

    fn with(ends: [Peer; 2], seed: u64, may_end: bool) -> Self {
        let (ledger, over) = (Ledger::new(), Arc::new(AtomicBool::new(false)));
        let mut names = ["there", "back"].into_iter();
        let sides = ends.map(|peer| {
            let name = names.next().unwrap_or_default().to_owned();
            Side { name, peer, ledger: ledger.clone(), over: Arc::clone(&over), may_end }
        });
        let (mut tasks, mut rng) = (JoinSet::new(), StdRng::seed_from_u64(seed));
        for side in &sides {
            for lane in Lane::ALL {
                tasks.spawn(side.clone().send(lane, rng.random()));
                for asker in 0..ASKERS {
                    tasks.spawn(side.clone().ask(lane, asker, rng.random()));
                }
            }
        }
        let takers = sides.clone().map(|side| tokio::spawn(side.take()));
        Self { sides, ledger, takers, tasks }
    }

    /// Frames that came.
    pub(crate) fn received(&self) -> u64 {
        self.ledger.received()
    }

    /// Waits until so many more frames have come.
    pub(crate) async fn brings(&mut self, more: u64) {
        let before = self.received();
        until("more frames", || self.received() >= before + more).await;
        self.goes_on();
    }

    /// Whoever sends and asks is still at it.
    pub(crate) fn goes_on(&mut self) {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.expect("no panic");
            panic!("the load goes on");
        }
    }

    /// Ends the load and then the session: everything came, once and in order, and is told so. How many frames
    /// that were.
    pub(crate) async fn ends_whole(mut self) -> u64 {
        self.goes_on();
        self.sides[0].over.store(true, Ordering::Relaxed);
        while let Some(done) =
            within_limit(LONG, "the end of the load", self.tasks.join_next()).await
        {
            done.expect("no panic");
        }
        until("everything to be taken", || self.sides.iter().all(Side::is_at_rest)).await;
        let closed = within("the close", self.sides[0].peer.close(CloseCode::NORMAL)).await;
        assert_eq!(closed, PeerEnded::Closed);
        let (report, sides) = self.over().await;
        let sent: u64 = report.flows.iter().map(|flow| flow.sent).sum();
        let mut accepted = 0;
        for side in &sides {
            let all = side.deliveries();
            assert_eq!((all.not_sent, all.maybe_sent), (0, 0), "{all:?}");
            accepted += all.accepted;
        }
        assert_eq!(accepted, sent, "each frame was accepted once");
        sent
    }

    /// Behind the end of the session, from outside: what was told as delivered came, nothing twice, all in
    /// order. How both ends were told.
    pub(crate) async fn cut_off(self) -> [PeerEnded; 2] {
        let ends = self.sides.clone();
        drop(self.over().await);
        ends.map(|side| side.peer.ended().expect("it is over"))
    }

    async fn over(self) -> (LedgerReport, [Side; 2]) {
        let Self { sides, ledger, takers, mut tasks } = self;
        for taker in takers {
            within_limit(LONG, "the end of a taker", taker).await.expect("no panic");
        }
        while let Some(done) = within_limit(LONG, "the end of the load", tasks.join_next()).await {
            done.expect("no panic");
        }
        for side in &sides {
            let all = side.deliveries();
            assert_eq!(all.accepted, all.delivered + all.not_sent + all.maybe_sent, "{all:?}");
        }
        let report = ledger.report();
        assert!(report.is_clean(), "{report}");
        (report, sides)
    }
}
