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
        // Takes the same memory again when nothing of it is in use any more.
        if self.buffer.capacity() - self.buffer.len() < self.next_read / 2 {
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
