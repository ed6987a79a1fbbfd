//! Fidelity: what a caller and an instance say to each other arrives as it was said, over every
//! protocol on either side.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod ending;
mod endpoints;
mod expect;
mod foreign;
mod headers;
mod http2;
mod resting;
mod stale;
mod tls;
mod upstreams;
mod websocket;
