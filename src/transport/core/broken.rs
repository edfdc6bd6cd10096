//! A connection to which something happened that cannot: it ends with `INTERNAL`.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::ConnectionCore;
use crate::error::CloseCode;
use crate::never::{never, take_marks};

impl ConnectionCore {
    /// Asks for the end whatever is locked just then; the reason is published where nothing is, at the
    /// latest when the library has done it.
    pub(super) fn bell(core: &Arc<Self>) -> Box<dyn Fn() + Send + Sync> {
        let weak = core.weak.clone();
        Box::new(move || {
            if let Some(core) = weak.upgrade() {
                core.ask_shutdown(false, CloseCode::INTERNAL);
            }
        })
    }

    /// Publishes the end if something happened that cannot. With nothing locked.
    pub(super) fn end_if_broken(&self) {
        if self.alarm.is_raised() && !self.is_over() {
            self.cut(CloseCode::INTERNAL);
        }
    }

    /// What the handshake tells, before anybody has the connection.
    pub(super) fn expect_known<R: Default>(&self, told: Option<R>) -> R {
        if never!(told.is_none(), "a connection stands of which nothing is known") {
            self.look_for_marks();
        }
        told.unwrap_or_default()
    }

    /// A callback or a handler panicked, or something happened in it that cannot.
    pub(super) fn has_failed(&self) {
        self.alarm.raise(take_marks().max(1));
        self.end_if_broken();
    }

    /// Something was looked at outside of all locks and callbacks: takes what was marked there.
    pub(crate) fn look_for_marks(&self) {
        self.alarm.look();
        self.end_if_broken();
    }
}
