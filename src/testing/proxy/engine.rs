//! Both directions of a proxy: what came is judged by its path, and leaves at once or when it is due.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::burst::{Burst, Sent, Way};
use super::socket::{Buffers, Received, Socket};
use crate::testing::conditions::{Conditions, Towards};
use crate::testing::held::Held;
use crate::testing::path::Path;
use crate::testing::rng::Rng;
use crate::testing::script::Script;

/// Clients that one proxy knows at once, by their address; beyond that it forgets who was silent longest.
const CLIENTS_MAX: usize = 256;

/// Who was silent for so long loses his place to who comes: each has a descriptor, and each dial may come from
/// another port. As long as a NAT keeps a UDP mapping at least (RFC 4787, section 4.3).
const SILENT_MAX: Duration = Duration::from_secs(120);

/// System calls that receive before others have their turn.
const RECEIVES: usize = 8;

#[derive(Debug)]
pub(super) struct Engine {
    began: Instant,
    server: SocketAddr,
    front: Arc<Socket>,
    paths: [Path; 2],
    set: [Conditions; 2],
    cut: [bool; 2],
    playing: Option<Playing>,
    clients: HashMap<SocketAddr, Client>,
    held: Held<Parcel>,
    burst: Burst,
    buffers: Option<Buffers>,
}

/// A script, and when it began.
#[derive(Debug)]
struct Playing {
    script: Script,
    from: Duration,
    /// Up to when changes of the port were made, after the script's start.
    done: Duration,
}

