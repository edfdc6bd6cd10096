//! Links as they come and go, and what they are told.

use std::num::NonZeroU64;
use std::time::Instant;

use rand::RngCore;

use super::Table;
use super::state::{Admit, Due, Link, Said, Session, Stage};
use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::session::effect::{At, Effect, LinkId, Origin};
use crate::session::flow::PerFlow;
use crate::session::message::{Ended, Hello, Message, PeerLimits, Refused, SessionId};

/// The only version there is.
pub(super) const VERSION: u64 = 1;

impl Table {
    pub(super) fn add_link(&mut self, at: At<'_>, id: LinkId, peer: CertHash, origin: Origin) {
        let dialled = match origin {
            Origin::Accepted => None,
            Origin::Dialled(session) => {
                if !self.wants_dial(session, peer) {
                    self.effects.push(Effect::CloseLink(id, CloseCode::DUPLICATE));
                    return;
                }
                self.attempts += 1;
                Some((session, self.attempts))
            }
        };
        let nonce = self.draw().get();
        let link = Link {
            peer,
            dialled,
            nonce,
            stage: Stage::Meeting,
            hello: None,
            said: None,
            admit: Admit::No,
            told: None,
            deadline: None,
        };
        self.links.insert(id, link);
        self.by_peer.entry(peer).or_default().insert(id);
        self.set_link_deadline(id, Some(at.now + self.limits.sessions.hello_time_max));
        if dialled.is_some() {
            self.say(at, id);
        }
    }

    /// A number that nobody can guess.
    pub(super) fn draw(&mut self) -> NonZeroU64 {
        NonZeroU64::new(self.random.next_u64()).unwrap_or(NonZeroU64::MIN)
    }

    /// Whether a dial that was made for the session is of use: else the peer could not conclude from a
    /// later one that an earlier one is gone.
    fn wants_dial(&self, session: SessionId, peer: CertHash) -> bool {
        let wanted = |of: &Session| of.link.is_none() && of.peer == peer;
        let under_way = |link: &Link| {
            link.dialled.is_some_and(|(of, _)| of == session) && link.stage == Stage::Meeting
        };
        self.sessions.get(&session).is_some_and(wanted)
            && !self.links_with(peer).any(|link| under_way(&self.links[&link]))
    }

    pub(super) fn links_with(&self, peer: CertHash) -> impl Iterator<Item = LinkId> {
        self.by_peer.get(&peer).into_iter().flatten().copied()
    }

    /// The session that there is with the link's peer under the link's protocol.
    pub(super) fn session_of(&self, id: LinkId) -> Option<SessionId> {
        let link = self.links.get(&id)?;
        let dialled = link.dialled.and_then(|(session, _)| self.sessions.get(&session));
        let protocol = match (&link.hello, dialled) {
            (Some(hello), _) => &hello.protocol,
            (None, Some(session)) => &session.protocol,
            (None, None) => return None,
        };
        self.by_key.get(&(link.peer, protocol.clone())).copied()
    }

    /// Says Hello, unless that was said: with the session that there is.
    pub(super) fn say(&mut self, at: At<'_>, id: LinkId) {
        self.say_of(at, id, self.session_of(id));
    }

    /// Says Hello, unless that was said. Without a session it tells only who this side is, and that
    /// the peer has to say more.
    pub(super) fn say_of(&mut self, at: At<'_>, id: LinkId, mine: Option<SessionId>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let session = mine.and_then(|mine| self.sessions.get(&mine));
        let said = Said {
            mine,
            yours: session.and_then(|session| session.theirs),
            echo: link.hello.as_ref().map_or(0, |hello| hello.nonce),
        };
        let protocol = match (&link.hello, session) {
            (Some(hello), _) => hello.protocol.clone(),
            (None, Some(session)) => session.protocol.clone(),
            (None, None) => return,
        };
        if link.said == Some(said) {
            return;
        }
        link.said = Some(said);
        let held = |session: &Session| session.link.map_or(0, |_| session.generation);
        let hello = Hello {
            version_oldest: VERSION,
            version_newest: VERSION,
            incarnation: self.incarnation,
            attempt: link.dialled.map_or(0, |(_, attempt)| attempt),
            nonce: link.nonce,
            echo: said.echo,
            protocol,
            mine,
            yours: said.yours,
            known: session.map_or(0, |session| session.known),
            held: session.map_or(0, held),
            limits: PeerLimits {
                frame_bytes_max: self.limits.frame_bytes_max as u64,
                requests_max: self.limits.sessions.requests_max as u64,
            },
            flows: mine.map_or_else(PerFlow::default, |mine| at.counters.inbound(mine)),
        };
        self.send(id, Message::Hello(Box::new(hello)));
    }

