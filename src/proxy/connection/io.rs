//! A caller's stream: bytes already read come first, and the link hears of progress.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::Link;
use crate::net::Stream;
use crate::proxy::worker::Worker;

pub struct Watched {
    stream: Stream,
    buffered: Bytes,
    link: Rc<Link>,
    worker: Rc<Worker>,
}

impl Watched {
    pub fn new(stream: Stream, buffered: Bytes, link: Rc<Link>, worker: Rc<Worker>) -> Self {
        Self { stream, buffered, link, worker }
    }

    /// The stream, when all that was read before has been taken.
    pub fn into_inner(self) -> Stream {
        self.stream
    }

    /// Whether the caller has sent what nobody has read yet.
    pub fn has_arrived(&self) -> bool {
        !self.buffered.is_empty() || self.stream.has_arrived()
    }

    fn wrote<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.link.on_write(poll.is_pending(), self.worker.clock.now());
        poll
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.buffered.is_empty() {
            let length = self.buffered.len().min(buf.remaining());
            buf.put_slice(self.buffered.get(..length).unwrap_or_default());
            self.buffered.advance(length);
            if self.buffered.is_empty() {
                // Even of nothing it would keep all of the memory that was read into.
                self.buffered = Bytes::new();
            }
            self.link.on_read(self.worker.clock.now());
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.link.on_read(self.worker.clock.now());
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(polled)
    }

    /// Whoever speaks HTTP shuts its stream down when it is done. Ours may go on, as a resting connection or
    /// a tunnel; the connection's task closes it when nothing follows.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
