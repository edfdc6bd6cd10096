//! Every peer gives a figure for every workload, on loopback, and the whole comparison runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

const COMPARE: &str = env!("CARGO_BIN_EXE_compare");

/// Stands in for the binary that measures moorline.
const STUB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/moorline-stub.sh");

const WORKLOADS: [&[&str]; 8] = [
    &["throughput"],
    &["small"],
    &["small", "--batched"],
    &["pingpong"],
    &["connrate"],
    &["memory"],
    &["fanin"],
    &["requests"],
];

const IN_TWO_PROCESSES: [&[&str]; 5] = [
    &["throughput", "--two-processes"],
    &["small", "--two-processes"],
    &["small", "--two-processes", "--batched"],
    &["pingpong", "--two-processes"],
    &["requests", "--two-processes"],
];

const BRIEFLY: [&str; 6] = ["--warm-up", "0.05", "--round-trips", "150", "--connections", "60"];

/// What is counted: short, and enough for one frame, one round trip, one connection. On a machine
/// that is busy with other work nothing may move in so short a time; then longer ones are tried.
const SECONDS: [&str; 3] = ["0.15", "1.5", "6"];

#[test]
fn quinn_gives_every_figure() -> Result<()> {
    every_figure_is_above_zero("quinn")
}

#[cfg(feature = "s2n")]
#[test]
fn s2n_quic_gives_every_figure() -> Result<()> {
    every_figure_is_above_zero("s2n-quic")
}

#[test]
fn msquic_async_gives_every_figure() -> Result<()> {
    every_figure_is_above_zero("msquic-async")
}

#[test]
fn tcp_with_rustls_gives_every_figure() -> Result<()> {
    every_figure_is_above_zero("tcp")
}

/// It makes requests and nothing else.
#[cfg(feature = "tonic")]
#[test]
fn tonic_gives_its_figures() -> Result<()> {
    above_zero("tonic", [&["requests"][..], &["requests", "--two-processes"]])
}

fn every_figure_is_above_zero(peer: &str) -> Result<()> {
    above_zero(peer, WORKLOADS.into_iter().chain(IN_TWO_PROCESSES))
}

fn above_zero(
    peer: &str,
    workloads: impl IntoIterator<Item = &'static [&'static str]>,
) -> Result<()> {
    for workload in workloads {
        let mut given = SECONDS.iter().map(|seconds| figure(peer, workload, seconds));
        let value =
            given.find(Result::is_ok).with_context(|| format!("{peer}: {workload:?}"))??;
        ensure!(value > 0.0, "{peer}: {workload:?}: {value}");
    }
    Ok(())
}

/// Each program ends what takes too long by itself, so this waits with a limit.
fn figure(peer: &str, workload: &[&str], seconds: &str) -> Result<f64> {
    let child = Command::new(COMPARE)
        .args(["figure", "--peer", peer, "--workload"])
        .args(workload)
        .args(BRIEFLY)
        .args(["--seconds", seconds])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut child = Ended(child);
    let stdout = child.0.stdout.take().context("it has no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let line: Value = serde_json::from_str(&line).context("it printed no figure")?;
    ensure!(line["peer"] == peer && line["workload"] == workload[0], "{line}");
    line["value"].as_f64().context("the figure has no value")
}

/// Holds its standard input open until the figure is there.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_program_ends_at_once_when_nobody_waits_for_its_figure() -> Result<()> {
    // It has no time to tidy up if it ends while its certificates are made.
    let folder = TempDir::new()?;
    let mut child = Command::new(COMPARE)
        .args(["figure", "--peer", "msquic-async", "--workload", "small", "--seconds", "600"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    drop(child.stdin.take());
    ensure!(!child.wait()?.success());
    Ok(())
}

#[test]
fn a_comparison_prints_a_table_and_writes_its_figures_and_a_drawing() -> Result<()> {
    let folder = TempDir::new()?;
    let (json, plot) = (folder.path().join("figures.json"), folder.path().join("plot.svg"));
    let done = Command::new(COMPARE)
        .args(["--moorline", STUB, "--workloads", "small,connrate", "--peers", "tcp"])
        .args(["--rounds", "2", "--seconds", "0.1", "--json"])
        .arg(&json)
        .arg("--plot")
        .arg(&plot)
        .output()?;
    let table = String::from_utf8(done.stdout)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for text in
        ["small (msg/s, more is better)", "moorline", "[1,000-1,000]", "TCP + rustls, batched"]
    {
        ensure!(table.contains(text), "{text} is not in\n{table}");
    }
    let lines = fs::read_to_string(json)?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    // Two rounds of moorline, the peer, and the peer batched; then two of moorline and the peer.
    ensure!(lines.len() == 10, "{} lines", lines.len());
    ensure!(lines.iter().filter(|line| line["batched"] == true).count() == 2);
    ensure!(lines.iter().filter(|line| line["round"] == 2).count() == 5);
    let svg = fs::read_to_string(plot)?;
    ensure!(svg.starts_with("<svg") && svg.contains(">small<") && svg.contains(">connrate<"));
    Ok(())
}

/// It takes network namespaces, which not every machine lets a program make.
#[test]
fn what_tcp_sends_takes_as_long_as_the_network_that_was_asked_for() -> Result<()> {
    let probe = ["--map-root-user", "--net", "--", "test", "-w", "/dev/net/tun"];
    if !Command::new("unshare").args(probe).status().is_ok_and(|probed| probed.success()) {
        eprintln!("not shown here: no network namespace, or no /dev/net/tun");
        return Ok(());
    }
    let folder = TempDir::new()?;
    let json = folder.path().join("figures.json");
    let done = Command::new(COMPARE)
        .args(["--moorline", STUB, "--workloads", "requests-two", "--peers", "tcp", "--quick"])
        .args(["--network", "wan", "--congestion", "reno", "--json"])
        .arg(&json)
        .output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = fs::read_to_string(json)?;
    let line: Value = serde_json::from_str(lines.lines().last().context("there is no figure")?)?;
    let p50: f64 = line["params"]["p50"].as_str().context("it has no median")?.parse()?;
    ensure!(line["peer"] == "tcp" && p50 >= 40_000.0, "{line}");
    Ok(())
}

#[test]
fn a_node_that_is_not_there_is_named_and_nothing_is_measured() -> Result<()> {
    let done = Command::new(COMPARE).args(["--moorline", "/nonexistent/moorline"]).output()?;
    ensure!(!done.status.success() && done.stdout.is_empty());
    let said = String::from_utf8(done.stderr)?;
    ensure!(said.contains("/nonexistent/moorline") && said.contains("cargo build"), "{said}");
    Ok(())
}