    pub(super) fn send(&mut self, id: LinkId, message: Message) {
        self.effects.push(Effect::Send(id, message));
    }

    /// Tells the peer, once, that what it means by `mine` is over here.
    pub(super) fn tell_ended(&mut self, id: LinkId, mine: SessionId, yours: SessionId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.told.replace((mine, yours)) == Some((mine, yours)) {
            return;
        }
        let ended: Ended = self.tombstones.tell(link.peer, mine, yours);
        self.send(id, Message::Ended(Box::new(ended)));
    }

    /// Tells the peer that the link is not wanted, and leaves the closing to it: what is sent before a
    /// close may not arrive.
    pub(super) fn refuse(&mut self, at: At<'_>, id: LinkId, refused: Refused) {
        self.leave(at, id, refused.code);
        self.send(id, Message::Refused(refused));
    }

    pub(super) fn leave(&mut self, at: At<'_>, id: LinkId, code: CloseCode) {
        if let Some(link) = self.links.get_mut(&id) {
            link.stage = Stage::Leaving(code);
            self.set_link_deadline(id, Some(at.now + self.limits.sessions.hello_time_max));
        }
    }

    pub(super) fn close_link(&mut self, at: At<'_>, id: LinkId, code: CloseCode) {
        if self.links.contains_key(&id) {
            self.effects.push(Effect::CloseLink(id, code));
            self.forget_link(at, id);
        }
    }

    /// The link is gone: its session needs another one.
    pub(super) fn forget_link(&mut self, at: At<'_>, id: LinkId) {
        let session = self.session_of(id);
        self.set_link_deadline(id, None);
        let Some(link) = self.links.remove(&id) else { return };
        if let Some(links) = self.by_peer.get_mut(&link.peer) {
            links.remove(&id);
            if links.is_empty() {
                self.by_peer.remove(&link.peer);
            }
        }
        let Some(session) = session else { return };
        if let Stage::Attached(session) = link.stage {
            self.detach(at, session);
        }
        // A session of the peer's making that never had a link does not wait for one for ever.
        if let Some(of) = self.sessions.get_mut(&session)
            && of.link.is_none()
            && !of.opened
        {
            of.lost_until.get_or_insert(at.now + self.limits.sessions.session_time_max);
            self.set_session_deadline(session);
        }
        self.need_link(at.now, session);
    }

    fn detach(&mut self, at: At<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.lost_until = Some(at.now + self.limits.sessions.session_time_max);
        if let Some(link) = session.link.take() {
            self.effects.push(Effect::Detach { session: id, link });
        }
        self.set_session_deadline(id);
    }

    /// Asks for a dial where the session has no link, and none in sight.
    pub(super) fn need_link(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.opened && !self.has_link_in_sight(id) {
            let not_before = self.away.until(now, session.peer);
            self.effects.push(Effect::NeedLink { session: id, not_before });
        }
    }

    /// Whether the session has a link, or one that meets.
    pub(crate) fn has_link_in_sight(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        session.link.is_some()
            || self.links_with(session.peer).any(|link| {
                self.links[&link].stage == Stage::Meeting && self.session_of(link) == Some(id)
            })
    }

    pub(super) fn set_link_deadline(&mut self, id: LinkId, deadline: Option<Instant>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut link.deadline, deadline) {
            self.deadlines.remove(&(old, Due::Link(id)));
        }
        self.deadlines.extend(deadline.map(|deadline| (deadline, Due::Link(id))));
    }

    /// The earliest of what the session waits for.
    pub(super) fn set_session_deadline(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let closing = session.closing.map(|closing| closing.until);
        let deadline = session.lost_until.into_iter().chain(closing).min();
        if let Some(old) = std::mem::replace(&mut session.deadline, deadline) {
            self.deadlines.remove(&(old, Due::Session(id)));
        }
        self.deadlines.extend(deadline.map(|deadline| (deadline, Due::Session(id))));
    }
}
