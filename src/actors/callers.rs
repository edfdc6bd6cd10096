//! Who waits for the connection of a target.

use ractor::RpcReplyPort;

use super::handle::ConnectionHandle;
use super::target::Redial;
use super::waiting::{CALLERS_MAX, Waiter};
use crate::error::ConnectError;

pub(crate) type ConnectReply = RpcReplyPort<Result<ConnectionHandle, ConnectError>>;

/// Who waits for the connection, and for how long: `Redial::Always` waits for a success, others
/// are told of the next failure.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) reply: ConnectReply,
    pub(crate) redial: Redial,
}

impl Caller {
    /// Whether the answer was taken: a caller may have gone.
    pub(crate) fn answer(self, result: Result<ConnectionHandle, ConnectError>) -> bool {
        self.reply.send(result).is_ok()
    }

    /// For a list that is full.
    pub(super) fn turn_away(self) {
        self.answer(Err(ConnectError::TooManyCallers { limit: CALLERS_MAX }));
    }
}

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}
