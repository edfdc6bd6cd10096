//! Frames both ways between moorline and a foreign peer.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use crate::frames::{FrameReader, Incoming, Outgoing, Script, frames_of_every_size, script};
use crate::{LIMIT, within};

/// moorline's end of a connection, with or without actors.
pub trait MoorlineEnd: Sync {
    /// Hands one frame over.
    fn send(&self, frame: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// The next frame.
    fn recv(&self) -> impl Future<Output = Result<Bytes>> + Send;
}

/// Sends frames of every size in both directions at once, and checks each at its other end.
///
/// # Errors
///
/// If an end fails, or a frame is another than was sent.
pub async fn exchange(
    moorline: &impl MoorlineEnd,
    foreign_out: &mut impl Outgoing,
    foreign_frames: &mut FrameReader<impl Incoming>,
) -> Result<()> {
    let outbound = frames_of_every_size();
    let Script { frames: inbound, writes } = script();
    let moorline_sends = async {
        for frame in &outbound {
            moorline.send(frame.clone()).await.context("moorline sends")?;
        }
        Ok(())
    };
    let foreign_receives = async {
        for (index, sent) in outbound.iter().enumerate() {
            check(index, sent, &foreign_frames.expect().await.context("the peer receives")?)?;
        }
        Ok(())
    };
    let foreign_sends = async {
        for bytes in writes {
            foreign_out.write(bytes).await.context("the peer sends")?;
        }
        Ok(())
    };
    let moorline_receives = async {
        for (index, sent) in inbound.iter().enumerate() {
            check(index, sent, &moorline.recv().await.context("moorline receives")?)?;
        }
        anyhow::Ok(())
    };
    let all = async {
        tokio::try_join!(moorline_sends, foreign_receives, foreign_sends, moorline_receives)
    };
    within(LIMIT, "frames go both ways", all).await?;
    Ok(())
}

/// Without the payloads in the message: some have 16 MiB.
fn check(index: usize, sent: &Bytes, received: &Bytes) -> Result<()> {
    let (sent_bytes, received_bytes) = (sent.len(), received.len());
    ensure!(
        sent == received,
        "frame {index} of {sent_bytes} bytes arrived as another one, of {received_bytes} bytes"
    );
    Ok(())
}
