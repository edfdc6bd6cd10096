//! Ports of listeners: that one process has each, what they answer to, and who else holds them.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use moorline::{ConnectError, Limits, ListenError, MsQuicListener, MsQuicTransport, NetCredential};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use common::process::in_its_own_runtime;
use common::{Pair, free_port, friends, loopback, node, stranger, until, within};

async fn listen(
    transport: &MsQuicTransport,
    address: SocketAddr,
    credential: &NetCredential,
) -> Result<MsQuicListener, ListenError> {
    let listener = transport.create_listener(address, &["test"], credential.clone());
    within("listening", listener).await
}

// ---- one process for a port --------------------------------------------------------------------

/// In the environment of a process that a test starts: it runs the same test, as one of the others.
const OTHER_PROCESS: &str = "MOORLINE_TEST_OTHER_PROCESS";

/// Listens where it is told to, at once, and says whether it does.
async fn listen_on_demand() {
    let (transport, credential) = (MsQuicTransport::new(), stranger());
    drop(listen(&transport, loopback(), &credential).await.expect("all is loaded"));
    eprintln!("told: ready");
    let mut demands = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(demand) = demands.next_line().await.expect("readable") {
        let address = demand.parse().expect("an address");
        let listener = listen(&transport, address, &credential).await;
        match &listener {
            Ok(_) => eprintln!("told: listening"),
            Err(ListenError::InUse { .. }) => eprintln!("told: in use"),
            Err(error) => eprintln!("told: {error}"),
        }
        demands.next_line().await.expect("readable").expect("the word to stop");
        if let Ok(listener) = &listener {
            within("its end", listener.stopped()).await;
        }
        eprintln!("told: stopped");
    }
}

struct Other {
    child: tokio::process::Child,
    told: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStderr>>,
}

impl Other {
    fn start(test: &str) -> Self {
        let mut child = tokio::process::Command::new(std::env::current_exe().expect("this file"))
            .args(["--exact", test, "--nocapture"])
            .env(OTHER_PROCESS, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("another process");
        let told = tokio::io::BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { child, told }
    }

    async fn ask(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
        input.flush().await.expect("it reads");
    }

    async fn answer(&mut self) -> String {
        loop {
            let line = within("an answer", self.told.next_line()).await.expect("readable");
            if let Some(told) = line.expect("it lives").strip_prefix("told: ") {
                return told.to_owned();
            }
        }
    }
}

#[tokio::test]
async fn of_processes_that_listen_on_one_port_at_once_one_listens() {
    const ROUNDS: usize = 150;
    if std::env::var_os(OTHER_PROCESS).is_some() {
        return listen_on_demand().await;
    }
    let test = "of_processes_that_listen_on_one_port_at_once_one_listens";
    let mut others: Vec<Other> = (0..3).map(|_| Other::start(test)).collect();
    for other in &mut others {
        assert_eq!(other.answer().await, "ready");
    }
    for round in 0..ROUNDS {
        let address = free_port();
        let mut answers = Vec::new();
        for other in &mut others {
            other.ask(&address.to_string()).await;
        }
        for other in &mut others {
            answers.push(other.answer().await);
        }
        answers.sort();
        assert_eq!(answers, ["in use", "in use", "listening"], "round {round}");
        for other in &mut others {
            other.ask("stop").await;
        }
        for other in &mut others {
            assert_eq!(other.answer().await, "stopped");
        }
    }
}

#[tokio::test]
async fn a_port_with_a_foreign_socket_on_any_of_the_addresses_is_in_use() {
    let (transport, credential) = (MsQuicTransport::new(), stranger());
    let v4 = |last, port| SocketAddr::from(([127, 0, 0, last], port));
    for any in ["0.0.0.0:0", "[::]:0"] {
        let foreign = UdpSocket::bind(v4(1, 0)).expect("a socket");
        let port = foreign.local_addr().expect("bound").port();
        let mut any: SocketAddr = any.parse().expect("an address");
        any.set_port(port);
        for address in [any, v4(1, port)] {
            let error = listen(&transport, address, &credential).await.expect_err("it is taken");
            assert!(matches!(error, ListenError::InUse { .. }), "{address}: {error:?}");
        }
        drop(foreign);
        let listener = listen(&transport, any, &credential).await.expect("it is free");
        UdpSocket::bind(v4(1, port)).expect_err("it is taken");
        within("its end", listener.stopped()).await;
        // The library lets go of its sockets on threads of its own.
        until("all is given back", || UdpSocket::bind(any).is_ok()).await;
    }
}

// ---- what a listener answers to ----------------------------------------------------------------

/// Asks with a version that nobody speaks, whether anybody is there.
fn ask(to: SocketAddr) -> UdpSocket {
    let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(from).expect("a socket");
    let mut packet = vec![0; 1_200];
    packet[..15].copy_from_slice(&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    socket.send_to(&packet, to).expect("sent");
    socket
}

/// Who of `others` answers, up to the answer of `last`, who is asked last.
fn answers(others: &[SocketAddr], last: SocketAddr) -> Vec<SocketAddr> {
    let asked: Vec<_> = others.iter().map(|other| ask(*other)).collect();
    // A port is served by several threads: each had its turn by then.
    for _ in 0..8 {
        let socket = ask(last);
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let (length, from) = socket.recv_from(&mut [0; 1_500]).expect("an answer");
        assert!(length > 7, "version negotiation");
        assert_eq!(from, last);
    }
    let mut answers = Vec::new();
    for socket in asked {
        socket.set_nonblocking(true).expect("a socket");
        answers.extend(socket.recv_from(&mut [0; 1_500]).map(|(_, from)| from));
    }
    answers
}

#[tokio::test]
async fn a_listener_answers_on_its_own_address_alone() {
    let mut limits = Limits::default();
    limits.handshake_time_max = Duration::from_secs(2);
    let transport = MsQuicTransport::with_limits(limits).expect("good limits");
    let (server, client) = friends();
    let here = listen(&transport, loopback(), &server).await.expect("a listener");
    let first = here.local_addr();
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], first.port()));
    assert_eq!(answers(&[at(2), at(3)], first), []);
    let dial = async |address: SocketAddr| {
        within("a dial", transport.connect(address, &["test"], client.clone())).await
    };
    let connection = dial(first).await.expect("it listens there");
    let error = dial(at(2)).await.expect_err("nobody listens there");
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");

    // Another listener on the port, on another address: both are reached, and no third.
    let there = listen(&transport, at(2), &server).await.expect("a listener");
    assert_eq!(answers(&[at(3), at(2)], first), [at(2)]);
    drop(dial(at(2)).await.expect("it listens there"));

    // A connection keeps its address when its listener has stopped.
    let request = within("a request", here.accept()).await.expect("it listens");
    let accepted = within("a connection", request.accept()).await.expect("it stands");
    within("the end of a listener", here.stopped()).await;
    connection.send("still there").await.expect("taken over");
    let (frame, _) = within("a frame", accepted.recv()).await.expect("a frame");
    assert_eq!(frame, "still there");
    drop(there);
}

