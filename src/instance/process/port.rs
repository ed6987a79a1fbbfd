//! The port of an instance: picked once, so that it is found at the same place by whoever comes later.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

/// Where picking begins; below are services that are known by their numbers.
const LOWEST: u16 = 20_000;
/// Before the kernel is asked for one.
const ATTEMPTS: usize = 64;

/// One that is free now. Not of those that the kernel gives to connections going out, if there are others: between
/// two starts of the instance one of those could take it.
pub fn pick() -> std::io::Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(LOWEST);
    let free = (0..ATTEMPTS).find_map(|_| {
        let port = (LOWEST < outgoing).then(|| fastrand::u16(LOWEST..outgoing))?;
        is_free(port).then_some(port)
    });
    match free {
        Some(port) => Ok(port),
        None => Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()),
    }
}

/// Whether an instance could listen on it.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_not_free() {
        let port = pick().unwrap();
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
        drop(held);
    }
}
