//! The right to send one request on a connection, from its check-out to its return.

use std::error::Error as StdError;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use hyper::body::Body;

use super::added::Added;
use super::address;
use super::connect::Upgraded;
use super::endpoint::Endpoint;
use super::pool::{Line, Pool, Slot};
use crate::http1::{BodyError, Reply, client};
use crate::net::{EitherBody, EitherFault};

/// The right to send one request on a connection.
pub struct Lease<B> {
    pub(super) pool: Rc<Pool<B>>,
    pub(super) slot: Rc<Slot<B>>,
    pub(super) line: Line<B>,
    /// How long the connection had rested; `None` = it is new.
    pub rested: Option<Duration>,
    /// What opening it took, if this request had to wait for that.
    pub connect: Option<Duration>,
}

/// The body of an instance's answer.
pub type AnswerBody = EitherBody<client::Body>;
pub type AnswerFault = EitherFault<BodyError>;

/// What was sent did not get an answer.
pub struct SendError {
    pub error: SendFault,
    /// The request can be sent again: nothing of its body was taken.
    pub whole: bool,
    /// Nothing of it was put on the wire.
    pub unsent: bool,
    /// The connection was closed before a byte of an answer came: the mark of one that had rested too long.
    pub may_be_stale: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    #[error(transparent)]
    Http1(#[from] client::SendFault),
    #[error("{0}")]
    Http2(#[from] hyper::Error),
    #[error("the connection had already been given back")]
    GivenBack,
    #[error("the Host header is no authority, which HTTP/2 needs")]
    BadAuthority,
}

// === impl Lease ===

impl<B> Lease<B> {
    pub const fn is_h2(&self) -> bool {
        matches!(self.line, Line::H2(_))
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.slot.endpoint
    }

    /// The stream, if the answer was `101 Switching Protocols`.
    pub fn take_upgraded(&self) -> Option<Upgraded> {
        match &self.line {
            Line::H1(connection) => connection.take_upgraded(),
            Line::H2(_) | Line::Gone => None,
        }
    }

    /// Takes the line out without closing it and without giving it back.
    pub(super) fn disarm(&mut self) -> Line<B> {
        self.release_counts();
        std::mem::replace(&mut self.line, Line::Gone)
    }

    fn release_counts(&self) {
        match &self.line {
            Line::Gone => return,
            Line::H1(_) => {}
            Line::H2(connection) => connection.streams.set(connection.streams.get().saturating_sub(1)),
        }
        self.slot.outstanding.set(self.slot.outstanding.get().saturating_sub(1));
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Default + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Sends `request` with what is `added` to its head, and waits for the head of its answer. Dropping the future closes an HTTP/1.1
    /// connection, or resets the HTTP/2 stream. `informed` hears of heads before the final one, over HTTP/1.1.
    /// The request is used up, unless a [`SendError`] says that it is whole.
    ///
    /// The target and the headers that depend on the protocol are set here, so that a request which
    /// was not sent can go to a connection of the other kind.
    pub async fn send(
        &mut self,
        request: &mut Request<B>,
        added: &Added,
        informed: impl Fn(StatusCode),
    ) -> Result<Reply<AnswerBody>, SendError> {
        let endpoint = &self.slot.endpoint;
        match &self.line {
            Line::H1(connection) => {
                let host = added.host().unwrap_or(&endpoint.authority);
                let added = client::Added { lines: added.lines(), host };
                match connection.send(request, added, informed).await {
                    Ok(reply) => Ok(reply.map(AnswerBody::Http1)),
                    Err(failed) => Err(SendError {
                        error: failed.fault.into(),
                        whole: failed.whole,
                        unsent: !failed.on_wire,
                        may_be_stale: failed.may_be_stale,
                    }),
                }
            }
            Line::H2(connection) => {
                if let Some(host) = added.host() {
                    request.headers_mut().entry(HOST).or_insert_with(|| host.clone());
                }
                if let Err(error) = address::for_h2(request, endpoint) {
                    return Err(SendError::unsent(error));
                }
                added.insert_into(request.headers_mut());
                let mut sender = connection.sender.clone();
                match sender.try_send_request(std::mem::take(request)).await {
                    Ok(response) => Ok(Reply::from(response.map(AnswerBody::Http2))),
                    Err(mut failed) => {
                        let back = failed.take_message();
                        let whole = back.is_some();
                        if let Some(back) = back {
                            *request = back;
                            added.remove_from(request.headers_mut());
                        }
                        let error = failed.into_error();
                        let may_be_stale = is_end_of_connection(&error);
                        Err(SendError { error: error.into(), whole, unsent: whole, may_be_stale })
                    }
                }
            }
            Line::Gone => Err(SendError::unsent(SendFault::GivenBack)),
        }
    }

    /// The answer has ended: the connection may serve the next request. `failing`: it was an answer
    /// that speaks against the endpoint, so it does not end a row of failures.
    pub fn give_back(mut self, now: Instant, failing: bool) {
        if !failing {
            self.pool.instance().succeeded(&self.slot.endpoint);
        }
        let (pool, slot) = (Rc::clone(&self.pool), Rc::clone(&self.slot));
        match self.disarm() {
            Line::H1(connection) => pool.take_back(&slot, connection, now),
            Line::H2(connection) => {
                connection.used.set(now);
                if !connection.sender.is_closed() {
                    // One stream is free again; without a taker nothing needs to be kept.
                    drop(pool.offer(&slot, Line::H2(connection)));
                }
            }
            Line::Gone => {}
        }
    }

    /// The instance answered badly, or not at all: counts towards ejection.
    pub fn failed(&self, now: Instant) {
        self.pool.instance().failed(&self.slot.endpoint, now);
    }
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        self.release_counts();
    }
}

// === impl SendError ===

impl SendError {
    const fn unsent(error: SendFault) -> Self {
        Self { error, whole: true, unsent: true, may_be_stale: false }
    }
}

fn is_end_of_connection(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let is_reset =
        io.is_some_and(|io| matches!(io.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
    error.is_incomplete_message() || error.is_closed() || is_reset
}
