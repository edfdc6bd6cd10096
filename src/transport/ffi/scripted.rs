//! MsQuic as a script: the C table, played on one thread, without a socket or a clock.
//!
//! Two connections are joined here. What the library would do next is a list of [`Action`]s; whoever
//! plays chooses one, and its callbacks run inside [`Script::perform`]. Between them nothing happens.
//!
//! Invariants: no callback runs while the script is borrowed, so it may call the table; events of a
//! stream come in the library's order; a window is never passed.

mod table;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Buf;
use msquic::ffi::{self as q, HQUIC, QUIC_API_TABLE, QUIC_STATUS};

pub(in crate::transport) use self::world::Action;
use self::world::{Stream, Submission, World};
use super::raw::{STATUS_SUCCESS, status};
use super::{ConnectionCallbacks, ConnectionSlot};
use crate::transport::bounds::Windows;

thread_local! {
    static SCRIPT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Whether this thread plays.
pub(super) fn table() -> Option<&'static QUIC_API_TABLE> {
    SCRIPT.with_borrow(Option::is_some).then_some(&table::TABLE)
}

/// Plays the library on this thread, for as long as that lives.
pub(in crate::transport) struct Script(());

impl Script {
    pub(in crate::transport) fn begin() -> Self {
        // What an earlier script left behind may still call: its handles are nobody's.
        let next = SCRIPT.with_borrow(|script| script.as_ref().map_or(1, |world| world.next));
        let world =
            World { next, connections: BTreeMap::new(), streams: BTreeMap::new(), refuse_sends: 0 };
        SCRIPT.set(Some(world));
        Self(())
    }

    /// Joins two connections that are connected from here on.
    pub(in crate::transport) fn join<C: ConnectionCallbacks>(
        &self,
        ends: [&Arc<C>; 2],
        certificate: &[u8],
        windows: Windows,
    ) {
        let first = with(|world| world.next);
        for end in ends {
            ConnectionSlot::open_scripted(end).expect("the script opens whatever it is asked for");
        }
        with(|world| {
            for (here, there) in [(first, first + 1), (first + 1, first)] {
                if let Some(connection) = world.connections.get_mut(&here) {
                    (connection.peer, connection.windows) = (there, windows);
                }
            }
        });
        for here in [first, first + 1] {
            let buffer = q::QUIC_BUFFER {
                Length: u32::try_from(certificate.len()).expect("a small certificate"),
                Buffer: certificate.as_ptr().cast_mut(),
            };
            let mut event = connection_event(
                q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_PEER_CERTIFICATE_RECEIVED,
            );
            event.__bindgen_anon_1.PEER_CERTIFICATE_RECEIVED.Certificate =
                (&raw const buffer).cast_mut().cast();
            tell_connection(here, &mut event);
            let mut event =
                connection_event(q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_CONNECTED);
            event.__bindgen_anon_1.CONNECTED.NegotiatedAlpn = b"test".as_ptr();
            event.__bindgen_anon_1.CONNECTED.NegotiatedAlpnLength = 4;
            tell_connection(here, &mut event);
        }
    }

    /// The next so many submissions are refused by the call.
    pub(in crate::transport) fn refuse_sends(&self, count: usize) {
        with(|world| world.refuse_sends = count);
    }

    /// Handles that are open.
    pub(in crate::transport) fn handles(&self) -> usize {
        with(|world| world.connections.len() + world.streams.len())
    }

    /// All that may happen next.
    pub(in crate::transport) fn actions(&self) -> Vec<Action> {
        with(|world| {
            let mut actions = Vec::new();
            for (&id, connection) in &world.connections {
                actions.extend(connection.asked.map(|_| Action::End(id)));
                actions.extend(connection.peer_asked.map(|_| Action::PeerEnd(id)));
            }
            for (&id, stream) in &world.streams {
                world.actions_of(id, stream, &mut actions);
            }
            actions
        })
    }

    /// Does it; `size` says how much, where that is open, and `parts` in how many buffers. Returns how
    /// many bytes went over.
    pub(in crate::transport) fn perform(&self, action: Action, size: usize, parts: usize) -> usize {
        if let Action::Deliver(id) = action {
            return with(|world| world.deliver(id, size));
        }
        self.tell(action, size, parts);
        0
    }

