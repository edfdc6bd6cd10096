//! What the demo shows: each check as it is made, and a table at the end.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use moorline::{ConnectionHandle, OutcomeCounts};
use serde::Serialize;

use super::ring::{Member, Ring};
use crate::app::exit::CheckFailed;
use crate::app::output::Output;

/// Prints each check, and remembers whether all held.
pub(super) struct Checks {
    out: Output,
    made: u32,
    failed: Vec<&'static str>,
}

impl Checks {
    pub(super) fn new(out: Output) -> Self {
        Self { out, made: 0, failed: Vec::new() }
    }

    /// A check that held if there is no error.
    pub(super) fn note(&mut self, check: &'static str, outcome: Result<String>) -> Result<()> {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        self.made += 1;
        if !ok {
            self.failed.push(check);
        }
        self.out.line(&CheckLine { event: "check", check, ok, detail })
    }

    /// The end: an error if a check failed.
    pub(super) fn finish(self, took: Duration) -> Result<()> {
        let (checks, failed) = (self.made, self.failed);
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        self.out.line(&Verdict { event: "demo", checks, failed: failed.len(), seconds })?;
        if failed.is_empty() {
            return Ok(());
        }
        Err(CheckFailed(format!("these did not hold: {}", failed.join("; "))).into())
    }
}

#[derive(Serialize)]
struct CheckLine {
    event: &'static str,
    check: &'static str,
    ok: bool,
    detail: String,
}

impl fmt::Display for CheckLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "ok    " } else { "FAILED" };
        write!(f, "{verdict} {}: {}", self.check, self.detail)
    }
}

#[derive(Serialize)]
struct Verdict {
    event: &'static str,
    checks: u32,
    failed: usize,
    seconds: f64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.checks as usize - self.failed;
        write!(f, "{held} of {} checks held, in {} s", self.checks, self.seconds)
    }
}

/// A sentence about what happens.
#[derive(Serialize)]
pub(super) struct Remark {
    pub event: &'static str,
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "       {}", self.text)
    }
}

/// One node's view of one peer, over all connections they had.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    event: &'static str,
    node: &'static str,
    peer: String,
    frames_sent: u64,
    bytes_sent: u64,
    frames_received: u64,
    bytes_received: u64,
    mib_per_s: f64,
    rtt_us: u128,
    reconnects: usize,
    accepted: u64,
    completed: u64,
    not_sent: u64,
    maybe_sent: u64,
}

pub(super) const HEADING: &str = "\
node peer  frames out  MiB out  frames in   MiB in   MiB/s  RTT µs  reconnects  accepted  completed  \
not sent  maybe sent";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:<4} {:<4} {:>11} {:>8.1} {:>10} {:>8.1} {:>7.0} {:>7} {:>11} {:>9} {:>10} {:>9} {:>11}",
            self.node,
            self.peer,
            self.frames_sent,
            mib(self.bytes_sent),
            self.frames_received,
            mib(self.bytes_received),
            self.mib_per_s,
            self.rtt_us,
            self.reconnects,
            self.accepted,
            self.completed,
            self.not_sent,
            self.maybe_sent
        )
    }
}

impl Row {
    /// Whether every frame that was accepted has exactly one known end.
    pub(super) fn balances(&self) -> bool {
        self.accepted == self.completed + self.not_sent + self.maybe_sent
    }

    pub(super) fn names(&self) -> String {
        format!("{}→{}", self.node, self.peer)
    }
}

/// How fast data went between two nodes, and how far they are apart, while it went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    pub mib_per_s: f64,
    pub rtt: Duration,
}

pub(super) type Paces = HashMap<(&'static str, String), Pace>;

/// The pace of every pair, when `took` has passed since the first frame.
pub(super) fn paces(ring: &Ring, took: Duration) -> Paces {
    let mut paces = Paces::new();
    for member in ring.members() {
        for connection in member.connections() {
            let stats = connection.stats();
            let bytes = stats.bytes_sent + stats.bytes_received;
            let mib_per_s = bytes as f64 / f64::from(1 << 20) / took.as_secs_f64();
            let peer = ring.name_of(&connection.peer());
            paces.insert((member.name, peer), Pace { mib_per_s, rtt: stats.rtt });
        }
    }
    paces
}

/// The table. Final once the nodes are shut down: what is on its way has no outcome yet.
pub(super) fn rows(ring: &Ring, paces: &Paces) -> Vec<Row> {
    let mut rows = Vec::new();
    for member in ring.members() {
        for other in ring.members() {
            if other.identity() != member.identity() {
                rows.push(row(member, other, paces));
            }
        }
    }
    rows
}

fn row(member: &Member, other: &Member, paces: &Paces) -> Row {
    let with_other = |connection: &ConnectionHandle| connection.peer() == other.identity();
    let connections: Vec<_> = member.connections().into_iter().filter(with_other).collect();
    let peer = other.name.to_owned();
    let pace = paces.get(&(member.name, peer.clone())).copied().unwrap_or_default();
    let mut row = Row {
        event: "row",
        node: member.name,
        peer,
        frames_sent: 0,
        bytes_sent: 0,
        frames_received: 0,
        bytes_received: 0,
        mib_per_s: (pace.mib_per_s * 10.0).round() / 10.0,
        rtt_us: pace.rtt.as_micros(),
        reconnects: connections.len().saturating_sub(1),
        accepted: 0,
        completed: 0,
        not_sent: 0,
        maybe_sent: 0,
    };
    for connection in connections {
        let stats = connection.stats();
        let OutcomeCounts { accepted, completed, not_sent, maybe_sent, .. } = stats.sent;
        row.frames_sent += accepted - not_sent;
        row.bytes_sent += stats.bytes_sent;
        row.frames_received += stats.frames_received;
        row.bytes_received += stats.bytes_received;
        row.accepted += accepted;
        row.completed += completed;
        row.not_sent += not_sent;
        row.maybe_sent += maybe_sent;
    }
    row
}
