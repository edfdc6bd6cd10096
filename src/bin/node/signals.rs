//! Ctrl-C and SIGTERM: the first asks every command to stop in order, the second leaves at once. So
//! does the time that an order takes at most: a command may wait for a pipe that nobody drains.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::app::exit::Exit;

/// Tells that the process was asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when the process was asked to stop. Cancel safe.
    pub(crate) async fn requested(&self) {
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            // The thread that listens for signals is gone: nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

/// Starts to listen on a thread of its own, which answers even when every worker is busy.
///
/// A command that has not ended `limit` after it was asked to is ended.
pub(crate) fn listen(limit: Duration) -> io::Result<Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (interrupt, terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let (asked, stop) = watch::channel(false);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(serve(interrupt, terminate, asked, limit)))?;
    Ok(Stop(stop))
}

async fn serve(
    mut interrupt: Signal,
    mut terminate: Signal,
    asked: watch::Sender<bool>,
    limit: Duration,
) {
    either(&mut interrupt, &mut terminate).await;
    tracing::info!("stopping in order; the same signal again leaves at once");
    asked.send_replace(true);
    let again = either(&mut interrupt, &mut terminate);
    if tokio::time::timeout(limit, again).await.is_err() {
        tracing::warn!(?limit, "it does not stop in order");
        crate::app::output::flush();
    }
    // An orderly exit would wait for peers, and run the destructors of the C library while its
    // threads still work.
    moorline::exit_at_once(i32::from(Exit::AtOnce.code()))
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
