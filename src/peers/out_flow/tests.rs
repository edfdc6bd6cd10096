//! What goes out over one connection and another.

use std::sync::Arc;

use bytes::Bytes;

use super::{OutFlow, Submission};
use crate::config::Limits;
use crate::peers::kept::Left;
use crate::peers::room::PeerBounds;
use crate::session::flow::FlowState;
use crate::session::frame_head::{FrameHead, LENGTH_BYTES};
use crate::transport::link::flight::Path;

const FRAME_BYTES: usize = 100;

/// Number of the first frame that goes next over the connection of this generation, and how many there are.
fn next(flow: &OutFlow, generation: u64) -> Option<(u64, usize)> {
    let path = Path::of_round_trip(100, 100);
    let Submission { first, parts, .. } = flow.next(generation, path, |_| Left::Nothing)?;
    flow.handed_over(generation, None);
    let bytes: usize = parts.parts[..parts.count].iter().map(Bytes::len).sum();
    assert_eq!(bytes % (LENGTH_BYTES + FRAME_BYTES), 0);
    Some((first, bytes / (LENGTH_BYTES + FRAME_BYTES)))
}

#[test]
fn a_stream_begins_with_the_first_frame_that_the_peer_does_not_have() {
    let bounds = PeerBounds::new(&Limits::default(), &Arc::default());
    let flow = OutFlow::new(&bounds.keeping, 1 << 20);
    let send = |frames| {
        for _ in 0..frames {
            let frame = Bytes::from_static(&[7; FRAME_BYTES]);
            flow.offer(FrameHead::Message, frame).expect("there is room");
        }
    };
    let peer = |received| FlowState { received, taken: 0, credit: 16 << 10 };
    send(10);
    flow.attach(1, peer(0)).expect("nothing came yet");
    assert_eq!(next(&flow, 1), Some((1, 10)), "they go together");
    // Each time some more of them come through.
    for (generation, had) in [(2, 1), (3, 7), (4, 9)] {
        flow.detach();
        flow.attach(generation, peer(had)).expect("so many were sent");
        assert_eq!(next(&flow, generation), Some((had + 1, 10 - had as usize)));
    }
    flow.detach();
    send(5);
    flow.attach(5, peer(10)).expect("all were sent");
    assert_eq!(next(&flow, 5), Some((11, 5)));
    assert_eq!(next(&flow, 5), None);
}
