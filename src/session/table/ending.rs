//! How sessions end, and what their other sides are told.

use std::time::Duration;

use super::Table;
use super::state::{Closing, Draining, Due, Stage};
use crate::error::CloseCode;
use crate::session::effect::{At, Bite, Effect, EndReason, LinkId};
use crate::session::flow::{FlowState, PerFlow};
use crate::session::message::{Close, Closed, Ended, EndedReason, GoAway, Message, SessionId};
use crate::session::tombstones::Tombstone;

impl Table {
    /// Ends the session, tells the peer where there is a link, and leaves it to the peer to close that.
    pub(super) fn end(
        &mut self,
        at: At<'_>,
        id: SessionId,
        reason: EndReason,
        flows: Option<PerFlow<FlowState>>,
    ) {
        let restarted = reason == EndReason::PeerRestarted;
        let Some((link, theirs)) = self.bury(at, id, reason, flows) else { return };
        let Some(link) = link else { return };
        if restarted {
            return self.close_link(at, link, CloseCode::STALE_INCARNATION);
        }
        self.leave(at, link, CloseCode::NORMAL);
        if let Some(theirs) = theirs {
            self.tell_ended(link, id, theirs);
        }
    }

    /// Ends the session; its link is closed by who calls.
    pub(super) fn end_quietly(&mut self, at: At<'_>, id: SessionId, reason: EndReason) {
        if let Some((Some(link), _)) = self.bury(at, id, reason, None) {
            self.leave(at, link, CloseCode::NORMAL);
        }
    }

    /// The session is over: what is left is its tombstone, and the link it had.
    fn bury(
        &mut self,
        at: At<'_>,
        id: SessionId,
        reason: EndReason,
        flows: Option<PerFlow<FlowState>>,
    ) -> Option<(Option<LinkId>, Option<SessionId>)> {
        let session = self.sessions.remove(&id)?;
        if let Some(deadline) = session.deadline {
            self.deadlines.remove(&(deadline, Due::Session(id)));
        }
        let code = session.closing.map_or(CloseCode::NORMAL, |closing| closing.code);
        let tombstone = Tombstone {
            peer: session.peer,
            theirs: session.theirs,
            reason: as_told(&reason),
            code,
            flows: at.counters.inbound(id),
        };
        if self.tombstones.bury(at.now, id, tombstone) {
            self.effects.push(Effect::Limited(Bite::Tombstones));
        }
        self.by_key.remove(&(session.peer, session.protocol));
        self.again.insert(session.peer);
        if let Some(link) = session.link {
            self.effects.push(Effect::Detach { session: id, link });
        }
        self.effects.push(Effect::Ended { session: id, reason, flows });
        Some((session.link, session.theirs))
    }

    pub(super) fn heard_ended(&mut self, at: At<'_>, id: LinkId, ended: &Ended) {
        let Some(link) = self.links.get(&id) else { return };
        let peer = link.peer;
        // An incarnation speaks for its own sessions alone. Which of them it means does not matter: a
        // session has one other side ever, so that this one's is over, known here or not.
        let speaker = link.hello.as_ref().map(|hello| hello.incarnation);
        let meant = self.sessions.get(&ended.yours).filter(|session| {
            let is_speaker = session.incarnation.is_none() || session.incarnation == speaker;
            session.peer == peer && is_speaker
        });
        let is_left = matches!(link.stage, Stage::Leaving(_));
        if meant.is_some() {
            let reason = EndReason::Peer(ended.reason, ended.code);
            if let Some((Some(link), _)) = self.bury(at, ended.yours, reason, ended.flows) {
                self.close_link(at, link, CloseCode::NORMAL);
            }
        }
        if is_left {
            self.close_link(at, id, CloseCode::NORMAL);
        }
    }

