//! Failures of actors, over real MsQuic on loopback.
