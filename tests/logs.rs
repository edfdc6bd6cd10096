//! What is logged: whose it is, what an operator must hear of, and nothing for each frame.

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use common::{LIMIT, Pair, disconnected, friends, loopback, node, stranger, within};
use moorline::{ConnectionMessage, Node, Redial, Target};
use tracing_subscriber::fmt::MakeWriter;

/// What this test's own thread logs, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Everything from here on, at `level`, of the thread that calls: a runtime of one thread.
    fn start(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(log.clone());
        (log, tracing::subscriber::set_default(subscriber.finish()))
    }

    fn lines(&self) -> Vec<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// The one line that has this, and all of these.
    #[track_caller]
    fn expect(&self, text: &str, parts: &[&str]) {
        let lines = self.lines();
        let found: Vec<&String> = lines.iter().filter(|line| line.contains(text)).collect();
        let [line] = found[..] else { panic!("not one {text:?} in {lines:#?}") };
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn span_of(node: &Node) -> String {
    format!("node{{identity={}}}", node.identity().short())
}

#[tokio::test]
async fn what_is_logged_of_two_nodes_names_the_node() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let nobody = common::closed_port().redial(Redial::Never);
    within("the dial", client.connect(nobody)).await.expect_err("nobody is there");
    let handle = within("connecting", client.connect(address)).await.expect("accepted");
    log.expect("listening", &[&span_of(&server), &address.to_string()]);
    log.expect("dial failed", &[&span_of(&client)]);
    let peer = format!("connection{{peer={} epoch={}", handle.peer().short(), handle.epoch());
    log.expect("Outbound", &[&span_of(&client), &peer]);
    log.expect("Inbound", &[&span_of(&server), "connection{"]);
    within("the end", client.shutdown(LIMIT)).await.expect("an orderly end");
    log.expect("shutting down grace", &[&span_of(&client)]);
    within("the end", server.shutdown(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_killed_connection_and_a_killed_supervisor_are_told_as_warnings() {
    let (log, _guard) = Log::start(tracing::Level::WARN);
    let pair = Pair::new().await;
    let mut events = pair.client.subscribe();
    pair.at_client.actor().kill();
    disconnected(&mut events, pair.at_client.epoch()).await;
    let peer = format!("peer={} epoch={}", pair.server.identity().short(), pair.at_client.epoch());
    log.expect("the connection's actor was killed", &["WARN", &span_of(&pair.client), &peer]);
    pair.server.supervisor().kill();
    within("the node's end", pair.server.stopped()).await;
    log.expect("the node's supervisor was killed", &["WARN", &span_of(&pair.server)]);
    // An orderly end says nothing of that kind.
    within("the end", pair.client.shutdown(LIMIT)).await.expect("an orderly end");
    let quiet = node(stranger()).await;
    within("the end", quiet.close(LIMIT)).await.expect("an orderly end");
    let lines = log.lines().into_iter().filter(|line| line.contains("was killed"));
    assert_eq!(lines.count(), 2, "{:#?}", log.lines());
}

#[tokio::test]
async fn nothing_is_logged_for_a_frame() {
    let pair = Pair::new().await;
    let (log, _guard) = Log::start(tracing::Level::TRACE);
    let (here, there) = (&pair.at_client, &pair.at_server);
    for _ in 0..100 {
        within("a send", here.send_acked("frame")).await.expect("acknowledged");
        within("a frame", there.recv()).await.expect("a frame");
        // By message, with callers who have gone, and credits that do not cover the frame.
        for (length, frame) in [(5, "frame"), (1, "frame")] {
            let credit = within("a credit", here.reserve(length)).await.expect("room");
            let (frame, reply) = (Bytes::from(frame), None);
            here.actor().cast(ConnectionMessage::Send { frame, credit, reply }).expect("it lives");
        }
        // The caller has gone before it is answered.
        let reply = ractor::concurrency::oneshot().0.into();
        let credit = within("a credit", here.reserve(0)).await.expect("room");
        let (frame, reply) = (Bytes::from("too long"), Some(reply));
        here.actor().cast(ConnectionMessage::Send { frame, credit, reply }).expect("it lives");
        let credit = within("credits", here.reserve_many(2, 2)).await.expect("room");
        let (frames, reply) = (vec!["too long".into(), "again".into()], None);
        here.actor().cast(ConnectionMessage::SendMany { frames, credit, reply }).expect("it lives");
        within("a frame", there.recv()).await.expect("a frame");
        let stats = |reply| ConnectionMessage::Stats { reply };
        within("the numbers", here.actor().call(stats, None)).await.expect("it lives");
    }
    let lines = log.lines();
    assert!(lines.iter().all(|line| !line.contains("moorline")), "{lines:#?}");
    drop(_guard);
    pair.end().await;
}

#[tokio::test]
async fn a_dial_that_is_repeated_is_logged_once_for_each_time() {
    let (log, _guard) = Log::start(tracing::Level::TRACE);
    let client = node(stranger()).await;
    for _ in 0..3 {
        let target = Target::from("127.0.0.1:9").redial(Redial::Never);
        within("the dial", client.connect(target)).await.expect_err("nobody is there");
    }
    let told = log.lines().iter().filter(|line| line.contains("dial failed")).count();
    assert_eq!(told, 3);
    within("the end", client.shutdown(LIMIT)).await.expect("an orderly end");
}
