//! `send`: a file, or lines, to a peer; done only when the peer's transport has acknowledged all.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use moorline::{
    CertHash, CloseCode, CloseReason, ConnectionHandle, Limits, STREAM_OP_TIMEOUT, SendError,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::app::App;
use crate::app::arguments::SendArgs;
use crate::app::dial::dial;
use crate::app::exit::Ended;
use crate::app::signals::Stop;

/// Frames read ahead of the connection.
const READ_AHEAD: usize = 4;

/// Frames that come back are taken and dropped, so that an echo cannot stall what is sent.
const DISCARD_BATCH: usize = 64;

pub(crate) async fn send(app: App, args: SendArgs) -> Result<()> {
    // Opened first: a missing file is known before the peer is troubled.
    let frames = match &args.file {
        Some(path) => file_frames(path, args.frame_bytes as usize)?,
        None => line_frames()?,
    };
    let connection = dial(&app, &args.peer, |config| {
        // What is on its way gets as long to be acknowledged as any other operation.
        config.limits.close_time_max = STREAM_OP_TIMEOUT;
    })
    .await?;
    let discarding = tokio::spawn(discard(connection.clone()));
    let started = Instant::now();
    let mut handed_over = Counted::default();
    let sent = tokio::select! {
        sent = send_all(&connection, frames, &mut handed_over, &app.stop) => sent,
        reason = connection.closed() => Err(ended_early(reason)),
    };
    // Lines may end at any time; a part of a file is not the file.
    let whole = sent.as_ref().is_ok_and(|all| *all) || args.file.is_none();
    let reason = connection.close(CloseCode::NORMAL).await;
    discarding.abort();

    let outcomes = connection.stats().sent;
    let report = Report {
        event: "sent",
        peer: connection.peer(),
        frames: handed_over.frames,
        bytes: handed_over.bytes,
        completed: outcomes.completed,
        not_sent: handed_over.frames.saturating_sub(outcomes.completed + outcomes.maybe_sent),
        maybe_sent: outcomes.maybe_sent,
        seconds: rounded(started.elapsed()),
    };
    app.out.line(&report)?;
    sent?;
    if !whole {
        return Err(anyhow!("stopped before the end of the file"));
    }
    verdict(&report, reason)
}

/// Whether everything is known to have arrived.
fn verdict(report: &Report, reason: CloseReason) -> Result<()> {
    let missing = report.frames - report.completed;
    match reason {
        // Where there was nothing to send, the refusal itself is what is to be known.
        CloseReason::Certificate(_) => Err(Ended(reason).into()),
        _ if missing == 0 => Ok(()),
        _ => Err(anyhow!(Ended(reason)).context(format!("{missing} frames were not acknowledged"))),
    }
}

#[derive(Default)]
struct Counted {
    frames: u64,
    bytes: u64,
}

/// Hands every frame over, until there are no more (`true`) or the process is asked to stop.
async fn send_all(
    connection: &ConnectionHandle,
    mut frames: mpsc::Receiver<Result<Bytes>>,
    handed_over: &mut Counted,
    stop: &Stop,
) -> Result<bool> {
    loop {
        // A frame that was begun is not given up: only what comes next can be stopped.
        let frame = tokio::select! {
            biased;
            () = stop.requested() => return Ok(false),
            frame = frames.recv() => frame,
        };
        let Some(frame) = frame.transpose()? else { return Ok(true) };
        handed_over.frames += 1;
        handed_over.bytes += frame.len() as u64;
        connection.send(frame).await.map_err(|error| match error {
            // The reason alone says it better than "the connection is closed" before it.
            SendError::Closed { reason, .. } => ended_early(reason),
            error => error.into(),
        })?;
    }
}

/// A peer may judge our certificate after we took the connection for open.
fn ended_early(reason: CloseReason) -> anyhow::Error {
    anyhow!(Ended(reason)).context("the connection ended before everything was sent")
}

async fn discard(connection: ConnectionHandle) {
    let mut batch = Vec::with_capacity(DISCARD_BATCH);
    loop {
        match connection.recv_many(&mut batch, DISCARD_BATCH).await {
            Ok(_) => batch.clear(),
            Err(_) => return,
        }
    }
}

/// The file in parts of `frame_bytes`. An empty file is one empty frame.
fn file_frames(path: &Path, frame_bytes: usize) -> Result<mpsc::Receiver<Result<Bytes>>> {
    let name = path.display().to_string();
    let mut file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    let mut first = true;
    produce(move || {
        let mut frame = Vec::new();
        (&mut file)
            .take(frame_bytes as u64)
            .read_to_end(&mut frame)
            .with_context(|| format!("cannot read {name}"))?;
        let wanted = !frame.is_empty() || first;
        first = false;
        Ok(wanted.then(|| frame.into()))
    })
}

/// Every line of standard input, without its end.
fn line_frames() -> Result<mpsc::Receiver<Result<Bytes>>> {
    let limit = Limits::default().frame_bytes_max;
    let mut input = BufReader::new(io::stdin());
    produce(move || next_line(&mut input, limit))
}

fn next_line(input: &mut impl BufRead, limit: usize) -> Result<Option<Bytes>> {
    let mut line = Vec::new();
    // One byte over the limit, and one for the end of the line.
    let read = input
        .take(limit as u64 + 2)
        .read_until(b'\n', &mut line)
        .context("cannot read standard input")?;
    if read == 0 {
        return Ok(None);
    }
    line.pop_if(|last| *last == b'\n');
    if line.len() > limit {
        return Err(anyhow!("a line is over {limit} bytes: use --file, which is cut into frames"));
    }
    Ok(Some(line.into()))
}

/// Reads on a thread of its own: standard input can only be read by waiting for it.
fn produce(
    mut next: impl FnMut() -> Result<Option<Bytes>> + Send + 'static,
) -> Result<mpsc::Receiver<Result<Bytes>>> {
    let (frames, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            while let Some(frame) = next().transpose() {
                let failed = frame.is_err();
                if frames.blocking_send(frame).is_err() || failed {
                    return;
                }
            }
        })
        .context("cannot start the thread that reads")?;
    Ok(receiver)
}

#[derive(Serialize)]
struct Report {
    event: &'static str,
    peer: CertHash,
    frames: u64,
    bytes: u64,
    completed: u64,
    not_sent: u64,
    maybe_sent: u64,
    seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, frames, bytes, completed, not_sent, maybe_sent, seconds, .. } = self;
        write!(
            f,
            "{frames} frames, {bytes} bytes to {} in {seconds} s: {completed} acknowledged, \
             {not_sent} not sent, {maybe_sent} unknown",
            peer.short()
        )
    }
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8], limit: usize) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match next_line(&mut input, limit) {
                Ok(Some(line)) => lines.push(String::from_utf8_lossy(&line).into_owned()),
                Ok(None) => return lines,
                Err(error) => {
                    lines.push(error.to_string());
                    return lines;
                }
            }
        }
    }

    #[test]
    fn every_line_is_a_frame_and_so_is_a_last_one_without_an_end() {
        assert_eq!(lines(b"a\n\nbc", 9), ["a", "", "bc"]);
        assert_eq!(lines(b"a\r\n", 9), ["a\r"]);
        assert!(lines(b"", 9).is_empty());
    }

    #[test]
    fn a_line_over_the_limit_is_an_error_and_one_at_the_limit_is_not() {
        assert_eq!(lines(b"abc\nabc", 3), ["abc", "abc"]);
        assert!(lines(b"abcd\n", 3)[0].contains("over 3 bytes"));
    }
}
