//! Upgrading Segue itself: no caller is refused, cut or answered twice, the gates hold over both
//! processes, and a successor that cannot take over changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

#[path = "../support/mod.rs"]
mod support;

mod callers;
mod gates;
mod refusals;
mod stage;
