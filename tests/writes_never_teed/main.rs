//! Promise: nothing that may write is ever teed, and what is teed is exactly the share that was asked
//! for.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[path = "../support/mod.rs"]
mod support;

mod dresses;
mod property;
mod rate;
mod sessions;
