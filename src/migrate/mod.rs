//! Moving a service from one instance to the other.

pub mod phase;
pub mod switchover;
