//! Sockets: the listening one, that all workers share, and accepted ones, that a fault can sabotage
//! underneath the HTTP server.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Address;

/// Connections that the kernel keeps while the workers are busy.
const BACKLOG: i32 = 4096;
/// What every HTTP/2 connection begins with, and no HTTP/1.1 request can.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Enough for a usual request head, so that looking at it costs no extra read.
const SNIFFED: usize = 1024;
const GARBAGE: &[u8] = b"\x16\x03 this is no status line\r\n\r\n";

/// A bound, listening socket.
pub(super) struct Bound {
    socket: socket2::Socket,
    pub address: Address,
}

impl Bound {
    pub fn bind(address: &Address) -> io::Result<Self> {
        let (socket, name) = match address {
            Address::Tcp(address) => {
                let socket = socket2::Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                (socket, SockAddr::from(*address))
            }
            Address::Unix(path) => {
                remove_stale(path);
                (socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?, SockAddr::unix(path)?)
            }
        };
        socket.bind(&name)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let address = match address {
            Address::Tcp(_) => {
                let real = socket.local_addr()?.as_socket();
                Address::Tcp(real.ok_or_else(|| io::Error::other("the socket has no TCP address"))?)
            }
            Address::Unix(path) => Address::Unix(path.clone()),
        };
        Ok(Self { socket, address })
    }

    /// The socket as one more worker's runtime sees it.
    pub fn register(&self) -> io::Result<Listener> {
        let socket = self.socket.try_clone()?;
        Ok(match self.address {
            Address::Tcp(_) => Listener::Tcp(TcpListener::from_std(socket.into())?),
            Address::Unix(_) => Listener::Unix(UnixListener::from_std(StdUnixListener::from(socket))?),
        })
    }

    /// Makes new connections fail at once, keeping the address.
    ///
    /// Shutting a listening TCP socket down takes it out of the listening state for every holder of
    /// it, which closing does not; a Unix socket is moved out of sight.
    pub fn refuse(&self) -> io::Result<()> {
        match &self.address {
            Address::Tcp(_) => {
                self.socket.shutdown(std::net::Shutdown::Both)?;
                self.claim_port()
            }
            Address::Unix(path) => std::fs::rename(path, hidden(path)),
        }
    }

    /// Undoes [`Bound::refuse`].
    pub fn listen_again(&self) -> io::Result<()> {
        match &self.address {
            Address::Tcp(_) => self.socket.listen(BACKLOG),
            Address::Unix(path) => std::fs::rename(hidden(path), path),
        }
    }

    /// A port that the kernel chose is given back on shutdown, one that was asked for is kept, and
    /// binding again says so.
    fn claim_port(&self) -> io::Result<()> {
        let Address::Tcp(address) = &self.address else { return Ok(()) };
        match self.socket.bind(&SockAddr::from(*address)) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            bound => bound,
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // Whether it was hidden or not; nothing is lost if it is gone.
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(hidden(path));
        }
    }
}

fn hidden(path: &std::path::Path) -> PathBuf {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".refused");
    hidden.into()
}

/// A socket file that nobody answers at is what a killed predecessor left.
fn remove_stale(path: &std::path::Path) {
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let _ = std::fs::remove_file(path);
    }
}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _): (_, SocketAddr) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        })
    }
}

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Reads until it is clear which protocol is spoken: whether it is HTTP/2, and what was read.
    pub async fn sniff(&mut self) -> io::Result<(bool, Bytes)> {
        let mut head = BytesMut::with_capacity(SNIFFED);
        loop {
            let read = match self {
                Self::Tcp(stream) => stream.read_buf(&mut head).await?,
                Self::Unix(stream) => stream.read_buf(&mut head).await?,
            };
            if head.starts_with(PREFACE) {
                return Ok((true, head.freeze()));
            }
            if read == 0 || !PREFACE.starts_with(&head) {
                return Ok((false, head.freeze()));
            }
        }
    }
}

/// What a fault does to a connection underneath HTTP.
#[derive(Debug, Default)]
pub(super) struct Sabotage(AtomicU8);

const NOTHING: u8 = 0;
const GARBLE: u8 = 1;
const RESET: u8 = 2;

impl Sabotage {
    /// The next bytes that are sent are garbage, and the last.
    pub fn garble(&self) {
        self.0.store(GARBLE, Ordering::Relaxed);
    }

    /// Nothing more is sent, and the connection ends in a reset.
    pub fn reset(&self) {
        self.0.store(RESET, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An accepted connection.
pub(super) struct Socket {
    pub stream: Stream,
    /// Read while sniffing; comes first.
    pub sniffed: Bytes,
    pub sabotage: Arc<Sabotage>,
}

impl Socket {
    fn inner(&mut self) -> Pin<&mut (dyn Inner + Unpin + Send)> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream),
            Stream::Unix(stream) => Pin::new(stream),
        }
    }

    fn poll_sabotaged(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.sabotage.get() == GARBLE {
            std::task::ready!(self.inner().poll_write(cx, GARBAGE))?;
            let _ = self.inner().poll_shutdown(cx);
        }
        Poll::Ready(Err(io::Error::other("sabotaged on purpose")))
    }
}

trait Inner: AsyncRead + AsyncWrite {}
impl Inner for TcpStream {}
impl Inner for UnixStream {}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.sniffed.is_empty() {
            let length = self.sniffed.len().min(buf.remaining());
            buf.put_slice(self.sniffed.get(..length).unwrap_or_default());
            self.sniffed.advance(length);
            return Poll::Ready(Ok(()));
        }
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.sabotage.get() != NOTHING {
            return self.poll_sabotaged(cx);
        }
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.sabotage.get() != NOTHING {
            return self.poll_sabotaged(cx);
        }
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sabotage.get() == RESET {
            return Poll::Ready(Ok(()));
        }
        self.inner().poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (RESET, Stream::Tcp(stream)) = (self.sabotage.get(), &self.stream) {
            // Closing without lingering discards what is queued and sends a reset.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
