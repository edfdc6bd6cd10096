//! The parts alone, and nodes over links that break at any moment.

mod data;
mod flows;
mod joined;
mod messages;
mod refusals;
mod requests;
mod tables;
mod teller;
mod world;
