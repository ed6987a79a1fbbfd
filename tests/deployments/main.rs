//! Each deployment that is shown is one that works: the example configurations serve a request, and the
//! image runs as it says.

#[path = "../support/mod.rs"]
mod support;

mod configurations;
mod image;
