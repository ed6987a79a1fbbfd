//! Promise: the shadow can never hurt a caller. Whatever the shadow does, callers get the bytes, the
//! status and the latency that they would have got without a tee; what the tee itself uses is bounded,
//! and what it leaves out is counted by reason.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod breaker;
mod exclusive_latency;
mod exclusive_memory;
mod leg;
mod limits;
