//! Branches that are easily missed, each by itself.

use super::*;
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
