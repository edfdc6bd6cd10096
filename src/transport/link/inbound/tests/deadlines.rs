//! When a frame that began is overdue.

use super::*;
use crate::marks::covers;

/// Seconds until a frame that began is overdue, while `each_second` happens.
fn overdue_after(model: &mut Model, mut each_second: impl FnMut(&mut Model, u64)) -> Option<u64> {
    let begun = model.now;
    assert!(matches!(model.inbound.look(begun), Look::At(_)));
    (1..600).find(|second| {
        model.now = begun + Duration::from_secs(*second);
        each_second(model, *second);
        matches!(model.inbound.look(model.now), Look::Overdue { .. })
    })
}

fn began_a_frame(share: usize) -> (Model, usize, usize) {
    let mut model = Model::new(share, 1 << 20, 1 << 20);
    let (data, control) = (model.open(), model.open());
    model.queue(data, 1 << 20);
    model.arrive(data, 100);
    (model, data, control)
}

#[test]
fn a_sender_that_stops_inside_a_frame_is_overdue_at_the_limit() {
    let (mut model, ..) = began_a_frame(1 << 21);
    assert_eq!(overdue_after(&mut model, |_, _| ()), Some(12));
}

#[test]
fn a_byte_a_second_is_overdue_as_well() {
    let (mut model, data, _) = began_a_frame(1 << 21);
    let drip = |model: &mut Model, _| {
        model.arrive(data, 1);
    };
    assert_eq!(overdue_after(&mut model, drip), Some(13));
}

#[test]
fn a_slow_link_is_not_overdue() {
    let (mut model, data, _) = began_a_frame(1 << 21);
    let slow = |model: &mut Model, _| {
        model.arrive(data, 1_100);
    };
    assert_eq!(overdue_after(&mut model, slow), None);
}

#[test]
fn a_frame_that_waits_behind_a_busier_lane_is_not_overdue() {
    let (mut model, _, control) = began_a_frame(1 << 21);
    let busy = |model: &mut Model, _| {
        model.queue(control, 2_000);
        model.arrive(control, usize::MAX);
        model.take(From::All);
    };
    assert_eq!(overdue_after(&mut model, busy), None);
}

#[test]
fn a_frame_for_which_there_is_no_room_is_not_overdue() {
    let (mut model, data, _) = began_a_frame(1 << 12);
    model.arrive(data, usize::MAX);
    assert!(model.streams[data].paused, "nobody reads");
    assert_eq!(model.inbound.look(model.now + Duration::from_secs(3_600)), Look::Nothing);
}

#[test]
fn a_frame_that_is_paused_is_not_overdue_although_a_little_room_is_free() {
    let mut model = Model::new(1 << 12, 1 << 20, 1 << 20);
    let streams = [model.open(), model.open(), model.open()];
    for at in &streams[1..] {
        model.queue(*at, 100);
        model.arrive(*at, usize::MAX);
    }
    model.queue(streams[0], 1 << 20);
    model.arrive(streams[0], usize::MAX);
    // The others have nothing any more, so that this one may hold more than it does.
    assert!(model.take(From::All) && model.take(From::All));
    let queue = model.inbound.queue(model.streams[streams[0]].id).expect("it is open");
    assert!(queue.paused && model.inbound.room(queue) > 0, "{queue:?}");
    assert_eq!(model.inbound.look(model.now + Duration::from_secs(3_600)), Look::Nothing);
}

#[test]
fn a_frame_that_goes_on_after_a_pause_has_the_whole_limit_again() {
    covers!("a deadline begins anew behind a pause");
    let (mut model, data, _) = began_a_frame(1 << 12);
    model.arrive(data, usize::MAX);
    model.now += Duration::from_secs(3_600);
    // A reader comes: the rest may pass the share. The peer sends no more.
    model.streams[data].buffered.clear();
    assert!(!model.take(From::All));
    assert!(!model.streams[data].paused);
    let deadline = model.now + Limits::default().frame_time_max;
    assert_eq!(model.inbound.look(model.now), Look::At(deadline));
}
