//! Peers that begin sessions: whether they may, and who takes them.

use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Accepting, Sessions};
use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::lock::lock;
use crate::peers::admit::{Admit, Arriving};
use crate::peers::core::PeerCore;
use crate::peers::link::Listens;
use crate::session::effect::{Admission, LinkId};
use crate::session::message::SessionId;
use crate::transport::Limit;

/// What a peer is told whom nobody could judge.
const NOT_JUDGED: &str = "the application could not say whether it may";

impl Sessions {
    /// Peers may begin sessions for this protocol from here on, if `admit` says so: they come by what is
    /// returned.
    pub(crate) fn accept(
        &self,
        protocol: &str,
        admit: Option<Admit>,
    ) -> mpsc::Receiver<Arc<PeerCore>> {
        let (begun, receiver) = mpsc::channel(self.limits.sessions.begun_max);
        let before = lock(&self.accepts).insert(protocol.to_owned(), Accepting { begun, admit });
        // What is an application's is dropped outside the lock.
        drop(before);
        self.look_at_accepting(protocol);
        receiver
    }

    /// Behind a change of who accepts: the table knows what is true then, whoever else changes it.
    fn look_at_accepting(&self, protocol: &str) {
        self.decide(|table, _| {
            table.accept(protocol, lock(&self.accepts).contains_key(protocol));
            Vec::new()
        });
    }

    /// Nobody takes peers of this protocol any more, unless somebody else has begun to.
    pub(crate) fn accept_no_more(&self, protocol: &str) {
        let ended = {
            let mut accepts = lock(&self.accepts);
            match accepts.get(protocol).is_some_and(|it| it.begun.is_closed()) {
                true => accepts.remove(protocol),
                false => None,
            }
        };
        if ended.is_some() {
            self.look_at_accepting(protocol);
        }
    }

    pub(super) fn ask_admit(&self, link: LinkId, peer: CertHash, protocol: String) {
        let admit = lock(&self.accepts).get(&protocol).and_then(|it| it.admit.clone());
        let remote = self.link(link).and_then(|link| link.core().remote_addr());
        let Some(admit) = admit else { return self.admitted(link, Admission::Accept) };
        // Its connection is gone meanwhile.
        let Some(remote) = remote else {
            return self.admitted(link, Admission::refuse(CloseCode::REFUSED, NOT_JUDGED));
        };
        let arriving = Arriving { identity: peer, remote, protocol };
        let refusal = Admission::refuse(CloseCode::REFUSED, NOT_JUDGED);
        // Said by the drop, also where the application panics.
        let mut answer = Answer { sessions: self.myself.clone(), link, said: Some(refusal) };
        // So that the peer hears of it before its own time is over.
        let limit = self.limits.sessions.hello_time_max * 3 / 4;
        self.runtime.spawn(async move {
            match tokio::time::timeout(limit, async { admit(arriving).await }).await {
                Ok(said) => answer.say(said),
                Err(_) => {
                    let text = "the application did not say in time whether it may";
                    answer.say(Admission::refuse(CloseCode::HELLO_TIMEOUT, text));
                    if let Some(sessions) = answer.sessions.upgrade() {
                        sessions.reached(Limit::HelloTime);
                    }
                }
            }
        });
    }

    fn admitted(&self, link: LinkId, admission: Admission) {
        self.decide(|table, at| table.admitted(at, link, admission));
    }

    pub(super) fn began(&self, session: SessionId, peer: CertHash, protocol: &str) {
        let core = self.entry(session, peer, protocol, None);
        let begun = lock(&self.accepts).get(protocol).map(|it| it.begun.clone());
        let taken = begun.map(|begun| begun.try_send(Arc::clone(&core)));
        match taken {
            Some(Ok(())) => return,
            Some(Err(TrySendError::Full(_))) => self.reached(Limit::Begun),
            Some(Err(TrySendError::Closed(_))) | None => {}
        }
        self.give_up(&core);
    }
}

/// What the application says of a peer; said when this is dropped.
struct Answer {
    sessions: Weak<Sessions>,
    link: LinkId,
    said: Option<Admission>,
}

impl Answer {
    fn say(&mut self, said: Admission) {
        self.said = Some(said);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let (Some(sessions), Some(said)) = (self.sessions.upgrade(), self.said.take()) {
            sessions.admitted(self.link, said);
        }
    }
}
