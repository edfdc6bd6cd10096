//! Where a peer is: several addresses, every form of one, names, and the one deadline over all.

mod common;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use common::relay::Relay;
use common::{
    LIMIT, closed_port, connected, friends, loopback, node, node_with, stranger, until, within,
};
use moorline::{
    CertificateRefused, CloseReason, ConnectError, ErrorKind, MsQuicTransport, Node, Redial,
    Refusal, RemoteAddr, Target,
};

/// Takes datagrams and never answers.
fn black_hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(loopback()).expect("a socket");
    let address = socket.local_addr().expect("a bound socket");
    (socket, address)
}

fn nobody() -> SocketAddr {
    closed_port().to_string().parse().expect("an address")
}

/// Whether this machine has the loopback address of IPv6.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

async fn listen(node: &Node) -> SocketAddr {
    within("listening", node.listen(loopback())).await.expect("a listener")
}

async fn close<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        within("the end of a node", node.close(LIMIT)).await.expect("an orderly end");
    }
}

fn single(addresses: Vec<SocketAddr>) -> Target {
    Target::from(addresses).redial(Redial::Never)
}

// ---- several addresses -------------------------------------------------------------------------

#[tokio::test]
async fn a_peer_is_reached_at_whichever_of_its_addresses_answers() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let (_hole, silent) = black_hole();
    let address = listen(&server).await;
    for addresses in [
        vec![nobody(), address],
        vec![silent, address],
        vec![silent, nobody(), address],
        // A listener of another address is on that port: the library says "no such protocol".
        vec![SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()), address],
    ] {
        let begun = Instant::now();
        let target = single(addresses).expect(server.identity());
        let handle = within("connecting", client.connect(target.clone())).await;
        let handle = handle.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert_eq!(handle.remote_addr(), address);
        assert!(begun.elapsed() < Duration::from_secs(5), "{target}: {:?}", begun.elapsed());
    }
    close([client, server]).await;
}

#[tokio::test]
async fn the_error_names_each_address_with_its_reason() {
    let (wrong, us) = friends();
    let expected = stranger().identity();
    let wrong = node(wrong).await;
    let limit = Duration::from_secs(1);
    let client = node_with(us, |config| config.limits.handshake_time_max = limit).await;
    let (_hole, silent) = black_hole();
    let found = listen(&wrong).await;
    let begun = Instant::now();
    let target = single(vec![silent, nobody(), found]).expect(expected);
    let error = within("connecting", client.connect(target)).await.expect_err("no such peer");
    assert!((limit..limit * 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Retry, "one of them may pass");
    let message = error.to_string();
    for part in [
        format!("{silent}: no answer within"),
        format!("{}: nothing listens there", nobody()),
        format!("{found}: we refused the peer's certificate"),
    ] {
        assert!(message.contains(&part), "{part:?} is not in {message:?}");
    }
    let ConnectError::Addresses { failures, .. } = error else { panic!("{error:?}") };
    assert_eq!(failures.len(), 3);
    let unexpected = |failure: &ConnectError| {
        let ConnectError::CertificateRefused { refused, .. } = failure else { return false };
        matches!(**refused, CertificateRefused::ByUs { refusal: Refusal::Unexpected { .. }, .. })
    };
    assert!(failures.iter().any(unexpected), "{failures:?}");
    // Nothing here could pass.
    let target = single(vec![found, found, "[::ffff:127.0.0.1]:0".parse().expect("one")]);
    let error = within("connecting", client.connect(target)).await.expect_err("no port");
    assert_eq!(error.kind(), ErrorKind::Never);
    assert!(matches!(error, ConnectError::Address { .. }), "{error:?}");
    close([client, wrong]).await;
}

#[tokio::test]
async fn a_peer_that_is_not_the_expected_one_or_refuses_us_is_passed_over() {
    let (a, b) = friends();
    let (other, not_trusting) = (stranger().trust_hash(b.identity()), stranger());
    let b = b.trust_hash(other.identity()).trust_hash(not_trusting.identity());
    let identity = a.identity();
    let [server, other, not_trusting, client] =
        [node(a).await, node(other).await, node(not_trusting).await, node(b).await];
    let [right, wrong, refusing] =
        [listen(&server).await, listen(&other).await, listen(&not_trusting).await];
    // Its refusal takes a way: the client's handshake is done before it comes.
    let relay = Relay::start(refusing).await;
    let refusing = relay.address();
    let expecting = single(vec![wrong, right]).expect(identity);
    let handle = within("connecting", client.connect(expecting)).await.expect("the right one");
    assert_eq!((handle.peer(), handle.remote_addr()), (identity, right));
    let handle = within("connecting", client.connect(single(vec![refusing, right]))).await;
    assert_eq!(handle.expect("the one that accepts").remote_addr(), right);
    close([client, server, other, not_trusting]).await;
}

#[tokio::test]
async fn who_loses_the_race_leaves_no_connection_behind() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let address = listen(&server).await;
    let relays = [Relay::start(address).await, Relay::start(address).await];
    // The first packets are lost, so that several attempts are under way when one gets through.
    relays.iter().for_each(|relay| relay.lose_to_server(1));
    let addresses = relays.iter().map(Relay::address).chain([address]).collect();
    let handle = within("connecting", client.connect(single(addresses))).await.expect("accepted");
    assert_eq!(handle.remote_addr(), address);
    assert_eq!(client.connections().len(), 1);
    until("the server has the one", || server.connections().len() == 1).await;
    // What was on its way has ended, here and there.
    drop(handle);
    close([client]).await;
    until("the server has none", || server.connections().is_empty()).await;
    close([server]).await;
}

