//! TCP, Unix and TLS streams as one type, without dynamic dispatch on the byte path.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::socket;
use super::tls::{self, Parked};

/// A connected byte stream.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: a rustls session is a kilobyte that clear-text connections should not carry.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether TLS's handshake agreed on HTTP/2.
    pub fn negotiated_h2(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Nothing is held back inside it, so that its socket alone says when there is something to do.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(tls) => tls::is_quiet(tls),
        }
    }

    /// Whether a read could give anything, by what the poller has said. Nobody is woken for asking, unlike for a read that
    /// has to wait.
    pub fn may_be_readable(&self) -> bool {
        let told = || Ok(());
        match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::READABLE, told).is_ok(),
            Self::Unix(unix) => unix.try_io(Interest::READABLE, told).is_ok(),
            // It may hold something back.
            Self::Tls(_) => true,
        }
    }

    /// Whether something has arrived, which the poller may not have heard of yet.
    pub fn has_arrived(&self) -> bool {
        matches!(socket::peek(self), Ok(1..))
    }

    /// Takes a stream off this thread's runtime; a TLS session comes along if it is a server's.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Tcp(tcp) => Ok(Detached::Tcp(tcp.into_std()?)),
            Self::Unix(unix) => Ok(Detached::Unix(unix.into_std()?)),
            Self::Tls(tls) => Ok(Detached::Tls(Box::new(Parked::new(*tls)?))),
        }
    }

    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// A stream that belongs to no runtime: on its way to another thread's, or at rest.
#[derive(Debug)]
pub enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Tls(Box<Parked>),
}

impl Detached {
    /// The other side has left, and said nothing before.
    pub fn is_over(&self) -> bool {
        matches!(socket::peek(self), Ok(0))
    }

    /// What is due before a close, if the socket takes it at once.
    pub fn say_goodbye(&mut self) {
        match self {
            Self::Tcp(_) | Self::Unix(_) => {}
            Self::Tls(parked) => parked.say_goodbye(),
        }
    }

    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(tcp) => Ok(Stream::Tcp(TcpStream::from_std(tcp)?)),
            Self::Unix(unix) => Ok(Stream::Unix(UnixStream::from_std(unix)?)),
            Self::Tls(parked) => Ok(Stream::Tls(Box::new(parked.resume()?))),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
            Self::Tls(tls) => tls.get_ref().0.as_fd(),
        }
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
            Self::Tls(parked) => parked.as_fd(),
        }
    }
}

macro_rules! each {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => socket::poll_read(tcp, cx, buf),
            Self::Unix(unix) => socket::poll_read(unix, cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => socket::poll_write(tcp, cx, buf),
            Self::Unix(unix) => socket::poll_write(unix, cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => socket::poll_write_vectored(tcp, cx, bufs),
            Self::Unix(unix) => socket::poll_write_vectored(unix, cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
