//! Branches of the core that are easily missed, over a scripted MsQuic.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::config::Limits;
use crate::error::RecvError;
use crate::marks::covers;
use crate::transport::core::readers::{READERS_MAX, Reader, Received};
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

/// What one reader after the other was told.
type Told = Arc<Mutex<Vec<Result<Bytes, RecvError>>>>;

/// As soon as it has its frame, as many readers ask and give up as may wait, and one more asks.
struct Asks {
    core: Arc<ConnectionCore>,
    told: Told,
    is_gone: bool,
    asks_again: bool,
}

impl Reader for Asks {
    fn is_gone(&self) -> bool {
        self.is_gone
    }

    fn give(self: Box<Self>, result: Result<Received, RecvError>) -> Result<(), Received> {
        let Self { core, told, is_gone, asks_again } = *self;
        lock(&told).push(result.map(|received| received.frame));
        let ask = |is_gone| {
            let (core, told) = (Arc::clone(&core), Arc::clone(&told));
            Box::new(Self { core, told, is_gone, asks_again: false })
        };
        assert!(!is_gone, "nothing is there for those who gave up");
        if asks_again {
            (0..READERS_MAX).for_each(|_| core.read_later(From::All, ask(true)));
            core.read_later(From::All, ask(false));
        }
        Ok(())
    }
}

/// Also while another frame is on its way to a reader.
#[tokio::test(start_paused = true)]
async fn a_reader_has_the_place_of_one_that_gave_up() {
    let (joined, ends) = Joined::new(&Limits::default());
    let [here, there] = cores(&ends);
    let told = Told::default();
    let first = Asks {
        core: Arc::clone(&there),
        told: Arc::clone(&told),
        is_gone: false,
        asks_again: true,
    };
    there.read_later(From::All, Box::new(first));
    for frame in ["one", "two"] {
        here.try_send(Lane::Data, frame.into()).expect("there is room");
        joined.run_until_idle().await;
    }
    assert_eq!(*lock(&told), [Ok("one".into()), Ok("two".into())]);
}
