//! A connection's actor over a scripted MsQuic: what it does for each message, each notice and each
//! deadline, with a clock that goes on only where a test lets it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorRef};
use tokio::time::{Instant, advance};

use super::connection::{Arguments, ConnectionActor};
use super::handle::{ConnectionHandle, Ends};
use super::message::connection::ConnectionMessage;
use crate::config::Limits;
use crate::error::{CloseCode, CloseReason, Outcome, SendError};
use crate::transport::simulator::joined::{Held, Joined};

/// The shortest time that is told apart here.
const MOMENT: Duration = Duration::from_millis(1);

struct Pair {
    joined: Rc<Joined>,
    here: ConnectionHandle,
    /// Whose actor does nothing by itself.
    there: ConnectionHandle,
}

impl Pair {
    async fn new() -> Self {
        let (joined, [here, there]) = Joined::new(&Limits::default());
        let mut handles = Vec::new();
        for (epoch, connection) in [(1, here), (2, there)] {
            let (core, ends) = (Arc::clone(connection.core()), Ends::of(&connection));
            let span = tracing::Span::none();
            let arguments = Arguments { connection, epoch, span };
            let spawned = Actor::spawn(None, ConnectionActor, arguments).await;
            let (actor, _) = spawned.expect("it starts");
            handles.push(ConnectionHandle::new(core, actor.get_cell(), epoch, ends));
        }
        joined.run_until_idle().await;
        let there = handles.pop().expect("two were made");
        Self { joined, here: handles.pop().expect("two were made"), there }
    }

    /// Lets time go on, and does what follows from it.
    async fn after(&self, time: Duration) {
        advance(time).await;
        self.joined.run_until_idle().await;
    }

    fn reasons(&self) -> [Option<CloseReason>; 2] {
        [self.here.close_reason(), self.there.close_reason()]
    }
}

fn close(actor: &ActorRef<ConnectionMessage>, code: CloseCode) {
    actor.cast(ConnectionMessage::Close { code, reply: None }).expect("it lives");
}

