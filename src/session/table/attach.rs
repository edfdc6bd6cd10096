//! A session gets a link, and what comes over it.

use super::Table;
use super::state::{Draining, Stage};
use crate::error::CloseCode;
use crate::session::effect::{At, Effect, EndReason, LinkId};
use crate::session::election;
use crate::session::flow::PerFlow;
use crate::session::message::{Attach, Close, Closed, Message, Refused, SessionId};

impl Table {
    pub(super) fn heard_attach(&mut self, at: At<'_>, id: LinkId, attach: Attach) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(hello) = link.hello.as_ref() else { return self.broken(at, id) };
        let (me, other) = ((self.me, self.incarnation), (link.peer, hello.incarnation));
        if attach.echo != link.nonce || election::decides(me, other) {
            return self.broken(at, id);
        }
        let theirs = hello.mine;
        let said = link.said.and_then(|said| said.mine);
        let meant = self.session_of(id).filter(|session| {
            *session == attach.yours
                && said == Some(*session)
                && theirs.is_some()
                && self.sessions[session].theirs == theirs
        });
        let Some(session) = meant else {
            // The session that the peer means ended here while this was under way.
            if let Some(theirs) = theirs {
                self.tell_ended(id, attach.yours, theirs);
            }
            return;
        };
        let of = &self.sessions[&session];
        match link.stage {
            Stage::Meeting if attach.generation > of.generation => {
                self.attach(at, id, session, attach.generation);
            }
            // The peer has gone on to another link since.
            Stage::Meeting => self.close_link(at, id, CloseCode::DUPLICATE),
            Stage::Attached(_) if attach.generation == of.generation => {}
            Stage::Attached(_) => self.broken(at, id),
            Stage::Leaving(_) => {}
        }
    }

    /// The session has this link from here on, and no other one.
    pub(super) fn attach(&mut self, at: At<'_>, id: LinkId, session: SessionId, generation: u64) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        let before = of.link.replace(id);
        (of.generation, of.known) = (generation, of.known.max(generation));
        of.lost_until = None;
        let peer = of.peer;
        let (closing, draining) = (of.closing, of.draining);
        if let Some(before) = before {
            self.effects.push(Effect::Detach { session, link: before });
            // Its session has a link already.
            if let Some(link) = self.links.get_mut(&before) {
                link.stage = Stage::Leaving(CloseCode::DUPLICATE);
            }
            self.close_link(at, before, CloseCode::DUPLICATE);
        }
        self.away.is_back(peer);
        self.set_session_deadline(session);
        self.set_link_deadline(id, None);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.stage = Stage::Attached(session);
        let Some(hello) = &link.hello else { return };
        let (limits, flows) = (hello.limits, hello.flows);
        let Some(theirs) = hello.mine else { return };
        let link = id;
        self.effects.push(Effect::Attach { session, theirs, link, generation, limits, flows });
        // What the peer was told on an earlier link may not have come.
        if let Some(closing) = closing {
            let finals = at.counters.accepted(session);
            self.send(id, Message::Close(Close { code: closing.code, finals }));
        }
        if draining == Some(Draining::Done) {
            self.say_closed(at, id, session);
        }
        if let Some(delay) = self.going_away {
            self.say_go_away(at, session, id, delay);
        }
    }

    pub(super) fn say_closed(&mut self, at: At<'_>, id: LinkId, session: SessionId) {
        let inbound = at.counters.inbound(session);
        let taken = PerFlow::of(|flow| inbound[flow].taken);
        self.send(id, Message::Closed(Closed { taken }));
    }

    /// What is said of frames and requests counts on the link that the session has, and on no other.
    pub(super) fn heard_in_session(
        &mut self,
        id: LinkId,
        effect: impl FnOnce(SessionId) -> Effect,
    ) {
        if let Some(session) = self.attached_to(id) {
            self.effects.push(effect(session));
        }
    }

    pub(super) fn attached_to(&self, id: LinkId) -> Option<SessionId> {
        match self.links.get(&id)?.stage {
            Stage::Attached(session) => Some(session),
            Stage::Meeting | Stage::Leaving(_) => None,
        }
    }

    pub(super) fn heard_refused(&mut self, at: At<'_>, id: LinkId, refused: Refused) {
        // It may be about a session that ended here while this was under way.
        let is_meant = |session: &SessionId| refused.yours.is_none_or(|yours| yours == *session);
        let session = self.session_of(id).filter(is_meant);
        let code = refused.code;
        if refused.is_final && (session.is_some() || refused.yours.is_none()) {
            self.refused_for_good(at, id, refused);
        } else if let Some(session) = session
            && let Some(of) = self.sessions.get_mut(&session)
        {
            if code == CloseCode::DUPLICATE {
                // Generations are those of two sides: of another one that is over it means nothing here.
                let theirs = self.links.get(&id).and_then(|link| link.hello.as_ref()?.mine);
                if of.theirs.is_some() && of.theirs == theirs {
                    of.known = of.known.max(refused.generation);
                }
            } else {
                self.effects.push(Effect::Refused(session, refused));
            }
        }
        self.close_link(at, id, code);
    }

    /// The peer wants none of this node, or not for this.
    pub(super) fn refused_for_good(&mut self, at: At<'_>, id: LinkId, refused: Refused) {
        let session = self.attached_to(id).or_else(|| self.session_of(id));
        if let Some(session) = session {
            self.end_quietly(at, session, EndReason::Refused(refused));
        }
    }

    /// The peer said what it must not: the link goes, and with it the session that it has.
    pub(super) fn broken(&mut self, at: At<'_>, id: LinkId) {
        if let Some(session) = self.attached_to(id) {
            self.end_quietly(at, session, EndReason::ProtocolError);
        }
        self.close_link(at, id, CloseCode::PROTOCOL_ERROR);
    }
}