#[tokio::test]
async fn a_dial_of_many_addresses_that_is_given_up_leaves_nothing_behind() {
    let transport = MsQuicTransport::new();
    let holes: Vec<_> = (0..4).map(|_| black_hole()).collect();
    let addresses: Vec<SocketAddr> = holes.iter().map(|(_, address)| *address).collect();
    let dial = transport.connect(addresses, &["test"], stranger());
    let given_up = tokio::time::timeout(Duration::from_secs(1), dial).await;
    assert!(given_up.is_err(), "nobody answers there");
    let registration = transport.registration().expect("open");
    // Nobody has answered, so nobody is told, which would take the handshake's time.
    let soon = Duration::from_secs(3);
    assert!(registration.wait_idle(soon).await, "{} handles", registration.live_handles());
}

// ---- forms -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_node_on_the_unspecified_address_of_ipv6_takes_peers_of_both_families() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let bound = within("listening", server.listen(any)).await.expect("a listener");
    assert_eq!(bound.ip(), any.ip());
    let mut events = server.subscribe();
    for ip in ["127.0.0.1", "::ffff:127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().expect("an address");
        if ip == Ipv6Addr::LOCALHOST && !has_ipv6() {
            continue;
        }
        let target = Target::from(SocketAddr::new(ip, bound.port())).redial(Redial::Never);
        let here = within("connecting", client.connect(target)).await;
        let here = here.unwrap_or_else(|error| panic!("{ip}: {error}"));
        let there = connected(&mut events).await;
        assert_eq!(here.remote_addr().ip(), ip.to_canonical());
        assert_eq!(there.remote_addr().ip().to_canonical(), ip.to_canonical());
        within("a send", here.send_acked("frame")).await.expect("acknowledged");
        assert_eq!(within("a frame", there.recv()).await.expect("a frame"), "frame");
    }
    close([client, server]).await;
}

#[tokio::test]
async fn an_ipv4_address_in_the_clothes_of_ipv6_is_listened_on_and_dialled() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:0".parse().expect("an address");
    let bound = within("listening", server.listen(mapped)).await.expect("a listener");
    assert_eq!(bound.ip(), IpAddr::from([127, 0, 0, 1]));
    let text = format!("[::ffff:127.0.0.1]:{}", bound.port());
    let handle = within("connecting", client.connect(text.as_str())).await.expect("accepted");
    assert_eq!(handle.remote_addr(), bound);
    // It is the same target, whatever it wears.
    let again = within("connecting", client.connect(bound)).await.expect("accepted");
    assert_eq!(again, handle);
    drop((handle, again));
    close([client, server]).await;
}

/// A link-local address of this machine, with the number and the name of its interface.
fn link_local() -> Option<(SocketAddrV6, String)> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [ip, index, _, _, flags, name] = fields[..] else { return None };
        let ip = Ipv6Addr::from(u128::from_str_radix(ip, 16).ok()?);
        let (index, flags) = (u32::from_str_radix(index, 16).ok()?, u8::from_str_radix(flags, 16));
        // Not one that is still being tried out (IFA_F_TENTATIVE).
        let usable = ip.is_unicast_link_local() && flags.ok()? & 0x40 == 0;
        usable.then(|| (SocketAddrV6::new(ip, 0, 0, index), name.to_owned()))
    })
}

