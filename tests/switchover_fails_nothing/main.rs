//! Promises 4 and 5: a switchover fails no request, and at every instant exactly one instance takes
//! writes. Shown in a model of the protocol, explored exhaustively, and on real processes: Segue, two
//! instances that share their state, and callers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod callers;
mod crash;
mod drain;
mod hold;
mod load;
mod model;
mod parking;
mod refusals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod websocket;
