//! Moving a service from one instance to the other.

pub mod failpoint;
pub mod phase;
pub mod record;
pub mod switchover;
