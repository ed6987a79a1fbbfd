//! A connection to an instance, polled by whoever waits for its answer.
//!
//! ```text
//!  rested ── send ──► head awaited ── head ──► body ── its end ──► rested
//!                          └──── broken, or dropped early ───┴────► closed
//! ```
//!
//! A request's body goes into a task of its own as soon as it has to wait for anything: the answer may begin,
//! and may have to be read, before the body has ended.

mod body;
mod request;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

pub use self::body::Body;
use self::request::{Stuck, Upload};
use super::head::{self, HeadError, Length, Progress, Signs};
use super::incoming::Decoder;
use super::outgoing::Writer;
use super::reply::{Headers, Reply};
use super::wire::Wire;
use crate::net::Stream;

/// The largest head of an answer, where the connection does not read less at once.
const MAX_HEAD: usize = 256 * 1024;

/// A connection on which one exchange at a time takes place.
pub struct Connection(RefCell<Inner>);

struct Inner {
    /// `None` = closed, or handed over to a tunnel.
    wire: Option<Wire<Stream>>,
    writer: Writer,
    progress: Progress,
    stage: Stage,
    keeps_alive: bool,
    /// A head came that is not the final one.
    informed: bool,
    write_fault: Option<io::Error>,
    /// All of the request is on the wire.
    sent: bool,
    /// The rest of a request's body.
    upload: Option<JoinHandle<Result<(), Stuck>>>,
    max_head: usize,
    /// One of the connections that the instance may have.
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Rested,
    /// Sent, and not all of the answer's head has come.
    Awaiting,
    Answering,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection was closed before an answer came")]
    Closed,
    #[error("the head of the answer: {0}")]
    Head(#[from] HeadError),
    #[error("the request's own body broke off")]
    Upload,
}

/// What a request's head gets on its way.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a> {
    /// Whole header lines.
    pub lines: &'a [u8],
    /// The host of a request that names none.
    pub host: &'a HeaderValue,
}

/// A request without an answer.
pub struct Unanswered {
    pub fault: SendFault,
    /// The request is as it was: its body was not begun.
    pub whole: bool,
    /// Something of it may have reached the instance.
    pub on_wire: bool,
    /// The connection ended before anything of an answer came: the mark of one that had rested too long.
    pub may_be_stale: bool,
}

// === impl Connection ===

impl Connection {
    /// `read_ahead`: the most to read at once, which a head has to fit into.
    pub fn new(stream: Stream, permit: Option<OwnedSemaphorePermit>, read_ahead: Option<usize>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Inner {
            wire: Some(Wire::new(stream, read_ahead)),
            writer: Writer::default(),
            progress: Progress::default(),
            stage: Stage::Rested,
            keeps_alive: true,
            informed: false,
            write_fault: None,
            sent: false,
            upload: None,
            max_head: read_ahead.unwrap_or(MAX_HEAD),
            permit,
        })))
    }

    /// Whether the last exchange ended well.
    pub fn is_reusable(&self) -> bool {
        self.0.borrow().is_reusable()
    }

    /// Whether another request may be sent: it is reusable, and the instance has not closed it since.
    pub fn is_open(&self) -> bool {
        let inner = &mut *self.0.borrow_mut();
        if !inner.is_reusable() {
            return false;
        }
        let Some(wire) = &mut inner.wire else { return false };
        // A system call only where the system has said that there is something. Whatever that is, nobody
        // asked for it.
        !wire.stream.may_be_readable() || wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The stream and what was read of it, after a `101`. The connection is no more.
    pub fn take_upgraded(&self) -> Option<(Stream, Bytes)> {
        let inner = &mut *self.0.borrow_mut();
        inner.permit = None;
        let wire = inner.wire.take()?;
        Some((wire.stream, wire.buffer.freeze()))
    }

    /// Sends `request` with what is `added` to its head, and waits for the head of its answer; `informed` hears of
    /// those that come before it. Dropping the future closes the connection. The request is used up if there is an
    /// answer, or if it has a body.
    pub async fn send<B>(
        self: &Rc<Self>,
        request: &mut Request<B>,
        added: Added<'_>,
        informed: impl Fn(StatusCode),
    ) -> Result<Reply<Body>, Unanswered>
    where
        B: http_body::Body<Data = Bytes> + Default + Unpin + 'static,
    {
        let unless_answered = CloseOnDrop(self);
        let is_head = request.method() == Method::HEAD;
        let whole = request.body().is_end_stream();
        let sent = if whole {
            self.0.borrow_mut().begin(request, None, added);
            let written = poll_fn(|cx| self.0.borrow_mut().poll_write(cx)).await;
            self.0.borrow_mut().sent = written.is_ok();
            written.map_err(SendFault::Io)
        } else {
            let framing = self.0.borrow_mut().begin(request, Some(request.body().size_hint()), added);
            // All of it, as a head pins what it was read into.
            let body = std::mem::take(request).into_body();
            self.upload(Upload { connection: Rc::clone(self), body, framing, ended: false }).await
        };
        let answered = match sent {
            Ok(()) => poll_fn(|cx| self.0.borrow_mut().poll_head(&informed, cx)).await,
            Err(fault) => Err(fault),
        };
        let begun = answered.and_then(|(mut head, signs)| {
            let decoder = self.0.borrow_mut().begin_body(&mut head, &signs, is_head)?;
            Ok((head, decoder))
        });
        match begun {
            Ok((head, decoder)) => {
                unless_answered.disarm();
                // They pin what they were read into, and the answer may take long.
                head::recycle(request.headers_mut());
                let ended = decoder.is_at_end();
                if ended && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    self.0.borrow_mut().end();
                }
                Ok(head.map(|()| Body { connection: Rc::clone(self), decoder, ended }))
            }
            Err(fault) => {
                let inner = self.0.borrow();
                let silent = !inner.informed && inner.wire.as_ref().is_none_or(|wire| wire.buffer.is_empty());
                Err(Unanswered {
                    may_be_stale: silent && fault.is_end_of_connection(),
                    fault,
                    whole,
                    on_wire: inner.writer.began,
                })
            }
        }
    }

    /// What of the body is there already goes out with the head; the rest goes out by itself.
    async fn upload<B>(&self, mut upload: Upload<B>) -> Result<(), SendFault>
    where
        B: http_body::Body<Data = Bytes> + Unpin + 'static,
    {
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut upload).poll(cx))).await {
            Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(stuck)) => self.0.borrow_mut().stuck(stuck),
            Poll::Pending => {
                self.0.borrow_mut().upload = Some(tokio::task::spawn_local(upload));
                Ok(())
            }
        }
    }

    /// Gives back the memory that only an exchange needs.
    pub fn release(&self) {
        let inner = &mut *self.0.borrow_mut();
        inner.writer.release();
        if let Some(wire) = &mut inner.wire {
            wire.release();
        }
    }
}

