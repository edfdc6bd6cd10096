//! `compare`: moorline beside quinn, s2n-quic, msquic-async and TCP with rustls, on the same work.
//!
//! Every end is mutually authenticated over TLS 1.3, and every frame is a big-endian `u32` length
//! with its payload. Each figure is measured by a process of its own, so that memory and CPU time
//! are those of the one that is measured.
//!
//! ```text
//! compare.rs ........... rounds, in which every program is run in turn
//! ├── figure.rs ........ one figure as a line of JSON, the form that `moorline bench --json` prints
//! ├── summary.rs ....... medians, ratios and the table
//! └── plot.rs .......... the ratios as an SVG
//! workloads.rs ......... what a process of its own measures, written once for every peer
//! ├── workloads/ ....... one-way streams, round trips, whole connections
//! ├── far_end.rs ....... the far end as another process
//! ├── path.rs .......... a long and lossy way to the far end
//! ├── tunnel.rs ........ the same for what the kernel speaks, between two network namespaces
//! ├── peer.rs .......... what a peer offers
//! ├── peers/ ........... quinn, s2n-quic, msquic-async, TCP with rustls
//! ├── frames.rs ........ frames over a byte stream
//! ├── certificates.rs .. an authority, and a certificate for each end
//! └── process.rs ....... CPU time and memory, as Linux tells them
//! ```

mod arguments;
mod certificates;
mod compare;
mod far_end;
mod figure;
mod frames;
mod path;
mod peer;
mod peers;
mod plot;
mod process;
mod summary;
mod traffic;
mod tunnel;
mod wait;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::arguments::{Arguments, Step};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    // On a worker of the runtime, as most of a program's tasks are: what is awaited in `main` is
    // woken across threads.
    let step = tokio::spawn(async {
        match arguments.step {
            None => compare::compare(arguments.compare).await,
            Some(Step::Figure(args)) => workloads::figure(args).await,
            Some(Step::FarEnd(args)) => far_end::serve(args).await,
        }
    });
    step.await.context("it panicked")?
}
