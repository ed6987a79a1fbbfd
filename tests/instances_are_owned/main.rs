//! Instances belong to Segue and outlive it: what it started it finds again, holds to its allocation, freezes and
//! ends to the last process; and nothing of one that is destroyed stays behind. Shown on real processes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod process;
mod stage;
#[path = "../support/mod.rs"]
mod support;
