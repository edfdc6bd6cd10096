//! Two nodes on loopback: what works when nothing goes wrong.

mod common;

use bytes::Bytes;
use common::{Pair, connected, within};
use moorline::{CloseCode, CloseReason, RecvError, Redial, Target};

#[tokio::test]
async fn frames_of_every_size_arrive_whole_and_in_order() {
    let pair = Pair::new().await;
    let sizes =
        [0, 1, 3, 4, 5, 127, 1200, 8191, 8192, 8193, 65_535, 65_536, 1 << 20, 16 << 20, 0, 7];
    let sender = pair.at_client.clone();
    let sent = tokio::spawn(async move {
        for (number, size) in sizes.into_iter().enumerate() {
            let fill = u8::try_from(number).expect("few sizes");
            sender.send(vec![fill; size]).await.expect("a frame is taken over");
        }
    });
    for (number, size) in sizes.into_iter().enumerate() {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(frame.len(), size, "frame {number}");
        assert!(frame.iter().all(|byte| usize::from(*byte) == number), "frame {number}");
    }
    within("the sender", sent).await.expect("the sender did not panic");
    pair.end().await;
}

#[tokio::test]
async fn both_ends_send_and_receive_at_once() {
    let pair = Pair::new().await;
    let count = 20_000u32;
    let mut tasks = Vec::new();
    for handle in [pair.at_client.clone(), pair.at_server.clone()] {
        let sender = handle.clone();
        tasks.push(tokio::spawn(async move {
            for number in 0..count {
                let frame = Bytes::copy_from_slice(&number.to_be_bytes());
                sender.send(frame).await.expect("a frame is taken over");
            }
        }));
        tasks.push(tokio::spawn(async move {
            let mut frames = Vec::new();
            let mut next = 0;
            while next < count {
                frames.clear();
                handle.recv_many(&mut frames, 256).await.expect("frames");
                for frame in &frames {
                    assert_eq!(frame.as_ref(), next.to_be_bytes());
                    next += 1;
                }
            }
        }));
    }
    for task in tasks {
        within("a task", task).await.expect("no task panics");
    }
    pair.end().await;
}

#[tokio::test]
async fn an_acknowledged_frame_is_counted_as_completed() {
    let pair = Pair::new().await;
    for _ in 0..10 {
        within("the outcome", pair.at_client.send_acked("x")).await.expect("acknowledged");
    }
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (10, 10));
    pair.end().await;
}

#[tokio::test]
async fn a_close_delivers_everything_that_was_accepted_and_tells_its_code() {
    let pair = Pair::new().await;
    let code = CloseCode::application(0x1234).expect("an application's code");
    for number in 0..1000u32 {
        pair.at_client.send(vec![1; 5000 + number as usize]).await.expect("taken over");
    }
    let reader = pair.at_server.clone();
    let read = tokio::spawn(async move {
        let mut frames = 0;
        loop {
            match reader.recv().await {
                Ok(_) => frames += 1,
                Err(error) => return (frames, error),
            }
        }
    });
    let reason = within("the close", pair.at_client.close(code)).await;
    assert_eq!(reason, CloseReason::Local { code });
    let (frames, error) = within("the reader", read).await.expect("no panic");
    assert_eq!(frames, 1000);
    assert_eq!(error, RecvError::Closed { reason: CloseReason::Peer { code } });
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (1000, 1000));
    pair.end().await;
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_reader_that_is_reading() {
    let pair = Pair::new().await;
    let mut events = pair.server.subscribe();
    let began = std::time::Instant::now();
    let rounds = 20;
    for _ in 0..rounds {
        let target = Target::from(pair.address).redial(Redial::Never);
        let dialled = within("connecting", pair.client.connect(target)).await.expect("connects");
        let accepted = connected(&mut events).await;
        let reader = tokio::spawn(async move {
            while accepted.recv().await.is_ok() {}
            accepted.closed().await
        });
        within("a frame", dialled.send_acked("x")).await.expect("acknowledged");
        within("the close", dialled.close(CloseCode::NORMAL)).await;
        let reason = within("the reader", reader).await.expect("no panic");
        assert_eq!(reason, CloseReason::Peer { code: CloseCode::NORMAL });
    }
    // Where nobody reads the other end answers after 500 ms: a round here takes a few.
    let each = began.elapsed() / rounds;
    assert!(each < std::time::Duration::from_millis(250), "{each:?} a round");
    pair.end().await;
}
