//! A message on its way out: a head, bodies of any framing, as few writes as possible.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::chunked;

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
        !self.data.is_empty() || !self.tail.is_empty()
    }

    /// Adds a frame. All before it but a head must have been written.
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
            Framing::Chunked => {
                chunked::open(&mut self.head, data.len());
                self.tail.extend_from_slice(b"\r\n");
            }
            Framing::UntilClose => {}
        }
        self.data = data;
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
        chunked::end(&mut self.tail, trailers);
        *framing = Framing::Known(0);
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
