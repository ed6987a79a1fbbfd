//! Where callers come in: what is expected on a socket before HTTP begins.

pub mod proxy_protocol;
pub mod tls;

use std::os::fd::OwnedFd;

pub use self::tls::TlsListener;
use crate::config::Address;

/// One listening socket of the process, and what a connection on it has to begin with.
pub struct Entrance {
    pub address: Address,
    pub socket: OwnedFd,
    pub tls: Option<TlsListener>,
    pub proxy_protocol: bool,
}
