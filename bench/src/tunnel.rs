//! A path for what the kernel speaks itself: packets between two network namespaces.
//!
//! ```text
//! near process ──► TCP of its kernel ──► tun ──► delay, loss ──► Unix socket ──► tun ──► far process
//! ```
//!
//! Each process has a namespace of its own, with nothing in it but its tun device: between two devices of
//! one namespace the kernel would not leave its own tables. A Unix socket that has a path is in no
//! namespace, so it takes the packets across. Each end loses and delays what it sends.

use std::fs;
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::testing::{Conditions, Loss};
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tun_rs::{AsyncDevice, DeviceBuilder};

/// As on Ethernet.
const PACKET_BYTES_MAX: u16 = 1500;

/// Packets that wait in the kernel for this program: it alone loses any, even where it is late.
const WAITING_PACKETS_MAX: u32 = 20_000;

/// Bits of the network in an address: room for both ends.
const NETWORK_BITS: u8 = 30;

/// Which end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Near,
    Far,
}

impl Side {
    /// Of those that documents may use, in a namespace where nobody else is.
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Self::Near => Ipv4Addr::new(192, 0, 2, 1),
            Self::Far => Ipv4Addr::new(192, 0, 2, 2),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }

    fn socket(self, folder: &Path) -> PathBuf {
        folder.join(match self {
            Self::Near => "near.socket",
            Self::Far => "far.socket",
        })
    }
}

/// `program` in a network namespace of its own, in which it may make devices.
pub(crate) fn in_own_namespace(program: &Path) -> Command {
    // Whoever is not root may do so as the root of a user namespace.
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = Command::new("unshare");
    // It becomes the program: the process that was started is the one that is measured.
    command.args((!is_root).then_some("--map-root-user")).args(["--net", "--"]).arg(program);
    command
}

/// One end, which the other one can already reach.
#[derive(Debug)]
pub(crate) struct Tunnel {
    side: Side,
    socket: std::os::unix::net::UnixDatagram,
    delay: Duration,
    loss: Draws,
}

impl Tunnel {
    /// Both ends have the same folder.
    pub(crate) fn bind(
        side: Side,
        folder: &Path,
        conditions: Conditions,
        seed: u64,
    ) -> Result<Self> {
        let Loss::Independent(share) = conditions.loss else {
            bail!("a tunnel loses packets each for itself, and no others");
        };
        let path = side.socket(folder);
        let socket = std::os::unix::net::UnixDatagram::bind(&path);
        let socket = socket.with_context(|| format!("cannot listen at {}", path.display()))?;
        socket.set_nonblocking(true)?;
        let loss = Draws { state: seed ^ side as u64, share: share.fraction() };
        Ok(Self { side, socket, delay: conditions.delay, loss })
    }

    /// Carries packets until one of both processes ends; the other end is bound by now.
    pub(crate) fn start(self, folder: &Path) -> Result<()> {
        let path = self.side.other().socket(folder);
        self.socket.connect(&path).with_context(|| format!("nobody is at {}", path.display()))?;
        let (tell, told) = blocking::channel();
        // A thread of its own, so that a program that is starved does not starve its network as well.
        thread::Builder::new().name("tunnel".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let ends =
                    open(self.side).and_then(|it| Ok((it, UnixDatagram::from_std(self.socket)?)));
                let (device, socket) = match ends {
                    Ok(ends) => ends,
                    Err(error) => return tell.send(Err(error)).map_err(io::Error::other),
                };
                tell.send(Ok(())).map_err(io::Error::other)?;
                let (queue, queued) = unbounded_channel();
                // Ends with the first of them: the other process is gone.
                tokio::select! {
                    ended = take(&device, self.loss, self.delay, queue) => ended,
                    ended = send(&socket, queued) => ended,
                    ended = arrive(&socket, &device) => ended,
                }
            })
        })?;
        told.recv()?.context("cannot make a tun device")
    }
}

fn open(side: Side) -> io::Result<AsyncDevice> {
    let device = DeviceBuilder::new()
        .ipv4(side.address(), NETWORK_BITS, None)
        .mtu(PACKET_BYTES_MAX)
        .build_async()?;
    // Root's alone: for anybody else it stays at 500.
    let _ = device.set_tx_queue_len(WAITING_PACKETS_MAX);
    Ok(device)
}

/// Takes what the kernel sends, and loses some of it.
async fn take(
    device: &AsyncDevice,
    mut loss: Draws,
    delay: Duration,
    queue: UnboundedSender<(Instant, Bytes)>,
) -> io::Result<()> {
    let mut buffer = [0; PACKET_BYTES_MAX as usize];
    loop {
        let length = device.recv(&mut buffer).await?;
        if !loss.next() {
            let packet = Bytes::copy_from_slice(&buffer[..length]);
            queue.send((Instant::now() + delay, packet)).map_err(io::Error::other)?;
        }
    }
}

/// Hands over what has been under way for long enough.
async fn send(
    socket: &UnixDatagram,
    mut queued: UnboundedReceiver<(Instant, Bytes)>,
) -> io::Result<()> {
    while let Some((due, packet)) = queued.recv().await {
        sleep_until(due).await;
        socket.send(&packet).await?;
    }
    pending().await
}

async fn arrive(socket: &UnixDatagram, device: &AsyncDevice) -> io::Result<()> {
    let mut buffer = [0; PACKET_BYTES_MAX as usize];
    loop {
        let length = socket.recv(&mut buffer).await?;
        device.send(&buffer[..length]).await?;
    }
}

/// SplitMix64: the n-th packet meets the same fate for the same seed.
#[derive(Debug)]
struct Draws {
    state: u64,
    share: f64,
}

impl Draws {
    fn next(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        ((mixed >> 11) as f64 / (1_u64 << 53) as f64) < self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_as_many_packets_are_lost_as_it_is_told_and_the_same_ones_each_time() {
        let lost = |state| {
            let mut draws = Draws { state, share: 0.01 };
            (0..100_000).map(|_| draws.next()).collect::<Vec<_>>()
        };
        let count = |lost: &[bool]| lost.iter().filter(|lost| **lost).count();
        assert!((800..1200).contains(&count(&lost(1))), "{}", count(&lost(1)));
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(0));
    }
}
