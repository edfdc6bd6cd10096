//! Where a peer listens, as people write it: every form works or is refused in words.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use crate::error::InvalidAddress;

/// What every refusal ends with.
const ADVICE: &str = "give HOST:PORT, as in peer.example:4433, 127.0.0.1:4433 or [::1]:4433";

/// A name of the domain name system (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// One label of it.
const LABEL_BYTES_MAX: usize = 63;

/// Where a peer listens: an address, several, or a host name with a port.
///
/// A text is taken as it is by `From<&str>`, and looked at when it is dialled; `FromStr` looks at
/// once.
///
/// # Examples
///
/// ```
/// use moorline::RemoteAddr;
///
/// for good in ["127.0.0.1:4433", "[::1]:4433", "[fe80::1%eth0]:4433", "peer.example:4433"] {
///     assert!(good.parse::<RemoteAddr>().is_ok());
/// }
/// let error = "::1:4433".parse::<RemoteAddr>().unwrap_err();
/// assert!(error.problem.contains("brackets"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemoteAddr {
    /// An IP address and port.
    Socket(SocketAddr),
    /// Several addresses of one peer: tried one after the other, 250 ms apart, until one answers
    /// (RFC 8305). The first 16 count.
    Sockets(Vec<SocketAddr>),
    /// `host:port`; resolved at each connect, and all its addresses are tried as those of
    /// [`Sockets`](Self::Sockets). A link-local address with its interface is one too:
    /// `[fe80::1%eth0]:4433`.
    Host(String),
}

/// What is to be done before an address can be dialled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Addresses(Vec<SocketAddr>),
    /// To look the name up.
    LookUp { host: String, port: u16 },
}

impl From<SocketAddr> for RemoteAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(canonical(address))
    }
}

impl From<Vec<SocketAddr>> for RemoteAddr {
    fn from(addresses: Vec<SocketAddr>) -> Self {
        Self::Sockets(addresses.into_iter().map(canonical).collect())
    }
}

impl From<&[SocketAddr]> for RemoteAddr {
    fn from(addresses: &[SocketAddr]) -> Self {
        Self::from(addresses.to_vec())
    }
}

impl From<&str> for RemoteAddr {
    fn from(text: &str) -> Self {
        text.parse::<SocketAddr>().map_or_else(|_| Self::Host(text.to_owned()), Self::from)
    }
}

impl From<String> for RemoteAddr {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl FromStr for RemoteAddr {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let remote = Self::from(text);
        match remote.plan() {
            Ok(_) => Ok(remote),
            Err(error) => Err(InvalidAddress { given: text.to_owned(), ..error }),
        }
    }
}

impl std::fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Sockets(addresses) => {
                for (number, address) in addresses.iter().enumerate() {
                    write!(f, "{}{address}", if number == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Host(host) => write!(f, "{}", host.escape_debug()),
        }
    }
}

impl RemoteAddr {
    /// What is to be done before it can be dialled.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] where nobody can be reached.
    pub(super) fn plan(&self) -> Result<Plan, InvalidAddress> {
        let plan = match self {
            Self::Socket(address) => check(*address).map(|address| Plan::Addresses(vec![address])),
            Self::Sockets(addresses) if addresses.is_empty() => {
                Err("there is no address in the list".to_owned())
            }
            Self::Sockets(addresses) => {
                let named = |one: &SocketAddr| check(*one).map_err(|why| format!("{one}: {why}"));
                let checked: Result<_, _> = addresses.iter().map(named).collect();
                checked.map(Plan::Addresses)
            }
            Self::Host(text) => plan_text(text),
        };
        let given = || match self {
            Self::Host(text) => text.clone(),
            Self::Socket(_) | Self::Sockets(_) => self.to_string(),
        };
        plan.map_err(|problem| InvalidAddress { given: given(), problem })
    }
}

