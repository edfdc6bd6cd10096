//! Frames that come to an actor of the application as messages, and what becomes of those that it does
//! not take.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::messages::{call, number, numbered, received, recv, small_lane};
use common::{Pair, within};
use moorline::{
    CloseCode, CloseReason, ConnectionHandle, ConnectionMessage, FrameBatch, Lane, NodeConfig,
    Outcome, RecvError, SendError,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

/// What the actor of an application is told.
enum AppMessage {
    Frames(FrameBatch),
    Panic,
}

impl From<FrameBatch> for AppMessage {
    fn from(batch: FrameBatch) -> Self {
        Self::Frames(batch)
    }
}

impl TryFrom<AppMessage> for FrameBatch {
    type Error = ();

    fn try_from(message: AppMessage) -> Result<Self, ()> {
        match message {
            AppMessage::Frames(batch) => Ok(batch),
            AppMessage::Panic => Err(()),
        }
    }
}

/// Passes on what it gets.
struct App;

impl Actor for App {
    type Msg = AppMessage;
    type State = mpsc::UnboundedSender<FrameBatch>;
    type Arguments = mpsc::UnboundedSender<FrameBatch>;

    async fn pre_start(
        &self,
        _myself: ActorRef<AppMessage>,
        batches: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(batches)
    }

    async fn handle(
        &self,
        _myself: ActorRef<AppMessage>,
        message: AppMessage,
        batches: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AppMessage::Frames(batch) => Ok(batches.send(batch)?),
            AppMessage::Panic => panic!("asked to by the test"),
        }
    }
}

type Batches = mpsc::UnboundedReceiver<FrameBatch>;

async fn app() -> (ActorRef<AppMessage>, Batches) {
    let (sender, batches) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App, sender).await.expect("an actor");
    (app, batches)
}

async fn subscribe(handle: &ConnectionHandle, app: &ActorRef<AppMessage>) -> bool {
    let subscriber = app.get_derived();
    call("the subscription", &handle.actor(), |reply| ConnectionMessage::Subscribe {
        subscriber,
        reply: Some(reply),
    })
    .await
}

#[tokio::test]
async fn a_subscriber_gets_every_frame_in_order_in_batches() {
    const COUNT: u32 = 50_000;
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    // Those that came before it as well.
    within("a send", pair.at_client.send(numbered(0))).await.expect("taken over");
    assert!(subscribe(&pair.at_server, &app).await);
    let sender = pair.at_client.clone();
    let sending = tokio::spawn(async move {
        for number in 1..COUNT {
            sender.send(numbered(number)).await.expect("taken over");
        }
    });
    let (mut next, mut count) = (0, 0);
    while next < COUNT {
        let mut batch = within("a batch", batches.recv()).await.expect("the actor lives");
        assert!(!batch.frames().is_empty());
        for frame in batch.take_frames() {
            assert_eq!(number(&frame), next);
            next += 1;
        }
        count += 1;
    }
    assert!(count < COUNT, "never more than one frame at once");
    within("the sender", sending).await.expect("no panic");
    let stats = pair.at_server.stats();
    assert_eq!(stats.frames_received, u64::from(COUNT));
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_batch_that_is_held_stops_the_sender_and_its_drop_opens_the_window() {
    const INBOUND: usize = 64 << 10;
    let reads = |config: &mut NodeConfig| config.limits.inbound_bytes_max = INBOUND;
    let sends = |config: &mut NodeConfig| {
        small_lane(config);
        config.limits.stream_op_timeout = Duration::from_secs(1);
    };
    let pair = Pair::with(reads, sends).await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let frame = |number: u32| {
        let mut frame = vec![0; 8 << 10];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        frame
    };
    let mut sent = 0;
    let stopped = within("the sender stops", async {
        loop {
            if let Err(error) = pair.at_client.send(frame(sent)).await {
                return error;
            }
            sent += 1;
        }
    })
    .await;
    assert!(matches!(stopped, SendError::TimedOut { outcome: Outcome::NotSent(_), .. }));

    let mut held = Vec::new();
    while let Ok(batch) = batches.try_recv() {
        held.push(batch);
    }
    let bytes: usize = held.iter().flat_map(FrameBatch::frames).map(Bytes::len).sum();
    assert!(bytes > 0 && bytes <= INBOUND, "{bytes} bytes were given to the subscriber");
    let mut next = 0;
    for frame in held.iter().flat_map(FrameBatch::frames) {
        assert_eq!(number(frame), next);
        next += 1;
    }
    drop(held);
    let late = sent..sent + 20;
    let sending = async {
        for number in late.clone() {
            let taken = pair.at_client.send(frame(number)).await;
            assert!(taken.is_ok(), "the window is open: frame {number}");
        }
    };
    let reading = async {
        while next < late.end {
            let batch = batches.recv().await.expect("the actor lives");
            for frame in batch.frames() {
                assert_eq!(number(frame), next);
                next += 1;
            }
        }
    };
    within("the frames behind it", async { tokio::join!(sending, reading) }).await;
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn nobody_else_reads_while_a_subscriber_does() {
    let pair = Pair::new().await;
    let reading = tokio::spawn({
        let reader = pair.at_server.clone();
        async move { reader.recv().await }
    });
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    assert!(!subscribe(&pair.at_server, &app).await, "one subscriber at most");
    let waited = within("a reader that waited", reading).await.expect("no panic");
    assert_eq!(waited, Err(RecvError::Subscribed));
    let refused = within("a read", pair.at_server.recv()).await;
    assert_eq!(refused, Err(RecvError::Subscribed));
    let mut frames = Vec::new();
    let refused = within("a read of many", pair.at_server.recv_many(&mut frames, 8)).await;
    assert_eq!(refused, Err(RecvError::Subscribed));
    within("a send", pair.at_client.send("frame")).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), ["frame"]);
    drop(batch);
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_reader_by_message_is_refused_while_a_subscriber_reads() {
    let pair = Pair::new().await;
    let waited = recv(&pair.at_server.actor());
    let (app, _batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    assert_eq!(received(&pair.at_server.actor()).await, Err(RecvError::Subscribed));
    let waited = within("a reader that waited", waited).await.expect("it is answered");
    assert_eq!(waited.err(), Some(RecvError::Subscribed));
    app.stop(None);
    pair.end().await;
}

/// Ends a subscriber and waits until it takes no more messages.
async fn end(app: ActorRef<AppMessage>) {
    app.stop(None);
    within("the subscriber's end", app.wait(None)).await.expect("no limit");
}

#[tokio::test]
async fn frames_for_a_subscriber_that_died_go_to_the_next_reader() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    within("a send", pair.at_client.send(numbered(0))).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), [numbered(0)]);
    end(app).await;
    let next = recv(&pair.at_server.actor());
    for number in 1..100 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    let frame = within("a frame", next).await.expect("answered").expect("a frame");
    assert_eq!(number(&frame.into_bytes()), 1);
    for expected in 2..100 {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected);
    }
    assert_eq!(pair.at_server.stats().frames_received, 100);
    drop(batch);
    pair.end().await;
}

