//! A connection that came to stand: it gets its actor, and everybody learns of it.
//!
//! Invariants: whoever learns of a connection learns of its end; a connection for which there is no
//! room is cut, and only told as refused.

use std::sync::Arc;

use ractor::{Actor, ActorCell};

use super::connection::{Arguments, ConnectionActor};
use super::handle::{ConnectionHandle, Ends};
use super::shared::NodeShared;
use crate::error::CloseCode;
use crate::registry::RegistryFull;
use crate::session::effect::Origin;
use crate::transport::{Direction, MsQuicNetConnection};

/// Why a connection that stands is not kept. It is cut.
pub(super) enum NotEstablished {
    NoRoom(RegistryFull, CloseCode),
    /// Its actor did not start.
    Failed,
}

/// Spawns the actor of an established connection and makes it known.
pub(super) async fn establish(
    shared: &Arc<NodeShared>,
    connection: MsQuicNetConnection,
    supervisor: ActorCell,
) -> Result<ConnectionHandle, NotEstablished> {
    let epoch = shared.epochs.next();
    let core = Arc::clone(connection.core());
    let handle = {
        let ends = Ends::of(&connection);
        let arguments = Arguments { connection, epoch, span: shared.span.clone() };
        let spawned = Actor::spawn_linked(None, ConnectionActor, arguments, supervisor).await;
        let (actor, _) = spawned.map_err(|_| NotEstablished::Failed)?;
        ConnectionHandle::new(Arc::clone(&core), actor.get_cell(), epoch, ends)
    };
    let (peer, remote) = (handle.peer(), handle.remote_addr());
    if let Err(full) = shared.registry.insert(peer, epoch, handle.clone()) {
        let code = match full {
            RegistryFull::OfAll { .. } => CloseCode::TOO_MANY_CONNECTIONS,
            RegistryFull::OfPeer { .. } => CloseCode::TOO_MANY_OF_PEER,
        };
        core.cut(code);
        if core.direction() == Direction::Inbound {
            shared.transport.refused_without_room(code);
        }
        return Err(NotEstablished::NoRoom(full, code));
    }
    if core.carries_session() {
        return Ok(carry(shared, handle));
    }
    if core.direction() == Direction::Inbound {
        // The sign of acceptance that a dialling peer waits for.
        core.announce();
    }
    shared.telling.connected(handle.clone());
    // Not of all that is shared: the connection would keep what its own end may have to drop.
    let (watcher, telling) = (Arc::downgrade(shared), Arc::clone(&shared.telling));
    core.on_over(Box::new(move |_| {
        telling.over(peer, epoch);
        let Some(shared) = watcher.upgrade() else { return };
        shared.registry.remove(&peer, epoch);
        shared.left.notify_waiters();
    }));
    let telling = Arc::clone(&shared.telling);
    core.on_complete(Box::new(move |reason| {
        telling.complete(peer, epoch, remote, reason.clone());
    }));
    if core.direction() == Direction::Inbound {
        shared.arrivals.tell(&handle);
    }
    if shared.is_stopping() {
        core.cut(CloseCode::GOING_AWAY);
    }
    Ok(handle)
}

/// A connection whose streams carry a session: its peer is told of by that.
fn carry(shared: &Arc<NodeShared>, handle: ConnectionHandle) -> ConnectionHandle {
    let core = handle.core();
    let (watcher, peer, epoch) = (Arc::downgrade(shared), handle.peer(), handle.epoch());
    core.on_over(Box::new(move |_| {
        let Some(shared) = watcher.upgrade() else { return };
        shared.registry.remove(&peer, epoch);
        shared.left.notify_waiters();
    }));
    if shared.is_stopping() {
        core.cut(CloseCode::GOING_AWAY);
    } else if core.direction() == Direction::Inbound {
        shared.sessions().link_up(Arc::clone(core), Origin::Accepted);
    }
    handle
}