    pub(super) fn begin_close(&mut self, at: At<'_>, id: SessionId, code: CloseCode) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.closing.is_some() {
            return;
        }
        let until = at.now + self.limits.close_time_max;
        session.closing = Some(Closing { code, until, taken: None });
        let link = session.link;
        self.set_session_deadline(id);
        if let Some(link) = link {
            let finals = at.counters.accepted(id);
            self.send(link, Message::Close(Close { code, finals }));
        }
    }

    pub(super) fn heard_close(&mut self, _: At<'_>, id: LinkId, close: Close) {
        let Some(session) = self.attached_to(id) else { return };
        let Some(of) = self.sessions.get_mut(&session) else { return };
        if of.draining.is_none() {
            of.draining = Some(Draining::Open);
            let Close { code, finals } = close;
            self.effects.push(Effect::PeerClosing { session, code, finals });
        }
    }

    pub(super) fn all_taken(&mut self, at: At<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.draining != Some(Draining::Open) {
            return;
        }
        session.draining = Some(Draining::Done);
        let taken = session.closing.and_then(|closing| closing.taken);
        if let Some(link) = session.link {
            self.say_closed(at, link, id);
        }
        if let Some(taken) = taken {
            self.end_closed(at, id, taken);
        }
    }

    pub(super) fn heard_closed(&mut self, at: At<'_>, id: LinkId, closed: Closed) {
        let Some(session) = self.attached_to(id) else { return };
        let Some(of) = self.sessions.get_mut(&session) else { return };
        let Some(closing) = &mut of.closing else { return self.broken(at, id) };
        closing.taken = Some(closed.taken);
        // Both close: what the peer sent is taken here as well, while there is time.
        if of.draining != Some(Draining::Open) {
            self.end_closed(at, session, closed.taken);
        }
    }

    fn end_closed(&mut self, at: At<'_>, id: SessionId, taken: PerFlow<u64>) {
        let state = |taken| FlowState { received: taken, taken, credit: 0 };
        let flows = PerFlow::of(|flow| state(taken[flow]));
        self.end(at, id, EndReason::Closed, Some(flows));
    }

    pub(super) fn say_go_away(&mut self, at: At<'_>, id: SessionId, link: LinkId, delay: Duration) {
        let inbound = at.counters.inbound(id);
        // Replies are still wanted.
        let last = PerFlow::of(|flow| match flow.is_replies() {
            true => 0,
            false => inbound[flow].received,
        });
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.send(link, Message::GoAway(GoAway { delay_ms, last }));
    }

    pub(super) fn heard_go_away(&mut self, at: At<'_>, id: LinkId, go_away: GoAway) {
        let Some(session) = self.attached_to(id) else { return };
        let Some(of) = self.sessions.get(&session) else { return };
        // A peer that never wants to be dialled again says so by a final code.
        let delay =
            Duration::from_millis(go_away.delay_ms).min(self.limits.sessions.session_time_max);
        if self.away.leaves(at.now, of.peer, at.now + delay) {
            self.effects.push(Effect::Limited(Bite::Identities));
        }
        self.effects.push(Effect::GoingAway { session, delay, last: go_away.last });
    }

    pub(super) fn link_due(&mut self, at: At<'_>, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let code = match link.stage {
            Stage::Meeting | Stage::Attached(_) => {
                self.effects.push(Effect::Limited(Bite::HelloTime));
                CloseCode::HELLO_TIMEOUT
            }
            Stage::Leaving(code) => code,
        };
        self.close_link(at, id, code);
    }

    pub(super) fn session_due(&mut self, at: At<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (reason, bite) = match session.closing.filter(|closing| closing.until <= at.now) {
            Some(Closing { taken: Some(taken), .. }) => return self.end_closed(at, id, taken),
            Some(_) => (EndReason::CloseTimedOut, Bite::CloseTime),
            None => (EndReason::Time, Bite::SessionTime),
        };
        self.effects.push(Effect::Limited(bite));
        self.end(at, id, reason, None);
    }
}

fn as_told(reason: &EndReason) -> EndedReason {
    match reason {
        EndReason::Closed => EndedReason::Closed,
        EndReason::CloseTimedOut | EndReason::Time => EndedReason::Time,
        EndReason::PeerRestarted => EndedReason::Replaced,
        EndReason::Peer(reason, _) => *reason,
        EndReason::ProtocolError => EndedReason::ProtocolError,
        EndReason::Refused(_) | EndReason::GivenUp => EndedReason::GivenUp,
    }
}
