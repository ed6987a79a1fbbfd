//! Containers belong to Segue and outlive it: what it made it finds again, holds to its allocation, freezes and ends;
//! nothing of one that is destroyed stays on the engine, and nothing of anybody else's is touched. Shown on a real
//! engine.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod allocations;
mod crash;
mod dry_run;
mod engines;
mod lives;
mod migration;
mod moving;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod traces;
