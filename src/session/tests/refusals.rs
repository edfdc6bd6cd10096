//! What a refusal says of a session.

use std::time::Instant;

use super::tables::{HIGH, LOW, PROTOCOL, at, node};
use crate::error::CloseCode;
use crate::session::effect::{Effect, LinkId, Origin};
use crate::session::message::{Message, Refused};

/// As by a start of the peer that is over since, whose session was with another one here.
#[test]
fn a_duplicate_is_none_of_a_session_whose_other_side_is_another_one() {
    let mut table = node(LOW, 10);
    let now = Instant::now();
    let (session, _) = table.open(at(now), HIGH, PROTOCOL).expect("there is room");
    let mut known = |link: u64| {
        let link = LinkId(link);
        let mut effects = table.link_up(at(now), link, HIGH, Origin::Dialled(session));
        let Effect::Send(_, Message::Hello(hello)) = effects.remove(0) else {
            panic!("no Hello: {effects:?}")
        };
        let (code, yours) = (CloseCode::DUPLICATE, Some(session));
        let refused = Refused { code, is_final: false, yours, generation: 7, text: String::new() };
        let effects = table.message(at(now), link, Message::Refused(refused));
        assert!(matches!(&effects[0], Effect::CloseLink(closed, _) if *closed == link));
        hello.known
    };
    assert_eq!((known(1), known(2)), (0, 0));
}
