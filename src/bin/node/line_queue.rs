//! Lines for an output that may take them late, or never: a full disk, a closed pipe, a pipe that
//! nobody drains.
//!
//! ```text
//! push ──> lines, bounded ──> a thread of its own ──> the output
//!   └─ full: dropped, counted            └─ failed: counted
//! ```
//!
//! Invariants: `push` waits for no output; what is dropped is counted, and told as soon as the output
//! takes lines again; nothing is written while the lock is held.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait: some seconds of a busy log, and more than a pipe holds.
const BYTES_MAX: usize = 1 << 20;

/// What a line takes beside its bytes, so that empty ones are bounded as well.
const LINE_OVERHEAD: usize = 64;

/// How long an output that would block is left alone. Only one that was made non-blocking says so.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Tells how many lines were lost, as a line.
type TellLost = fn(u64) -> String;

/// What waits for one output. Clones are the same queue.
#[derive(Clone)]
pub(crate) struct LineQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nothing is left.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// How many lines that is.
    lines: usize,
    /// Lines that could not be written before these, and that nobody was told of.
    failed: u64,
    /// Lines that were dropped behind these, for there was no room.
    dropped: u64,
    writing: bool,
}

impl State {
    fn is_quiet(&self) -> bool {
        self.lines == 0 && !self.writing
    }
}

impl LineQueue {
    /// Starts the thread that writes to `output`. `tell_lost` makes the line about those that are
    /// missing.
    pub(crate) fn start(output: &impl AsFd, tell_lost: TellLost) -> io::Result<Self> {
        // Not through the standard library's own lock: whoever waits there would hold it.
        let output = File::from(output.as_fd().try_clone_to_owned()?);
        Self::start_with(output, tell_lost)
    }

