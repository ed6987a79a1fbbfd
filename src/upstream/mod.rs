//! Reaching the instances of a service.

pub mod tls;
