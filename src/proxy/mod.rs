//! The caller's path, in the order a request passes it.

pub mod classify;
pub mod listener;
