//! A migration ends on one instance, whatever happens in the middle: done, or as if it had never been.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod bypass;
mod cli;
mod clock;
mod counted;
mod crash;
mod deaths;
mod dry_run;
mod hooks;
mod onward;
mod panics;
mod side_by_side;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
mod warming;
mod ways_out;
