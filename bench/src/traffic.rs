//! What both ends of a figure have in common, in one process or two.

use anyhow::Result;
use bytes::Bytes;

use crate::peer::{Link, Peer};

/// Frames that are sent one way, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frames {
    pub(crate) size: usize,
    pub(crate) batched: bool,
}

/// A peer lives as long as its process: MsQuic waits for every connection when its registration is
/// closed, and nobody is left to close them all.
pub(crate) fn leaked<P: Peer>(peer: P) -> &'static P {
    Box::leak(Box::new(peer))
}

/// Sends until the connection ends.
pub(crate) async fn flood<P: Peer>(mut link: Link<P>, frames: Frames) -> Result<()> {
    let payload = Bytes::from(vec![0x5a; frames.size]);
    loop {
        if frames.batched {
            link.sender.send_batched(&payload).await?;
        } else {
            link.sender.send(&payload).await?;
        }
    }
}

/// Sends every frame back until the connection ends.
pub(crate) async fn send_back<P: Peer>(mut link: Link<P>) -> Result<()> {
    while let Some(payload) = link.receiver.next().await? {
        link.sender.send(&payload).await?;
    }
    Ok(())
}
