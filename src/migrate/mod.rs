//! Moving a service from one instance to the other.

pub mod checks;
pub mod counter;
pub mod failpoint;
pub mod gate;
pub mod hook;
pub mod phase;
pub mod protocol;
pub mod reading;
pub mod record;
pub mod switchover;
pub mod warm;
pub mod window;
