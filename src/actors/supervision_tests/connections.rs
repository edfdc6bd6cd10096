//! The actor of a connection fails.

use super::*;

/// The connection's actor fails at the client, which dials again.
async fn a_connection_fails(fail: impl FnOnce(&ActorRef<ConnectionMessage>)) {
    let pair = Pair::new(|_| ()).await;
    let (mut events, mut at_server) = (pair.client.subscribe(), pair.server.subscribe());
    let old = &pair.at_client;
    let (asked, answer) = ractor::concurrency::oneshot();
    old.actor().cast(ConnectionMessage::WatchClose { reply: asked.into() }).expect("it lives");
    let (asked, frame) = ractor::concurrency::oneshot();
    old.actor()
        .cast(ConnectionMessage::Recv { lane: None, reply: asked.into() })
        .expect("it lives");
    let (reader, sender) = (old.clone(), old.clone());
    let reading = tokio::spawn(async move { reader.recv().await });
    let sending = tokio::spawn(async move {
        loop {
            if let Err(error) = sender.send(Bytes::from_static(&[7; 4096])).await {
                return error;
            }
        }
    });
    fail(&old.actor());

    let ended = CloseReason::Local { code: CloseCode::ACTOR_FAILED };
    assert_eq!(within("the end here", old.closed()).await, ended);
    let told = within("the end there", pair.at_server.closed()).await;
    assert_eq!(told, CloseReason::Peer { code: CloseCode::ACTOR_FAILED });
    let closed = RecvError::Closed { reason: ended.clone() };
    assert_eq!(within("the reader", reading).await.expect("no panic"), Err(closed.clone()));
    let error = within("the sender", sending).await.expect("no panic");
    let SendError::Closed { reason, outcome: Outcome::NotSent(frame_back) } = error else {
        panic!("{error:?}");
    };
    assert_eq!((reason, frame_back.len()), (ended.clone(), 4096));
    let error = within("a late send", old.send("late")).await.expect_err("it is closed");
    assert!(matches!(&error, SendError::Closed { reason, .. } if *reason == ended), "{error:?}");
    assert_eq!(error.into_frame().expect("handed back"), "late");
    assert_eq!(within("a late read", old.recv()).await, Err(closed.clone()));
    // The port is dropped, or answered with the reason; it is never left open.
    if let Ok(reason) = within("the watcher by message", answer).await {
        assert_eq!(reason, ended);
    }
    if let Ok(result) = within("the reader by message", frame).await {
        assert_eq!(result.err(), Some(closed));
    }

    let again = connected(&mut events).await;
    assert!(again.epoch() > old.epoch());
    exchange(&again, &connected(&mut at_server).await).await;
    let sent = old.stats().sent;
    assert_eq!(sent.accepted, sent.completed + sent.not_sent + sent.maybe_sent, "{sent:?}");
    drop(again);
    pair.end().await;
}

#[tokio::test]
async fn a_connection_whose_actor_panics_is_closed_with_a_code_and_dialled_again() {
    a_connection_fails(|actor| actor.cast(ConnectionMessage::panic()).expect("it lives")).await;
}

#[tokio::test]
async fn a_connection_whose_actor_is_killed_is_closed_with_a_code_and_dialled_again() {
    a_connection_fails(|actor| actor.kill()).await;
}

#[tokio::test]
async fn a_connection_whose_actor_panics_at_the_listening_end_is_dialled_again() {
    let pair = Pair::new(|_| ()).await;
    let (mut events, mut at_server) = (pair.client.subscribe(), pair.server.subscribe());
    pair.at_server.actor().cast(ConnectionMessage::panic()).expect("it lives");
    let told = within("the end", pair.at_client.closed()).await;
    assert_eq!(told, CloseReason::Peer { code: CloseCode::ACTOR_FAILED });
    let again = connected(&mut events).await;
    assert!(again.epoch() > pair.at_client.epoch());
    exchange(&again, &connected(&mut at_server).await).await;
    drop(again);
    pair.end().await;
}
