//! A caller's connection: requests come out of it, answers go into it, one at a time.
//!
//! The body of a request is read by whoever forwards it, straight from the socket; the connection's own task
//! watches, if it is told to, whether the caller is still there.

mod body;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Request, StatusCode, Version};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::body::Body;
use super::date::Date;
use super::head::{self, HeadError, Progress, Signs};
use super::incoming::Decoder;
use super::outgoing::{Framing, LengthError, Writer};
use super::reply::{Headers, Reply};
use super::wire::Wire;

/// Room for a head, taken at once.
const HEAD_ROOM: usize = 1024;

pub struct Connection<S>(Rc<Shared<S>>);

type Shared<S> = RefCell<Inner<S>>;

struct Inner<S> {
    /// `None` = taken apart.
    wire: Option<Wire<S>>,
    writer: Writer,
    progress: Progress,
    /// Of the next request; its map is empty until it is there.
    head: Request<()>,
    max_head: usize,
    date: Date,
    /// What of the request's body is still to come.
    decoder: Decoder,
    /// Nobody wants it.
    unwanted: bool,
    /// The caller waits for `100 Continue` before it sends its body.
    expects: bool,
    /// Its answer has begun.
    answering: bool,
    is_head: bool,
    version: Version,
    keeps_alive: bool,
    /// The caller went away in the middle of its body.
    gone: bool,
    /// The connection's own task, while somebody else reads the body.
    watcher: Option<Waker>,
    /// Whoever reads the body.
    reader: Option<Waker>,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the caller left in the middle of a head")]
    Incomplete,
    #[error("a head that is not HTTP/1.1: {0}")]
    Head(#[from] HeadError),
    #[error("a head that did not come in time")]
    TooSlow,
    #[error("the answer broke off")]
    Answer,
}

/// An answer that is being written.
pub struct Answering<B> {
    body: B,
    framing: Framing,
    ended: bool,
}

/// What follows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Request,
    Close,
}

