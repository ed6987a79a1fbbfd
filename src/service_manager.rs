//! systemd: sockets that it opened for us, and telling it how far we are. Without systemd nothing
//! happens here.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;

#[derive(Debug, thiserror::Error)]
#[error("taking over the sockets that systemd opened: {0}; each has to be a listening stream socket")]
pub struct ActivationError(#[from] io::Error);

/// The listening sockets that were passed to this process.
pub fn sockets() -> Result<Vec<OwnedFd>, ActivationError> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::with_capacity(passed.len());
    for index in 0..passed.len() {
        // The kind has to be asked for; a socket of the other kind is left in its place.
        if let Ok(Some(tcp)) = passed.take_tcp_listener(index) {
            sockets.push(tcp.into());
        } else if let Some(unix) = passed.take_unix_listener(index)? {
            sockets.push(unix.into());
        }
    }
    Ok(sockets)
}

/// Tells the service manager something, such as `READY=1`.
pub fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&path, state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// `Type=notify-reload` wants the time with it, to tell this reload from an earlier one.
pub fn notify_reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

fn send(path: &std::ffi::OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let bytes = path.as_encoded_bytes();
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}
