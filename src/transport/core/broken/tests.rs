//! What follows where something happens that cannot, as in a release.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::config::Limits;
use crate::error::{CloseReason, Outcome, RecvError, SendError};
use crate::never::as_released;
use crate::transport::core::From;
use crate::transport::fault::{Fault, plant};
use crate::transport::link::lanes::Lane;
use crate::transport::link::room::Cost;
use crate::transport::simulator::joined::{Held, Joined};

const BROKEN: CloseReason = CloseReason::Local { code: CloseCode::INTERNAL };

fn impossible(core: &ConnectionCore) -> u64 {
    core.bounds.stats().impossible
}

#[tokio::test(start_paused = true)]
async fn what_cannot_happen_in_a_callback_ends_its_connection_and_whoever_waits_is_told() {
    let _released = as_released();
    let limits = Limits { lane_bytes_max: 64 << 10, ..Limits::default() };
    let (joined, ends) = Joined::new(&limits);
    let [here, there] = ends.each_ref().map(|end| Arc::clone(end.core()));
    joined.hold(Held::Acknowledgements);
    while here.try_send(Lane::Data, Bytes::from(vec![7; 10_000])).is_ok() {}
    let core = Arc::clone(&here);
    let sends = tokio::spawn(async move { core.send(Lane::Data, vec![7; 60_000].into()).await });
    let core = Arc::clone(&here);
    let acked = tokio::spawn(async move { core.send_acked(Lane::Bulk, "bulk".into()).await });
    let core = Arc::clone(&here);
    let reads = tokio::spawn(async move { core.recv(From::All).await });
    let core = Arc::clone(&here);
    let watches = tokio::spawn(async move { core.closed().await });
    joined.run_until_idle().await;
    assert_eq!((here.close_reason(), impossible(&here)), (None, 0));

    plant(Some(Fault::RoomComesBackTwice));
    joined.hold(Held::Nothing);
    joined.run_until_idle().await;
    plant(None);
    assert_eq!(here.close_reason(), Some(BROKEN));
    assert_eq!(there.close_reason(), Some(CloseReason::Peer { code: CloseCode::INTERNAL }));
    assert!(impossible(&here) > 0);
    assert_eq!(impossible(&there), 0, "nothing happened there");
    match sends.await.expect("it ends") {
        // It was given the room that came back, before anybody looked.
        Ok(()) => {}
        Err(SendError::Closed { reason: BROKEN, outcome: Outcome::NotSent(frame) }) => {
            assert_eq!(frame.len(), 60_000);
        }
        result => panic!("{result:?}"),
    }
    let told = acked.await.expect("it ends");
    assert!(matches!(told, Ok(()) | Err(SendError::Closed { reason: BROKEN, .. })), "{told:?}");
    let read = reads.await.expect("it ends");
    assert!(matches!(read, Err(RecvError::Closed { reason: BROKEN })), "{read:?}");
    assert_eq!(watches.await.expect("it ends"), BROKEN);
    assert_eq!(joined.handles(), 0);
    assert_balanced(&here);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_happen_in_a_call_of_the_application_ends_the_connection_though_it_is_idle() {
    let _released = as_released();
    for call in [
        |core: &ConnectionCore| core.give_back(Lane::Data, Cost::usual(1)),
        |core: &ConnectionCore| core.return_lent(1),
        // Nobody looks at this one but the lock behind it.
        |core: &ConnectionCore| core.lanes.get(Lane::Control).give_back(Cost::usual(1)),
    ] {
        let (joined, ends) = Joined::new(&Limits::default());
        let [here, there] = ends.each_ref().map(|end| Arc::clone(end.core()));
        joined.run_until_idle().await;
        call(&here);
        assert!(impossible(&here) > 0);
        assert_eq!(impossible(&there), 0, "nothing happened there");
        joined.run_until_idle().await;
        assert_eq!(here.close_reason(), Some(BROKEN));
        assert_eq!(there.close_reason(), Some(CloseReason::Peer { code: CloseCode::INTERNAL }));
        assert_eq!(joined.handles(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_does_the_same() {
    let (joined, ends) = Joined::new(&Limits::default());
    let [here, there] = ends.each_ref().map(|end| Arc::clone(end.core()));
    plant(Some(Fault::CallbackPanics));
    here.try_send(Lane::Data, "something to acknowledge".into()).expect("there is room");
    joined.run_until_idle().await;
    plant(None);
    joined.run_until_idle().await;
    let reasons = [&here, &there].map(|core| core.close_reason());
    assert!(reasons.contains(&Some(BROKEN)), "{reasons:?}");
    assert!(impossible(&here) + impossible(&there) > 0);
    assert_eq!(joined.handles(), 0);
    assert_balanced(&here);
}

#[tokio::test(start_paused = true)]
async fn whoever_fails_when_told_of_the_end_keeps_it_from_nobody_else() {
    let (joined, ends) = Joined::new(&Limits::default());
    let [here, _there] = ends.each_ref().map(|end| Arc::clone(end.core()));
    let (tell, told) = tokio::sync::oneshot::channel();
    here.on_complete(Box::new(|_| panic!("asked to by a test")));
    here.on_complete(Box::new(move |reason| drop(tell.send(reason.clone()))));
    let core = Arc::clone(&here);
    let watches = tokio::spawn(async move { core.closed().await });
    here.cut(CloseCode::NORMAL);
    joined.run_until_idle().await;
    let reason = CloseReason::Local { code: CloseCode::NORMAL };
    assert_eq!(told.await.as_ref(), Ok(&reason));
    assert_eq!(watches.await.expect("it ends"), reason);
    assert_eq!(joined.handles(), 0);
}

#[track_caller]
fn assert_balanced(core: &ConnectionCore) {
    let mut counts = crate::transport::OutcomeCounts::default();
    core.counts_by_lane().iter().for_each(|lane| counts += lane.frames);
    assert_eq!(counts.accepted, counts.completed + counts.not_sent + counts.maybe_sent);
}
