//! A body on its way in.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncRead;

use super::chunked::{self, Piece};
use super::head::Length;
use super::wire::Wire;

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the connection ended in the middle of the body")]
    Incomplete,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("malformed chunk")]
    BadChunk,
    #[error("malformed trailers")]
    BadTrailers,
    #[error("the trailer section is too large")]
    TrailersTooLarge,
    #[error("the connection was given up")]
    Closed,
    #[error("the request's own body broke off")]
    Upload,
}

/// What of a body is still to come.
#[derive(Debug)]
pub enum Decoder {
    Known(u64),
    Chunked(chunked::Decoder),
    UntilClose,
}

impl Decoder {
    pub const EMPTY: Self = Self::Known(0);

    pub const fn of(length: Length) -> Self {
        match length {
            Length::Known(bytes) => Self::Known(bytes),
            Length::Chunked => Self::Chunked(chunked::Decoder::new()),
            Length::UntilClose => Self::UntilClose,
        }
    }

    pub fn is_at_end(&self) -> bool {
        match self {
            Self::Known(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_at_end(),
            Self::UntilClose => false,
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Known(left) => SizeHint::with_exact(*left),
            Self::Chunked(decoder) if decoder.is_at_end() => SizeHint::with_exact(0),
            Self::Chunked(_) | Self::UntilClose => SizeHint::default(),
        }
    }

    fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, BodyError> {
        let take = match self {
            Self::Known(0) => return Ok(Piece::End),
            Self::Known(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len()),
            Self::Chunked(decoder) => return decoder.next(buffer),
            Self::UntilClose => buffer.len(),
        };
        if take == 0 {
            return Ok(Piece::Missing);
        }
        if let Self::Known(left) = self {
            *left -= take as u64;
        }
        Ok(Piece::Data(buffer.split_to(take).freeze()))
    }

    /// Drops what is there of the body.
    pub fn skip(&mut self, buffer: &mut BytesMut) {
        while let Ok(Piece::Data(_) | Piece::Trailers(_)) = self.next(buffer) {}
    }

    /// The next of the body; `None` = it has ended.
    pub fn poll_frame<S>(
        &mut self,
        wire: &mut Wire<S>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            match self.next(&mut wire.buffer) {
                Ok(Piece::Data(data)) => {
                    if let Self::Chunked(decoder) = self {
                        // The end of the last chunk, if it came along, saves asking once more.
                        decoder.end_if_next(&mut wire.buffer);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::Missing) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(wire.poll_fill(cx)) {
                Ok(0) if matches!(self, Self::UntilClose) => {
                    *self = Self::EMPTY;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Incomplete))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}
