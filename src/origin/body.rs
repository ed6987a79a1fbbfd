//! Bodies of answers: whole, a stretch of the pattern, a stream, and what faults make of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::content;
use super::socket::Sabotage;

type Streamed = Pin<Box<dyn Body<Data = Bytes, Error = io::Error>>>;

pub(super) enum AnswerBody {
    Whole(Bytes),
    /// Bytes of the pattern from `at` to before `end`, never held in memory.
    Pattern {
        at: u64,
        end: u64,
    },
    Stream(Streamed),
}

impl AnswerBody {
    pub const EMPTY: Self = Self::Whole(Bytes::new());

    pub fn stream(body: impl Body<Data = Bytes, Error = io::Error> + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match self.get_mut() {
            Self::Whole(bytes) => std::mem::take(bytes),
            Self::Pattern { at, end } => {
                let piece = content::pattern_from(*at, *end);
                *at += piece.len() as u64;
                piece
            }
            Self::Stream(body) => return body.as_mut().poll_frame(cx),
        };
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Pattern { at, end } => at >= end,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pattern { at, end } => SizeHint::with_exact(end.saturating_sub(*at)),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// How a body that is cut short goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not at all, and not to its end.
    Hang,
    /// The connection ends in order, too early.
    Truncate,
    /// The connection is reset.
    Reset(ResetBy),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetBy {
    Connection,
    /// HTTP/2: an error of the body resets its stream alone.
    Stream,
}

/// The first `left` bytes of a body, then an ending.
pub(super) struct Cut {
    pub body: AnswerBody,
    pub left: u64,
    pub ending: Ending,
    pub sabotage: std::sync::Arc<Sabotage>,
    /// The server was given a turn to send what it has.
    pub flushed: bool,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left > 0 {
            let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
            if let Some(Ok(Ok(mut data))) = frame.map(|frame| frame.map(Frame::into_data)) {
                data.truncate(usize::try_from(this.left).unwrap_or(usize::MAX));
                this.left -= data.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            this.left = 0;
        }
        if this.ending == Ending::Hang {
            return Poll::Pending;
        }
        if !this.flushed {
            this.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.ending == Ending::Reset(ResetBy::Connection) {
            this.sabotage.reset();
        }
        Poll::Ready(Some(Err(io::Error::other("cut short on purpose"))))
    }
}

/// A body of which one byte is not what it should be: the first digit, else the first byte, of its
/// first chunk. The length stays, and JSON stays JSON.
pub(super) struct Altered {
    pub body: AnswerBody,
    pub done: bool,
}

impl Body for Altered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.done {
            return Poll::Ready(frame);
        }
        self.done = true;
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| alter(&data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn alter(data: &[u8]) -> Bytes {
    let mut data = data.to_vec();
    let digit = data.iter().position(u8::is_ascii_digit);
    if let Some(byte) = data.get_mut(digit.unwrap_or(0)) {
        // The last bit turns an even digit into the next odd one and back.
        *byte ^= 1;
    }
    data.into()
}