/// Closes the connection of an exchange that does not come to its answer.
struct CloseOnDrop<'a>(&'a Connection);

impl CloseOnDrop<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.borrow_mut().close();
    }
}

// === impl Inner ===

impl Inner {
    fn is_reusable(&self) -> bool {
        self.stage == Stage::Rested
            && self.keeps_alive
            && self.wire.as_ref().is_some_and(|wire| wire.buffer.is_empty())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Some(wire) => self.writer.poll_write(&mut wire.stream, cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn stuck(&mut self, stuck: Stuck) -> Result<(), SendFault> {
        match stuck {
            Stuck::Body => Err(SendFault::Upload),
            Stuck::Io(error) => {
                self.write_fault = Some(error);
                Ok(())
            }
        }
    }

    /// Looks after the task that sends the body.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), SendFault> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let Poll::Ready(ended) = Pin::new(upload).poll(cx) else { return Ok(()) };
        self.upload = None;
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(stuck)) => self.stuck(stuck),
            Err(_) => Err(SendFault::Upload),
        }
    }

    fn poll_head(
        &mut self,
        informed: &impl Fn(StatusCode),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Reply<()>, Signs), SendFault>> {
        if let Err(fault) = self.poll_upload(cx) {
            return Poll::Ready(Err(fault));
        }
        let Some(wire) = &mut self.wire else { return Poll::Ready(Err(SendFault::Closed)) };
        loop {
            match head::parse_response(&mut wire.buffer, &mut self.progress) {
                Ok(Some((status, headers, signs))) => {
                    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Ok((Reply { status, headers, body: () }, signs)));
                    }
                    self.informed = true;
                    informed(status);
                    continue;
                }
                Ok(None) if wire.buffer.len() >= self.max_head => {
                    return Poll::Ready(Err(HeadError::TooLarge.into()));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            match ready!(wire.poll_fill(cx)) {
                Ok(0) => {
                    let fault = self.write_fault.take().map_or(SendFault::Closed, SendFault::Io);
                    return Poll::Ready(Err(fault));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn begin_body(
        &mut self,
        head: &mut Reply<()>,
        signs: &Signs,
        is_head: bool,
    ) -> Result<Decoder, HeadError> {
        self.stage = Stage::Answering;
        self.keeps_alive = signs.keeps_alive();
        let status = head.status;
        let announced = signs.framing()?;
        if let Headers::Map(headers) = &mut head.headers {
            signs.unite_lengths(headers);
            if signs.has_two_framings() {
                // It says nothing beside a coding (RFC 9112 §6.3), and must not be passed on with it.
                headers.remove(CONTENT_LENGTH);
            }
        }
        let bodiless = is_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless {
            return Ok(Decoder::EMPTY);
        }
        self.keeps_alive &= announced.is_some();
        Ok(Decoder::of(announced.unwrap_or(Length::UntilClose)))
    }

    /// The answer has come to its end.
    fn end(&mut self) {
        let clean = self.wire.as_ref().is_some_and(|wire| wire.buffer.is_empty());
        if self.keeps_alive && self.sent && clean {
            self.upload = None;
            self.stage = Stage::Rested;
        } else {
            self.close();
        }
    }

    fn close(&mut self) {
        self.wire = None;
        self.permit = None;
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
    }
}

// === impl SendFault ===

impl SendFault {
    fn is_end_of_connection(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            Self::Head(_) | Self::Upload => false,
        }
    }
}

#[cfg(test)]
mod tests;
