//! The shadow's lane, never on a caller's path: which reads are copied, within which limits, and how
//! the two answers compare.
//!
//! All but [`lane`] decides and counts; it does no I/O and reads no clock.

pub mod breaker;
pub mod budget;
pub mod compare;
pub mod lane;
pub mod plateau;
pub mod recent;
pub mod sample;
pub mod session;
pub mod shadow;
pub mod skip;
