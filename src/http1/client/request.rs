//! A request on its way out: its head, and its body for as long as it takes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING};
use http::{Method, Request, Version};
use http_body::{Frame, SizeHint};

use super::{Added, Connection, Inner, Stage};
use crate::http1::head;
use crate::http1::outgoing::{Framing, LengthError};

/// Room for a head, taken at once.
const HEAD_ROOM: usize = 1024;

/// Why a request's body does not go on.
#[derive(Debug)]
pub(super) enum Stuck {
    /// The body itself failed, so nobody can make the request whole.
    Body,
    /// It cannot be written. The instance may have answered all the same.
    Io(io::Error),
}

/// Sends a request's head and body.
pub(super) struct Upload<B> {
    pub(super) connection: Rc<Connection>,
    pub(super) body: B,
    pub(super) framing: Framing,
    /// All of the body is in the writer.
    pub(super) ended: bool,
}

impl<B> Future for Upload<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    type Output = Result<(), Stuck>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        let this = self.get_mut();
        loop {
            let mut starved = false;
            while !starved && !this.ended && !this.connection.0.borrow().writer.is_full() {
                match Pin::new(&mut this.body).poll_frame(cx) {
                    Poll::Pending => starved = true,
                    Poll::Ready(frame) => this.take(frame)?,
                }
            }
            ready!(this.connection.0.borrow_mut().poll_write(cx)).map_err(Stuck::Io)?;
            if this.ended {
                this.connection.0.borrow_mut().sent = true;
                return Poll::Ready(Ok(()));
            }
            if starved {
                return Poll::Pending;
            }
        }
    }
}

impl<B> Upload<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    fn take(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) -> Result<(), Stuck> {
        let writer = &mut self.connection.0.borrow_mut().writer;
        let taken = match frame {
            Some(Ok(frame)) => writer.push(&mut self.framing, frame),
            Some(Err(_)) => return Err(Stuck::Body),
            None => {
                self.ended = true;
                return writer.finish(&mut self.framing).map_err(Stuck::from);
            }
        };
        if taken.is_ok() && self.body.is_end_stream() {
            self.ended = true;
            writer.finish(&mut self.framing)?;
        }
        taken.map_err(Stuck::from)
    }
}

impl From<LengthError> for Stuck {
    fn from(_: LengthError) -> Self {
        Self::Body
    }
}

impl Inner {
    /// Writes the head, in memory. `body`: what is known of the size of a body that is still to come.
    pub(super) fn begin<B>(
        &mut self,
        request: &Request<B>,
        body: Option<SizeHint>,
        added: Added<'_>,
    ) -> Framing {
        self.stage = Stage::Awaiting;
        self.informed = false;
        self.write_fault = None;
        self.sent = false;
        let writer = &mut self.writer;
        writer.began = false;
        let out = &mut writer.head;
        out.reserve(HEAD_ROOM);
        head::write_request_line(out, request.method(), request.uri());
        let (mut has_host, mut has_te, mut has_connection) = (false, false, false);
        let (mut announced, mut has_cookie) = (None, false);
        for (name, value) in request.headers() {
            match name.as_str() {
                "host" => has_host = true,
                "te" => has_te = true,
                // HTTP/2 takes a cookie apart, and nobody else puts it together again (RFC 9113 §8.2.3).
                "cookie" if request.version() == Version::HTTP_2 => {
                    if std::mem::replace(&mut has_cookie, true) {
                        continue;
                    }
                    out.extend_from_slice(b"cookie: ");
                    for (n, crumb) in request.headers().get_all(name).iter().enumerate() {
                        out.extend_from_slice(if n == 0 { b"" } else { b"; " });
                        out.extend_from_slice(crumb.as_bytes());
                    }
                    out.extend_from_slice(b"\r\n");
                    continue;
                }
                "connection" => has_connection = true,
                // Written below, once: HTTP/2 lets through what is said twice, or in no digit at all.
                "content-length" => {
                    announced = announced.or(head::number(value.as_bytes()));
                    continue;
                }
                _ => {}
            }
            head::write_header(out, name.as_str(), value.as_bytes());
        }
        if !has_host {
            let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
            head::write_header(out, HOST.as_str(), named.unwrap_or(added.host.as_bytes()));
        }
        out.extend_from_slice(added.lines);
        if has_te && !has_connection {
            // It is hop-by-hop, so HTTP/1.1 wants it named.
            head::write_header(out, CONNECTION.as_str(), TE.as_str().as_bytes());
        }
        let wants_length = || matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
        let framing = match body {
            None => {
                if announced.is_some() || wants_length() {
                    head::write_length(out, 0);
                }
                Framing::Known(0)
            }
            Some(hint) => {
                if let Some(length) = announced.or(hint.exact()) {
                    head::write_length(out, length);
                    Framing::Known(length)
                } else {
                    head::write_header(out, TRANSFER_ENCODING.as_str(), b"chunked");
                    Framing::Chunked
                }
            }
        };
        out.extend_from_slice(b"\r\n");
        framing
    }
}
