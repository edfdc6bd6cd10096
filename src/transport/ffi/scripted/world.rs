//! What the script knows of connections and streams, and what may happen to them.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;

use bytes::{Buf, BytesMut};
use msquic::ffi as q;

use crate::transport::bounds::Windows;

/// What the library may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Action {
    /// A stream of ours is told that it has started.
    Start(usize),
    /// The peer is told of a stream.
    Announce(usize),
    /// Bytes of a stream reach the other end.
    Deliver(usize),
    /// They are given to the application, as far as it takes them.
    Indicate(usize),
    /// A submission is acknowledged.
    Acknowledge(usize),
    /// The end of a stream reaches the other end.
    Finish(usize),
    /// It is acknowledged.
    Finished(usize),
    /// The application is told that the peer ended its stream.
    PeerFinished(usize),
    /// A stream is given up at this end.
    Reset(usize),
    /// The application is told that the peer gave it up.
    PeerReset(usize),
    /// A connection ends at this end.
    End(usize),
    /// It ends because the other one did.
    PeerEnd(usize),
}

pub(super) struct World {
    pub(super) next: usize,
    pub(super) connections: BTreeMap<usize, Connection>,
    pub(super) streams: BTreeMap<usize, Stream>,
    pub(super) refuse_sends: usize,
}

pub(super) struct Connection {
    pub(super) peer: usize,
    pub(super) callback: q::QUIC_CONNECTION_CALLBACK_HANDLER,
    pub(super) context: *mut c_void,
    pub(super) windows: Windows,
    /// Of streams of this end.
    pub(super) started: u64,
    pub(super) announced: u64,
    pub(super) asked: Option<u64>,
    pub(super) peer_asked: Option<u64>,
    /// It is ending: nothing can be opened on it any more.
    pub(super) ending: bool,
}

pub(super) struct Stream {
    pub(super) connection: usize,
    pub(super) number: Option<u64>,
    pub(super) callback: q::QUIC_STREAM_CALLBACK_HANDLER,
    pub(super) context: *mut c_void,
    /// The handle of the other end.
    pub(super) partner: Option<usize>,
    pub(super) started: bool,
    pub(super) wanted: bool,
    pub(super) sends: VecDeque<Submission>,
    pub(super) finish: bool,
    pub(super) fin_sent: bool,
    pub(super) reset: Option<u64>,
    // At the receiving end.
    pub(super) is_peers: bool,
    pub(super) arrived: BytesMut,
    pub(super) enabled: bool,
    pub(super) fin: bool,
    pub(super) peer_reset: Option<u64>,
}

pub(super) struct Submission {
    pub(super) left: BytesMut,
    pub(super) context: *mut c_void,
}

impl World {
    pub(super) fn stream(&mut self, id: usize) -> &mut Stream {
        self.streams.get_mut(&id).expect("an action of a stream that is there")
    }

    pub(super) fn actions_of(&self, id: usize, stream: &Stream, actions: &mut Vec<Action>) {
        if stream.is_peers {
            let gone = stream.peer_reset.is_some();
            if gone {
                actions.push(Action::PeerReset(id));
            } else if stream.enabled && !stream.arrived.is_empty() {
                actions.push(Action::Indicate(id));
            } else if stream.fin && stream.arrived.is_empty() {
                actions.push(Action::PeerFinished(id));
            }
            return;
        }
        let (Some(number), Some(connection)) =
            (stream.number, self.connections.get(&stream.connection))
        else {
            return;
        };
        if !stream.started {
            return actions.push(Action::Start(id));
        }
        let peer = self.connections.contains_key(&connection.peer);
        if !peer || connection.asked.is_some() || connection.peer_asked.is_some() {
            return;
        }
        if stream.partner.is_none() {
            let says = stream.wanted || !stream.sends.is_empty() || stream.finish;
            // Streams are opened in the order of their numbers (RFC 9000, section 3.2).
            let later = self.streams.values().any(|other| {
                other.connection == stream.connection
                    && other.number > Some(number)
                    && (other.wanted || !other.sends.is_empty() || other.finish)
            });
            if number == connection.announced && (says || later || stream.reset.is_some()) {
                actions.push(Action::Announce(id));
            }
            return;
        }
        if stream.reset.is_some() {
            return actions.push(Action::Reset(id));
        }
        if stream.sends.iter().any(|sent| sent.left.has_remaining()) && self.room_for(stream) > 0 {
            actions.push(Action::Deliver(id));
        }
        if stream.sends.front().is_some_and(|sent| !sent.left.has_remaining()) {
            actions.push(Action::Acknowledge(id));
        }
        if stream.finish && stream.sends.is_empty() {
            actions.push(if stream.fin_sent { Action::Finished(id) } else { Action::Finish(id) });
        }
    }

    /// What the windows of the other end still take.
    fn room_for(&self, stream: &Stream) -> usize {
        let Some(partner) = stream.partner.and_then(|id| self.streams.get(&id)) else {
            return usize::MAX;
        };
        let of_all = self.streams.values().filter(|other| other.connection == partner.connection);
        let held: usize = of_all.map(|other| other.arrived.len()).sum();
        let windows = self.connections[&partner.connection].windows;
        let stream = (windows.stream as usize).saturating_sub(partner.arrived.len());
        stream.min((windows.connection as usize).saturating_sub(held))
    }

    pub(super) fn deliver(&mut self, id: usize, size: usize) -> usize {
        let room = self.room_for(&self.streams[&id]).min(size.max(1));
        let stream = self.stream(id);
        let Some(sent) = stream.sends.iter_mut().find(|sent| sent.left.has_remaining()) else {
            return 0;
        };
        let bytes = sent.left.split_to(room.min(sent.left.len()));
        let partner = stream.partner;
        // Of a stream that the other end has closed already nobody wants anything.
        if let Some(partner) = partner.and_then(|id| self.streams.get_mut(&id)) {
            partner.arrived.extend_from_slice(&bytes);
        }
        bytes.len()
    }
}

impl Stream {
    pub(super) fn new(connection: usize) -> Self {
        Self {
            connection,
            number: None,
            callback: None,
            context: std::ptr::null_mut(),
            partner: None,
            started: false,
            wanted: false,
            sends: VecDeque::new(),
            finish: false,
            fin_sent: false,
            reset: None,
            is_peers: false,
            arrived: BytesMut::new(),
            enabled: true,
            fin: false,
            peer_reset: None,
        }
    }
}
