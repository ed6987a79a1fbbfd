//! HTTP/1.1 with one caller, until the connection rests, becomes a tunnel, or ends.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;

use super::io::Watched;
use super::{Phase, Place, Rested, Signal, close, lay_down};
use crate::http1::head::HeadError;
use crate::http1::server::{Answering, Connection, Fault, Next};
use crate::net::{EitherBody, Stream};
use crate::proxy::caller::{self, Caller};
use crate::proxy::forward::upload::Upload;
use crate::proxy::respond::Reject;
use crate::proxy::tunnel::{self, Ticket};
use crate::proxy::worker::count_end;

/// Why the connection is no longer HTTP.
enum End {
    /// Nothing is in flight: only the socket is kept.
    Rest,
    /// In order: what was answered has to arrive.
    Close,
    /// The caller has left, or is to be left.
    Drop,
    Tunnel(Box<Ticket>),
}

pub(super) async fn serve(stream: Stream, read: Bytes, caller: Rc<Caller>, place: Place) {
    let worker = Rc::clone(&caller.worker);
    // What a head may have, and room for as much of a body; the exact limits are the service's.
    let max_head = worker.table().plan.callers.max_header_bytes.as_usize().saturating_mul(2).max(16 * 1024);
    let io = Watched::new(stream, read, Rc::clone(&caller.link), Rc::clone(&worker));
    let connection = Connection::new(io, max_head);
    let mut session = Session { connection: &connection, caller: &caller, closing: false };
    let end = loop {
        match session.next().await {
            ControlFlow::Continue(()) => {
                if let ControlFlow::Break(end) = session.exchange().await {
                    break end;
                }
            }
            ControlFlow::Break(end) => break end,
        }
    };
    let Some((io, read)) = connection.into_parts() else { return };
    let stream = io.into_inner();
    match end {
        End::Rest => lay_down(Rested { stream, peer: caller.forwarding.peer(), place, known: true }),
        End::Close => close(stream).await,
        End::Drop => {}
        End::Tunnel(ticket) => {
            caller.link.enter(Phase::Tunnel, worker.clock.now());
            tunnel::run(stream, read, *ticket, &caller).await;
        }
    }
}

struct Session<'a> {
    connection: &'a Connection<Watched>,
    caller: &'a Rc<Caller>,
    /// What is in flight is the last.
    closing: bool,
}

