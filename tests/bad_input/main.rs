//! Bad input: whatever a caller or an operator sends, it is refused or made well-formed, costs little,
//! and disturbs nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

#[path = "../support/mod.rs"]
mod support;

mod configuration;
mod connections;
mod flood;
mod oversize;
mod reload;
mod slow;
mod smuggling;
mod upgrade;
