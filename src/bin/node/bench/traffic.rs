//! What the ends of a benchmark do until their connection ends.

use anyhow::Result;
use bytes::Bytes;
use moorline::ConnectionHandle;

/// Sends `payload` until the connection ends.
pub(super) async fn flood(connection: ConnectionHandle, payload: Bytes) -> Result<()> {
    loop {
        connection.send(payload.clone()).await?;
    }
}

/// Sends every frame back until the connection ends.
pub(super) async fn send_back(connection: ConnectionHandle) -> Result<()> {
    loop {
        let frame = connection.recv().await?;
        connection.send(frame).await?;
    }
}
