//! Who may begin a handshake: a stranger costs a place until he has proven who he is.
//!
//! ```text
//! peer asks ──> a place? ──no──> refused
//!                 │ yes: known addresses up to all places, others up to three quarters, and of one
//!                 │      address no more than its bound, nor oftener than it may
//!                 └─> handshake ──stands──> its address is known for a day
//! ```
//!
//! From a quarter of the places on the library asks who is new to prove his address first (a stateless
//! retry, RFC 9000, section 8.1.2), so that addresses that are not one's own take no more.
//!
//! Invariants: what is counted and remembered is bounded; no decision waits or looks at a clock.

mod rate;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::rate::Rates;
use crate::config::Limits;
use crate::error::CloseCode;
use crate::lock::lock;
use crate::never::{never, take_off};

/// Known addresses that are remembered; of more, those that were seen last.
const KNOWN_MAX: usize = 4096;

/// How long an address is known after a peer was last connected from it: a peer may be away for a night.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// What the known addresses take in memory at most, in bytes, and as many others that asked: an entry of
/// two maps each.
pub(super) const KNOWN_BYTES: u64 = 2 * 128 * KNOWN_MAX as u64;

/// Part of the places that only known addresses may have.
const KEPT_PART: usize = 4;

/// From how many handshakes on an address must be proven: a quarter of the places.
pub(super) fn retry_from(places: usize) -> usize {
    places / 4
}

/// How many places others than known addresses may have.
pub(super) fn places_for_all(places: usize) -> usize {
    places - places / KEPT_PART
}

/// Who counts as one: an IPv4 address, or the /64 of an IPv6 address, which is what one host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Neighbour {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Neighbour {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Its number in the order of all.
    number: u64,
}

/// Addresses from which a peer was connected lately.
#[derive(Debug, Default)]
struct Known {
    seen: HashMap<Neighbour, Seen>,
    /// Who was seen first, first.
    order: BTreeMap<u64, Neighbour>,
    next: u64,
}

impl Known {
    fn saw(&mut self, neighbour: Neighbour, now: Instant) {
        let seen = Seen { at: now, number: self.next };
        if let Some(before) = self.seen.insert(neighbour, seen) {
            self.order.remove(&before.number);
        }
        self.order.insert(self.next, neighbour);
        self.next += 1;
        if self.seen.len() > KNOWN_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.seen.remove(&oldest);
        }
    }

    fn has(&self, neighbour: Neighbour, now: Instant) -> bool {
        let seen = self.seen.get(&neighbour);
        seen.is_some_and(|seen| now.saturating_duration_since(seen.at) < KNOWN_FOR)
    }
}

/// Why a peer that asks gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken, or those for addresses that are not known.
    Full,
    /// Its address has as many handshakes as one may.
    OfAddress,
    /// Its address has asked as often as one may.
    TooOften,
}

/// The places of one listener.
#[derive(Debug)]
struct Places {
    all: usize,
    of_address: usize,
    /// Of connections that are not accepted yet.
    taken: usize,
    /// Handshakes that are not done.
    handshakes: HashMap<Neighbour, usize>,
}

impl Places {
    fn new(limits: &Limits) -> Self {
        let (all, of_address) = (limits.handshakes_pending_max, limits.handshakes_per_address_max);
        Self { all, of_address, taken: 0, handshakes: HashMap::new() }
    }

    fn take(&mut self, neighbour: Neighbour, known: bool) -> Result<(), NoPlace> {
        let places = if known { self.all } else { places_for_all(self.all) };
        if self.taken >= places {
            return Err(NoPlace::Full);
        }
        let handshakes = self.handshakes.get(&neighbour).copied().unwrap_or(0);
        if !known && handshakes >= self.of_address {
            return Err(NoPlace::OfAddress);
        }
        self.handshakes.insert(neighbour, handshakes + 1);
        self.taken += 1;
        Ok(())
    }

    fn handshake_over(&mut self, neighbour: Neighbour) {
        let Some(handshakes) = self.handshakes.get_mut(&neighbour) else {
            never!("a handshake is over that did not begin");
            return;
        };
        take_off!(*handshakes, 1, "handshakes of an address");
        if *handshakes == 0 {
            self.handshakes.remove(&neighbour);
        }
    }
}

/// What became of the peers that asked a node for a connection, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionCounts {
    /// Got a place for their handshake.
    pub admitted: u64,
    /// Refused because `Limits::handshakes_pending_max` were taken, or those of them that addresses may
    /// have from which nobody was connected lately.
    pub no_place: u64,
    /// Refused because their address had `Limits::handshakes_per_address_max`.
    pub too_many_of_address: u64,
    /// Refused because their address had asked for `Limits::connections_per_minute_max`, behind a burst of
    /// `Limits::connections_burst_max`.
    pub too_often: u64,
    /// Let in, and closed because the node had `Limits::connections_max`.
    pub too_many: u64,
    /// Let in, and closed because they had `Limits::connections_per_peer_max`.
    pub too_many_of_peer: u64,
    /// Given up because they showed no certificate within `Limits::handshake_answer_max`.
    pub silent: u64,
}