    fn tell(&self, action: Action, size: usize, parts: usize) {
        match action {
            Action::Start(id) => {
                with(|world| world.stream(id).started = true);
                tell_stream(id, q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_START_COMPLETE, |_| {});
            }
            Action::Announce(id) => announce(id),
            Action::Deliver(_) => {}
            Action::Indicate(id) => indicate(id, size, parts),
            Action::Acknowledge(id) => {
                let sent = with(|world| world.stream(id).sends.pop_front());
                complete(id, sent, false);
            }
            Action::Finish(id) => with(|world| {
                let stream = world.stream(id);
                stream.fin_sent = true;
                let partner = stream.partner;
                if let Some(partner) = partner.and_then(|id| world.streams.get_mut(&id)) {
                    partner.fin = true;
                }
            }),
            Action::Finished(id) => end_sending(id, true),
            Action::PeerFinished(id) => {
                let kind = q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_PEER_SEND_SHUTDOWN;
                tell_stream(id, kind, |_| {});
                close_stream(id);
            }
            Action::Reset(id) => {
                let (code, partner) = with(|world| {
                    let stream = world.stream(id);
                    (stream.reset.unwrap_or_default(), stream.partner)
                });
                with(|world| {
                    if let Some(partner) = partner.and_then(|id| world.streams.get_mut(&id)) {
                        partner.peer_reset = Some(code);
                    }
                });
                cancel(id);
                end_sending(id, false);
            }
            Action::PeerReset(id) => {
                let code = with(|world| {
                    world.stream(id).arrived.clear();
                    world.stream(id).peer_reset.unwrap_or_default()
                });
                let kind = q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_PEER_SEND_ABORTED;
                tell_stream(id, kind, |event| {
                    event.__bindgen_anon_1.PEER_SEND_ABORTED.ErrorCode = code;
                });
                close_stream(id);
            }
            Action::End(id) => {
                let code = with(|world| {
                    let code = world.connections.get(&id).and_then(|it| it.asked);
                    let peer = world.connections.get(&id).map(|it| it.peer);
                    let peer = peer.and_then(|peer| world.connections.get_mut(&peer));
                    peer.into_iter().for_each(|peer| peer.peer_asked = code);
                    code
                });
                debug_assert!(code.is_some());
                end_connection(id);
            }
            Action::PeerEnd(id) => {
                let code = with(|world| world.connections.get(&id).and_then(|it| it.peer_asked));
                let kind =
                    q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_SHUTDOWN_INITIATED_BY_PEER;
                let mut event = connection_event(kind);
                event.__bindgen_anon_1.SHUTDOWN_INITIATED_BY_PEER.ErrorCode =
                    code.unwrap_or_default();
                tell_connection(id, &mut event);
                end_connection(id);
            }
        }
    }
}

fn with<R>(change: impl FnOnce(&mut World) -> R) -> R {
    SCRIPT.with_borrow_mut(|script| change(script.as_mut().expect("this thread plays")))
}

fn handle(id: usize) -> HQUIC {
    std::ptr::without_provenance_mut(id)
}

fn connection_event(kind: q::QUIC_CONNECTION_EVENT_TYPE) -> q::QUIC_CONNECTION_EVENT {
    // SAFETY: a plain C struct of integers and pointers; all zero is valid.
    let mut event: q::QUIC_CONNECTION_EVENT = unsafe { std::mem::zeroed() };
    event.Type = kind;
    event
}

fn tell_connection(id: usize, event: &mut q::QUIC_CONNECTION_EVENT) -> QUIC_STATUS {
    let found = with(|world| world.connections.get(&id).map(|it| (it.callback, it.context)));
    let Some((Some(callback), context)) = found else { return STATUS_SUCCESS };
    // SAFETY: the callback and its context as they were given, until the handle is closed.
    unsafe { callback(handle(id), context, event) }
}

fn tell_stream(
    id: usize,
    kind: q::QUIC_STREAM_EVENT_TYPE,
    fill: impl FnOnce(&mut q::QUIC_STREAM_EVENT),
) -> q::QUIC_STREAM_EVENT {
    // SAFETY: a plain C struct of integers and pointers; all zero is valid.
    let mut event: q::QUIC_STREAM_EVENT = unsafe { std::mem::zeroed() };
    event.Type = kind;
    fill(&mut event);
    let found = with(|world| world.streams.get(&id).map(|it| (it.callback, it.context)));
    if let Some((Some(callback), context)) = found {
        // SAFETY: as for a connection's.
        unsafe { callback(handle(id), context, &raw mut event) };
    }
    event
}

