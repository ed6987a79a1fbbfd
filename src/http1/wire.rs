//! A stream, and what was read of it ahead.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::spare;

/// Room for a first read: a head and a small body.
const FIRST_READ: usize = spare::PIECE;
/// Room for a read of a large body. Larger ones gain nothing, and leave the processor's cache.
const LARGEST_READ: usize = 64 * 1024;

pub struct Wire<S> {
    pub stream: S,
    /// Read and not yet taken.
    pub buffer: BytesMut,
    /// The buffer's memory is a piece that the thread's connections take turns with.
    is_piece: bool,
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
        Self {
            stream,
            buffer: BytesMut::new(),
            is_piece: false,
            next_read: FIRST_READ.min(largest_read),
            largest_read,
        }
    }

    /// Reads what is there. 0 = the other side has ended its sending.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let room = self.buffer.capacity() - self.buffer.len();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.buffer)).poll(cx) else {
            self.give_back();
            return Poll::Pending;
        };
        let read = read?;
        if read == room {
            self.next_read = (self.next_read * 2).min(self.largest_read);
        } else if read < self.next_read / 4 {
            self.next_read = (self.next_read / 2).max(FIRST_READ.min(self.largest_read));
        }
        Poll::Ready(Ok(read))
    }

    fn make_room(&mut self) {
        if self.buffer.is_empty() && self.next_read == spare::PIECE {
            if !self.is_piece || !spare::is_whole(&mut self.buffer) {
                self.buffer = spare::take();
                self.is_piece = true;
            }
        } else if self.buffer.capacity() - self.buffer.len() < self.next_read / 2 {
            // Takes the same memory again when nothing of it is in use any more.
            self.buffer.reserve(self.next_read);
            self.is_piece = false;
        }
    }

    /// Lets others have the piece of memory that nothing is in.
    pub fn give_back(&mut self) {
        if self.buffer.is_empty() && std::mem::take(&mut self.is_piece) {
            spare::give_back(std::mem::take(&mut self.buffer));
        }
    }

    /// Gives back the memory of an empty buffer, whatever it is.
    pub fn release(&mut self) {
        self.give_back();
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

    /// Gives this at each read; nothing, as long as that is empty.
    struct Same(&'static [u8]);

    impl AsyncRead for Same {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            room: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            room.put_slice(&self.0[..self.0.len().min(room.remaining())]);
            Poll::Ready(Ok(()))
        }
    }

    fn fill(wire: &mut Wire<Same>) -> bool {
        wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn memory_that_is_free_again_is_read_into_from_its_beginning() {
        let mut wire = Wire::new(Same(b"message"), None);
        assert!(fill(&mut wire));
        let place = wire.buffer.as_ptr();
        for _ in 0..3 {
            drop(wire.buffer.split_to(7).freeze());
            assert!(fill(&mut wire));
            assert_eq!(wire.buffer.as_ptr(), place);
        }
        // What is in use, and what was not taken yet, stays where it is.
        let held = wire.buffer.split_to(3).freeze();
        assert!(fill(&mut wire));
        assert_eq!(wire.buffer, "sagemessage");
        wire.buffer.clear();
        assert!(fill(&mut wire));
        assert_eq!((&held[..], &wire.buffer[..]), (&b"mes"[..], &b"message"[..]));
        assert_ne!(wire.buffer.as_ptr(), place);
    }

    #[test]
    fn who_waits_holds_no_memory_and_the_next_to_read_has_it() {
        let mut reader = Wire::new(Same(b"message"), None);
        assert!(fill(&mut reader));
        let place = reader.buffer.as_ptr();
        reader.buffer.clear();
        reader.stream = Same(b"");
        assert!(!fill(&mut reader));
        assert_eq!(reader.buffer.capacity(), 0);
        let mut other = Wire::new(Same(b"another"), None);
        assert!(fill(&mut other));
        assert_eq!((other.buffer.as_ptr(), &other.buffer[..]), (place, &b"another"[..]));
        // Half of a message stays with whom it came to.
        other.stream = Same(b"");
        assert!(!fill(&mut other));
        assert_eq!(other.buffer, "another");
    }

    #[test]
    fn the_memory_of_a_large_body_does_not_take_turns() {
        let large: &[u8] = Box::leak(vec![b'a'; LARGEST_READ].into_boxed_slice());
        let mut wire = Wire::new(Same(large), None);
        while wire.next_read < LARGEST_READ {
            wire.buffer.clear();
            assert!(fill(&mut wire));
        }
        wire.buffer.clear();
        assert!(fill(&mut wire));
        assert!(wire.buffer.capacity() > spare::PIECE);
        wire.buffer.clear();
        wire.release();
        assert_eq!(spare::take().capacity(), spare::PIECE);
    }
}