/// What all listeners of a transport have in common.
#[derive(Debug)]
pub(super) struct Arrivals {
    known: Mutex<Known>,
    /// Of addresses that are not known.
    rates: Mutex<Rates<Neighbour>>,
    admitted: AtomicU64,
    no_place: AtomicU64,
    too_many_of_address: AtomicU64,
    too_often: AtomicU64,
    too_many: AtomicU64,
    too_many_of_peer: AtomicU64,
    silent: AtomicU64,
}

impl Arrivals {
    pub(super) fn new(limits: &Limits) -> Self {
        let (a_minute, burst) = (limits.connections_per_minute_max, limits.connections_burst_max);
        Self {
            known: Mutex::default(),
            rates: Mutex::new(Rates::new(a_minute, burst, KNOWN_MAX)),
            admitted: AtomicU64::default(),
            no_place: AtomicU64::default(),
            too_many_of_address: AtomicU64::default(),
            too_often: AtomicU64::default(),
            too_many: AtomicU64::default(),
            too_many_of_peer: AtomicU64::default(),
            silent: AtomicU64::default(),
        }
    }

    /// A peer is connected from there, or was until now.
    pub(super) fn saw(&self, address: IpAddr, now: Instant) {
        lock(&self.known).saw(address.into(), now);
    }

    /// A handshake was given up whose peer had shown no certificate.
    pub(super) fn was_silent(&self) {
        self.silent.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that stood was closed with `code`: there is no room for it.
    pub(super) fn had_no_room(&self, code: CloseCode) {
        let of_peer = code == CloseCode::TOO_MANY_OF_PEER;
        let counter = if of_peer { &self.too_many_of_peer } else { &self.too_many };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> AdmissionCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AdmissionCounts {
            admitted: count(&self.admitted),
            no_place: count(&self.no_place),
            too_many_of_address: count(&self.too_many_of_address),
            too_often: count(&self.too_often),
            too_many: count(&self.too_many),
            too_many_of_peer: count(&self.too_many_of_peer),
            silent: count(&self.silent),
        }
    }
}

/// Asks for one listener.
#[derive(Debug)]
pub(super) struct Admission {
    places: Mutex<Places>,
    arrivals: Arc<Arrivals>,
}

impl Admission {
    pub(super) fn new(limits: &Limits, arrivals: &Arc<Arrivals>) -> Arc<Self> {
        let places = Mutex::new(Places::new(limits));
        Arc::new(Self { places, arrivals: Arc::clone(arrivals) })
    }

    /// A place for a peer that asks from `address`: for its connection until that is accepted, and for
    /// its handshake.
    pub(super) fn ask(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Granted, NoPlace> {
        let (neighbour, arrivals) = (Neighbour::from(address), &self.arrivals);
        let known = lock(&arrivals.known).has(neighbour, now);
        let often = !known && !lock(&arrivals.rates).allows(neighbour, now);
        let taken = match often {
            true => Err(NoPlace::TooOften),
            false => lock(&self.places).take(neighbour, known),
        };
        let counter = match taken {
            Ok(()) => &arrivals.admitted,
            Err(NoPlace::Full) => &arrivals.no_place,
            Err(NoPlace::OfAddress) => &arrivals.too_many_of_address,
            Err(NoPlace::TooOften) => &arrivals.too_often,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        taken.map(|()| {
            let handshake = HandshakePlace { admission: Arc::clone(self), neighbour };
            Granted { place: Place(Arc::clone(self)), handshake }
        })
    }
}

/// What a peer is given that asks.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) place: Place,
    pub(super) handshake: HandshakePlace,
}

/// The place of a connection that is not accepted yet; free when this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        let places = &mut *lock(&self.0.places);
        take_off!(places.taken, 1, "places");
    }
}

