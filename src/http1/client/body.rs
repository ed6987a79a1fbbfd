//! An answer's body, read by whoever wants it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Connection;
use crate::http1::incoming::{BodyError, Decoder};

/// An answer's body.
pub struct Body {
    pub(super) connection: Rc<Connection>,
    pub(super) decoder: Decoder,
    pub(super) ended: bool,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let inner = &mut *this.connection.0.borrow_mut();
        if inner.poll_upload(cx).is_err() {
            this.ended = true;
            inner.close();
            return Poll::Ready(Some(Err(BodyError::Upload)));
        }
        let Some(wire) = &mut inner.wire else {
            this.ended = true;
            return Poll::Ready(Some(Err(BodyError::Closed)));
        };
        let polled = ready!(this.decoder.poll_frame(wire, cx));
        match &polled {
            Some(Ok(_)) if !this.decoder.is_at_end() => {}
            Some(Ok(_)) | None => {
                this.ended = true;
                inner.end();
            }
            Some(Err(_)) => {
                this.ended = true;
                inner.close();
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.decoder.size_hint() }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.0.borrow_mut().close();
        }
    }
}
