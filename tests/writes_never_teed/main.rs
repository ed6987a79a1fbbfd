//! Promise: nothing that may write is ever teed, and what is teed is exactly the share that was asked
//! for.

#[path = "../support/mod.rs"]
mod support;

mod dresses;
mod property;
mod rate;
mod sessions;