/// The place of a handshake that is not done; free when this is dropped.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    admission: Arc<Admission>,
    neighbour: Neighbour,
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        lock(&self.admission.places).handshake_over(self.neighbour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u32) -> Neighbour {
        Neighbour::V4(number.to_be_bytes())
    }

    fn places(all: usize, of_address: usize) -> Places {
        let limits = Limits {
            handshakes_pending_max: all,
            handshakes_per_address_max: of_address,
            ..Limits::default()
        };
        Places::new(&limits)
    }

    #[test]
    fn strangers_get_three_quarters_of_the_places_and_known_addresses_all() {
        for (all, strangers) in [(1, 1), (3, 3), (4, 3), (8, 6), (256, 192)] {
            let mut places = places(all, 1);
            let taken = (0..2 * 256).filter(|n| places.take(at(*n), false).is_ok()).count();
            assert_eq!(taken, strangers, "of {all}");
            assert_eq!(places.take(at(9_999), false), Err(NoPlace::Full));
            let known = (0..2 * 256).filter(|_| places.take(at(9_999), true).is_ok()).count();
            assert_eq!(strangers + known, all);
            assert_eq!(places.take(at(9_999), true), Err(NoPlace::Full));
        }
    }

    #[test]
    fn an_address_that_is_not_known_has_its_bound_until_its_handshakes_are_over() {
        let mut places = places(100, 2);
        assert_eq!(places.take(at(1), false), Ok(()));
        assert_eq!(places.take(at(1), false), Ok(()));
        assert_eq!(places.take(at(1), false), Err(NoPlace::OfAddress));
        assert_eq!(places.take(at(2), false), Ok(()), "another one");
        assert_eq!(places.take(at(1), true), Ok(()), "a peer was connected from there");
        places.handshake_over(at(1));
        places.handshake_over(at(1));
        assert_eq!(places.take(at(1), false), Ok(()));
        for _ in 0..2 {
            places.handshake_over(at(1));
        }
        places.handshake_over(at(2));
        assert!(places.handshakes.is_empty(), "{places:?}");
    }

    #[test]
    fn an_ipv6_network_of_one_host_counts_as_one_and_a_mapped_address_as_ipv4() {
        let of = |text: &str| Neighbour::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn an_address_is_known_for_a_day_after_a_peer_was_last_there() {
        let (mut known, begun) = (Known::default(), Instant::now());
        assert!(!known.has(at(1), begun));
        known.saw(at(1), begun);
        assert!(known.has(at(1), begun + KNOWN_FOR - Duration::from_secs(1)));
        assert!(!known.has(at(1), begun + KNOWN_FOR));
        known.saw(at(1), begun + KNOWN_FOR / 2);
        assert!(known.has(at(1), begun + KNOWN_FOR));
    }

    #[test]
    fn of_more_known_addresses_than_are_remembered_those_seen_last_stay() {
        let (mut known, now) = (Known::default(), Instant::now());
        let all = u32::try_from(KNOWN_MAX).unwrap() + 10;
        known.saw(at(all), now);
        for number in 0..all {
            known.saw(at(number), now);
            known.saw(at(all), now);
        }
        assert_eq!((known.seen.len(), known.order.len()), (KNOWN_MAX, KNOWN_MAX));
        assert!(known.has(at(all), now) && known.has(at(all - 1), now));
        assert!(!known.has(at(0), now) && !known.has(at(10), now) && known.has(at(11), now));
    }

    #[test]
    fn an_address_that_asks_too_often_is_refused_until_a_peer_was_connected_from_there() {
        let mut limits = Limits { connections_per_minute_max: 60, ..Limits::default() };
        limits.connections_burst_max = 5;
        let arrivals = Arc::new(Arrivals::new(&limits));
        let admission = Admission::new(&limits, &arrivals);
        let (address, now) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        let ask = |now| admission.ask(address, now).map(drop);
        for _ in 0..5 {
            assert_eq!(ask(now), Ok(()));
        }
        assert_eq!(ask(now), Err(NoPlace::TooOften));
        assert_eq!(admission.ask(IpAddr::from([192, 0, 2, 2]), now).map(drop), Ok(()));
        assert_eq!(ask(now + Duration::from_secs(1)), Ok(()), "one a second");
        assert_eq!(ask(now + Duration::from_secs(1)), Err(NoPlace::TooOften));
        arrivals.saw(address, now);
        for _ in 0..50 {
            assert_eq!(ask(now + Duration::from_secs(1)), Ok(()));
        }
        assert_eq!((arrivals.counts().too_often, arrivals.counts().admitted), (2, 57));
    }

    #[test]
    fn places_come_back_with_what_has_them_and_all_is_counted() {
        let limits = Limits { handshakes_pending_max: 4, ..Limits::default() };
        let arrivals = Arc::new(Arrivals::new(&limits));
        let admission = Admission::new(&limits, &arrivals);
        let (address, now) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        let mut taken: Vec<_> = (0..3).map(|_| admission.ask(address, now).unwrap()).collect();
        assert_eq!(admission.ask(address, now).map(drop), Err(NoPlace::Full));
        arrivals.saw(address, now);
        taken.push(admission.ask(address, now).unwrap());
        assert_eq!(admission.ask(address, now).map(drop), Err(NoPlace::Full));
        drop(taken);
        assert!(lock(&admission.places).handshakes.is_empty());
        assert_eq!(lock(&admission.places).taken, 0);
        let counts = AdmissionCounts { admitted: 4, no_place: 2, ..AdmissionCounts::default() };
        assert_eq!(arrivals.counts(), counts);
    }
}
