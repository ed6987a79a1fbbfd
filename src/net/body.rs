//! A body that came over either protocol.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

pub enum EitherBody<B> {
    Http1(B),
    Http2(Incoming),
}

/// Why such a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum EitherFault<E> {
    #[error(transparent)]
    Http1(E),
    #[error(transparent)]
    Http2(hyper::Error),
}

impl<B> Body for EitherBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = EitherFault<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(EitherFault::Http1),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(EitherFault::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
