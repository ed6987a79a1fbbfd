//! The shadow's leg of one pair: send the copy, read the answer, keep only what comparing needs.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};

use super::copy::Copy;
use crate::http1::{Reply, client};
use crate::tee::budget::Permit;
use crate::tee::compare::{Digester, End, Head, Outcome};
use crate::tee::skip::Skip;
use crate::upstream::{AnswerBody, AnswerFault, ConnectError, Lease, Pool, SendError, SendFault, Want};

/// A request body that is whole already.
#[derive(Clone, Debug, Default)]
pub struct Whole(Option<Bytes>);

impl Whole {
    pub fn new(body: Bytes) -> Self {
        Self((!body.is_empty()).then_some(body))
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        Poll::Ready(self.0.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// How the leg went.
pub struct Leg {
    pub outcome: Outcome,
    /// Connecting, where this pair had to wait for it; it is not in the outcome's times.
    pub connect: Option<Duration>,
    /// Set when the shadow never saw the request.
    pub unseen: Option<Skip>,
    pub retried: bool,
}

pub struct Question<'a> {
    pub method: &'a Method,
    /// Its map is used up.
    pub copy: &'a mut Copy,
    pub body: Bytes,
    pub max_answer_bytes: u64,
}

/// `sent_any` is set once the shadow may have seen the request, for whoever gives up waiting.
pub async fn ask(
    pool: &Rc<Pool<Whole>>,
    question: Question<'_>,
    permit: &Permit,
    sent_any: &Cell<bool>,
) -> Leg {
    let Copy { target, headers, lines, version, .. } = question.copy;
    let mut request = Request::new(Whole::new(question.body));
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = Uri::from(target.clone());
    *request.version_mut() = *version;
    *request.headers_mut() = std::mem::take(headers);
    let mut connect = None;
    let mut retried = false;
    loop {
        let mut lease = match pool.checkout(Instant::now(), Want::default()).await {
            Ok(lease) => lease,
            Err(error) => return Leg { connect, retried, ..Leg::unseen(&error) },
        };
        connect = lease.connect.or(connect);
        let sent = Instant::now();
        sent_any.set(true);
        match lease.send(&mut request, lines, |_| {}).await {
            Ok(reply) => {
                let outcome = read(lease, reply, sent, question.max_answer_bytes, permit).await;
                return Leg { outcome, connect, unseen: None, retried };
            }
            // One retry, where the shadow was not reached or had just closed the connection.
            Err(SendError { whole: true, unsent, may_be_stale, .. })
                if !retried && (unsent || (may_be_stale && lease.rested.is_some())) =>
            {
                *request.version_mut() = *version;
            }
            Err(failed) => {
                let end = if is_malformed(&failed.error) { End::Malformed } else { End::BrokeOff };
                return Leg { outcome: Outcome::without_head(end), connect, unseen: None, retried };
            }
        }
        retried = true;
    }
}

fn is_malformed(fault: &SendFault) -> bool {
    match fault {
        SendFault::Http1(fault) => matches!(fault, client::SendFault::Head(_)),
        SendFault::Http2(error) => error.is_parse(),
        SendFault::GivenBack | SendFault::BadAuthority => false,
    }
}

async fn read(
    lease: Lease<Whole>,
    reply: Reply<AnswerBody>,
    sent: Instant,
    max_bytes: u64,
    permit: &Permit,
) -> Outcome {
    let first_byte = Some(sent.elapsed());
    let Reply { status, headers, mut body } = reply;
    let head = Some(Head::of(status, &headers));
    drop(headers);
    let mut digester = Digester::default();
    let mut end = End::Complete;
    while let Some(frame) = next_frame(&mut body).await {
        let Ok(frame) = frame else {
            end = End::BrokeOff;
            break;
        };
        if let Some(data) = frame.data_ref() {
            permit.charge(data.len() as u64);
            if digester.length().saturating_add(data.len() as u64) > max_bytes {
                end = End::TooLarge;
                break;
            }
            digester.update(data, body.is_end_stream());
        }
    }
    let ended = (end == End::Complete).then(Instant::now);
    if let Some(now) = ended {
        lease.give_back(now, false);
    }
    Outcome {
        head,
        body: digester.finish(),
        end,
        first_byte,
        last_byte: ended.map(|now| now.saturating_duration_since(sent)),
        caller_slow: false,
    }
}

async fn next_frame(body: &mut AnswerBody) -> Option<Result<Frame<Bytes>, AnswerFault>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

impl Leg {
    fn unseen(error: &ConnectError) -> Self {
        let (end, skip) = match error {
            ConnectError::Busy(_) => (End::TimedOut, Skip::Connections),
            _ => (End::ConnectFailed, Skip::ConnectFailed),
        };
        let outcome = Outcome::without_head(end);
        Self { outcome, connect: None, unseen: Some(skip), retried: false }
    }
}

impl Outcome {
    /// Nothing was answered.
    pub fn without_head(end: End) -> Self {
        Self { head: None, body: None, end, first_byte: None, last_byte: None, caller_slow: false }
    }
}
