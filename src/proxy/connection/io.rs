//! A caller's stream: bytes already read come first, and the link hears of progress.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use super::link::Link;
use crate::net::Stream;
use crate::proxy::worker::Worker;

pub struct Watched {
    stream: Stream,
    buffered: Bytes,
    link: Rc<Link>,
    worker: Rc<Worker>,
    told: Told,
}

/// Whom the poller will tell when there is something to read. Right as long as nobody but [`Watched`] reads the stream.
///
/// In each exchange somebody looks twice whether the caller is still there, and to wait anew costs two locks.
#[derive(Default)]
struct Told {
    /// Who waited last.
    reader: Option<Waker>,
    is_waiting: bool,
}

impl Told {
    fn is(&self, reader: &Waker) -> bool {
        self.is_waiting && self.reader.as_ref().is_some_and(|known| known.will_wake(reader))
    }

    /// `waits`: for the poller, and not for a next turn.
    fn note(&mut self, reader: &Waker, waits: bool) {
        self.is_waiting = waits;
        if waits && !self.is(reader) {
            self.reader = Some(reader.clone());
        }
    }
}

impl Watched {
    pub fn new(stream: Stream, buffered: Bytes, link: Rc<Link>, worker: Rc<Worker>) -> Self {
        Self { stream, buffered, link, worker, told: Told::default() }
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
        if self.told.is(cx.waker()) && !self.stream.may_be_readable() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        // A task that has had its turns is woken for the next one, and the poller does not know of it.
        let waits = polled.is_pending() && has_budget_remaining();
        self.told.note(cx.waker(), waits);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    struct Nothing;

    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn only_who_waited_last_is_told() {
        let [one, other] = [(); 2].map(|()| Waker::from(Arc::new(Nothing)));
        let mut told = Told::default();
        assert!(!told.is(&one));
        told.note(&one, true);
        assert!(told.is(&one) && told.is(&one.clone()) && !told.is(&other));
        // The poller knows one reader.
        told.note(&other, true);
        assert!(!told.is(&one) && told.is(&other));
        // It has read something, or had its turns.
        told.note(&other, false);
        assert!(!told.is(&other));
        told.note(&other, true);
        assert!(told.is(&other));
    }
}
