//! A request's body, read by whoever forwards it, straight from the socket.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use crate::http1::incoming::BodyError;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A request's body.
pub struct Body<S> {
    pub(super) shared: Rc<Shared<S>>,
    pub(super) ended: bool,
}

impl<S> http_body::Body for Body<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
        let inner = &mut *this.shared.borrow_mut();
        let Some(wire) = &mut inner.wire else {
            this.ended = true;
            return Poll::Ready(Some(Err(BodyError::Closed)));
        };
        if std::mem::take(&mut inner.expects) {
            inner.writer.head.extend_from_slice(CONTINUE);
        }
        if !inner.answering && !inner.writer.is_empty() {
            // Should it not go out now, reading waits in vain, and so comes back here.
            let _ = inner.writer.poll_write(&mut wire.stream, cx);
        }
        let Poll::Ready(polled) = inner.decoder.poll_frame(wire, cx) else {
            if inner.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
                inner.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        match &polled {
            Some(Ok(_)) => this.ended = inner.decoder.is_at_end(),
            None => this.ended = true,
            Some(Err(error)) => {
                this.ended = true;
                // Where the next request would begin is unknown.
                inner.keeps_alive = false;
                inner.gone = matches!(error, BodyError::Incomplete | BodyError::Io(_));
            }
        }
        if this.ended
            && let Some(watcher) = inner.watcher.take()
        {
            // If somebody has to look at the socket, it has to be the watcher from now on.
            watcher.wake();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.shared.borrow().decoder.size_hint() }
    }
}

impl<S> Drop for Body<S> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.borrow_mut().unwanted = true;
        }
    }
}
