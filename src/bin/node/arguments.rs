//! The command line: every argument, checked as far as it can be without a file or a socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use moorline::{CertHash, SignerKey};

use crate::app::exit::{EXIT_CODES, Exit};
use crate::app::output::remark;
#[cfg(feature = "testing")]
use crate::app::soak::{PlantedFault, Profile};

/// Supervised, mutually authenticated QUIC connections between peers.
#[derive(Debug, Parser)]
#[command(name = "moorline", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Answer with one JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// How long MsQuic's workers look for work before they sleep: less latency for some CPU; 0 saves
    /// it [default: 100]
    #[arg(long, global = true, value_name = "MICROSECONDS",
          value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub poll_idle: Option<u32>,
    /// Interval of keep-alives on a silent connection; a peer is given up that is silent for six of
    /// them, or that leaves anything unanswered for two [default: 0.5; bench scale: 5]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub keep_alive: Option<Duration>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a certificate and its key, or a key that signs certificates
    Keygen(KeygenArgs),
    /// Print the identity of a certificate: what others pin
    Id {
        /// The certificate, PEM or DER
        #[arg(value_name = "CERT")]
        certificate: PathBuf,
        /// Print its key and its signers as well
        #[arg(long, short)]
        verbose: bool,
    },
    /// Print the versions of this program and of MsQuic, and how MsQuic is linked
    Version,
    /// Run a node until Ctrl-C or SIGTERM
    Run(RunArgs),
    /// Send a file, or the lines of standard input, to a peer
    Send(SendArgs),
    /// Measure round trips to a peer that runs with --echo
    Ping(PingArgs),
    /// Measure this machine: both ends over loopback
    Bench(BenchArgs),
    /// Show three supervised nodes at work, with every claim checked
    Demo(DemoArgs),
    /// Let members talk while everything breaks, at random by a seed, and check that nothing is lost
    #[cfg(feature = "testing")]
    Soak(SoakArgs),
    /// The far end of a benchmark in two processes
    #[command(hide = true)]
    BenchFarEnd(FarEndArgs),
}

impl Command {
    /// Whether it runs until it is stopped, so that its log is worth reading.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// The directory to write to; it is made if need be, and nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The certificate's name: a DNS name or an IP address
    #[arg(long, default_value = "localhost")]
    pub name: String,
    /// Let this Ed25519 key (PKCS#8 PEM) sign the certificate; may be repeated
    #[arg(long, value_name = "KEY")]
    pub sign_with: Vec<PathBuf>,
    /// Make such a signing key instead of a certificate, and print its public half
    #[arg(long, conflicts_with_all = ["name", "sign_with"])]
    pub signing_key: bool,
}

/// Whom to let in, and whom to believe when dialling.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Trust the certificate with this SHA-256, as `moorline id` or `openssl x509 -fingerprint
    /// -sha256` prints it
    #[arg(long, value_name = "HASH", num_args = 1.., value_parser = certificate_hash)]
    pub trust: Vec<CertHash>,
    /// Trust every certificate that this Ed25519 key signed (`moorline keygen --signing-key`)
    #[arg(long, value_name = "HEX", num_args = 1.., value_parser = signer_key)]
    pub trust_key: Vec<SignerKey>,
    /// Trust whoever has any certificate at all
    #[arg(long)]
    pub insecure_accept_any: bool,
}

impl TrustArgs {
    pub(crate) fn is_empty(&self) -> bool {
        self.trust.is_empty() && self.trust_key.is_empty() && !self.insecure_accept_any
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Accept connections at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDR", num_args = 1.., value_parser = listen_address)]
    pub listen: Vec<SocketAddr>,
    /// The own certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// The own private key, PKCS#8 PEM
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Protocol name to offer and accept; may be repeated, preferred first
    #[arg(long, value_name = "NAME")]
    pub alpn: Vec<String>,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Keep a connection to this peer, with the certificate it must show
    #[arg(long, value_name = "ADDR[=HASH]", num_args = 1..)]
    pub connect: Vec<PeerToKeep>,
    /// Send every frame back to where it came from
    #[arg(long)]
    pub echo: bool,
    /// Print every frame, escaped and cut to 200 bytes
    #[arg(long)]
    pub print: bool,
    /// Seconds that connections may drain when the node is stopped
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub grace: Duration,
}

/// Whom `send` and `ping` talk to, and as whom.
#[derive(Debug, Args)]
pub(crate) struct DialArgs {
    /// The peer's HOST:PORT
    #[arg(value_name = "ADDR")]
    pub address: PeerAddress,
    /// The one certificate that the peer may show (`moorline id` prints its hash)
    #[arg(long, value_name = "HASH", value_parser = certificate_hash)]
    pub expect: Option<CertHash>,
    /// The own certificate chain, PEM; without it an identity is made up for this one run
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The own private key, PKCS#8 PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Protocol name to offer; may be repeated, preferred first
    #[arg(long, value_name = "NAME")]
    pub alpn: Vec<String>,
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
#[command(mut_args(one_trust_at_a_time))]
pub(crate) struct SendArgs {
    #[command(flatten)]
    pub peer: DialArgs,
    /// Send this file, in frames of --frame-bytes; without it every line of standard input is a frame
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Most bytes in one frame of the file
    #[arg(long, value_name = "BYTES", default_value = "1048576", requires = "file",
          value_parser = clap::value_parser!(u32).range(1..=(16 << 20)))]
    pub frame_bytes: u32,
}

