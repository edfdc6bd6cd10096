//! `bench`: both ends over loopback, through the public handles and nothing else.
//!
//! Every workload starts its own two nodes, measures, and answers with one [`Report`] (`scale` with
//! one for each number of connections). What is counted is counted where it arrives, after a time
//! that is not counted.

mod actors;
mod connections;
mod far_end;
mod lanes;
pub(crate) mod measure;
mod pair;
mod path;
mod peer_streams;
mod pingpong;
mod reconnect;
mod relay;
mod requests;
mod scale;
mod sessions;
mod sessions_memory;
mod streams;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::app::App;
use crate::app::arguments::{BenchArgs, Workload};
use crate::app::exit::Usage;
use crate::app::ping::Percentiles;

pub(crate) use far_end::far_end;

/// All but `scale`, which takes two minutes, and `sessions-memory`, which takes one.
///
/// Memory comes first, while the allocator holds nothing that it could reuse unseen.
const ALL: [Workload; 15] = [
    Workload::Memory,
    Workload::Connrate,
    Workload::Pingpong,
    Workload::Small,
    Workload::Throughput,
    Workload::Fanin,
    Workload::Actor,
    Workload::Control,
    Workload::Lanes,
    Workload::PeerPingpong,
    Workload::PeerSmall,
    Workload::PeerThroughput,
    Workload::PeerFanin,
    Workload::Requests,
    Workload::Reconnect,
];

/// Frames taken at once where many wait.
const BATCH: usize = 256;

/// Runs before anything is counted: queues fill, windows open, clocks of the CPU rise.
const WARM_UP: Duration = Duration::from_secs(1);

/// Counted, where nothing else is asked for.
const COUNTED: Duration = Duration::from_secs(5);

/// How long the nodes of one workload may take to end before the next begins.
const GRACE: Duration = Duration::from_secs(5);

const SMALL_BYTES: usize = 128;
const LARGE_BYTES: usize = 1 << 20;
const FANIN_BYTES: usize = 1 << 10;

/// Idle sessions whose memory is measured.
const SESSIONS: usize = 1_000;

pub(crate) async fn bench(app: App, args: BenchArgs) -> Result<()> {
    let app = App { network: args.network, ..app };
    let workloads = match args.workload {
        Workload::All => ALL.as_slice(),
        one => &[one],
    };
    if args.two_processes && !workloads.iter().any(|workload| is_splittable(*workload)) {
        let hint = "--two-processes goes with throughput, small and pingpong, the same with peer- \
                    before it, and requests";
        return Err(Usage(hint.to_owned()).into());
    }
    if !app.out.json {
        crate::app::output::heading(HEADING)?;
    }
    for workload in workloads {
        let reports = tokio::select! {
            reports = measure(&app, *workload, &args) => reports?,
            () = app.stop.requested() => bail!("stopped before {} was measured", name(*workload)),
        };
        app.shut_down(GRACE).await;
        reports.iter().try_for_each(|report| app.out.line(report))?;
    }
    Ok(())
}

fn is_splittable(workload: Workload) -> bool {
    matches!(
        workload,
        Workload::Throughput
            | Workload::Small
            | Workload::Pingpong
            | Workload::PeerThroughput
            | Workload::PeerSmall
            | Workload::PeerPingpong
            | Workload::Requests
    )
}

/// The figures of one workload; most have one.
async fn measure(app: &App, workload: Workload, args: &BenchArgs) -> Result<Vec<Report>> {
    let counted = |default| args.seconds.unwrap_or(default);
    let measured = match workload {
        Workload::Actor => actors::three_ways(app, SMALL_BYTES, counted(COUNTED)).await,
        Workload::Scale => {
            let given = args.connections.map(|given| vec![given as usize]);
            let counts = given.unwrap_or_else(|| scale::COUNTS.to_vec());
            let mut app = app.clone();
            // More often, and thousands of connections on a few cores do little else.
            app.keep_alive.get_or_insert(scale::KEEP_ALIVE);
            scale::scale(&app, &counts, SMALL_BYTES, counted(Duration::from_secs(2))).await
        }
        Workload::Requests => {
            let (split, counted) = (args.two_processes, counted(COUNTED));
            requests::requests(app, SMALL_BYTES, counted, split).await.map(|mut reports| {
                reports.iter_mut().filter(|_| split).for_each(Report::is_split);
                reports
            })
        }
        Workload::SessionsMemory => {
            let wanted = args.connections.map_or(SESSIONS, |given| given as usize);
            let connected = sessions_memory::connected(app, wanted).await;
            app.shut_down(GRACE).await;
            match connected {
                Ok(connected) => {
                    let lost = sessions_memory::without_connection(app).await;
                    lost.map(|lost| vec![connected, lost])
                }
                Err(error) => Err(error),
            }
        }
        one => return Ok(vec![measure_one(app, one, args).await?]),
    };
    measured.with_context(|| format!("cannot measure {}", name(workload)))
}

