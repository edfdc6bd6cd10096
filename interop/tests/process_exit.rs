//! A process that uses moorline beside another user of MsQuic ends as its `main` says.

use std::net::UdpSocket;
use std::process::Command;

use anyhow::{Result, ensure};
use moorline_interop::moorline_end::Moorline;
use moorline_interop::{ANY_PORT, PeerCertificate};

/// How often a process is started: an end that goes wrong in one of ten does so here as good as
/// always.
const PROCESSES: usize = 40;

#[test]
fn a_process_may_end_right_after_a_dial_that_failed() -> Result<()> {
    let mut aborted = 0;
    for _ in 0..PROCESSES {
        let status = Command::new(std::env::current_exe()?)
            .args(["--exact", "dials_a_closed_port", "--ignored"])
            .output()?
            .status;
        aborted += usize::from(!status.success());
    }
    ensure!(aborted == 0, "{aborted} of {PROCESSES} processes did not end well");
    Ok(())
}

#[tokio::test]
#[ignore = "a process of its own, for the test above"]
async fn dials_a_closed_port() -> Result<()> {
    let closed = UdpSocket::bind(ANY_PORT)?.local_addr()?;
    let moorline = Moorline::trusting(&PeerCertificate::generate()?)?;
    ensure!(moorline.connect(closed).await.is_err(), "nothing listens there");
    moorline.ends().await
}
