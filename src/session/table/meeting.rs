//! What a Hello leads to: proof, a new session, an old one that is over, or Attach.

use super::Table;
use super::links::VERSION;
use super::state::{Admit, Session, Stage};
use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::session::effect::{Admission, At, Bite, Effect, EndReason, LinkId};
use crate::session::election::{self, Candidate, Current, Dial, Verdict};
use crate::session::message::{Attach, Hello, Incarnation, Message, Refused, SessionId};

impl Table {
    pub(super) fn heard_hello(&mut self, at: At<'_>, id: LinkId, hello: Hello) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.stage != Stage::Meeting {
            return;
        }
        // What a link is does not change; only which session is meant does.
        let same = link.hello.as_ref().is_none_or(|before| {
            (before.incarnation, before.nonce, before.attempt, &before.protocol)
                == (hello.incarnation, hello.nonce, hello.attempt, &hello.protocol)
        });
        let fits = hello.echo == 0 || hello.echo == link.nonce;
        let asked_for = link.dialled.and_then(|(session, _)| self.sessions.get(&session));
        let as_asked = asked_for.is_none_or(|session| session.protocol == hello.protocol);
        if !same || !fits || !as_asked || hello.held > hello.known {
            self.broken(at, id);
            return;
        }
        let first = link.hello.is_none();
        let (peer, came) = (link.peer, link.dialled.is_none());
        link.hello = Some(hello);
        // Whoever comes is back.
        if came && self.away.is_back(peer) {
            for session in self.sessions_with(peer) {
                self.need_link(at.now, session);
            }
        }
        if first {
            self.set_link_deadline(id, Some(at.now + self.limits.sessions.hello_time_max));
        }
        self.consider(at, id);
    }

    /// Goes as far with the link as what was heard on it allows.
    pub(super) fn consider(&mut self, at: At<'_>, id: LinkId) {
        let Some(link) = self.links.get(&id).filter(|link| link.stage == Stage::Meeting) else {
            return;
        };
        let Some(hello) = link.hello.clone() else { return };
        let peer = link.peer;
        if let Some((code, text)) = self.reason_to_refuse(peer, &hello) {
            let text = text.to_owned();
            let yours = hello.mine;
            let refused = Refused { code, is_final: code.is_final(), yours, generation: 0, text };
            return self.refuse(at, id, refused);
        }
        if !self.is_current(at, id, peer, &hello) {
            // The answer to this is a Hello that echoes.
            return self.say_of(at, id, None);
        }
        let session = self.session_of(id);
        if let Some(yours) = hello.yours.filter(|yours| Some(*yours) != session) {
            let Some(mine) = hello.mine else { return self.broken(at, id) };
            self.say(at, id);
            return self.tell_ended(id, yours, mine);
        }
        if let Some((mine, theirs)) = self.over(peer, session, hello.mine) {
            self.say(at, id);
            return self.tell_ended(id, mine, theirs);
        }
        match (session, hello.mine) {
            (None, None) => {}
            (Some(_), None) => self.say(at, id),
            (None, Some(_)) => self.consider_beginning(at, id, peer, &hello),
            (Some(session), Some(theirs)) => self.match_up(at, id, session, theirs, &hello),
        }
    }

    /// What the peer means, if that is over here: it may not know that it had another side, or not have
    /// known when its Hello left.
    fn over(
        &self,
        peer: CertHash,
        session: Option<SessionId>,
        theirs: Option<SessionId>,
    ) -> Option<(SessionId, SessionId)> {
        let known = session.and_then(|session| self.sessions[&session].theirs);
        let theirs = theirs.filter(|theirs| known != Some(*theirs))?;
        Some((self.tombstones.named(peer, theirs)?, theirs))
    }

    fn reason_to_refuse(&self, peer: CertHash, hello: &Hello) -> Option<(CloseCode, &'static str)> {
        if peer == self.me && hello.incarnation == self.incarnation {
            Some((CloseCode::SELF_DIALLED, "this is the same node"))
        } else if hello.version_oldest > VERSION || hello.version_newest < VERSION {
            Some((CloseCode::VERSION, "version 1 is spoken here"))
        } else if self.incarnations.was_replaced(peer, hello.incarnation) {
            Some((CloseCode::STALE_INCARNATION, "a later start has taken its place"))
        } else {
            None
        }
    }

    /// Whether this incarnation is the peer's one, which it is from the moment on where it has proven to
    /// be alive.
    fn is_current(&mut self, at: At<'_>, id: LinkId, peer: CertHash, hello: &Hello) -> bool {
        let Some(old) = self.incarnation_of(peer).filter(|old| *old != hello.incarnation) else {
            return true;
        };
        if hello.echo == 0 {
            return false;
        }
        let (incarnation, identity) = self.incarnations.replace(peer, old);
        let bites = [(incarnation, Bite::Incarnations), (identity, Bite::Identities)];
        self.effects.extend(bites.iter().filter(|it| it.0).map(|it| Effect::Limited(it.1)));
        for session in self.sessions_with(peer) {
            if self.sessions[&session].incarnation == Some(old) {
                self.end(at, session, EndReason::PeerRestarted, None);
            }
        }
        // One of them may have been attached to this very link: a peer that changes its mind on the way.
        self.links.get(&id).is_some_and(|link| link.stage == Stage::Meeting)
    }

    fn incarnation_of(&self, peer: CertHash) -> Option<Incarnation> {
        let mut sessions = self.sessions_with(peer).into_iter();
        sessions.find_map(|session| self.sessions[&session].incarnation)
    }

    pub(super) fn sessions_with(&self, peer: CertHash) -> Vec<SessionId> {
        let of_peer = self.by_key.range((peer, String::new())..);
        of_peer.take_while(|((of, _), _)| *of == peer).map(|(_, session)| *session).collect()
    }

    /// The peer wants a session that is not there.
    fn consider_beginning(&mut self, at: At<'_>, id: LinkId, peer: CertHash, hello: &Hello) {
        let full = self.sessions.len() >= self.limits.sessions.sessions_max;
        let refusal = if !self.accepted.contains(&hello.protocol) {
            // What this side dialled waits for its application to open another session.
            if self.links[&id].dialled.is_some() {
                return self.say_of(at, id, None);
            }
            Some((CloseCode::UNKNOWN_PROTOCOL, "nobody here speaks this protocol"))
        } else if self.going_away.is_some() {
            Some((CloseCode::GOING_AWAY, "the node is shutting down"))
        } else if full {
            self.effects.push(Effect::Limited(Bite::Sessions));
            Some((CloseCode::NODE_FULL, "the node has as many sessions as it may"))
        } else {
            None
        };
        if let Some((code, text)) = refusal {
            let text = text.to_owned();
            let yours = hello.mine;
            let refused = Refused { code, is_final: false, yours, generation: 0, text };
            return self.refuse(at, id, refused);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.admit {
            Admit::No => {
                link.admit = Admit::Asked;
                self.set_link_deadline(id, Some(at.now + self.limits.sessions.hello_time_max));
                let protocol = hello.protocol.clone();
                self.effects.push(Effect::AskAdmit { link: id, peer, protocol });
            }
            Admit::Asked => {}
            Admit::Yes => {
                // It was for this one session.
                link.admit = Admit::No;
                let protocol = hello.protocol.clone();
                let session = self.begin(peer, protocol.clone(), false);
                self.effects.push(Effect::Began { session, peer, protocol });
                self.again.insert(peer);
            }
        }
    }

    pub(super) fn begin(&mut self, peer: CertHash, protocol: String, opened: bool) -> SessionId {
        let id = SessionId(self.draw());
        self.by_key.insert((peer, protocol.clone()), id);
        self.sessions.insert(id, Session::new(peer, protocol, opened));
        id
    }

    pub(super) fn answer_admit(&mut self, at: At<'_>, id: LinkId, admission: Admission) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.admit == Admit::Asked) else {
            return;
        };
        match admission {
            Admission::Accept => {
                link.admit = Admit::Yes;
                self.consider(at, id);
            }
            Admission::Refuse { code, is_final, text } if link.stage == Stage::Meeting => {
                link.admit = Admit::No;
                let yours = link.hello.as_ref().and_then(|hello| hello.mine);
                let is_final = is_final || code.is_final();
                self.refuse(at, id, Refused { code, is_final, yours, generation: 0, text });
            }
            Admission::Refuse { .. } => link.admit = Admit::No,
        }
    }

    /// Whether both mean the same session; if so, the side that decides does.
    fn match_up(
        &mut self,
        at: At<'_>,
        id: LinkId,
        session: SessionId,
        theirs: SessionId,
        hello: &Hello,
    ) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        // A peer that does not know this side's id of the session has sent nothing in it, or did not know
        // it when this Hello left.
        if of.theirs.is_some_and(|known| known != theirs) {
            // The peer answers that what this side means is over.
            return self.say(at, id);
        }
        of.theirs = Some(theirs);
        of.incarnation = Some(hello.incarnation);
        let (me, other) = ((self.me, self.incarnation), (self.links[&id].peer, hello.incarnation));
        let said = self.links[&id].said.and_then(|said| said.mine);
        // A dialler has said which session it means; the side that decides says the rest by Attach.
        if said != Some(session) {
            self.say(at, id);
        }
        if election::decides(me, other) {
            self.decide(at, id, session, theirs, hello);
        }
    }

    fn decide(
        &mut self,
        at: At<'_>,
        id: LinkId,
        session: SessionId,
        theirs: SessionId,
        hello: &Hello,
    ) {
        let dial = |link: LinkId| {
            let link = &self.links[&link];
            let theirs = link.hello.as_ref().map_or(0, |hello| hello.attempt);
            link.dialled.map_or(Dial::Theirs(theirs), |(_, attempt)| Dial::Mine(attempt))
        };
        let of = &self.sessions[&session];
        let current = of.link.map(|link| Current { generation: of.generation, dial: dial(link) });
        let candidate = Candidate { dial: dial(id), known: hello.known, held: hello.held };
        let generation = of.generation;
        match election::judge(current, generation, candidate) {
            Verdict::Attach => {
                let attach =
                    Attach { generation: generation + 1, echo: hello.nonce, yours: theirs };
                self.send(id, Message::Attach(attach));
                self.attach(at, id, session, generation + 1);
            }
            Verdict::Duplicate => {
                let code = CloseCode::DUPLICATE;
                let text = String::new();
                let yours = Some(theirs);
                self.refuse(at, id, Refused { code, is_final: false, yours, generation, text });
            }
            Verdict::Impossible => self.broken(at, id),
        }
    }
}
