//! A stream, and what was read of it ahead.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Room for a first read: a head and a small body.
const FIRST_READ: usize = 8 * 1024;
/// Room for a read of a large body. Larger ones gain nothing, and leave the processor's cache.
const LARGEST_READ: usize = 64 * 1024;

pub struct Wire<S> {
    pub stream: S,
    /// Read and not yet taken.
    pub buffer: BytesMut,
    next_read: usize,
    largest_read: usize,
}

impl<S> Wire<S>
where
    S: AsyncRead + Unpin,
{
    /// `read_ahead`: the most to read at once.
    pub fn new(stream: S, read_ahead: Option<usize>) -> Self {
        let largest_read = read_ahead.unwrap_or(LARGEST_READ).min(LARGEST_READ);
        Self { stream, buffer: BytesMut::new(), next_read: FIRST_READ.min(largest_read), largest_read }
    }

    /// Reads what is there. 0 = the other side has ended its sending.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // From its beginning again when nothing of it is in use any more: what was used last is in the processor's cache.
        let is_anew = self.buffer.is_empty()
            && self.buffer.capacity() < self.next_read
            && self.buffer.try_reclaim(self.next_read);
        if !is_anew && self.buffer.capacity() - self.buffer.len() < self.next_read / 2 {
            self.buffer.reserve(self.next_read);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = std::task::ready!(pin!(self.stream.read_buf(&mut self.buffer)).poll(cx))?;
        if read == room {
            self.next_read = (self.next_read * 2).min(self.largest_read);
        } else if read < self.next_read / 4 {
            self.next_read = (self.next_read / 2).max(FIRST_READ.min(self.largest_read));
        }
        Poll::Ready(Ok(read))
    }

    /// Gives back the memory of an empty buffer.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;

    /// Gives this at each read.
    struct Same(&'static [u8]);

    impl AsyncRead for Same {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            room: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            room.put_slice(self.0);
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn memory_that_is_free_again_is_read_into_from_its_beginning() {
        let mut wire = Wire::new(Same(b"message"), None);
        let fill = |wire: &mut Wire<Same>| {
            let polled = wire.poll_fill(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Ok(7))));
        };
        fill(&mut wire);
        let place = wire.buffer.as_ptr();
        for _ in 0..3 {
            drop(wire.buffer.split_to(7).freeze());
            fill(&mut wire);
            assert_eq!(wire.buffer.as_ptr(), place);
        }
        // What is in use, and what was not taken yet, stays where it is.
        let held = wire.buffer.split_to(3).freeze();
        fill(&mut wire);
        assert_eq!(wire.buffer, "sagemessage");
        wire.buffer.clear();
        fill(&mut wire);
        assert_eq!((&held[..], &wire.buffer[..]), (&b"mes"[..], &b"message"[..]));
        assert_ne!(wire.buffer.as_ptr(), place);
    }
}