#[tokio::test]
async fn a_link_local_address_is_dialled_by_the_number_and_the_name_of_its_interface() {
    let Some((address, interface)) = link_local() else {
        eprintln!("no interface of this machine has a link-local address: nothing to dial");
        return;
    };
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let bound = within("listening", server.listen(address.into())).await.expect("a listener");
    let (ip, port) = (address.ip(), bound.port());
    for zone in [address.scope_id().to_string(), interface] {
        let text = format!("[{ip}%{zone}]:{port}");
        let target = Target::from(text.as_str()).redial(Redial::Never);
        let handle = within("connecting", client.connect(target)).await;
        let handle = handle.unwrap_or_else(|error| panic!("{text}: {error}"));
        within("a send", handle.send_acked("frame")).await.expect("acknowledged");
    }
    let text = format!("[{ip}%no_such_link]:{port}");
    let error = within("connecting", client.connect(text.as_str())).await.expect_err("no link");
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error:?}");
    let text = format!("[{ip}]:{port}");
    let error = within("connecting", client.connect(text.as_str())).await.expect_err("which?");
    assert_eq!(error.kind(), ErrorKind::Never);
    assert!(error.to_string().contains("needs its interface"), "{error}");
    close([client, server]).await;
}

#[tokio::test]
async fn a_name_leads_to_its_peer() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let name = format!("localhost:{}", listen(&server).await.port());
    let handle = within("connecting", client.connect(name.as_str())).await.expect("accepted");
    assert!(handle.remote_addr().ip().is_loopback());
    drop(handle);
    close([client, server]).await;
}

#[tokio::test]
async fn a_network_that_this_machine_has_no_way_to_is_told_in_words() {
    // The documentation's network (RFC 3849): routed nowhere, and refused where there is no route.
    let client = node_with(stranger(), |config| {
        config.limits.handshake_time_max = Duration::from_secs(1);
    })
    .await;
    let error = within("connecting", client.connect("[2001:db8::1]:4433")).await;
    let error = error.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Retry);
    match &error {
        ConnectError::Closed { reason: CloseReason::NoRoute, .. } => {
            assert!(error.to_string().contains("no way to that address"), "{error}");
        }
        // A machine with a default route sends it out, and nobody answers or a router says no.
        ConnectError::TimedOut { .. } | ConnectError::Unreachable { .. } => {}
        error => panic!("{error:?}"),
    }
    close([client]).await;
}

#[test]
fn a_remote_address_is_made_from_whatever_people_have() {
    let address: SocketAddr = "127.0.0.1:4433".parse().expect("an address");
    assert_eq!(RemoteAddr::from("127.0.0.1:4433"), RemoteAddr::from(address));
    assert_eq!("127.0.0.1:4433".parse(), Ok(RemoteAddr::from(address)));
    assert_eq!(RemoteAddr::from(&[address][..]), RemoteAddr::from(vec![address]));
    assert!("127.0.0.1".parse::<RemoteAddr>().is_err());
}

#[tokio::test]
async fn a_port_that_is_listened_on_for_another_address_is_told_with_what_it_may_be() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let port = listen(&server).await.port();
    let other = Target::from(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let error = within("connecting", client.connect(other)).await.expect_err("not that address");
    if has_ipv6() {
        assert!(matches!(error, ConnectError::AlpnMismatch { .. }), "{error:?}");
        assert!(error.to_string().contains("or listens on another address"), "{error}");
    } else {
        assert!(error.to_string().contains("no way to that address"), "{error}");
    }
    close([client, server]).await;
}

// ---- the deadline ------------------------------------------------------------------------------

#[tokio::test]
async fn a_dial_of_many_silent_addresses_takes_no_longer_than_one() {
    let limit = Duration::from_secs(1);
    let client = node_with(stranger(), |config| config.limits.handshake_time_max = limit).await;
    let holes: Vec<_> = (0..20).map(|_| black_hole()).collect();
    let addresses: Vec<SocketAddr> = holes.iter().map(|(_, address)| *address).collect();
    let begun = Instant::now();
    let error = within("connecting", client.connect(single(addresses))).await.expect_err("nobody");
    let took = begun.elapsed();
    assert!((limit * 8 / 10..limit * 2).contains(&took), "took {took:?}");
    let ConnectError::Addresses { failures, .. } = error else { panic!("{error:?}") };
    assert_eq!(failures.len(), 16, "the first sixteen count, and each of them was tried");
    for failure in &failures {
        assert!(matches!(failure, ConnectError::TimedOut { .. }), "{failure:?}");
    }
    close([client]).await;
}
