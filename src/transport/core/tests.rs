//! Branches of the core that are easily missed, over a scripted MsQuic.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::config::Limits;
use crate::marks::covers;
use crate::transport::simulator::joined::Joined;

fn cores(ends: &[crate::transport::MsQuicNetConnection; 2]) -> [Arc<ConnectionCore>; 2] {
    ends.each_ref().map(|end| Arc::clone(end.core()))
}

#[tokio::test(start_paused = true)]
async fn the_first_frame_may_go_out_on_any_lane() {
    covers!("a stream of another lane is passed over");
    let (joined, ends) = Joined::new(&Limits::default());
    let [here, there] = cores(&ends);
    here.try_send(Lane::Bulk, "bulk first".into()).expect("there is room");
    joined.run_until_idle().await;
    let frame = there.try_recv(From::All).expect("it lives").expect("it came");
    assert_eq!((frame.lane, frame.frame), (Lane::Bulk, Bytes::from("bulk first")));
}

#[tokio::test(start_paused = true)]
async fn a_submission_that_the_library_refuses_goes_out_on_another_stream() {
    covers!("a submission is tried again on another stream");
    let (joined, ends) = Joined::new(&Limits::default());
    let [here, there] = cores(&ends);
    here.announce();
    joined.run_until_idle().await;
    joined.refuse_sends(1);
    here.try_send(Lane::Data, "refused once".into()).expect("there is room");
    joined.run_until_idle().await;
    let frame = there.try_recv(From::All).expect("it lives").expect("it came");
    assert_eq!(frame.frame, "refused once");
    assert_eq!(here.counts_by_lane()[Lane::Data as usize].frames.completed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_woken_wakes_the_next_if_there_is_more() {
    covers!("a reader passes the wake-up on");
    let (joined, ends) = Joined::new(&Limits::default());
    let [here, there] = cores(&ends);
    let readers = [0, 1].map(|_| {
        let core = Arc::clone(&there);
        tokio::spawn(async move { core.recv(From::All).await })
    });
    joined.run_until_idle().await;
    let mut frames = [Bytes::from("one"), Bytes::from("two")].into();
    here.send_many(Lane::Data, &mut frames).await.expect("there is room");
    joined.run_until_idle().await;
    for (reader, expected) in readers.into_iter().zip(["one", "two"]) {
        assert_eq!(reader.await.expect("it ends").expect("a frame").frame, expected);
    }
}