fn announce(id: usize) {
    let (peer, incoming) = with(|world| {
        let connection = world.stream(id).connection;
        let incoming = world.next;
        world.next += 1;
        let connection = world.connections.get_mut(&connection).expect("its connection");
        connection.announced += 1;
        let peer = connection.peer;
        let number = world.stream(id).number;
        world.streams.insert(incoming, Stream { is_peers: true, number, ..Stream::new(peer) });
        world.stream(id).partner = Some(incoming);
        (peer, incoming)
    });
    let mut event =
        connection_event(q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_PEER_STREAM_STARTED);
    event.__bindgen_anon_1.PEER_STREAM_STARTED.Stream = handle(incoming);
    if tell_connection(peer, &mut event) != STATUS_SUCCESS {
        with(|world| world.streams.remove(&incoming));
    }
}

fn indicate(id: usize, size: usize, parts: usize) {
    let mut bytes = with(|world| {
        let arrived = &mut world.stream(id).arrived;
        let given = arrived.len().min(size.max(1));
        arrived.split_to(given)
    });
    let total = bytes.len();
    let each = total.div_ceil(parts.clamp(1, total));
    let buffers: Vec<q::QUIC_BUFFER> = bytes
        .chunks_mut(each)
        .map(|part| q::QUIC_BUFFER { Length: part.len() as u32, Buffer: part.as_mut_ptr() })
        .collect();
    let kind = q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_RECEIVE;
    // Before the call: the application may let it go on again from inside.
    with(|world| world.stream(id).enabled = false);
    let event = tell_stream(id, kind, |event| {
        event.__bindgen_anon_1.RECEIVE.TotalBufferLength = total as u64;
        event.__bindgen_anon_1.RECEIVE.Buffers = buffers.as_ptr();
        event.__bindgen_anon_1.RECEIVE.BufferCount = buffers.len() as u32;
    });
    // SAFETY: the field that belongs to this event.
    let consumed = unsafe { event.__bindgen_anon_1.RECEIVE.TotalBufferLength } as usize;
    with(|world| {
        let Some(stream) = world.streams.get_mut(&id) else { return };
        bytes.advance(consumed);
        bytes.unsplit(std::mem::take(&mut stream.arrived));
        stream.arrived = bytes;
        stream.enabled |= consumed == total;
    });
}

fn complete(id: usize, sent: Option<Submission>, canceled: bool) {
    let Some(sent) = sent else { return };
    let kind = q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SEND_COMPLETE;
    tell_stream(id, kind, |event| {
        event.__bindgen_anon_1.SEND_COMPLETE.Canceled = canceled.into();
        event.__bindgen_anon_1.SEND_COMPLETE.ClientContext = sent.context;
    });
}

fn cancel(id: usize) {
    while let Some(sent) = with(|world| world.stream(id).sends.pop_front()) {
        complete(id, Some(sent), true);
    }
}

fn end_sending(id: usize, graceful: bool) {
    let kind = q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SEND_SHUTDOWN_COMPLETE;
    tell_stream(id, kind, |event| {
        event.__bindgen_anon_1.SEND_SHUTDOWN_COMPLETE.Graceful = graceful.into();
    });
    close_stream(id);
}

fn close_stream(id: usize) {
    tell_stream(id, q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SHUTDOWN_COMPLETE, |_| {});
}

fn end_connection(id: usize) {
    with(|world| {
        let connection = world.connections.get_mut(&id);
        connection.into_iter().for_each(|connection| connection.ending = true);
    });
    let streams: Vec<(usize, bool)> = with(|world| {
        let own = world.streams.iter().filter(|(_, stream)| stream.connection == id);
        own.map(|(&id, stream)| (id, stream.is_peers)).collect()
    });
    for (stream, is_peers) in streams {
        if is_peers {
            close_stream(stream);
        } else {
            cancel(stream);
            end_sending(stream, false);
        }
    }
    let kind = q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_SHUTDOWN_COMPLETE;
    tell_connection(id, &mut connection_event(kind));
}
