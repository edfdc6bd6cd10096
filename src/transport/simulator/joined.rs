//! Two connections for the tests of actors: the script goes on by itself, but for what a test holds back.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::Limits;
use crate::identity::NetCredential;
use crate::transport::bounds::{Bounds, Windows};
use crate::transport::connection::MsQuicNetConnection;
use crate::transport::core::{ConnectionCore, Direction};
use crate::transport::ffi::scripted::{Action, Script};
use crate::transport::registration::{LiveHandle, RegistrationWrapper};

/// What the library does not do for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Nothing,
    /// No byte arrives.
    Bytes,
    /// Nothing is acknowledged.
    Acknowledgements,
    /// No connection is over.
    Completions,
}

/// See the module.
pub(crate) struct Joined {
    script: Script,
    held: Cell<Held>,
}

impl Joined {
    /// On a runtime of one thread.
    pub(crate) fn new(limits: &Limits) -> (Rc<Self>, [MsQuicNetConnection; 2]) {
        Self::new_with(&[limits.clone(), limits.clone()])
    }

    /// Each end with its own; the windows are those of the first.
    pub(crate) fn new_with(limits: &[Limits; 2]) -> (Rc<Self>, [MsQuicNetConnection; 2]) {
        let script = Script::begin();
        let credential = NetCredential::generate_self_signed(&["test"], &[]).expect("a credential");
        let certificate = credential.chain_der()[0].clone();
        let credential = credential.clone().trust_hash(credential.identity());
        let registration = RegistrationWrapper::scripted();
        let [here, there] = limits;
        let ends = [(Direction::Outbound, here), (Direction::Inbound, there)];
        let cores = ends.map(|(direction, limits)| {
            let bounds = Arc::new(Bounds::new(limits.clone()));
            let live = LiveHandle::new(&registration);
            ConnectionCore::new(live, direction, credential.clone(), None, &bounds)
        });
        script.join([&cores[0], &cores[1]], &certificate, Windows::largest(here));
        let connections =
            cores.map(|core| MsQuicNetConnection::new(core).expect("it is connected"));
        (Rc::new(Self { script, held: Cell::new(Held::Nothing) }), connections)
    }

    /// From here on.
    pub(crate) fn hold(&self, held: Held) {
        self.held.set(held);
    }

    /// The library refuses the next so many submissions.
    pub(crate) fn refuse_sends(&self, count: usize) {
        self.script.refuse_sends(count);
    }

    /// Handles that are open.
    pub(crate) fn handles(&self) -> usize {
        self.script.handles()
    }

    /// Lets the library and all tasks do what they have to, without time going on.
    pub(crate) async fn run_until_idle(&self) {
        let mut idle = 0;
        while idle < 20 {
            let next = self.script.actions().into_iter().find(|action| !self.is_held(*action));
            match next {
                Some(action) => {
                    self.script.perform(action, usize::MAX, 1);
                    idle = 0;
                }
                None => idle += 1,
            }
            tokio::task::yield_now().await;
        }
    }

    /// One thing for each handle: of a large frame its beginning arrives.
    pub(crate) async fn run_once(&self) {
        for _ in 0..4 {
            tokio::task::yield_now().await;
            for action in self.script.actions() {
                self.script.perform(action, 100_000, 1);
            }
        }
    }

    fn is_held(&self, action: Action) -> bool {
        match self.held.get() {
            Held::Nothing => false,
            Held::Bytes => matches!(action, Action::Deliver(_)),
            Held::Acknowledgements => matches!(action, Action::Acknowledge(_)),
            Held::Completions => matches!(action, Action::End(_) | Action::PeerEnd(_)),
        }
    }
}