#[derive(Debug, Args)]
#[command(mut_args(one_trust_at_a_time))]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub peer: DialArgs,
    /// How many round trips
    #[arg(short = 'n', long = "count", value_name = "N", default_value = "100",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub count: u32,
    /// Bytes in a frame, of which 8 are its number
    #[arg(long, value_name = "BYTES", default_value = "128",
          value_parser = clap::value_parser!(u32).range(8..=(16 << 20)))]
    pub size: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    Throughput,
    Small,
    Pingpong,
    Connrate,
    Memory,
    Fanin,
    Actor,
    Control,
    Lanes,
    Scale,
    PeerThroughput,
    PeerSmall,
    PeerFanin,
    PeerPingpong,
    Requests,
    Reconnect,
    SessionsMemory,
    All,
}

/// What is between the two processes of a benchmark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Nothing
    #[default]
    Loopback,
    /// 40 ms there and back, 1 % of the datagrams is lost
    #[cfg(feature = "testing")]
    Wan,
    /// 120 ms there and back, 3 % is lost
    #[cfg(feature = "testing")]
    Mobile,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure; scale and sessions-memory take two minutes and one, and are no part of all
    #[arg(long, value_enum, default_value = "all")]
    pub workload: Workload,
    /// Put the far end into a process of its own (throughput, small, pingpong, those of them with peer-
    /// before it, and requests)
    #[arg(long)]
    pub two_processes: bool,
    /// What is between the two processes (all but loopback by a build with the feature testing)
    #[arg(long, value_enum, default_value_t, requires = "two_processes")]
    pub network: Network,
    /// Seconds that are counted, after one that is not; of lanes so many quiet and so many behind bulk
    /// [default: 5; connrate: 4; scale: 2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Connections of memory and sessions-memory [default: 1000], fanin and peer-fanin [default: 64] and scale [default: 1, 64, 1000 and
    /// 5000, one after the other]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FarEndRole {
    /// Sends every frame back
    Echo,
    /// Sends frames as fast as it can
    Flood,
}

#[derive(Debug, Args)]
pub(crate) struct FarEndArgs {
    #[arg(long, value_enum)]
    pub role: FarEndRole,
    #[arg(long)]
    pub size: u32,
    #[arg(long, value_parser = certificate_hash)]
    pub trust: CertHash,
}

#[cfg(feature = "testing")]
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// Decides which faults come when [default: drawn, and printed]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// How long faults come
    #[arg(long, value_name = "MINUTES", default_value = "1", value_parser = minutes)]
    pub minutes: f64,
    /// How many members talk to each other
    #[arg(long, value_name = "N", default_value = "5", value_parser = members)]
    pub peers: usize,
    /// What kind of network it is
    #[arg(long, value_enum, default_value = "hell")]
    pub profile: Profile,
    /// How long all may take to be delivered once nothing is broken any more
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = seconds)]
    pub patience: Duration,
    /// Let sessions break a promise, to see that it is found
    #[arg(long, value_enum, value_name = "FAULT")]
    pub plant: Option<PlantedFault>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// MiB of generated data that go around the ring
    #[arg(long, value_name = "MIB", default_value = "256",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub data: u32,
}

/// Beside a positional argument, an option that takes many values would take that one too.
fn one_trust_at_a_time(argument: clap::Arg) -> clap::Arg {
    match argument.get_id().as_str() {
        "trust" | "trust_key" => argument.num_args(1),
        _ => argument,
    }
}

