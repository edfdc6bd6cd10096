//! Ports of listeners: that one process has each, what they answer to, and who else holds them.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use moorline::{
    ConnectError, ErrorKind, Limits, ListenError, MsQuicListener, MsQuicTransport, NetCredential,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use common::process::{in_its_own_runtime, is_the_other_process, the_other_process};
use common::{LIMIT, Pair, end, free_port, friends, loopback, node, stranger, until, within};

async fn listen(
    transport: &MsQuicTransport,
    address: SocketAddr,
    credential: &NetCredential,
) -> Result<MsQuicListener, ListenError> {
    let listener = transport.create_listener(address, &["test"], credential.clone());
    within("listening", listener).await
}

// ---- ports that are taken ----------------------------------------------------------------------

#[tokio::test]
async fn a_port_with_a_listener_of_the_same_protocol_is_in_use() {
    let (first, second) = (node(stranger()).await, node(stranger()).await);
    let bound = within("listening", first.listen(loopback())).await.expect("a listener");
    for node in [&second, &first] {
        let error = within("listening", node.listen(bound)).await.expect_err("it is taken");
        assert!(error.to_string().contains(&bound.to_string()), "{error}");
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert!(matches!(error, ListenError::InUse { address } if address == bound), "{error:?}");
    }
    end([first, second]).await;
}

#[tokio::test]
async fn a_port_with_a_foreign_udp_socket_is_in_use() {
    let node = node(stranger()).await;
    let socket = UdpSocket::bind(loopback()).expect("a socket");
    let bound = socket.local_addr().expect("a bound socket");
    let error = within("listening", node.listen(bound)).await.expect_err("it is taken");
    assert!(error.to_string().contains(&bound.to_string()), "{error}");
    assert!(matches!(error, ListenError::InUse { address } if address == bound), "{error:?}");
    drop(socket);
    within("listening", node.listen(bound)).await.expect("it is free again");
    end([node]).await;
}

/// The first `count` addresses that another process says it listens on.
async fn addresses_of(other: &mut tokio::process::Child, count: usize) -> Vec<SocketAddr> {
    let mut told = tokio::io::BufReader::new(other.stderr.take().expect("piped")).lines();
    let mut addresses = Vec::new();
    while addresses.len() < count {
        let line = within("the other process", told.next_line()).await.expect("readable");
        let line = line.expect("it says where it listens");
        if let Some(address) = line.strip_prefix("listening on ") {
            addresses.push(address.parse().expect("an address"));
        }
    }
    addresses
}

#[tokio::test]
async fn a_port_with_a_listener_of_another_process_is_in_use() {
    let node = node(stranger()).await;
    if is_the_other_process() {
        let bound = within("listening", node.listen(loopback())).await.expect("a listener");
        eprintln!("listening on {bound}");
        let mut until_closed = Vec::new();
        tokio::io::stdin().read_to_end(&mut until_closed).await.expect("the end of the input");
        return end([node]).await;
    }
    let mut other = the_other_process("a_port_with_a_listener_of_another_process_is_in_use");
    let bound = addresses_of(&mut other, 1).await[0];
    let error = within("listening", node.listen(bound)).await.expect_err("it is taken");
    assert!(matches!(error, ListenError::InUse { address } if address == bound), "{error:?}");
    drop(other.stdin.take());
    assert!(within("its end", other.wait()).await.expect("a status").success());
    within("listening", node.listen(bound)).await.expect("it is free again");
    end([node]).await;
}

/// The library's sockets share their ports (`SO_REUSEPORT`), and the system gives a shared port
/// to whoever asks for any: a part of the peers would come to the wrong process.
#[tokio::test]
async fn a_free_port_is_not_one_that_another_process_listens_on() {
    /// Of some 28,000 ports: so many that chance would meet one of them five times over.
    const THEIRS: usize = 100;
    const OURS: usize = 1_500;
    let transport = MsQuicTransport::new();
    let credential = stranger();
    let listen = async || {
        let listener = transport.create_listener(loopback(), &["test"], credential.clone());
        within("listening", listener).await.expect("a listener")
    };
    if is_the_other_process() {
        let mut listeners = Vec::new();
        for _ in 0..THEIRS {
            listeners.push(listen().await);
            eprintln!("listening on {}", listeners[listeners.len() - 1].local_addr());
        }
        let mut until_closed = Vec::new();
        tokio::io::stdin().read_to_end(&mut until_closed).await.expect("the end of the input");
    } else {
        let mut other = the_other_process("a_free_port_is_not_one_that_another_process_listens_on");
        let theirs = addresses_of(&mut other, THEIRS).await;
        for number in 0..OURS {
            let ours = listen().await.local_addr();
            assert!(!theirs.contains(&ours), "{ours}, the {number}th, is taken");
        }
        drop(other.stdin.take());
        assert!(within("its end", other.wait()).await.expect("a status").success());
    }
    assert!(transport.registration().expect("open").wait_idle(LIMIT).await);
}

#[tokio::test]
async fn an_address_of_another_machine_cannot_be_listened_on() {
    let node = node(stranger()).await;
    // TEST-NET-1 (RFC 5737): nobody's.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = within("listening", node.listen(foreign)).await.expect_err("not ours");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Never);
    let ListenError::Address { address, problem } = error else { panic!("{error:?}") };
    assert_eq!(address, foreign);
    assert!(!problem.is_empty());
    end([node]).await;
}

// ---- one process for a port --------------------------------------------------------------------

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
        let mut child = the_other_process(test);
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
    if is_the_other_process() {
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
