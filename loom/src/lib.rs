//! Every order in which threads may take the steps of four protocols, played by loom: who watches
//! lanes, who waits for room of a lane, to whom frames are handed over, and who tells a peer what was taken.
//!
//! The files of the library are built as they are. `src/sync.rs` takes its types from `played.rs`
//! here; what the models do not look into (`errors.rs`, `identities.rs`, `limits.rs`,
//! `never.rs`, `counts.rs`) is in short.
#![allow(
    dead_code,
    unused_imports,
    reason = "files are here whole, of which the models use a part"
)]

#[path = "limits.rs"]
mod config;
#[path = "errors.rs"]
mod error;
#[path = "../../src/frame.rs"]
mod frame;
#[path = "identities.rs"]
mod identity;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/marks.rs"]
mod marks;
mod never;
mod played;
mod polling;
#[path = "../../src/sync.rs"]
mod sync;

#[path = "../../src/session"]
mod session {
    pub(crate) mod telling;
}

#[path = "../../src/peers"]
mod peers {
    mod teller;
    #[path = "../../loom/src/tellers.rs"]
    pub mod tellers;
}

#[path = "../../src/transport"]
mod transport {
    #[path = "../../loom/src/counts.rs"]
    mod counts;
    pub(crate) mod fault;
    mod guarded;
    mod lane;
    mod link;
    mod node_room;

    mod core {
        mod delivery;
        mod intake;
        mod readers;
        mod waiting;

        #[path = "../../../loom/src/readers.rs"]
        pub mod models;
    }

    #[path = "../../loom/src/rooms.rs"]
    pub mod rooms;
    #[path = "../../loom/src/watches.rs"]
    pub mod watches;

    pub use self::core::models as readers;
    use self::fault::{Fault, plant};

    /// loom's threads are one thread of the system: the fault is there in all of them.
    pub(super) fn plant_by_name(name: &str) {
        let faults = [
            Fault::WatchRestsWithoutALook,
            Fault::WakerComesBehindTheLook,
            Fault::ShutMissesWhoComes,
            Fault::ReaderLooksBeforeItWaits,
            Fault::DeliveryEndsBehindItsLook,
            Fault::TellerLooksBeforeItRests,
        ];
        let named = faults.into_iter().find(|fault| format!("{fault:?}") == name);
        assert!(named.is_some(), "{name} is no fault that is looked for here");
        plant(named);
    }
}

pub use peers::tellers;
pub use transport::{readers, rooms, watches};
