//! Promise: what Segue reports is what happened. Its percentiles are those that an independent client
//! measures, no answer is counted twice or lost, the two sides of a pair are timed alike, and a pair is
//! called a mismatch only if it is one.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[path = "../support/mod.rs"]
mod support;

mod exclusive_bias;
mod exclusive_percentiles;
mod merge;
mod verdicts;
