//! Faults inside of this library, for a program that wants to see what it does about them.
//!
//! A [`Failure`] is planted in the nodes of this process, in one of them if it is told so, and is there for as
//! long as what planting returned lives:
//!
//! ```
//! use std::time::Duration;
//!
//! use moorline::testing::failpoint::{Failpoint, Failure};
//! use moorline::testing::Cluster;
//! use moorline::{NodeEvent, Redial};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::start(2, 7).await?;
//! let (one, mut events) = (cluster.node(0), cluster.node(0).subscribe());
//! let target = cluster.target(0, 1).redial(Redial::Always);
//! let connection = one.connect(target).await?;
//!
//! // The actor of the connection fails at the next message, once.
//! let failure = Failure::Panic(Failpoint::ConnectionHandle);
//! let planted = failure.plan().at(one.identity()).times(1).plant();
//! drop(connection.close(moorline::CloseCode::NORMAL).await);
//! planted.strikes(1).await;
//!
//! // What the library promises: the reason is named, and a target that is kept is dialled again.
//! while let Some(event) = events.next().await {
//!     if let NodeEvent::Connected(again) = event && again.epoch() > connection.epoch() {
//!         break;
//!     }
//! }
//! cluster.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A panic in a callback never leaves the library: the connection it happened to ends with
//! [`CloseCode::INTERNAL`](crate::CloseCode::INTERNAL), and others go on. What actors do is in ARCHITECTURE.md.
//!
//! A [`FlowFault`] makes sessions break their promise, to see that a check finds it.

pub use crate::failpoint::{Failpoint, Failure, Plan, Planted, PlantedFlowFault, UnknownFailpoint};
pub use crate::session::flow_fault::FlowFault;
