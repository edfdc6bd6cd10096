//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Compare moorline with quinn, s2n-quic, msquic-async and TCP + rustls on this machine
#[derive(Debug, Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) step: Option<Step>,
    #[command(flatten)]
    pub(crate) compare: CompareArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// How often every program is run [default: 3; with --quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: Option<u32>,
    /// What to measure; separated by commas [default: all of it]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub(crate) workloads: Vec<Comparison>,
    /// Whom to compare moorline with; separated by commas [default: all of them]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub(crate) peers: Vec<PeerName>,
    #[command(flatten)]
    pub(crate) path: PathArgs,
    /// Count for one second, and hold 200 idle pairs: to see that it works, not to quote
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seconds that are counted, after one that is not [default: 5; connrate: 4]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "quick")]
    pub(crate) seconds: Option<Duration>,
    /// The binary that measures moorline
    #[arg(long, value_name = "PATH", default_value = "target/release/moorline")]
    pub(crate) moorline: PathBuf,
    /// Write every figure of every round to this file, a line of JSON each
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the ratios into this SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

/// The path between both ends.
#[derive(Debug, Clone, Args)]
pub(crate) struct PathArgs {
    /// What is between the two processes; any but loopback leaves workloads of one process out
    #[arg(long, value_enum, default_value_t)]
    pub(crate) network: Network,
    /// Congestion control of TCP, such as cubic or bbr [default: the kernel's]
    #[arg(long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
}

impl PathArgs {
    /// Whether `peer` takes a tunnel: a proxy of datagrams is no way for what the kernel speaks itself.
    pub(crate) fn is_tunnel_of(&self, peer: PeerName) -> bool {
        self.network != Network::Loopback && peer == PeerName::Tcp
    }

    /// The words that say the same.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec!["--network".to_owned(), name(self.network)];
        if let Some(congestion) = &self.congestion {
            words.extend(["--congestion".to_owned(), congestion.clone()]);
        }
        words
    }
}

/// What is between the two processes of a figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Nothing
    #[default]
    Loopback,
    /// 40 ms there and back, 1 % of the datagrams is lost
    Wan,
    /// 120 ms there and back, 3 % is lost
    Mobile,
}

/// What this program starts itself again for.
#[derive(Debug, Subcommand)]
pub(crate) enum Step {
    /// Measure one figure of one peer, and print it as JSON
    #[command(hide = true)]
    Figure(FigureArgs),
    /// The far end of a figure that takes two processes
    #[command(hide = true)]
    FarEnd(FarEndArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FigureArgs {
    #[arg(long, value_enum)]
    pub(crate) peer: PeerName,
    #[arg(long, value_enum)]
    pub(crate) workload: Workload,
    /// Gather frames to 64 KiB before they are written
    #[arg(long)]
    pub(crate) batched: bool,
    #[arg(long)]
    pub(crate) two_processes: bool,
    #[command(flatten)]
    pub(crate) path: PathArgs,
    /// Not counted
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub(crate) warm_up: Duration,
    /// Counted
    #[arg(long, value_parser = seconds, default_value = "5")]
    pub(crate) seconds: Duration,
    /// Round trips that are counted
    #[arg(long, default_value_t = 30_000)]
    pub(crate) round_trips: usize,
    /// Idle pairs
    #[arg(long, default_value_t = 1000)]
    pub(crate) connections: usize,
}

#[derive(Debug, Args)]
pub(crate) struct FarEndArgs {
    #[arg(long, value_enum)]
    pub(crate) peer: PeerName,
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    #[arg(long)]
    pub(crate) size: usize,
    #[arg(long)]
    pub(crate) batched: bool,
    /// Where the certificates of both ends are
    #[arg(long)]
    pub(crate) certificates: PathBuf,
    #[command(flatten)]
    pub(crate) path: PathArgs,
}

/// What a far end does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Sends every frame back
    Echo,
    /// Sends frames as fast as it can
    Flood,
}

/// Whom moorline is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerName {
    Quinn,
    /// Where this program was built with the feature s2n
    S2nQuic,
    MsquicAsync,
    Tcp,
    /// Requests alone, where this program was built with the feature tonic
    Tonic,
}