/// HOST:PORT that looks like one; whether the host exists is seen when it is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerAddress(pub String);

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice = "give HOST:PORT, as in 127.0.0.1:4433 or [::1]:4433";
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("the port is missing: {advice}"));
        };
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("{port:?} is no port (1 to 65535): {advice}"));
        }
        if host.is_empty() {
            return Err(format!("the host is missing: {advice}"));
        }
        if host.contains(|character: char| character.is_control() || character.is_whitespace()) {
            return Err(format!("{host:?} is no host name: {advice}"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(format!("an IPv6 address needs brackets: {advice}"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// ADDR or ADDR=HASH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerToKeep {
    pub address: PeerAddress,
    pub expect: Option<CertHash>,
}

impl FromStr for PeerToKeep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, hash) = match text.split_once('=') {
            Some((address, hash)) => (address, Some(certificate_hash(hash)?)),
            None => (text, None),
        };
        Ok(Self { address: address.parse()?, expect: hash })
    }
}

fn certificate_hash(text: &str) -> Result<CertHash, String> {
    text.parse()
        .map_err(|error| format!("{error}; `moorline id CERT` prints the hash of a certificate"))
}

fn signer_key(text: &str) -> Result<SignerKey, String> {
    text.parse()
        .map_err(|error| format!("{error}; `moorline keygen --signing-key` prints such a key"))
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give IP:PORT, as in 127.0.0.1:4433 or [::]:4433".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<f64>().ok().filter(|value| (0.001..=86_400.0).contains(value));
    parsed.map(Duration::from_secs_f64).ok_or_else(|| "give seconds, 0.001 to 86400".to_owned())
}

#[cfg(feature = "testing")]
fn members(text: &str) -> Result<usize, String> {
    let parsed = text.parse().ok().filter(|members| (2..=32).contains(members));
    parsed.ok_or_else(|| "give a number of members, 2 to 32".to_owned())
}

#[cfg(feature = "testing")]
fn minutes(text: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|value| (0.01..=100_000.0).contains(value));
    parsed.ok_or_else(|| "give minutes, 0.01 to 100000".to_owned())
}

/// Reads the command line. What is wrong with it is said in one line; help goes where it should.
pub(crate) fn parse() -> Result<Cli, Exit> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        ErrorKind::ValueValidation => {
            // What to give instead is part of the message.
            remark(one_line(&error.to_string()));
            Exit::Usage
        }
        _ => {
            let line = one_line(&error.to_string());
            remark(format_args!("{line}; `moorline --help` shows what there is"));
            Exit::Usage
        }
    })
}

/// The first paragraph of an error of clap as one line: the rest repeats the help.
fn one_line(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused_with_advice() {
        for good in ["127.0.0.1:1", "[::1]:65535", "host.example:4433"] {
            assert_eq!(good.parse(), Ok(PeerAddress(good.to_owned())));
        }
        let bad = ["", "host", "host:", "host:0", "host:65536", ":1", "a\0b:1", "a b:1", "::1:1"];
        for bad in bad {
            let error = bad.parse::<PeerAddress>().unwrap_err();
            assert!(error.contains("give HOST:PORT"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_peer_may_come_with_the_hash_it_must_show() {
        let hash = "ab".repeat(32);
        let peer: PeerToKeep = format!("h:1={hash}").parse().unwrap();
        assert_eq!(peer.expect.unwrap().to_string(), hash);
        assert!("h:1".parse::<PeerToKeep>().unwrap().expect.is_none());
        let error = "h:1=ab".parse::<PeerToKeep>().unwrap_err();
        assert!(error.contains("64 hex digits"), "{error}");
    }

    #[test]
    fn trust_takes_many_hashes_and_leaves_the_address_alone() {
        let hash = "ab".repeat(32);
        let words = ["moorline", "ping", "--trust", &hash, "--trust", &hash, "h:1"];
        let cli = Cli::try_parse_from(words).unwrap();
        assert!(matches!(cli.command, Command::Ping(args) if args.peer.trust.trust.len() == 2));
        let words = ["moorline", "run", "--cert=c", "--key=k", "--trust", &hash, &hash];
        let cli = Cli::try_parse_from(words).unwrap();
        assert!(matches!(cli.command, Command::Run(args) if args.trust.trust.len() == 2));
    }

    #[test]
    fn a_wrong_argument_is_reported_on_one_line() {
        let wrong: [&[&str]; 4] = [
            &["moorline", "send", "nowhere"],
            &["moorline", "send", "h:1", "--expect", "xyz"],
            &["moorline", "run"],
            &["moorline", "frobnicate"],
        ];
        for words in wrong {
            let line = one_line(&Cli::try_parse_from(words).unwrap_err().to_string());
            assert!(line.starts_with("error: ") && !line.contains('\n'), "{line}");
        }
    }
}