/// An IPv4 address in IPv6's clothes is an IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// An address at which somebody can be.
pub(super) fn check(address: SocketAddr) -> Result<SocketAddr, String> {
    let address = canonical(address);
    let problem = match address {
        _ if address.port() == 0 => "a port from 1 to 65535 is needed",
        _ if address.ip().is_unspecified() => {
            "it is an address to listen on, not one to connect to: give one of the peer's"
        }
        _ if address.ip().is_multicast() => "it is the address of a group, not of a peer",
        SocketAddr::V4(v4) if v4.ip().is_broadcast() => "it is the address of all, not of a peer",
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            "a link-local address needs its interface, as in [fe80::1%eth0]:4433"
        }
        _ => return Ok(address),
    };
    Err(problem.to_owned())
}

fn plan_text(text: &str) -> Result<Plan, String> {
    let refused = |problem: &str| Err(format!("{problem}; {ADVICE}"));
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return refused("an address has no white space and no control characters");
    }
    if text.contains("://") {
        return refused("an address has no scheme");
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inside, port)) = rest.split_once(']') else {
            return refused("the closing bracket is missing");
        };
        let Some(port) = port.strip_prefix(':') else { return refused("the port is missing") };
        return plan_bracketed(inside, port_of(port)?);
    }
    let Some((host, port)) = text.rsplit_once(':') else { return refused("the port is missing") };
    if host.is_empty() {
        return refused("the host is missing");
    }
    if host.contains(':') {
        return refused("an IPv6 address needs brackets");
    }
    check_name(host)?;
    Ok(Plan::LookUp { host: host.to_owned(), port: port_of(port)? })
}

/// What is in brackets: an IPv6 address, perhaps with its interface.
fn plan_bracketed(inside: &str, port: u16) -> Result<Plan, String> {
    let (ip, zone) = match inside.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone)),
        None => (inside, None),
    };
    let Ok(ip) = ip.parse::<Ipv6Addr>() else {
        return Err(format!("brackets are for IPv6 addresses; {ADVICE}"));
    };
    let Some(zone) = zone else {
        return check(SocketAddr::from((ip, port))).map(|address| Plan::Addresses(vec![address]));
    };
    if let Ok(number) = zone.parse::<u32>() {
        let address = SocketAddrV6::new(ip, port, 0, number).into();
        return check(address).map(|address| Plan::Addresses(vec![address]));
    }
    // The system knows its names; longer ones it does not have (IFNAMSIZ).
    if zone.is_empty() || zone.len() > 15 || zone.contains(['/', '%', ']']) {
        return Err(format!("{zone:?} is no name of an interface"));
    }
    Ok(Plan::LookUp { host: inside.to_owned(), port })
}

fn port_of(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse::<u16>().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| format!("{text:?} is no port (1 to 65535); {ADVICE}"))
}