impl Session<'_> {
    /// Waits for the next request.
    async fn next(&mut self) -> ControlFlow<End> {
        let fault = match poll_fn(|cx| self.poll_next(cx)).await {
            Ok(next) => return next,
            Err(fault) => fault,
        };
        self.count_end(kind(&fault));
        tracing::debug!(error = %fault, "a request that cannot be read");
        match Reject::of(&fault) {
            Some(reject) => self.refuse(&reject).await,
            None => ControlFlow::Break(End::Drop),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<ControlFlow<End>, Fault>> {
        while let Poll::Ready(signal) = self.caller.link.poll_signal(cx) {
            match signal {
                Signal::Rest if self.connection.is_quiet() => {
                    return Poll::Ready(Ok(ControlFlow::Break(End::Rest)));
                }
                // It spoke in the very moment it was to rest; the exchange has just ended.
                Signal::Rest | Signal::Watch => {}
                Signal::Close => self.closing = true,
                Signal::HeaderTimeout => return Poll::Ready(Err(Fault::TooSlow)),
                Signal::Cut => return Poll::Ready(Ok(ControlFlow::Break(self.cut()))),
            }
        }
        let polled = self.connection.poll_request(cx);
        // Who has spoken by now is not closed for having been silent.
        let is_silent =
            || self.connection.is_quiet() && self.connection.look(Watched::has_arrived) != Some(true);
        if self.closing && polled.is_pending() && is_silent() {
            return Poll::Ready(Ok(ControlFlow::Break(End::Close)));
        }
        if polled.is_pending() && !self.connection.is_quiet() {
            // A head that began to arrive while the request before it was being answered.
            self.caller.link.on_read(self.caller.worker.clock.now());
        }
        let more = ready!(polled)?;
        Poll::Ready(Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(End::Close) }))
    }

    /// Answers the request that is there.
    async fn exchange(&mut self) -> ControlFlow<End> {
        let reply = {
            let body = |body| Upload::new(EitherBody::Http1(body));
            // Lent to all that is done with it, as it is a quarter of a kilobyte.
            let mut request = self.connection.take_request(body);
            let reply = {
                let mut answer = pin!(caller::answer(self.caller, &mut request));
                poll_fn(|cx| {
                    if let ControlFlow::Break(end) = self.heed_signals(cx) {
                        return Poll::Ready(ControlFlow::Break(end));
                    }
                    match answer.as_mut().poll(cx) {
                        Poll::Ready(reply) => Poll::Ready(ControlFlow::Continue(reply)),
                        Poll::Pending => self.poll_gone(cx).map(ControlFlow::Break),
                    }
                })
                .await?
            };
            self.connection.reuse(std::mem::take(request.headers_mut()));
            reply
        };
        let switches = reply.status == StatusCode::SWITCHING_PROTOCOLS;
        // Said in the answer, so that the caller does not send another request here.
        let close = self.closing || self.caller.worker.is_closing();
        let mut answering = self.connection.begin(reply, close);
        self.write(&mut answering).await?;
        match self.caller.take_ticket() {
            Some(ticket) if switches => ControlFlow::Break(End::Tunnel(ticket)),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Writes an answer to its end.
    async fn write<B>(&mut self, answering: &mut Answering<B>) -> ControlFlow<End>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        poll_fn(|cx| {
            if let ControlFlow::Break(end) = self.heed_signals(cx) {
                return Poll::Ready(ControlFlow::Break(end));
            }
            match self.connection.poll_answer(answering, cx) {
                Poll::Ready(Ok(Next::Request)) => Poll::Ready(ControlFlow::Continue(())),
                Poll::Ready(Ok(Next::Close)) => Poll::Ready(ControlFlow::Break(End::Close)),
                Poll::Ready(Err(fault)) => {
                    self.count_end(kind(&fault));
                    tracing::debug!(error = %fault, "an answer that did not arrive");
                    Poll::Ready(ControlFlow::Break(End::Drop))
                }
                Poll::Pending => self.poll_gone(cx).map(ControlFlow::Break),
            }
        })
        .await
    }

    async fn refuse(&mut self, reject: &Reject) -> ControlFlow<End> {
        let mut answering = self.connection.begin(reject.response().map(Full::new), true);
        self.write(&mut answering).await?;
        ControlFlow::Break(End::Close)
    }

    /// What the sweep has to say in the middle of an exchange.
    fn heed_signals(&mut self, cx: &mut Context<'_>) -> ControlFlow<End> {
        while let Poll::Ready(signal) = self.caller.link.poll_signal(cx) {
            match signal {
                Signal::Close => self.closing = true,
                Signal::Cut => return ControlFlow::Break(self.cut()),
                Signal::Rest | Signal::HeaderTimeout | Signal::Watch => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<End> {
        ready!(self.connection.poll_gone(cx, self.caller.link.is_watched()));
        self.count_end("caller_left");
        Poll::Ready(End::Drop)
    }

    fn cut(&self) -> End {
        self.count_end("caller_stalled");
        End::Drop
    }

    fn count_end(&self, kind: &'static str) {
        count_end(&self.caller.worker, kind);
    }
}

impl Reject {
    /// The answer to what could not be read; `None` = there is nobody to answer.
    fn of(fault: &Fault) -> Option<Self> {
        match fault {
            Fault::TooSlow => Some(Self::CallerTooSlow),
            Fault::Head(HeadError::TooLarge | HeadError::TooManyHeaders) => Some(Self::HeadersTooLarge),
            Fault::Head(HeadError::TargetTooLong) => Some(Self::UriTooLong),
            Fault::Head(error) => Some(Self::MalformedHead(*error)),
            Fault::Io(_) | Fault::Incomplete | Fault::Answer => None,
        }
    }
}

/// Stable labels for connections that ended badly.
const fn kind(fault: &Fault) -> &'static str {
    match fault {
        Fault::TooSlow => "header_timeout",
        Fault::Head(HeadError::TooLarge | HeadError::TooManyHeaders | HeadError::TargetTooLong) => {
            "too_large"
        }
        Fault::Head(_) => "malformed",
        Fault::Incomplete => "caller_left",
        Fault::Answer => "answer_broke",
        Fault::Io(_) => "io",
    }
}
