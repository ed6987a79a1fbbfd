//! Fidelity: what a caller and an instance say to each other arrives as it was said, over every
//! protocol on either side.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod clients;
mod ending;
mod endpoints;
mod expect;
mod foreign;
mod framing;
mod headers;
mod http2;
mod resting;
mod resting_tls;
mod stale;
mod tls;
mod upstreams;
mod websocket;