impl PeerName {
    pub(crate) const ALL: [Self; 5] =
        [Self::Quinn, Self::S2nQuic, Self::MsquicAsync, Self::Tcp, Self::Tonic];

    /// Whether it can be measured on this work.
    pub(crate) fn takes_part(self, workload: Workload) -> bool {
        match self {
            Self::Quinn | Self::MsquicAsync | Self::Tcp => true,
            Self::S2nQuic => cfg!(feature = "s2n"),
            Self::Tonic => cfg!(feature = "tonic") && workload == Workload::Requests,
        }
    }

    /// Whether it is measured over a network that is far.
    pub(crate) fn goes_far(self) -> bool {
        self != Self::Tonic
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Quinn => "quinn",
            Self::S2nQuic => "s2n-quic",
            Self::MsquicAsync => "msquic-async",
            Self::Tcp => "TCP + rustls",
            Self::Tonic => "tonic",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    Throughput,
    Small,
    Pingpong,
    Connrate,
    Memory,
    Fanin,
    Requests,
}

/// What is measured, and in how many processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Comparison {
    /// 1 MiB frames one way
    Throughput,
    /// The same, the sender in a process of its own
    ThroughputTwo,
    /// 128-byte frames one way; the others also batched by hand
    Small,
    /// The same, the sender in a process of its own
    SmallTwo,
    /// 128 bytes there and back
    Pingpong,
    /// The same, the far end in a process of its own
    PingpongTwo,
    /// Whole connections, 16 at once
    Connrate,
    /// Resident memory of an idle pair
    Memory,
    /// 1 KiB frames from 64 connections to one receiver
    Fanin,
    /// 128 bytes there and back, 64 at once: requests of sessions, and numbered frames of the others
    Requests,
    /// The same, the far end in a process of its own
    RequestsTwo,
}

impl Comparison {
    pub(crate) const ALL: [Self; 11] = [
        Self::Throughput,
        Self::ThroughputTwo,
        Self::Small,
        Self::SmallTwo,
        Self::Pingpong,
        Self::PingpongTwo,
        Self::Connrate,
        Self::Memory,
        Self::Fanin,
        Self::Requests,
        Self::RequestsTwo,
    ];

    pub(crate) fn workload(self) -> Workload {
        match self {
            Self::Throughput | Self::ThroughputTwo => Workload::Throughput,
            Self::Small | Self::SmallTwo => Workload::Small,
            Self::Pingpong | Self::PingpongTwo => Workload::Pingpong,
            Self::Connrate => Workload::Connrate,
            Self::Memory => Workload::Memory,
            Self::Fanin => Workload::Fanin,
            Self::Requests | Self::RequestsTwo => Workload::Requests,
        }
    }

    pub(crate) fn has_two_processes(self) -> bool {
        matches!(self, Self::ThroughputTwo | Self::SmallTwo | Self::PingpongTwo | Self::RequestsTwo)
    }
}

/// The name of a value on the command line.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    // An hour: nothing here changes any more by then.
    if !(seconds > 0.0 && seconds <= 3600.0) {
        return Err("more than 0 and at most 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn lists_are_separated_by_commas_and_every_workload_has_its_own_name() {
        let given = ["compare", "--workloads", "small,pingpong-two", "--peers", "msquic-async,tcp"];
        let compare = Arguments::try_parse_from(given).unwrap().compare;
        assert_eq!(compare.workloads, [Comparison::Small, Comparison::PingpongTwo]);
        assert_eq!(compare.peers, [PeerName::MsquicAsync, PeerName::Tcp]);
        let mut names = Comparison::ALL.map(name);
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn a_time_is_above_zero_and_within_an_hour() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "nan", "3601", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