/// Takes frames in an actor that is given up while some wait in its mailbox.
async fn frames_in_the_mailbox_of_a_subscriber(give_up: impl FnOnce(&ActorRef<AppMessage>)) {
    let pair = Pair::new().await;
    let (app, batches) = app().await;
    // Its handler fails at the first batch.
    drop(batches);
    give_up(&app);
    let subscribed = subscribe(&pair.at_server, &app).await;
    for number in 0..100 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    within("the subscriber's end", app.wait(None)).await.expect("no limit");
    for expected in 0..100 {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected, "subscribed: {subscribed}");
    }
    pair.end().await;
}

#[tokio::test]
async fn frames_that_wait_for_a_subscriber_that_panics_go_to_the_next_reader() {
    frames_in_the_mailbox_of_a_subscriber(|app| drop(app.cast(AppMessage::Panic))).await;
}

#[tokio::test]
async fn frames_that_wait_for_a_subscriber_that_fails_go_to_the_next_reader() {
    frames_in_the_mailbox_of_a_subscriber(|_| ()).await;
}

#[tokio::test]
async fn frames_that_wait_for_a_subscriber_that_is_killed_go_to_the_next_reader() {
    frames_in_the_mailbox_of_a_subscriber(|app| app.kill()).await;
}

#[tokio::test]
async fn a_batch_tells_whose_frames_it_has_and_on_which_lane() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    for lane in Lane::ALL {
        for number in 0..100 {
            let sent = pair.at_client.send_on(lane, numbered(number));
            within("a send", sent).await.expect("taken over");
        }
    }
    let mut next = [0; 3];
    while next != [100; 3] {
        let batch = within("a batch", batches.recv()).await.expect("the actor lives");
        assert_eq!(batch.peer(), pair.client.identity());
        assert_eq!(batch.epoch(), pair.at_server.epoch());
        let next = &mut next[batch.lane() as usize];
        for frame in batch {
            assert_eq!(number(&frame), *next);
            *next += 1;
        }
    }
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_subscriber_that_looks_at_nothing_does_not_get_it_for_ever() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    within("a send", pair.at_client.send("ignored")).await.expect("taken over");
    let mut ignored = 0;
    loop {
        let batch = within("a batch", batches.recv()).await.expect("the actor lives");
        ignored += 1;
        assert!(ignored < 10, "given again and again");
        drop(batch);
        if pair.at_server.stats().bytes_waiting == 0 {
            break;
        }
    }
    within("a send", pair.at_client.send("seen")).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), ["seen"]);
    drop(batch);
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_subscriber_that_died_is_replaced_by_the_next_one() {
    let pair = Pair::new().await;
    let (first, _batches) = app().await;
    assert!(subscribe(&pair.at_server, &first).await);
    end(first).await;
    let (second, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &second).await, "the first one is gone");
    within("a send", pair.at_client.send("frame")).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), ["frame"]);
    drop(batch);
    second.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_reader_is_not_refused_for_a_subscriber_that_died() {
    let pair = Pair::new().await;
    let (app, _batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    end(app).await;
    let reader = pair.at_server.clone();
    let reading = tokio::spawn(async move { reader.recv().await });
    tokio::task::yield_now().await;
    within("a send", pair.at_client.send("frame")).await.expect("taken over");
    let frame = within("a frame", reading).await.expect("no panic");
    assert_eq!(frame, Ok("frame".into()));
    pair.end().await;
}

#[tokio::test]
async fn a_subscription_ends_with_its_connection_and_every_frame_before_it_is_given() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let waited = recv(&pair.at_server.actor());
    for number in 0..1000 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    let closing = tokio::spawn({
        let handle = pair.at_client.clone();
        async move { handle.close(CloseCode::NORMAL).await }
    });
    let mut next = 0;
    while next < 1000 {
        let batch = within("a batch", batches.recv()).await.expect("the actor lives");
        for frame in batch.frames() {
            assert_eq!(number(frame), next);
            next += 1;
        }
    }
    let reason = within("the close", closing).await.expect("no panic");
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (1000, 1000));
    within("the end there", pair.at_server.closed()).await;
    let refused = within("a reader that waited", waited).await;
    assert!(!matches!(refused, Ok(Ok(_))), "every frame went to the subscriber");
    end(app).await;
    pair.end().await;
}