#[tokio::test]
async fn a_listener_on_every_address_answers_on_every_address() {
    let (transport, credential) = (MsQuicTransport::new(), stranger());
    for (any, others) in
        [("0.0.0.0:0", &["127.0.0.2"][..]), ("[::]:0", &["127.0.0.1", "127.0.0.2", "::1"][..])]
    {
        let listener = listen(&transport, any.parse().expect("an address"), &credential).await;
        let port = listener.as_ref().expect("a listener").local_addr().port();
        for other in others {
            let to = SocketAddr::new(other.parse().expect("an address"), port);
            assert_eq!(answers(&[], to), []);
        }
    }
}

// ---- children ----------------------------------------------------------------------------------

/// A child that outlives what it is started beside.
struct Helper(Child);

impl Helper {
    fn start() -> Self {
        let mut child = Command::new("cat");
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut helper = Self(child.expect("a child"));
        // It answers when it is the other program: what closes at that moment may be open before.
        let to = helper.0.stdin.as_mut().expect("it is piped");
        to.write_all(b"x").expect("it reads");
        let from = helper.0.stdout.as_mut().expect("it is piped");
        from.read_exact(&mut [0]).expect("it answers");
        helper
    }

    /// Its descriptors that are sockets.
    fn sockets(&self) -> usize {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("it lives");
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// The descriptors of this process that a child would inherit, but for its three streams.
fn inheritable() -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").expect("Linux has it") {
        let path = entry.expect("readable").path();
        let (Ok(target), Some(number)) = (std::fs::read_link(&path), path.file_name()) else {
            continue;
        };
        let information = format!("/proc/self/fdinfo/{}", number.to_string_lossy());
        let Ok(information) = std::fs::read_to_string(information) else { continue };
        let flags = information.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.expect("they are told").trim(), 8).expect("octal");
        const O_CLOEXEC: u32 = 0o2_000_000;
        if flags & O_CLOEXEC == 0 && number.to_string_lossy().parse::<u32>().expect("a number") > 2
        {
            found.push(format!("{}: {}", number.to_string_lossy(), target.display()));
        }
    }
    found
}

#[test]
fn a_child_inherits_no_descriptor_and_keeps_no_port() {
    in_its_own_runtime("a_child_inherits_no_descriptor_and_keeps_no_port", async {
        let before = inheritable();
        let pair = Pair::new().await;
        within("a frame", pair.at_client.send_acked("x")).await.expect("it stands");
        assert_eq!(inheritable(), before);
        let helper = Helper::start();
        assert_eq!(helper.sockets(), 0);
        let address = pair.address;
        pair.end().await;
        let successor = node(stranger()).await;
        let again = within("listening", successor.listen(address)).await;
        assert_eq!(again.expect("nobody holds the port"), address);
        drop(helper);
    });
}
