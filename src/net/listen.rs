//! Listening sockets. One socket per address for the whole process, duplicated into each worker's
//! poller: a socket per worker (`SO_REUSEPORT`) would reset what it had not accepted when it closes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;

use rustix::io::retry_on_intr;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

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
pub struct Listening {
    socket: AsyncFd<Socket>,
    is_unix: bool,
}

impl Listening {
    /// Registers a duplicate of `socket`, so that each worker polls its own descriptor of the same
    /// open socket.
    pub fn register(socket: &OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket.as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(true)?;
        let is_unix = socket.domain()? == Domain::UNIX;
        Ok(Self { socket: AsyncFd::register_with_interest(socket, Interest::READABLE)?, is_unix })
    }

    /// Waits until a connection may be there. It may also be gone again: another worker polls too.
    pub async fn ready(&self) -> io::Result<()> {
        self.socket.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// The next connection, and the caller's address where the transport has one; `None` when
    /// nothing is left to accept.
    pub fn accept(&self) -> io::Result<Option<(Stream, Option<SocketAddr>)>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = self
            .socket
            .try_io(Interest::READABLE, |socket| Ok(retry_on_intr(|| acceptfrom_with(socket, flags))?));
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.is_unix {
            return Ok(Some((Stream::Unix(UnixStream::from_std(socket.into())?), None)));
        }
        let stream = Stream::Tcp(TcpStream::from_std(socket.into())?);
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map(canonical);
        Ok(Some((stream, peer)))
    }
}

/// An IPv4 caller of a dual-stack socket is an IPv4 caller.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
