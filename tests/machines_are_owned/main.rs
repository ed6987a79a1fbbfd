//! Machines of EC2 belong to Segue and outlive it: what it made it finds again, resizes, stops and ends; nothing of one
//! that is destroyed stays in the account, and nothing of anybody else's is touched. Shown on moto, which speaks EC2's
//! API; machines have addresses of the loopback network there, so that a process here can be the application on them.

#![cfg(feature = "ec2")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod account;
mod interruptions;
mod lives;
mod migration;
mod refusals;
mod sizes;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod traces;