async fn measure_one(app: &App, workload: Workload, args: &BenchArgs) -> Result<Report> {
    let split = args.two_processes && is_splittable(workload);
    let counted = args.seconds.unwrap_or(COUNTED);
    let connections = |default: usize| args.connections.map_or(default, |given| given as usize);
    let measured = match workload {
        Workload::Throughput if split => far_end::drain(app, LARGE_BYTES, counted).await,
        Workload::Small if split => far_end::drain(app, SMALL_BYTES, counted).await,
        Workload::Pingpong if split => pingpong::with_far_end(app, SMALL_BYTES).await,
        Workload::Throughput => streams::one_way(app, 1, LARGE_BYTES, counted).await,
        Workload::Small => streams::one_way(app, 1, SMALL_BYTES, counted).await,
        Workload::Fanin => streams::one_way(app, connections(64), FANIN_BYTES, counted).await,
        Workload::Control => actors::control(app, SMALL_BYTES).await,
        Workload::Lanes => lanes::delay(app, SMALL_BYTES, counted).await,
        Workload::Pingpong => pingpong::in_one_process(app, SMALL_BYTES).await,
        Workload::Connrate => {
            connections::rate(app, args.seconds.unwrap_or(Duration::from_secs(4))).await
        }
        Workload::Memory => {
            connections::memory(app, connections::affordable(connections(1000))).await
        }
        Workload::PeerThroughput if split => peer_streams::drain(app, LARGE_BYTES, counted).await,
        Workload::PeerSmall if split => peer_streams::drain(app, SMALL_BYTES, counted).await,
        Workload::PeerThroughput => peer_streams::one_way(app, 1, LARGE_BYTES, counted).await,
        Workload::PeerSmall => peer_streams::one_way(app, 1, SMALL_BYTES, counted).await,
        Workload::PeerFanin => {
            peer_streams::one_way(app, connections(64), FANIN_BYTES, counted).await
        }
        Workload::PeerPingpong => requests::pingpong(app, SMALL_BYTES, split).await,
        Workload::Reconnect => reconnect::reconnect(app).await,
        Workload::Actor
        | Workload::Scale
        | Workload::Requests
        | Workload::SessionsMemory
        | Workload::All => bail!("not one figure"),
    };
    let mut report = measured.with_context(|| format!("cannot measure {}", name(workload)))?;
    report.workload = name(workload);
    if split {
        report.is_split();
    }
    Ok(report)
}

fn name(workload: Workload) -> &'static str {
    match workload {
        Workload::Throughput => "throughput",
        Workload::Small => "small",
        Workload::Pingpong => "pingpong",
        Workload::Connrate => "connrate",
        Workload::Memory => "memory",
        Workload::Fanin => "fanin",
        Workload::Actor => "actor",
        Workload::Control => "control",
        Workload::Lanes => "lanes",
        Workload::Scale => "scale",
        Workload::PeerThroughput => "peer-throughput",
        Workload::PeerSmall => "peer-small",
        Workload::PeerFanin => "peer-fanin",
        Workload::PeerPingpong => "peer-pingpong",
        Workload::Requests => "requests",
        Workload::Reconnect => "reconnect",
        Workload::SessionsMemory => "sessions-memory",
        Workload::All => "all",
    }
}

/// One figure, in the form that programs which are compared share.
#[derive(Debug, Serialize)]
struct Report {
    peer: &'static str,
    workload: &'static str,
    metric: &'static str,
    value: f64,
    unit: &'static str,
    params: BTreeMap<&'static str, String>,
}

impl Report {
    fn new(metric: &'static str, value: f64, unit: &'static str) -> Self {
        let value = (value * 100.0).round() / 100.0;
        let params = BTreeMap::new();
        Self { peer: "moorline", workload: "", metric, value, unit, params }
    }

    /// Its far end was a process of its own.
    fn is_split(&mut self) {
        self.params.insert("split", "1".to_owned());
    }

    fn with_percentiles(self, us: &Percentiles) -> Self {
        self.with("p50", us.p50).with("p99", us.p99).with("p999", us.p999).with("max", us.max)
    }

    fn with(mut self, name: &'static str, value: f64) -> Self {
        self.params.insert(name, format!("{value:.2}"));
        self
    }
}

const HEADING: &str = "workload               value  unit    cores    RSS MiB  more";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |name: &str| self.params.get(name).map_or("-", String::as_str);
        write!(f, "{:<15} {:>12.1}  {:<6}", self.workload, self.value, self.unit)?;
        write!(f, " {:>6} {:>10} ", of("cpu_cores"), of("rss_mib"))?;
        let more = self.params.iter().filter(|(name, _)| !["cpu_cores", "rss_mib"].contains(*name));
        more.into_iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_line_of_json_with_params_as_text() {
        let mut report =
            Report::new("receiver_messages", 814_000.0, "msg/s").with("cpu_cores", 1.9);
        report.workload = "small";
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"peer\":\"moorline\",\"workload\":\"small\",\"metric\":\"receiver_messages\",\
             \"value\":814000.0,\"unit\":\"msg/s\",\"params\":{\"cpu_cores\":\"1.90\"}}"
        );
    }
}
