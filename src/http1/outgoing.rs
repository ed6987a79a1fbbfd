//! A message on its way out: a head, bodies of any framing, as few writes as possible.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::chunked;

/// Data up to this length is copied behind the head: that costs less than a part of its own in a system call.
const COPIED: usize = 1024;
/// Small frames are collected up to this many bytes, so that a body in chunks of a byte each costs no system call
/// for each of them.
const COLLECTED: usize = 16 * 1024;

/// What is to be written: `head`, then `data`, then `tail`, in one system call where the stream can.
#[derive(Debug, Default)]
pub struct Writer {
    pub head: BytesMut,
    data: Bytes,
    tail: BytesMut,
    /// Something of it is on the wire.
    pub began: bool,
    unflushed: bool,
}

/// How a body that goes out is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Known(u64),
    Chunked,
    UntilClose,
}

/// A body that is not as long as its head says. What is on the wire cannot be made good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    #[error("the body is longer than its Content-Length")]
    TooLong,
    #[error("the body ended before its Content-Length")]
    TooShort,
}

impl Writer {
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether there is no room for another frame.
    pub fn is_full(&self) -> bool {
        !self.data.is_empty() || !self.tail.is_empty() || self.head.len() >= COLLECTED
    }

    /// Adds a frame, for which there must be room.
    pub fn push(&mut self, framing: &mut Framing, frame: Frame<Bytes>) -> Result<(), LengthError> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                if let (Framing::Chunked, Ok(trailers)) = (*framing, frame.into_trailers()) {
                    self.end_chunks(framing, Some(&trailers));
                }
                return Ok(());
            }
        };
        if data.is_empty() {
            return Ok(());
        }
        match framing {
            Framing::Known(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(LengthError::TooLong)?;
            }
            Framing::Chunked => chunked::open(&mut self.head, data.len()),
            Framing::UntilClose => {}
        }
        if data.len() <= COPIED {
            self.head.extend_from_slice(&data);
        } else {
            self.data = data;
        }
        if *framing == Framing::Chunked {
            self.behind().extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// The body has ended.
    pub fn finish(&mut self, framing: &mut Framing) -> Result<(), LengthError> {
        match framing {
            Framing::Known(1..) => return Err(LengthError::TooShort),
            Framing::Known(0) | Framing::UntilClose => {}
            Framing::Chunked => self.end_chunks(framing, None),
        }
        Ok(())
    }

    fn end_chunks(&mut self, framing: &mut Framing, trailers: Option<&HeaderMap>) {
        chunked::end(self.behind(), trailers);
        *framing = Framing::Known(0);
    }

    /// Where what follows the data goes.
    fn behind(&mut self) -> &mut BytesMut {
        if self.data.is_empty() { &mut self.head } else { &mut self.tail }
    }

    /// Writes all of it.
    pub fn poll_write<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while !self.is_empty() {
            let parts = [&self.head[..], &self.data[..], &self.tail[..]];
            let mut filled = parts.iter().filter(|part| !part.is_empty());
            let (first, second, third) = (filled.next(), filled.next(), filled.next());
            let stream = Pin::new(&mut *stream);
            let wrote = match (first, second, third) {
                (Some(first), Some(second), None) => {
                    stream.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
                }
                (Some(first), Some(second), Some(third)) => {
                    let all = [IoSlice::new(first), IoSlice::new(second), IoSlice::new(third)];
                    stream.poll_write_vectored(cx, &all)
                }
                (first, ..) => stream.poll_write(cx, first.copied().unwrap_or_default()),
            };
            let wrote = ready!(wrote)?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.began = true;
            self.unflushed = true;
            self.advance(wrote);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut wrote: usize) {
        let of_head = wrote.min(self.head.len());
        if of_head == self.head.len() {
            // Keeps the memory, which `advance` would walk through.
            self.head.clear();
        } else {
            self.head.advance(of_head);
        }
        wrote -= of_head;
        let of_data = wrote.min(self.data.len());
        if of_data == self.data.len() {
            self.data = Bytes::new();
        } else {
            self.data.advance(of_data);
        }
        wrote -= of_data;
        if wrote == self.tail.len() {
            self.tail.clear();
        } else {
            self.tail.advance(wrote);
        }
    }

    /// Gives its memory back.
    pub fn release(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes at most so many bytes at once.
    #[derive(Default)]
    struct Narrow {
        at_once: usize,
        taken: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.calls += 1;
            let length = bytes.len().min(self.at_once);
            self.taken.extend_from_slice(&bytes[..length]);
            Poll::Ready(Ok(length))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter()).copied().collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write(frames: &[usize], mut framing: Framing, at_once: usize) -> Narrow {
        let mut stream = Narrow { at_once, ..Narrow::default() };
        let mut writer = Writer::default();
        writer.head.extend_from_slice(b"HEAD");
        let mut cx = Context::from_waker(Waker::noop());
        for (n, length) in frames.iter().enumerate() {
            if writer.is_full() {
                assert!(writer.poll_write(&mut stream, &mut cx).is_ready());
            }
            let data = Bytes::from(vec![n as u8; *length]);
            writer.push(&mut framing, Frame::data(data)).unwrap();
        }
        writer.finish(&mut framing).unwrap();
        assert!(writer.poll_write(&mut stream, &mut cx).is_ready());
        assert!(writer.is_empty());
        stream
    }

    #[test]
    fn many_small_frames_take_few_writes() {
        let stream = write(&vec![1; 10_000], Framing::Chunked, usize::MAX);
        assert!(stream.calls < 10, "{} writes", stream.calls);
    }

    #[test]
    fn a_body_that_is_not_as_long_as_was_said_is_no_body() {
        let mut writer = Writer::default();
        let mut framing = Framing::Known(3);
        let frame = |bytes: &'static [u8]| Frame::data(Bytes::from_static(bytes));
        assert_eq!(writer.push(&mut framing, frame(b"ab")), Ok(()));
        assert_eq!(writer.finish(&mut framing), Err(LengthError::TooShort));
        assert_eq!(writer.push(&mut framing, frame(b"cd")), Err(LengthError::TooLong));
    }

    proptest! {
        #[test]
        fn all_of_it_arrives_in_its_order(
            frames in proptest::collection::vec(prop_oneof![0..5_usize, 1000..1100_usize, 5000..6000_usize], 0..12),
            at_once in 1..3000_usize,
        ) {
            let body: Vec<u8> =
                frames.iter().enumerate().flat_map(|(n, length)| vec![n as u8; *length]).collect();
            let known = write(&frames, Framing::Known(body.len() as u64), at_once);
            prop_assert_eq!(&known.taken[..4], b"HEAD");
            prop_assert_eq!(&known.taken[4..], &body);
            prop_assert_eq!(&write(&frames, Framing::UntilClose, at_once).taken[4..], &body);
            let mut chunked = BytesMut::from(&write(&frames, Framing::Chunked, at_once).taken[4..]);
            let (mut decoder, mut decoded) = (chunked::Decoder::new(), Vec::new());
            while let chunked::Piece::Data(data) = decoder.next(&mut chunked).unwrap() {
                decoded.extend_from_slice(&data);
            }
            prop_assert_eq!(decoded, body);
            prop_assert!(decoder.is_at_end() && chunked.is_empty());
        }
    }
}