/// What cannot be the name of a host is not looked up.
fn check_name(host: &str) -> Result<(), String> {
    if !host.is_ascii() {
        return Err("a name with other than ASCII letters is given as xn--… (punycode)".to_owned());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let labels = || name.split('.');
    let character = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let fits = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len());
    if name.len() > NAME_BYTES_MAX || !labels().all(|l| fits(l) && l.bytes().all(character)) {
        return Err(format!("{host:?} is no host name; {ADVICE}"));
    }
    // No top-level domain is a number: the system would take "127.1" for 127.0.0.1.
    if labels().next_back().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("{host:?} is no IPv4 address (four numbers, 0 to 255); {ADVICE}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, String> {
        RemoteAddr::from(text).plan().map_err(|error| error.problem)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn every_form_of_an_address_is_dialled_as_it_is_meant() {
        for (text, meant) in [
            ("127.0.0.1:4433", "127.0.0.1:4433"),
            ("[::1]:4433", "[::1]:4433"),
            ("[::ffff:127.0.0.1]:4433", "127.0.0.1:4433"),
            ("[::ffff:7f00:1]:4433", "127.0.0.1:4433"),
            ("[fe80::1%3]:4433", "[fe80::1%3]:4433"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ] {
            assert_eq!(plan(text), Ok(Plan::Addresses(vec![address(meant)])), "{text}");
        }
        for (text, host, port) in [
            ("localhost:1", "localhost", 1),
            ("peer.example.:4433", "peer.example.", 4433),
            ("my_pod-0.my_svc:80", "my_pod-0.my_svc", 80),
            ("xn--mnchen-3ya.example:4433", "xn--mnchen-3ya.example", 4433),
            ("4433.example:4433", "4433.example", 4433),
            ("[fe80::1%eth0]:4433", "fe80::1%eth0", 4433),
        ] {
            let look_up = Plan::LookUp { host: host.to_owned(), port };
            assert_eq!(plan(text), Ok(look_up), "{text}");
        }
    }

    #[test]
    fn every_other_form_is_refused_in_words() {
        let long = format!("{}.example:4433", "x".repeat(64));
        let longer = format!("{}example:4433", "x.".repeat(130));
        for (text, says) in [
            ("", "port is missing"),
            ("localhost", "port is missing"),
            ("127.0.0.1", "port is missing"),
            ("[::1]", "port is missing"),
            ("[::1]4433", "port is missing"),
            ("[::1:4433", "closing bracket"),
            ("::1:4433", "needs brackets"),
            ("fe80::1%eth0:4433", "needs brackets"),
            (":4433", "host is missing"),
            ("localhost:", "no port"),
            ("localhost:0", "no port"),
            ("localhost:+1", "no port"),
            ("localhost:65536", "no port"),
            ("127.0.0.1:0", "a port from 1 to 65535"),
            ("[::1%lo]:0", "no port"),
            ("0.0.0.0:4433", "to listen on"),
            ("[::]:4433", "to listen on"),
            ("[::ffff:0.0.0.0]:4433", "to listen on"),
            ("224.0.0.1:4433", "of a group"),
            ("[ff02::1%3]:4433", "of a group"),
            ("255.255.255.255:4433", "of all"),
            ("[fe80::1]:4433", "needs its interface"),
            ("[fe80::1%]:4433", "name of an interface"),
            ("[fe80::1%an_interface_name]:4433", "name of an interface"),
            ("[127.0.0.1]:4433", "for IPv6"),
            ("[localhost]:4433", "for IPv6"),
            ("quic://localhost:4433", "no scheme"),
            ("local host:4433", "no white space"),
            (" localhost:4433", "no white space"),
            ("evil\0.example:4433", "no control characters"),
            ("user@host:4433", "no host name"),
            ("host/path:4433", "no host name"),
            ("..:4433", "no host name"),
            ("a..b:4433", "no host name"),
            ("a,b:4433", "no host name"),
            (long.as_str(), "no host name"),
            (longer.as_str(), "no host name"),
            ("127.1:4433", "no IPv4 address"),
            ("256.0.0.1:4433", "no IPv4 address"),
            ("münchen.example:4433", "xn--"),
        ] {
            let problem = plan(text).expect_err(text);
            assert!(problem.contains(says), "{text:?}: {problem}");
            assert_eq!(text.parse::<RemoteAddr>().map_err(|error| error.given), Err(text.into()));
        }
        assert!(RemoteAddr::from(vec![]).plan().is_err());
        let one_is_none = vec![address("127.0.0.1:1"), address("127.0.0.1:0")];
        assert!(RemoteAddr::from(one_is_none).plan().is_err());
    }

    #[test]
    fn the_same_address_is_the_same_whatever_it_wears() {
        let mapped = RemoteAddr::from(address("[::ffff:127.0.0.1]:4433"));
        assert_eq!(mapped, RemoteAddr::from("127.0.0.1:4433"));
        let several = RemoteAddr::from(&[address("[::1]:1"), address("127.0.0.1:1")][..]);
        assert_eq!(several.to_string(), "[::1]:1,127.0.0.1:1");
    }
}
