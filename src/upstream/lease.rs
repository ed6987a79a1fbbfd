//! The right to send one request on a connection, from its check-out to its return.

use std::error::Error as StdError;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::sync::oneshot;

use super::address;
use super::connect::Upgraded;
use super::endpoint::Endpoint;
use super::pool::{Line, Pool, Slot};

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

/// What was sent did not get an answer.
pub struct SendError<B> {
    pub error: SendFault,
    /// The request itself, if nothing of it was put on the wire.
    pub unsent: Option<Request<B>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    #[error("{0}")]
    Http(#[from] hyper::Error),
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

    /// Where the stream arrives if the answer is `101 Switching Protocols`. Ask before sending.
    pub fn expect_upgrade(&self) -> Option<oneshot::Receiver<Upgraded>> {
        let Line::H1 { upgrade, .. } = &self.line else { return None };
        let (sender, receiver) = oneshot::channel();
        *upgrade.borrow_mut() = Some(sender);
        Some(receiver)
    }

    /// Takes the line out without closing it and without giving it back.
    pub(super) fn disarm(&mut self) -> Line<B> {
        self.release_counts();
        std::mem::replace(&mut self.line, Line::Gone)
    }

    fn release_counts(&self) {
        match &self.line {
            Line::Gone => return,
            Line::H1 { .. } => {}
            Line::H2(connection) => connection.streams.set(connection.streams.get().saturating_sub(1)),
        }
        self.slot.outstanding.set(self.slot.outstanding.get().saturating_sub(1));
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Sends `request` and waits for the head of its answer. Dropping the future closes an HTTP/1.1
    /// connection, or resets the HTTP/2 stream.
    ///
    /// The target and the headers that depend on the protocol are set here, so that a request which
    /// was not sent can go to a connection of the other kind.
    pub async fn send(&mut self, mut request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let endpoint = &self.slot.endpoint;
        let addressed = if self.is_h2() {
            address::for_h2(&mut request, endpoint)
        } else {
            address::for_h1(&mut request, endpoint);
            Ok(())
        };
        if let Err(error) = addressed {
            return Err(SendError { error, unsent: Some(request) });
        }
        let sent = match &mut self.line {
            Line::H1 { sender, .. } => {
                if !sender.is_ready() {
                    // A lease handed from one request to the next can be a poll early.
                    let _ = sender.ready().await;
                }
                sender.try_send_request(request).await
            }
            Line::H2(connection) => {
                let mut sender = connection.sender.clone();
                sender.try_send_request(request).await
            }
            Line::Gone => return Err(SendError { error: SendFault::GivenBack, unsent: Some(request) }),
        };
        sent.map_err(|mut failed| SendError {
            unsent: failed.take_message(),
            error: failed.into_error().into(),
        })
    }

    /// The answer has ended: the connection may serve the next request. `failing`: it was an answer
    /// that speaks against the endpoint, so it does not end a row of failures.
    pub fn give_back(mut self, now: Instant, failing: bool) {
        if !failing {
            self.pool.instance().succeeded(&self.slot.endpoint);
        }
        let (pool, slot) = (Rc::clone(&self.pool), Rc::clone(&self.slot));
        match self.disarm() {
            Line::H1 { sender, upgrade } => pool.take_back(&slot, sender, upgrade, now),
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