const CODE: CloseCode = CloseCode::NORMAL;

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_by_a_reader_that_comes_to_the_end() {
    let pair = Pair::new().await;
    pair.here.try_send("the last one").expect("there is room");
    pair.joined.run_until_idle().await;
    let there = pair.there.clone();
    let reader = tokio::spawn(async move {
        let first = there.recv().await.expect("a frame");
        (first, there.recv().await.expect_err("the end"))
    });
    close(&pair.here.actor(), CODE);
    pair.joined.run_until_idle().await;
    assert_eq!(
        pair.reasons(),
        [Some(CloseReason::Local { code: CODE }), Some(CloseReason::Peer { code: CODE })]
    );
    let (frame, _) = reader.await.expect("it ends");
    assert_eq!(frame, Bytes::from("the last one"));
    assert_eq!(pair.joined.handles(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_reads_a_close_is_answered_half_a_second_later() {
    let pair = Pair::new().await;
    close(&pair.here.actor(), CODE);
    pair.joined.run_until_idle().await;
    pair.after(Duration::from_millis(500) - MOMENT).await;
    assert_eq!(pair.reasons(), [None, None]);
    pair.after(2 * MOMENT).await;
    assert_eq!(pair.here.close_reason(), Some(CloseReason::Local { code: CODE }));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_keeps_the_close_waiting_up_to_its_limit() {
    let pair = Pair::new().await;
    let limit = Limits::default().close_time_max;
    for _ in 0..20 {
        pair.here.try_send("one of many").expect("there is room");
    }
    pair.joined.run_until_idle().await;
    close(&pair.here.actor(), CODE);
    pair.joined.run_until_idle().await;
    let begun = Instant::now();
    while begun.elapsed() < limit - Duration::from_millis(300) {
        pair.there.recv().await.expect("a frame");
        pair.after(Duration::from_millis(300)).await;
        assert_eq!(pair.reasons(), [None, None], "{:?}", begun.elapsed());
    }
    pair.after(Duration::from_millis(300)).await;
    assert_eq!(pair.here.close_reason(), Some(CloseReason::Local { code: CODE }));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_ends_its_frames_and_never_closes_is_cut_at_the_limit() {
    let pair = Pair::new().await;
    // Its streams end, and nobody there closes.
    pair.there.core().begin_close(&CloseReason::Local { code: CODE });
    pair.joined.run_until_idle().await;
    pair.after(Duration::from_millis(500)).await;
    pair.after(Limits::default().close_time_max - MOMENT).await;
    assert_eq!(pair.here.close_reason(), None);
    pair.after(2 * MOMENT).await;
    let code = CloseCode::HALF_CLOSED;
    assert_eq!(
        pair.reasons(),
        [Some(CloseReason::Local { code }), Some(CloseReason::Peer { code })]
    );
    let counted = [&pair.here, &pair.there].map(|end| end.core().node_stats().limits);
    assert_eq!(counted.map(|limits| limits.close_time_max), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_frame_whose_rest_does_not_come_is_overdue_at_its_limit() {
    let pair = Pair::new().await;
    let limit = Limits::default().frame_time_max;
    pair.here.try_send(vec![7; 3 << 20]).expect("there is room");
    // The first piece arrives, and nothing behind it.
    pair.joined.run_once().await;
    pair.joined.hold(Held::Bytes);
    pair.joined.run_until_idle().await;
    pair.after(limit - MOMENT).await;
    assert_eq!(pair.there.close_reason(), None);
    pair.after(2 * MOMENT).await;
    let code = CloseCode::FRAME_TIMEOUT;
    assert_eq!(pair.there.close_reason(), Some(CloseReason::Local { code }));
    assert_eq!(pair.here.close_reason(), Some(CloseReason::Peer { code }));
}

#[tokio::test(start_paused = true)]
async fn a_lane_of_which_nothing_is_acknowledged_ends_its_connection() {
    let pair = Pair::new().await;
    let limit = Limits::default().lane_stall_time_max;
    pair.joined.hold(Held::Acknowledgements);
    let here = pair.here.clone();
    let sent = tokio::spawn(async move { here.send_acked("to nobody").await });
    pair.joined.run_until_idle().await;
    pair.after(limit - MOMENT).await;
    assert_eq!(pair.here.close_reason(), None);
    for _ in 0..4 {
        pair.after(limit / 4).await;
    }
    let code = CloseCode::LANE_STALLED;
    assert_eq!(pair.here.close_reason(), Some(CloseReason::Local { code }));
    match sent.await.expect("it ends") {
        Err(SendError::TimedOut { outcome: Outcome::MaybeSent, .. }) => {}
        result => panic!("{result:?}"),
    }
    let counts = pair.here.stats().sent;
    assert_eq!((counts.accepted, counts.maybe_sent), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_is_killed_cuts_its_connection_with_a_code_of_its_own() {
    let pair = Pair::new().await;
    pair.here.actor().kill();
    pair.joined.run_until_idle().await;
    let code = CloseCode::ACTOR_FAILED;
    assert_eq!(
        pair.reasons(),
        [Some(CloseReason::Local { code }), Some(CloseReason::Peer { code })]
    );
    assert_eq!(pair.joined.handles(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_panics_does_the_same() {
    let pair = Pair::new().await;
    pair.here.actor().cast(ConnectionMessage::panic()).expect("it lives");
    pair.joined.run_until_idle().await;
    let code = CloseCode::ACTOR_FAILED;
    assert_eq!(pair.there.close_reason(), Some(CloseReason::Peer { code }));
    assert_eq!(pair.joined.handles(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_is_told_when_every_handle_is_closed_however_late() {
    let pair = Pair::new().await;
    pair.joined.hold(Held::Completions);
    let here = pair.here.clone();
    let mut closed = tokio::spawn(async move { here.close(CODE).await });
    pair.joined.run_until_idle().await;
    pair.after(Limits::default().close_time_max + MOMENT).await;
    assert_eq!(pair.here.close_reason(), Some(CloseReason::Local { code: CODE }));
    pair.after(Duration::from_secs(3_600)).await;
    assert!(!closed.is_finished(), "handles are open");
    pair.joined.hold(Held::Nothing);
    pair.joined.run_until_idle().await;
    assert_eq!((&mut closed).await.expect("it ends"), CloseReason::Local { code: CODE });
    assert_eq!(pair.joined.handles(), 0);
}

#[tokio::test(start_paused = true)]
async fn frames_that_were_accepted_have_one_end_each_when_the_connection_is_cut() {
    let pair = Pair::new().await;
    pair.joined.hold(Held::Acknowledgements);
    let mut accepted = 0;
    while pair.here.try_send(vec![1; 10_000]).is_ok() {
        accepted += 1;
    }
    pair.joined.run_until_idle().await;
    pair.there.actor().kill();
    pair.joined.run_until_idle().await;
    let counts = pair.here.stats().sent;
    assert_eq!(counts.accepted, accepted);
    assert_eq!(counts.completed + counts.not_sent + counts.maybe_sent, accepted);
    assert!(counts.not_sent > 0 && counts.maybe_sent > 0, "{counts:?}");
}
