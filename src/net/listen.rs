//! Listening sockets. One socket per address for the whole process, duplicated into each worker's
//! poller: a socket per worker (`SO_REUSEPORT`) would reset what it had not accepted when it closes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::Stream;
use crate::config::Address;

/// As deep as the kernel allows (it caps the value at `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Binds `address`. A Unix socket left over from a dead process is replaced; a live one is not.
pub fn bind(address: &Address) -> io::Result<OwnedFd> {
    match address {
        Address::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            // Connections in TIME_WAIT must not keep a restarted process from its own port.
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.set_nonblocking(true)?;
            // Accepted sockets inherit it; without it a head and a body in two writes wait for a
            // delayed ACK.
            socket.set_tcp_nodelay(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        }
        Address::Unix(path) => {
            remove_dead_socket(path)?;
            let listener = StdUnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(listener.into())
        }
    }
}

fn remove_dead_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if StdUnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
            }
            std::fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The address that `socket` is bound to; `None` for a Unix socket.
pub fn local_address(socket: &OwnedFd) -> io::Result<Option<SocketAddr>> {
    let socket = Socket::from(socket.try_clone()?);
    Ok(socket.local_addr()?.as_socket())
}

/// A listening socket registered with the current thread's runtime.
pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    /// Registers a duplicate of `socket`, so that each worker polls its own descriptor of the same
    /// open socket.
    pub fn register(socket: &OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket.try_clone()?);
        socket.set_nonblocking(true)?;
        let is_unix = socket.domain()? == Domain::UNIX;
        let socket = OwnedFd::from(socket);
        Ok(if is_unix {
            Self::Unix(UnixListener::from_std(socket.into())?)
        } else {
            Self::Tcp(TcpListener::from_std(socket.into())?)
        })
    }

    /// The next connection, and the caller's address where the transport has one.
    pub async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(canonical(peer))))
            }
            Self::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// An IPv4 caller of a dual-stack socket is an IPv4 caller.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
