//! Flows that are made before and behind what happens to all of them do the same.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::config::Limits;
use crate::peers::cut::Came;
use crate::peers::kept::Left;
use crate::peers::out_flow::NotAccepted;
use crate::session::frame_head::FrameHead;
use crate::transport::link::flight::Path;

const GENERATION: u64 = 3;

/// What a flow does with one more frame each way.
#[derive(Debug, PartialEq, Eq)]
struct Does {
    accepts: Result<u64, NotAccepted>,
    /// So many frames go out over the present connection together, of as many as may wait.
    submits: Option<usize>,
    takes_over: bool,
}

fn does(flows: &Flows, flow: FlowId, bounds: &PeerBounds) -> Does {
    let out = flows.out(flow, bounds);
    let frame = || Bytes::from_static(&[7; 1_000]);
    let accepts = out.offer(FrameHead::Message, frame());
    for _ in 0..50 {
        let _ = out.offer(FrameHead::Message, frame());
    }
    let next = out.next(GENERATION, Path::of_round_trip(100, 100), |_| Left::Nothing);
    let submits = next.map(|submission| submission.bytes / 1_000);
    let incoming = flows.incoming(flow, bounds);
    let began = incoming.begin_stream(GENERATION, 1);
    let came = Came::Frame(FrameHead::Message, frame(), None);
    let arrived = incoming.arrived(GENERATION, came, |_, _| {});
    assert_eq!((began, arrived), (Ok(()), Ok(None)));
    Does {
        accepts: accepts.map(|(number, _)| number).map_err(|(why, _)| why),
        submits,
        takes_over: incoming.state().received == 1,
    }
}

fn said(credit: u64) -> FlowState {
    FlowState { credit, ..FlowState::default() }
}

/// What happens to all flows of a session.
type Happens = fn(&Flows, &PeerBounds);

const ATTACHED: Happens = |flows, bounds| {
    flows.attach_in(GENERATION);
    let said = PerFlow::of(|_| said(16 << 10));
    flows.attach_out(GENERATION, &said, bounds).expect("nothing was sent");
};

#[test]
fn a_flow_that_is_made_late_has_gone_through_what_the_others_went_through() {
    let all: [(&str, &[Happens]); 7] = [
        ("nothing", &[]),
        ("attached", &[ATTACHED]),
        ("detached", &[ATTACHED, |flows, _| flows.detach()]),
        // Until flows out are attached as well they go over the one before.
        ("attached by half", &[ATTACHED, |flows, _| flows.attach_in(GENERATION + 1)]),
        ("shut", &[ATTACHED, |flows, _| flows.shut()]),
        (
            "cut and frozen",
            &[ATTACHED, |flows, _| {
                flows.cut(&PerFlow::default());
                flows.freeze();
            }],
        ),
        (
            "over",
            &[ATTACHED, |flows, _| {
                flows.detach();
                flows.end(None);
            }],
        ),
    ];
    let bounds = PeerBounds::new(&Limits::default(), &Arc::default());
    let mut seen = Vec::new();
    for (name, happens) in all {
        let (early, late) = (Flows::default(), Flows::default());
        for flow in FlowId::all() {
            early.out(flow, &bounds);
            early.incoming(flow, &bounds);
        }
        for happens in happens {
            happens(&early, &bounds);
            happens(&late, &bounds);
        }
        assert_eq!(late.all_out().count() + late.all_in().count(), 0, "{name}: none was used");
        assert_eq!(early.states(), late.states(), "{name}");
        for flow in FlowId::all() {
            let (early, late) = (does(&early, flow, &bounds), does(&late, flow, &bounds));
            assert_eq!(early, late, "{name}, {flow:?}");
            seen.push(late);
        }
    }
    // Of each kind there was something to tell apart.
    for accepts in [Ok(1), Err(NotAccepted::Shut)] {
        assert!(seen.iter().any(|it| it.accepts == accepts), "{accepts:?}: {seen:?}");
    }
    for takes_over in [false, true] {
        assert!(seen.iter().any(|it| it.takes_over == takes_over), "{takes_over}: {seen:?}");
    }
    let mut submitted: Vec<_> = seen.iter().map(|it| it.submits).collect();
    submitted.sort_unstable();
    submitted.dedup();
    assert!(submitted.len() >= 2, "{submitted:?}");
}

#[test]
fn a_peer_that_says_of_a_flow_what_cannot_be_is_told_so_where_none_was_sent() {
    let bounds = PeerBounds::new(&Limits::default(), &Arc::default());
    let flow = FlowId::new(1, true).expect("there is one");
    let mut has_one = PerFlow::of(|_| said(16 << 10));
    has_one[flow].received = 1;
    let flows = Flows::default();
    flows.attach_in(GENERATION);
    let (at, _) = flows.attach_out(GENERATION, &has_one, &bounds).expect_err("none was sent");
    assert_eq!(at, flow);
    let flows = Flows::default();
    ATTACHED(&flows, &bounds);
    assert!(flows.out(flow, &bounds).taken(has_one[flow]).is_err());
    let lower = said((16 << 10) - 1);
    assert!(flows.out(FlowId::FIRST, &bounds).taken(lower).is_err(), "a grant is never taken back");
}