/// A client, by the address it is seen with, and the socket that the server knows it by.
#[derive(Debug)]
struct Client {
    back: Arc<Socket>,
    heard: Duration,
    reader: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A datagram that waits, and the client it came from or goes to.
#[derive(Debug)]
struct Parcel {
    client: SocketAddr,
    way: Way,
    bytes: Box<[u8]>,
    flip: Option<usize>,
}

/// What reads the server's answers to a client.
pub(super) trait Readers {
    fn read(&self, client: SocketAddr, back: Arc<Socket>) -> AbortHandle;
}

impl Engine {
    pub(super) fn new(server: SocketAddr, front: Arc<Socket>, seed: u64) -> Self {
        // RFC 791, RFC 8200 and RFC 768: the headers without options.
        let header_bytes = if server.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let mut seeds = Rng::new(seed);
        Self {
            began: Instant::now(),
            server,
            front,
            paths: [(); 2].map(|()| Path::new(seeds.next(), header_bytes)),
            set: [Conditions::default(); 2],
            cut: [false; 2],
            playing: None,
            clients: HashMap::new(),
            held: Held::new(),
            burst: Burst::default(),
            buffers: Some(Buffers::new()),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// As if so much time had passed.
    #[cfg(test)]
    pub(in crate::testing) fn age(&mut self, time: Duration) {
        self.began -= time;
    }

    pub(super) fn path(&mut self, towards: Towards) -> &mut Path {
        &mut self.paths[towards.index()]
    }

    pub(super) fn set(&mut self, towards: Towards, conditions: Conditions) {
        self.set[towards.index()] = conditions;
    }

    pub(super) fn cut(&mut self, towards: Towards, cut: bool) {
        self.cut[towards.index()] = cut;
    }

    pub(super) fn play(&mut self, script: Option<Script>) {
        let (from, done) = (self.now(), Duration::ZERO);
        self.playing = script.map(|script| Playing { script, from, done });
    }

    /// What holds for the datagrams that come now.
    pub(super) fn conditions(&self, towards: Towards) -> Conditions {
        let set = self.set[towards.index()];
        let mut holds = self.playing.as_ref().map_or(set, |playing| {
            playing.script.conditions_at(self.now() - playing.from, towards, set)
        });
        holds.black_hole |= self.cut[towards.index()];
        holds
    }

    // ---- what comes ----

    /// Reads what clients sent; whether the wake-up of what waits must be set anew.
    pub(super) fn read_clients(&mut self, readers: &impl Readers) -> bool {
        let front = Arc::clone(&self.front);
        self.receive(&front, |engine, burst| {
            let back = engine.client(burst.from, readers)?;
            let way =
                Way { towards: Towards::Server, socket: back, to: engine.server, ecn: burst.ecn };
            Some((burst.from, way))
        })
    }

    /// Reads what the server sent to `client`; whether the wake-up must be set anew.
    pub(super) fn read_server(&mut self, client: SocketAddr, back: &Arc<Socket>) -> bool {
        self.receive(back, |engine, burst| {
            let way = Way {
                towards: Towards::Client,
                socket: Arc::clone(&engine.front),
                to: client,
                ecn: burst.ecn,
            };
            // Anybody on this machine may send to the port.
            (burst.from == engine.server).then_some((client, way))
        })
    }

    fn receive(
        &mut self,
        socket: &Socket,
        way: impl Fn(&mut Self, &Received<'_>) -> Option<(SocketAddr, Way)>,
    ) -> bool {
        let mut buffers = self.buffers.take().unwrap_or_else(Buffers::new);
        let mut earlier = false;
        for _ in 0..RECEIVES {
            // Nothing more has come, or an error of one datagram, which says nothing about the next.
            let Ok(count) = socket.receive(&mut buffers) else { break };
            let now = self.now();
            // What is due leaves before what only comes.
            self.depart(now);
            for burst in buffers.bursts(count) {
                let Some((client, way)) = way(self, &burst) else { continue };
                let conditions = self.conditions(way.towards);
                for datagram in burst.datagrams() {
                    earlier |= self.pass(client, &way, datagram, now, &conditions);
                }
            }
            self.flush();
        }
        self.buffers = Some(buffers);
        earlier
    }

    /// Whether it waits and is the next to leave.
    fn pass(
        &mut self,
        client: SocketAddr,
        way: &Way,
        datagram: &[u8],
        now: Duration,
        conditions: &Conditions,
    ) -> bool {
        let room = self.held.room();
        let path = &mut self.paths[way.towards.index()];
        let Some(departure) = path.enter(now, datagram.len(), conditions, room) else {
            return false;
        };
        let mut first = false;
        for _ in 0..departure.copies {
            if departure.at <= now {
                let paths = &mut self.paths;
                let sent = &mut |sent: Sent| account(paths, sent);
                self.burst.add(way, datagram, departure.flip, sent);
            } else {
                let (way, bytes) = (way.clone(), datagram.into());
                let parcel = Parcel { client, way, bytes, flip: departure.flip };
                first |= self.held.push(departure.at, datagram.len(), parcel);
            }
        }
        first
    }

    // ---- what leaves ----

    /// Sends what is due and changes ports that are due; how long until the next of either.
    pub(super) fn turn(&mut self, readers: &impl Readers) -> Option<Duration> {
        let now = self.now();
        self.depart(now);
        self.flush();
        let port = self.change_ports_by_script(now, readers);
        let next = [self.held.first(), port].into_iter().flatten().min()?;
        Some(next.saturating_sub(self.now()))
    }

    fn depart(&mut self, now: Duration) {
        while let Some(parcel) = self.held.pop(now) {
            let Parcel { client, mut way, bytes, flip } = parcel;
            if way.towards == Towards::Server {
                // Its port may have changed meanwhile, or it was forgotten.
                let Some(known) = self.clients.get(&client) else {
                    self.paths[way.towards.index()].gone(1, bytes.len() as u64, false);
                    continue;
                };
                way.socket = Arc::clone(&known.back);
            }
            let paths = &mut self.paths;
            self.burst.add(&way, &bytes, flip, &mut |sent| account(paths, sent));
        }
    }

    fn flush(&mut self) {
        let paths = &mut self.paths;
        self.burst.flush(&mut |sent| account(paths, sent));
    }

    // ---- clients ----

    /// The socket of a client; none if there is none to be had.
    fn client(&mut self, client: SocketAddr, readers: &impl Readers) -> Option<Arc<Socket>> {
        let heard = self.now();
        if let Some(known) = self.clients.get_mut(&client) {
            known.heard = heard;
            return Some(Arc::clone(&known.back));
        }
        self.clients.retain(|_, client| heard.saturating_sub(client.heard) <= SILENT_MAX);
        if self.clients.len() >= CLIENTS_MAX {
            let silent = self.clients.iter().min_by_key(|(_, client)| client.heard);
            let silent = silent.map(|(address, _)| *address)?;
            self.clients.remove(&silent);
        }
        self.connect(client, heard, readers).ok()
    }

    fn connect(
        &mut self,
        client: SocketAddr,
        heard: Duration,
        readers: &impl Readers,
    ) -> io::Result<Arc<Socket>> {
        let back = Arc::new(Socket::bind_towards(self.server)?);
        let reader = readers.read(client, Arc::clone(&back));
        self.clients.insert(client, Client { back: Arc::clone(&back), heard, reader });
        Ok(back)
    }

    fn change_ports_by_script(
        &mut self,
        now: Duration,
        readers: &impl Readers,
    ) -> Option<Duration> {
        let playing = self.playing.as_mut()?;
        let elapsed = now - playing.from;
        let until = elapsed + Duration::from_nanos(1);
        let due = playing.script.port_changes(playing.done, until);
        playing.done = until;
        let next = playing.script.port_changes_from(until).next();
        let next = next.map(|at| at + playing.from);
        if due > 0 {
            self.change_ports(readers);
        }
        next
    }

    /// Gives each client another port; how many have one. Who gets none is not known any more.
    pub(super) fn change_ports(&mut self, readers: &impl Readers) -> usize {
        self.flush();
        // The old sockets live until all have a new one, so that none gets its own back.
        let old = std::mem::take(&mut self.clients);
        for (client, known) in &old {
            // Without a socket its datagrams are lost until there is one.
            let _ = self.connect(*client, known.heard, readers);
        }
        self.clients.len()
    }

    /// The ports that the server knows the clients by.
    pub(super) fn client_ports(&self) -> Vec<u16> {
        let port = |client: &Client| client.back.address().ok().map(|address| address.port());
        self.clients.values().filter_map(port).collect()
    }
}

fn account(paths: &mut [Path; 2], sent: Sent) {
    paths[sent.towards.index()].gone(sent.datagrams, sent.bytes, sent.delivered);
}