    fn start_with(output: impl Write + Send + 'static, tell_lost: TellLost) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let queue = Self(Arc::clone(&shared));
        // It ends with the process.
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || shared.write_to(output, tell_lost))?;
        Ok(queue)
    }

    /// Takes a line, which gets its end here, or drops it. Never waits for the output.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        let taken = state.waiting.len() + state.lines * LINE_OVERHEAD;
        if taken + line.len() + LINE_OVERHEAD > BYTES_MAX {
            state.dropped += 1;
            return;
        }
        state.waiting.extend_from_slice(line);
        state.waiting.push(b'\n');
        state.lines += 1;
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written or lost, at most for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        while !state.is_quiet() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut output: impl Write, tell_lost: TellLost) {
        // The last write ended inside a line.
        let mut broken = false;
        loop {
            let Batch { lines, failed, dropped } = self.next();
            let mut text = Vec::with_capacity(lines.len() + 160);
            let tell = |text: &mut Vec<u8>, lost: u64| {
                if lost > 0 {
                    text.extend_from_slice(tell_lost(lost).as_bytes());
                    text.push(b'\n');
                }
                text.len()
            };
            if broken {
                text.push(b'\n');
            }
            let begin = tell(&mut text, failed);
            text.extend_from_slice(&lines);
            let end = text.len();
            tell(&mut text, dropped);

            let written = write_most(&mut output, &text);
            broken = if written == 0 { broken } else { text[written - 1] != b'\n' };
            let untold = if written < begin { failed } else { 0 };
            let missing =
                text[written.clamp(begin, end)..end].iter().filter(|byte| **byte == b'\n');
            let unsaid = if written < text.len() { dropped } else { 0 };
            let mut state = self.lock();
            state.failed += untold + missing.count() as u64 + unsaid;
            state.writing = false;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for lines. Who has them is to say when they are written.
    fn next(&self) -> Batch {
        let mut state = self.lock();
        while state.lines == 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.lines = 0;
        state.writing = true;
        Batch {
            lines: std::mem::take(&mut state.waiting),
            failed: std::mem::take(&mut state.failed),
            dropped: std::mem::take(&mut state.dropped),
        }
    }
}

/// What is written at once.
struct Batch {
    lines: Vec<u8>,
    failed: u64,
    dropped: u64,
}

/// Writes as much as the output takes before it fails; how many bytes that is.
fn write_most(output: &mut impl Write, text: &[u8]) -> usize {
    let mut written = 0;
    while written < text.len() {
        match output.write(&text[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_AFTER),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn tell_lost(lines: u64) -> String {
        format!("lost {lines}")
    }

    /// An output that takes what the test allows, step by step.
    struct Stepped {
        allowed: Receiver<io::Result<usize>>,
        took: Sender<String>,
    }

    impl Write for Stepped {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // At the end of the test nothing is taken any more.
            let count = self.allowed.recv().unwrap_or(Ok(0))?.min(text.len());
            let taken = String::from_utf8_lossy(&text[..count]).into_owned();
            self.took.send(taken).map_err(io::Error::other)?;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stepped() -> (LineQueue, Sender<io::Result<usize>>, Receiver<String>) {
        let ((allow, allowed), (took, taken)) = (channel(), channel());
        let queue = LineQueue::start_with(Stepped { allowed, took }, tell_lost).unwrap();
        (queue, allow, taken)
    }

    fn next(taken: &Receiver<String>) -> String {
        taken.recv_timeout(LIMIT).unwrap()
    }

    fn full() -> io::Result<usize> {
        Err(ErrorKind::StorageFull.into())
    }

    #[test]
    fn lines_are_written_in_order_and_flush_waits_for_them() {
        let (queue, allow, taken) = stepped();
        queue.push(b"one");
        allow.send(Ok(2)).unwrap();
        allow.send(Ok(99)).unwrap();
        queue.flush(LIMIT);
        assert_eq!([next(&taken), next(&taken)].concat(), "one\n");
        queue.push(b"two");
        allow.send(Ok(99)).unwrap();
        queue.flush(LIMIT);
        assert_eq!(next(&taken), "two\n");
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing_and_what_is_lost_is_told() {
        let (queue, allow, taken) = stepped();
        queue.push(b"first");
        while !queue.0.lock().writing {
            std::thread::yield_now();
        }
        let line = [b'x'; 1_000];
        let room = BYTES_MAX / (line.len() + 1 + LINE_OVERHEAD);
        for _ in 0..2 * room {
            queue.push(&line);
        }
        queue.flush(Duration::from_millis(1));
        // From here on it is drained.
        for _ in 0..3 {
            allow.send(Ok(usize::MAX)).unwrap();
        }
        assert_eq!(next(&taken), "first\n");
        let text = next(&taken);
        let (kept, told) = text.trim_end().rsplit_once('\n').unwrap();
        let kept = kept.lines().count();
        assert!(kept.abs_diff(room) <= 1, "{kept} of {room}");
        assert_eq!(told, format!("lost {}", 2 * room - kept));
        queue.push(b"after");
        assert_eq!(next(&taken), "after\n");
    }

    #[test]
    fn an_output_that_fails_costs_the_lines_of_that_time_and_no_others() {
        let (queue, allow, taken) = stepped();
        queue.push(b"kept");
        allow.send(Ok(99)).unwrap();
        queue.flush(LIMIT);
        for _ in 0..3 {
            queue.push(b"no room");
            allow.send(full()).unwrap();
            queue.flush(LIMIT);
        }
        // There is room for a part of a line, which is as good as none.
        queue.push(b"cut off");
        allow.send(Ok("lost 3\ncut".len())).unwrap();
        allow.send(full()).unwrap();
        queue.flush(LIMIT);
        queue.push(b"kept again");
        allow.send(Ok(99)).unwrap();
        queue.flush(LIMIT);
        let text = [next(&taken), next(&taken), next(&taken)].concat();
        assert_eq!(text, "kept\nlost 3\ncut\nlost 1\nkept again\n");
    }
}