// === impl Connection ===

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// `max_head`: bytes of a head.
    pub fn new(stream: S, max_head: usize) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            wire: Some(Wire::new(stream, None)),
            writer: Writer::default(),
            progress: Progress::default(),
            head: Request::new(()),
            max_head,
            date: Date::default(),
            decoder: Decoder::EMPTY,
            unwanted: false,
            expects: false,
            answering: false,
            is_head: false,
            version: Version::HTTP_11,
            keeps_alive: true,
            gone: false,
            watcher: None,
            reader: None,
        })))
    }

    /// Whether there is another request, which is to be taken then; `false` = the caller closed the connection between
    /// two.
    pub fn poll_request(&self, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        self.0.borrow_mut().poll_request(cx)
    }

    /// The request that [`Self::poll_request`] told of, with a body made of its own.
    pub fn take_request<B>(&self, body: impl FnOnce(Body<S>) -> B) -> Request<B> {
        let ended = self.0.borrow().decoder.is_at_end();
        let body = body(Body { shared: Rc::clone(&self.0), ended });
        std::mem::take(&mut self.0.borrow_mut().head).map(|()| body)
    }

    /// Takes back the map of a request that has been answered, for its memory.
    pub fn reuse(&self, mut map: HeaderMap) {
        head::recycle(&mut map);
        *self.0.borrow_mut().head.headers_mut() = map;
    }

    /// Looks at the stream, unless it has been taken.
    pub fn look<T>(&self, at: impl FnOnce(&S) -> T) -> Option<T> {
        self.0.borrow().wire.as_ref().map(|wire| at(&wire.stream))
    }

    /// Whether nothing of a next request has been read.
    pub fn is_quiet(&self) -> bool {
        self.0.borrow().wire.as_ref().is_none_or(|wire| wire.buffer.is_empty())
    }

    /// Ready when the caller has left in the middle of its exchange. Unless `looks`, nobody knows before whoever reads its
    /// body finds out, or the answer does not arrive. What it sends ahead is read once and kept, and hides its leaving.
    pub fn poll_gone(&self, cx: &mut Context<'_>, looks: bool) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        if inner.gone {
            return Poll::Ready(());
        }
        let Some(wire) = &mut inner.wire else { return Poll::Pending };
        if !inner.decoder.is_at_end() {
            // Whoever reads the body finds out, and says so.
            if inner.watcher.as_ref().is_none_or(|watcher| !watcher.will_wake(cx.waker())) {
                inner.watcher = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if !looks || !wire.buffer.is_empty() {
            return Poll::Pending;
        }
        match ready!(wire.poll_fill(cx)) {
            Ok(0) | Err(_) => {
                inner.gone = true;
                Poll::Ready(())
            }
            Ok(_) => Poll::Pending,
        }
    }

    /// Begins an answer; it is written by [`Self::poll_answer`]. `close`: the connection ends with it.
    pub fn begin<B>(&self, reply: impl Into<Reply<B>>, close: bool) -> Answering<B>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let Reply { status, headers, body } = reply.into();
        let hint = (!body.is_end_stream()).then(|| body.size_hint());
        let inner = &mut *self.0.borrow_mut();
        let framing = inner.write_head(status, &headers, hint, close);
        Answering { body, ended: framing.is_none(), framing: framing.unwrap_or(Framing::Known(0)) }
    }

    /// Writes an answer to its end.
    pub fn poll_answer<B>(
        &self,
        answering: &mut Answering<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Next, Fault>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        loop {
            let mut starved = false;
            while !starved && !answering.ended && !self.0.borrow().writer.is_full() {
                match Pin::new(&mut answering.body).poll_frame(cx) {
                    Poll::Pending => starved = true,
                    Poll::Ready(frame) => {
                        answering.take(frame, &mut self.0.borrow_mut().writer)?;
                    }
                }
            }
            ready!(self.0.borrow_mut().poll_write(cx))?;
            if answering.ended {
                return Poll::Ready(Ok(self.0.borrow_mut().end()));
            }
            if starved {
                return Poll::Pending;
            }
        }
    }

    /// Takes the connection apart: its stream, and what was read of it and not used.
    pub fn into_parts(self) -> Option<(S, Bytes)> {
        let wire = self.0.borrow_mut().wire.take()?;
        Some((wire.stream, wire.buffer.freeze()))
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        let inner = &mut *self.0.borrow_mut();
        inner.wire = None;
        // A body may outlive its connection, in a write whose caller has left.
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
    }
}

// === impl Inner ===

