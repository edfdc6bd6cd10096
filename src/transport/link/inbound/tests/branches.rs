//! Branches that are easily missed, each by itself.

use super::*;
use crate::error::{CloseCode, CloseReason};
use crate::marks::covers;

/// Takes so many frames, one by one.
fn taken(model: &mut Model, count: usize) -> Vec<Lent> {
    let take = |_| {
        let Reading { found, effects } = model.inbound.take(From::All);
        model.perform(effects);
        found.expect("there is one").expect("it is whole").into_lent()
    };
    (0..count).map(take).collect()
}

#[test]
fn frames_that_come_back_are_the_next_and_only_those_without_a_gap_go_together() {
    covers!("a frame that came back is the next");
    covers!("frames are lent up to a gap");
    let mut model = Model::new(1 << 16, 1 << 10, 1 << 16);
    let data = model.open();
    (0..4).for_each(|_| model.queue(data, 100));
    model.arrive(data, usize::MAX);
    for lent in taken(&mut model, 3).into_iter().filter(|lent| lent.first != 1).rev() {
        let effects = model.inbound.put_back(lent);
        model.perform(effects);
    }
    let lent = [0, 1].map(|_| {
        let Reading { found, effects } = model.inbound.lend();
        model.perform(effects);
        found.expect("there is something")
    });
    let numbers = lent.each_ref().map(|lent| (lent.first, lent.frames.len()));
    assert_eq!(numbers, [(0, 1), (2, 2)], "the one between them is with its reader");
}

#[test]
fn room_beside_the_share_goes_back_as_soon_as_it_is_free_although_more_is_asked_for() {
    covers!("room beside the share goes back while more is asked for");
    covers!("a frame passes the share");
    const LENGTH: usize = 1 << 16;
    let mut model = Model::new(1 << 12, LENGTH, 1 << 20);
    let (data, control) = (model.open(), model.open());
    for from in [From::Lane(Lane::Data), From::Lane(Lane::Control)] {
        assert!(!model.take(from), "two readers wait");
    }
    model.queue(data, LENGTH);
    while model.arrive(data, usize::MAX) {}
    assert_eq!(model.inbound.counts().waiting, PIECE_BYTES + HEADER_BYTES + LENGTH);
    // Others have the room of the node now.
    model.grants = false;
    model.queue(control, LENGTH);
    while model.arrive(control, usize::MAX) {}
    let asked = model.asked.take().expect("a reader waits for it");
    let before = model.room.used();
    assert!(model.take(From::Lane(Lane::Data)));
    assert!(model.room.used() < before, "what the other frame had");
    model.grants = true;
    model.room.take(asked, ()).expect("it is all ours");
    let effects = model.inbound.granted(asked);
    model.perform(effects);
    model.drain(From::Lane(Lane::Control));
}

#[test]
fn what_arrives_behind_the_end_is_nobodys_and_what_came_before_is_read() {
    let mut model = Model::new(1 << 10, 1 << 20, 1 << 20);
    let at = model.open();
    let paused = model.open();
    model.queue(at, 100);
    model.arrive(at, usize::MAX);
    let reason = CloseReason::Local { code: CloseCode::NORMAL };
    let effects = model.inbound.close(RecvError::Closed { reason });
    model.perform(effects);
    model.queue(at, 100);
    model.arrive(at, usize::MAX);
    // Far beyond the share: there is nothing to pause for.
    model.queue(paused, 1 << 19);
    model.arrive(paused, usize::MAX);
    assert!(!model.streams[paused].paused);
    assert!(model.take(From::All), "it came before the end");
    assert_eq!(model.inbound.counts().waiting, 0);
    for _ in 0..2 {
        let found = model.inbound.take(From::All).found;
        assert!(matches!(found, Some(Err(RecvError::Closed { .. }))), "{found:?}");
    }
    for stream in [at, paused].map(|at| model.streams[at].id) {
        let effects = model.inbound.remove(stream);
        model.perform(effects);
    }
    assert!(model.inbound.queues.is_empty());
}
