//! How the process ends: the exit codes, and which error means which.

use std::process::ExitCode;

use anyhow::Error;
use moorline::{CloseReason, ConnectError, RecvError, SendError};

use crate::app::wait::Unanswered;

/// Shown by `--help`, and checked against [`Exit`] by a test.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done (also after Ctrl-C or SIGTERM, when everything accepted was drained)
  1    the operation failed
  2    the arguments are wrong
  3    a certificate was refused, by either side
  4    the peer cannot be reached, or did not answer in time
  5    a check of `bench`, `demo` or `soak` failed
  130  a second Ctrl-C or SIGTERM, or no end in time after the first: left at once, not drained

MOORLINE_LOG chooses what is logged to standard error, as in MOORLINE_LOG=debug.";

/// Every way to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Refused,
    Unreachable,
    CheckFailed,
    AtOnce,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::CheckFailed => 5,
            // What a shell shows for a process that SIGINT ended.
            Self::AtOnce => 130,
        }
    }

    /// The meaning of an error: of its outermost cause that has one.
    pub(crate) fn of(error: &Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if cause.is::<Usage>() {
            return Some(Self::Usage);
        }
        if cause.is::<CheckFailed>() {
            return Some(Self::CheckFailed);
        }
        if cause.is::<Unanswered>() {
            return Some(Self::Unreachable);
        }
        if let Some(Ended(reason)) = cause.downcast_ref() {
            return Some(Self::of_close(reason));
        }
        if let Some(error) = cause.downcast_ref() {
            return Some(Self::of_connect(error));
        }
        match cause.downcast_ref() {
            Some(SendError::TimedOut { .. }) => return Some(Self::Unreachable),
            Some(SendError::Closed { reason, .. }) => return Some(Self::of_close(reason)),
            _ => {}
        }
        match cause.downcast_ref() {
            Some(RecvError::Closed { reason }) => Some(Self::of_close(reason)),
            _ => None,
        }
    }

    fn of_connect(error: &ConnectError) -> Self {
        match error {
            ConnectError::CertificateRefused { .. } => Self::Refused,
            ConnectError::Address { .. }
            | ConnectError::Resolve { .. }
            | ConnectError::Unreachable { .. }
            | ConnectError::TimedOut { .. } => Self::Unreachable,
            ConnectError::Closed { reason, .. } => Self::of_close(reason),
            // The one that tells most: a peer that was there and refused.
            ConnectError::Addresses { failures, .. } => {
                let exits = || failures.iter().map(Self::of_connect);
                let most = [Self::Refused, Self::Unreachable];
                most.into_iter().find(|exit| exits().any(|e| e == *exit)).unwrap_or(Self::Failed)
            }
            _ => Self::Failed,
        }
    }

    fn of_close(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Certificate(_) => Self::Refused,
            CloseReason::Unreachable
            | CloseReason::Refused
            | CloseReason::HandshakeTimedOut
            | CloseReason::NoRoute
            | CloseReason::Forgotten
            | CloseReason::TimedOut => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Arguments that are each well formed and make no sense together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub String);

/// Something that was to be shown did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CheckFailed(pub String);

/// The connection ended while it was needed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Ended(pub CloseReason);

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Refused,
            Exit::Unreachable,
            Exit::CheckFailed,
            Exit::AtOnce,
        ] {
            let line = format!("\n  {:<5}", exit.code());
            assert!(EXIT_CODES.contains(&line), "{exit:?}");
        }
    }

    #[test]
    fn the_cause_decides_and_what_was_added_does_not() {
        let error = Err::<(), _>(Ended(CloseReason::TimedOut)).context("while sending");
        assert_eq!(Exit::of(&error.unwrap_err()), Exit::Unreachable);
        let peer = ([127, 0, 0, 1], 9).into();
        let error = Err::<(), _>(ConnectError::Unreachable { peer }).context("while dialling");
        assert_eq!(Exit::of(&error.unwrap_err()), Exit::Unreachable);
        let failures = vec![ConnectError::Unreachable { peer }];
        let error = ConnectError::Addresses { remote: "h:9".to_owned(), failures };
        assert_eq!(Exit::of(&error.into()), Exit::Unreachable);
        assert_eq!(Exit::of(&Ended(CloseReason::Forgotten).into()), Exit::Unreachable);
        assert_eq!(Exit::of(&Usage("x".to_owned()).into()), Exit::Usage);
        assert_eq!(Exit::of(&anyhow::anyhow!("anything else")), Exit::Failed);
    }
}
