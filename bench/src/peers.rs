//! The transports that moorline is compared with, each as its users would drive it.

mod msquic_async;
mod quinn;
mod tcp_rustls;
#[cfg(feature = "tonic")]
pub(crate) mod tonic;

pub(crate) use self::msquic_async::MsQuicAsync;
pub(crate) use self::quinn::Quinn;
pub(crate) use self::tcp_rustls::TcpRustls;
