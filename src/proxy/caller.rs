//! What a request knows of the connection it came on.

use std::cell::RefCell;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};

use super::connection::Link;
use super::forward::answer::{Answer, AnswerError};
use super::forward::upload::Upload;
use super::forward::{self, Forwarding};
use super::tunnel::Ticket;
use super::worker::Worker;
use crate::http1::Reply;

pub struct Caller {
    pub worker: Rc<Worker>,
    pub link: Rc<Link>,
    pub forwarding: Forwarding,
    /// Boxed, as few connections ever have one and all would keep room for it.
    ticket: RefCell<Option<Box<Ticket>>>,
}

impl Caller {
    pub fn new(worker: Rc<Worker>, link: Rc<Link>, peer: Option<IpAddr>, is_tls: bool) -> Self {
        let trust = worker.table().plan.callers.trust_forwarded;
        Self { worker, link, forwarding: Forwarding::new(peer, is_tls, trust), ticket: RefCell::default() }
    }

    /// The connection becomes a tunnel once its `101` is out.
    pub fn promise(&self, ticket: Ticket) {
        *self.ticket.borrow_mut() = Some(Box::new(ticket));
    }

    pub fn take_ticket(&self) -> Option<Box<Ticket>> {
        self.ticket.borrow_mut().take()
    }
}

/// An answer whose connection counts as busy until all of it is taken.
pub struct Tracked {
    answer: Answer,
    _in_flight: InFlight,
}

/// Answers one request; the connection is busy until all of the answer is taken.
pub async fn answer(caller: &Rc<Caller>, request: &mut Request<Upload>) -> Reply<Tracked> {
    let in_flight = InFlight::begin(caller);
    let reply = forward::handle(caller, request).await;
    reply.map(|answer| Tracked { answer, _in_flight: in_flight })
}

/// One request in flight on a caller's connection.
struct InFlight(Rc<Caller>);

impl InFlight {
    fn begin(caller: &Rc<Caller>) -> Self {
        caller.link.begin(caller.worker.clock.now());
        Self(Rc::clone(caller))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.link.end(self.0.worker.clock.now());
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        Pin::new(&mut self.answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
