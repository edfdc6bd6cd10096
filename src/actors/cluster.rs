//! Messages beside ractor's feature `cluster`.
//!
//! Without it everything is a message; with it a type must say that it is one. None of ours goes to
//! another node of a cluster: they carry reply ports, credits and references, so none can be
//! serialized, and ractor_cluster shows no actor of ours to others.

#[cfg(feature = "cluster")]
const _: () = {
    impl ractor::Message for super::message::connection::ConnectionMessage {}
    impl ractor::Message for super::message::connector::ConnectorMessage {}
    impl ractor::Message for super::events::EventBatch {}
    impl ractor::Message for super::frame_batch::FrameBatch {}
    impl ractor::Message for super::listener::ListenerMessage {}
    impl ractor::Message for super::message::peer::PeerMessage {}
    impl ractor::Message for super::message::supervisor::SupervisorMessage {}
    impl ractor::Message for super::arrived_peer::ArrivedPeer {}
    impl ractor::Message for super::peer_batch::PeerBatch {}
    impl ractor::Message for super::watching::PeerNews {}
};

/// Says what to do where Cargo built ractor with `cluster`, for another crate of the program, and
/// moorline without. It is the first of many errors then.
#[cfg(not(feature = "cluster"))]
const _: () = {
    #[diagnostic::on_unimplemented(
        message = "another crate switches on ractor's feature `cluster`: moorline needs its own \
                   feature `cluster` too",
        label = "is no message without it",
        note = "in the program's Cargo.toml: moorline = {{ version = \"…\", features = [\"cluster\"] }}"
    )]
    #[allow(dead_code, reason = "it is there for what the compiler says")]
    trait IsMessage {}

    #[diagnostic::do_not_recommend]
    impl<T: ractor::Message> IsMessage for T {}

    #[allow(dead_code, reason = "as above")]
    trait Checked: IsMessage {}

    impl Checked for super::message::connection::ConnectionMessage {}
};