impl<S> Inner<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(Ok(false)) };
        loop {
            head::skip_empty_lines(&mut wire.buffer, &mut self.progress);
            let parsed = head::parse_request(&mut wire.buffer, &mut self.progress, &mut self.head)?;
            if let Some(signs) = parsed {
                self.accept(&signs)?;
                return Poll::Ready(Ok(true));
            }
            if wire.buffer.len() >= self.max_head {
                return Poll::Ready(Err(HeadError::TooLarge.into()));
            }
            if wire.buffer.is_empty() {
                self.progress = Progress::default();
            }
            match ready!(wire.poll_fill(cx))? {
                // Empty lines between requests are no head (RFC 9112 §2.2).
                0 if wire.buffer.iter().all(|byte| b"\r\n".contains(byte)) => return Poll::Ready(Ok(false)),
                0 => return Poll::Ready(Err(Fault::Incomplete)),
                _ => {}
            }
        }
    }

    fn accept(&mut self, signs: &Signs) -> Result<(), HeadError> {
        self.version = signs.version;
        self.is_head = self.head.method() == Method::HEAD;
        self.keeps_alive = signs.keeps_alive();
        self.answering = false;
        self.unwanted = false;
        signs.unite_lengths(self.head.headers_mut());
        let announced = match signs.framing() {
            // Refused by whoever gets it, with an answer of its own; where its body ends is unknown.
            Err(HeadError::Coding) => {
                self.keeps_alive = false;
                None
            }
            announced => announced?,
        };
        self.decoder = announced.map_or(Decoder::EMPTY, Decoder::of);
        self.expects =
            signs.expects_continue && self.version == Version::HTTP_11 && !self.decoder.is_at_end();
        Ok(())
    }

    /// Writes an answer's head, in memory. `None` = nothing follows it.
    fn write_head(
        &mut self,
        status: StatusCode,
        headers: &Headers,
        hint: Option<SizeHint>,
        close: bool,
    ) -> Option<Framing> {
        self.answering = true;
        // Nobody knows whether a body that was not asked for still comes.
        let uninvited = std::mem::take(&mut self.expects);
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if self.unwanted {
            self.skip_body();
        }
        let never_has_body = status.is_informational() || status == StatusCode::NO_CONTENT;
        let has_body = !self.is_head && !never_has_body && status != StatusCode::NOT_MODIFIED;
        let out = &mut self.writer.head;
        out.reserve(HEAD_ROOM);
        head::write_status_line(out, status);
        let (announced, has_date) = match headers {
            // A length that must not be said is taken out, which needs a closer look.
            Headers::Lines(lines) if !never_has_body || lines.length.is_none() => {
                out.extend_from_slice(lines.text());
                (lines.length, lines.has_date)
            }
            headers => write_each(out, headers, never_has_body),
        };
        let known = announced.or_else(|| hint.as_ref().map_or(Some(0), SizeHint::exact));
        let framing = match known {
            Some(bytes) => Framing::Known(bytes),
            None if self.version == Version::HTTP_11 => Framing::Chunked,
            None => Framing::UntilClose,
        };
        // A tunnel ends the connection in its own way.
        self.keeps_alive &= switches
            || !close
                && !uninvited
                && (!self.unwanted || self.decoder.is_at_end())
                && (!has_body || framing != Framing::UntilClose);
        match framing {
            Framing::Known(bytes) if has_body && announced.is_none() => head::write_length(out, bytes),
            Framing::Chunked if has_body => head::write_header(out, TRANSFER_ENCODING.as_str(), b"chunked"),
            _ => {}
        }
        if !switches {
            match (self.version, self.keeps_alive) {
                (Version::HTTP_10, true) => head::write_header(out, CONNECTION.as_str(), b"keep-alive"),
                (_, true) => {}
                (_, false) => head::write_header(out, CONNECTION.as_str(), b"close"),
            }
            // RFC 9110 §6.6.1: whoever passes an answer on without a date adds one.
            if !has_date {
                head::write_header(out, DATE.as_str(), self.date.now().as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        (has_body && (hint.is_some() || framing != Framing::Known(0))).then_some(framing)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Some(wire) => self.writer.poll_write(&mut wire.stream, cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Drops what of an unwanted body has come already: if that is all, the connection can go on.
    fn skip_body(&mut self) {
        if let Some(wire) = &mut self.wire {
            self.decoder.skip(&mut wire.buffer);
        }
    }

    fn end(&mut self) -> Next {
        // What comes next may be refused before its method is known.
        self.is_head = false;
        if self.unwanted {
            self.skip_body();
        }
        if self.keeps_alive && self.decoder.is_at_end() && !self.gone { Next::Request } else { Next::Close }
    }
}

/// Writes one header after another; the length that they announce, and whether there is a date.
fn write_each(out: &mut BytesMut, headers: &Headers, never_has_body: bool) -> (Option<u64>, bool) {
    let (mut announced, mut has_date) = (None, false);
    headers.for_each(|name, value| {
        if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes()) {
            match head::number(value) {
                Some(bytes) if !never_has_body && announced.is_none() => announced = Some(bytes),
                // HTTP/2 lets through what is said twice, or in no digit at all.
                _ => return,
            }
        }
        has_date |= name.eq_ignore_ascii_case(DATE.as_str().as_bytes());
        head::write_header(out, name, value);
    });
    (announced, has_date)
}

// === impl Answering ===

impl<B> Answering<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, B::Error>>,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        match frame {
            Some(Ok(frame)) => {
                writer.push(&mut self.framing, frame)?;
                if self.body.is_end_stream() {
                    self.ended = true;
                    writer.finish(&mut self.framing)?;
                }
            }
            Some(Err(_)) => return Err(Fault::Answer),
            None => {
                self.ended = true;
                writer.finish(&mut self.framing)?;
            }
        }
        Ok(())
    }
}

impl From<LengthError> for Fault {
    fn from(_: LengthError) -> Self {
        Self::Answer
    }
}

#[cfg(test)]
mod tests;
