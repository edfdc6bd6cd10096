//! The transports that moorline is compared with, each as its users would drive it.

mod msquic_async;
mod quinn;
#[cfg(feature = "s2n")]
mod s2n_quic;
mod tcp_rustls;
#[cfg(feature = "tonic")]
pub(crate) mod tonic;

pub(crate) use self::msquic_async::MsQuicAsync;
pub(crate) use self::quinn::Quinn;
#[cfg(feature = "s2n")]
pub(crate) use self::s2n_quic::S2nQuic;
pub(crate) use self::tcp_rustls::TcpRustls;
