//! Faults by the clock: what goes wrong when, towards whom and for how long, as values and as text.

use std::fmt;
use std::time::Duration;

use super::conditions::{Conditions, Towards};
use super::fault::Fault;
use super::text::Time;

/// One fault of a [`Script`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptEvent {
    /// When it begins, after the script's start.
    pub at: Duration,
    /// What happens.
    pub fault: Fault,
    /// Whose datagrams it is about; none: both directions.
    pub towards: Option<Towards>,
    /// How long it lasts; none: to the end. A change of the client's port takes no time.
    pub lasts: Option<Duration>,
}

impl ScriptEvent {
    fn is_on(&self, elapsed: Duration, towards: Towards) -> bool {
        let since = elapsed.checked_sub(self.at);
        let on = since.is_some_and(|since| self.lasts.is_none_or(|lasts| since < lasts));
        on && self.towards.is_none_or(|it| it == towards)
    }
}

/// What goes wrong on a link, by the clock.
///
/// As text, one event a line or behind a `;`, with `#` before a comment:
///
/// ```
/// use moorline::testing::Script;
///
/// let script: Script = "
///     at 0 s: delay 20 ms jitter 5 ms              # both ways, to the end
///     at 2 s: lose 30 % towards the server for 5 s
///     at 4 s: lose 30 % in bursts of 8 towards the client for 5 s
///     at 8 s: black hole for 2 s; at 12 s: change the client's port
/// "
/// .parse()?;
/// assert_eq!(script.events().len(), 5);
/// assert_eq!(script.to_string().parse::<Script>()?, script);
/// # Ok::<(), moorline::testing::ScriptError>(())
/// ```
///
/// | fault | what it does |
/// |---|---|
/// | `lose 30 %` | loses each datagram with this chance |
/// | `lose 30 % in bursts of 8` | the same share, eight in a row on average |
/// | `lose 0 % when good, 80 % when bad, turns bad 2 %, turns good 25 %` | the model of Gilbert and Elliott |
/// | `delay 40 ms`, `delay 40 ms jitter 5 ms` | holds each datagram back |
/// | `reorder 10 % by 5 ms` | holds some back, so that others overtake them |
/// | `duplicate 5 %` | hands some on twice |
/// | `corrupt 1 %` | flips one bit in some |
/// | `limit 1 MiB/s queue 64 KiB` | a bottleneck |
/// | `mtu 1280 B` | loses packets that are larger, with their headers |
/// | `black hole` | loses everything |
/// | `pass everything` | as if nothing was set and no earlier line was there |
/// | `change the client's port` | what the server sees from here on, as behind a NAT that forgot |
///
/// Behind it may stand `towards the server` or `towards the client`, and `for` a time. A later line
/// wins over an earlier one about the same; when it is over, the earlier one counts again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// In the order of their beginning.
    events: Vec<ScriptEvent>,
}

impl Script {
    /// These events, in any order; of those that begin together the later one wins.
    #[must_use]
    pub fn new(events: impl IntoIterator<Item = ScriptEvent>) -> Self {
        let mut events: Vec<_> = events.into_iter().collect();
        events.sort_by_key(|event| event.at);
        Self { events }
    }

    /// In the order of their beginning.
    #[must_use]
    pub fn events(&self) -> &[ScriptEvent] {
        &self.events
    }

    /// When the last event that ends has ended and each other one has begun.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        let end = |event: &ScriptEvent| event.at.saturating_add(event.lasts.unwrap_or_default());
        self.events.iter().map(end).max().unwrap_or_default()
    }

    /// What holds so long after the start, where `set` holds without the script.
    #[must_use]
    pub fn conditions_at(
        &self,
        elapsed: Duration,
        towards: Towards,
        set: Conditions,
    ) -> Conditions {
        let on = self.events.iter().filter(|event| event.is_on(elapsed, towards));
        on.fold(set, |conditions, event| event.fault.applied_to(conditions))
    }

    /// The changes of the client's port from `from` (included) to `to` (excluded).
    pub(super) fn port_changes(&self, from: Duration, to: Duration) -> usize {
        self.port_changes_from(from).take_while(|at| *at < to).count()
    }

    /// When the client's port changes, not before `from`.
    pub(super) fn port_changes_from(&self, from: Duration) -> impl Iterator<Item = Duration> {
        let changes = self.events.iter().filter(|event| event.fault == Fault::ChangeClientPort);
        changes.map(|event| event.at).filter(move |at| *at >= from)
    }
}

impl FromIterator<ScriptEvent> for Script {
    fn from_iter<I: IntoIterator<Item = ScriptEvent>>(events: I) -> Self {
        Self::new(events)
    }
}

impl fmt::Display for ScriptEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: {}", Time(self.at), self.fault)?;
        match self.towards {
            Some(Towards::Server) => f.write_str(" towards the server")?,
            Some(Towards::Client) => f.write_str(" towards the client")?,
            None => {}
        }
        self.lasts.map_or(Ok(()), |lasts| write!(f, " for {}", Time(lasts)))
    }
}

/// One event a line.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, event) in self.events.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            event.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
