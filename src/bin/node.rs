//! The command `moorline`. Its modules are in the folder of its name:
//!
//! ```text
//! arguments ── app ─┬─ keys            keygen, id, version
//!    │          │   ├─ run             a node until it is told to stop
//!  output      exit ├─ send, ping ──── dial
//!    │          │   ├─ bench           bench/…
//! line_queue   wait └─ demo            demo/…
//!    │
//!  signals    logging
//! ```
//!
//! Invariant: every node is started through [`app::App::start`], and `app` shuts down whatever was
//! started before the process ends. MsQuic aborts a process that ends with live connections.

#[path = "node/app.rs"]
mod app;

fn main() -> std::process::ExitCode {
    app::main()
}
