//! Each deployment that is shown is one that works: the example configurations serve a request, and the
//! image runs as it says.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod configurations;
mod image;
