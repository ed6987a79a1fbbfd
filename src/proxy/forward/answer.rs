//! An instance's answer on its way to the caller, and the end of its exchange.
//!
//! The guard, the connection and the recording hang on the *instance's* side: they end when the
//! instance's answer has, which can be long before the caller has read it, or after it has left.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::upload::Upload;
use crate::config::InstanceName;
use crate::proxy::access::{Ending, Entry};
use crate::proxy::classify::Class;
use crate::proxy::gate::Guard;
use crate::proxy::gate::local::Signal;
use crate::proxy::service::Service;
use crate::proxy::worker::Worker;
use crate::record::{Direction, Exchange, Side};
use crate::tee::compare::{Digester, End, Head, Outcome};
use crate::upstream::{AnswerBody, AnswerFault, Lease};

/// The body of a response to a caller.
pub enum Answer {
    /// Segue's own words, or nothing.
    Own(Option<Bytes>),
    Instance(Option<Box<Open>>),
}

/// The instance's answer did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the instance broke its answer off: {0}")]
    Broke(#[from] AnswerFault),
    #[error("cut at the drain deadline")]
    Cut,
}

/// An answer that has begun.
pub struct Open {
    pub body: AnswerBody,
    pub lease: Lease<Upload>,
    pub guard: Guard,
    pub service: Rc<Service>,
    pub status: StatusCode,
    pub times: Times,
    pub pair: Option<Box<PairSide>>,
    pub access: Option<Access>,
}

/// The request's line in the access log.
pub struct Access {
    pub entry: Box<Entry>,
    pub worker: Rc<Worker>,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the request could be sent: connecting is not the instance's doing.
    pub sent: Instant,
    pub first_byte: Duration,
}

/// The source's side of a teed read.
pub struct PairSide {
    pub outcome: oneshot::Sender<Outcome>,
    pub head: Head,
    pub body: Digester,
    /// Since when a chunk has been waiting for its caller to come for the next one.
    pub handed: Option<Instant>,
    pub held_by_caller: Duration,
}

/// A caller that holds its answer back by more than this has made its time to last byte useless for
/// comparing: a fiftieth of the 50 ms that people notice.
const SLOW_CALLER: Duration = Duration::from_millis(1);
/// An abandoned write's answer is read on to its end up to this far; what is longer is no answer to a
/// write but a stream.
const ABANDONED_BYTES: u64 = 1 << 20;

impl Open {
    /// The body of the response: an answer that has ended with its head ends its exchange here.
    pub fn into_answer(self) -> Answer {
        let open = Box::new(self);
        if open.body.is_end_stream() {
            open.finish(End::Complete);
            return Answer::Instance(None);
        }
        Answer::Instance(Some(open))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Some(pair) = &mut self.pair
            && let Some(handed) = pair.handed.take()
        {
            pair.held_by_caller += handed.elapsed();
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if self.guard.took(data.len() as u64) == Some(Signal::Cut) {
                        return Poll::Ready(Some(Err(AnswerError::Cut)));
                    }
                    if let Some(access) = &mut self.access {
                        access.bytes += data.len() as u64;
                    }
                    if let Some(pair) = &mut self.pair {
                        pair.body.update(data, self.body.is_end_stream());
                        pair.handed = Some(Instant::now());
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.guard.poll_signal(cx) {
                Poll::Ready(Signal::Cut) => Poll::Ready(Some(Err(AnswerError::Cut))),
                _ => Poll::Pending,
            },
        }
    }

    /// Records, reports, gives the connection back and lets go of the guard, in this order: whoever is
    /// told "drained" may rely on all of it.
    fn finish(self: Box<Self>, end: End) {
        let Self { lease, guard, service, status, times, pair, access, .. } = *self;
        let now = Instant::now();
        let last_byte = now.saturating_duration_since(times.sent);
        let active = guard.admitted.active;
        {
            let mut counts = service.counts.borrow_mut();
            counts.recorder.record(&Exchange {
                side: Side::Source,
                direction: direction(active),
                status: Some(status),
                first_byte: Some(times.first_byte),
                last_byte: (end == End::Complete).then_some(last_byte),
            });
            counts.caller_left += u64::from(end == End::CallerLeft);
        }
        if let Some(pair) = pair {
            pair.report(end, times.first_byte, last_byte);
        }
        if let Some(Access { entry, worker, bytes }) = access {
            let ending = Ending {
                service: Some(&service.plan.name),
                instance: Some(active.as_str()),
                class: Some(guard.admitted.class.as_str()),
                status: status.as_u16(),
                bytes,
                outcome: end.as_str(),
            };
            entry.end(&ending, &worker.lines, now);
        }
        let failing = matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        if failing || end == End::BrokeOff {
            lease.failed(now);
        }
        if end == End::Complete {
            lease.give_back(now, failing);
        }
        drop(guard);
    }

    /// The caller left in the middle of the answer to its write. The source is heard out, so that a
    /// drain does not call it over before it is.
    async fn hear_out(mut self: Box<Self>) {
        let mut left = ABANDONED_BYTES;
        loop {
            let frame = std::future::poll_fn(|cx| self.poll(cx)).await;
            match frame {
                None => return self.finish(End::CallerLeft),
                Some(Err(_)) => return self.finish(End::BrokeOff),
                Some(Ok(frame)) => {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
                    if left == 0 {
                        return self.finish(End::CallerLeft);
                    }
                }
            }
        }
    }
}

pub const fn direction(active: InstanceName) -> Direction {
    match active {
        InstanceName::Source => Direction::Forward,
        InstanceName::Shadow => Direction::Reverse,
    }
}

impl PairSide {
    pub fn new(outcome: oneshot::Sender<Outcome>, head: Head) -> Box<Self> {
        let body = Digester::default();
        Box::new(Self { outcome, head, body, handed: None, held_by_caller: Duration::ZERO })
    }

    fn report(self, end: End, first_byte: Duration, last_byte: Duration) {
        let outcome = Outcome {
            head: Some(self.head),
            body: self.body.finish(),
            end,
            first_byte: Some(first_byte),
            last_byte: (end == End::Complete).then_some(last_byte),
            caller_slow: self.held_by_caller > SLOW_CALLER,
        };
        // The lane has given the pair up when nobody listens.
        let _ = self.outcome.send(outcome);
    }
}

// === impl Answer ===

impl Answer {
    /// Takes the whole answer in the place of a caller that has left.
    pub async fn hear_out(mut self) {
        if let Self::Instance(open) = &mut self
            && let Some(exchange) = open.take()
        {
            exchange.hear_out().await;
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let open = match self.get_mut() {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Instance(open) => open,
        };
        let Some(exchange) = open else { return Poll::Ready(None) };
        let polled = exchange.poll(cx);
        let end = match &polled {
            Poll::Ready(Some(Ok(_))) if exchange.body.is_end_stream() => End::Complete,
            Poll::Pending | Poll::Ready(Some(Ok(_))) => return polled,
            Poll::Ready(None) => End::Complete,
            Poll::Ready(Some(Err(_))) => End::BrokeOff,
        };
        if let Some(exchange) = open.take() {
            exchange.finish(end);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Own(None) | Self::Instance(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Instance(None) => SizeHint::with_exact(0),
            Self::Instance(Some(open)) => open.body.size_hint(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Self::Instance(open) = self else { return };
        let Some(exchange) = open.take() else { return };
        if exchange.guard.admitted.class == Class::Write {
            exchange.service.counts.borrow_mut().abandoned += 1;
            tokio::task::spawn_local(exchange.hear_out());
        } else {
            exchange.finish(End::CallerLeft);
        }
    }
}
