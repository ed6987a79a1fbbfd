//! Promises 4 and 5: a switchover fails no request, and at every instant exactly one instance takes
//! writes. Shown on real processes: Segue, two instances that share their state, and callers.

mod callers;
mod crash;
mod drain;
mod hold;
mod load;
mod parking;
mod refusals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod websocket;
