//! One caller's connection: handshakes, rest, HTTP/1.1 or HTTP/2, and its end.
//!
//! ```text
//!   accepted ─► PROXY header, TLS ─► HTTP ─────────────► closed
//!                                  ▲  │ └──► tunnel
//!                         readable │  │ idle for a while
//!                                  │  ▼
//!                                 resting
//! ```
//!
//! When it has been idle for a while (the sweep says how long), a connection is taken apart, and only its socket rests,
//! with its TLS session if it has one: see [`resting`]. A new connection is read from at once, as nearly every caller
//! speaks at once; one that does not goes to rest like any other.

mod http1;
mod http2;
mod io;
mod link;
pub mod resting;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use self::link::{Link, Patience, Phase, Signal};
use super::caller::Caller;
use super::listener::proxy_protocol;
use super::listener::{Entrance, TlsListener};
use super::loads::Counted;
use super::worker::{Worker, count_end};
use crate::http1::server;
use crate::net::{EitherBody, Stream};

/// How a connection begins that wants HTTP/2 without TLS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for what a connection begins with. No buffer that stays with a connection has this size, or those of a crowd that
/// has just come would leave holes between them.
const FIRST_READ: usize = 3 * 1024;
/// After Segue closes its side, what the caller still sends is read and dropped this long, or its
/// system answers the close with a reset that may overtake the response.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\nsegue-error: too_many_connections\r\n\r\n";

/// The body of a caller's request.
pub type RequestBody = EitherBody<server::Body<io::Watched>>;

/// A connection between two periods of use.
struct Rested {
    stream: Stream,
    peer: Option<IpAddr>,
    place: Place,
    /// The protocol is known, by ALPN or from before: HTTP/1 unless TLS negotiated otherwise.
    known: bool,
}

/// A connection's place among those of its worker that have a task, and in the count of them all;
/// given up when dropped.
pub struct Place {
    entered: Entered,
    counted: Counted,
}

struct Entered {
    worker: Rc<Worker>,
    link: Rc<Link>,
    key: usize,
}

impl Place {
    fn take(worker: &Rc<Worker>, counted: Counted) -> Self {
        let link = Rc::new(Link::new(worker.clock.now()));
        let key = worker.enter(Rc::clone(&link));
        Self { entered: Entered { worker: Rc::clone(worker), link, key }, counted }
    }

    fn worker(&self) -> &Rc<Worker> {
        &self.entered.worker
    }

    fn link(&self) -> &Rc<Link> {
        &self.entered.link
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.worker.leave(self.key);
    }
}

/// Takes over an accepted connection.
pub fn begin(worker: &Rc<Worker>, stream: Stream, peer: Option<SocketAddr>, entrance: Arc<Entrance>) {
    let place = Place::take(worker, worker.count_in());
    let peer = peer.map(|peer| peer.ip());
    if entrance.tls.is_none() && !entrance.proxy_protocol {
        tokio::task::spawn_local(wake(Rested { stream, peer, place, known: false }));
        return;
    }
    tokio::task::spawn_local(async move {
        if let Some((stream, peer)) = handshake(place.worker(), stream, peer, &entrance).await {
            let known = stream.is_tls();
            // A task of its own, without the room that a handshake needs.
            tokio::task::spawn_local(wake(Rested { stream, peer, place, known }));
        }
    });
}

async fn handshake(
    worker: &Worker,
    mut stream: Stream,
    mut peer: Option<IpAddr>,
    entrance: &Entrance,
) -> Option<(Stream, Option<IpAddr>)> {
    let timeout = worker.table().plan.callers.handshake_timeout;
    if entrance.proxy_protocol {
        match proxy_protocol::read_header(&mut stream, timeout).await {
            Ok(header) => peer = header.addresses.map_or(peer, |of| Some(of.source.ip().to_canonical())),
            Err(proxy_protocol::Error::Closed) => return None,
            Err(error) => {
                count_end(worker, "proxy_protocol");
                tracing::debug!(%error, "PROXY protocol header refused");
                return None;
            }
        }
    }
    let Some(tls) = &entrance.tls else { return Some((stream, peer)) };
    match accept_tls(tls, stream, timeout).await {
        Ok(stream) => Some((stream, peer)),
        Err(error) => {
            count_end(worker, "tls_handshake");
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
    }
}

async fn accept_tls(
    tls: &TlsListener,
    stream: Stream,
    timeout: Duration,
) -> Result<Stream, super::listener::tls::HandshakeError> {
    let Stream::Tcp(tcp) = stream else {
        let error = std::io::Error::other("TLS is served over TCP");
        return Err(super::listener::tls::HandshakeError::Connection(error));
    };
    Ok(Stream::Tls(Box::new(tls.accept(tcp, timeout).await?.into())))
}

/// Keeps a connection until its caller says something: in the resting set if it can be, and otherwise in
/// a task.
fn lay_down(rested: Rested) {
    match settle(rested) {
        Ok(None) => {}
        Ok(Some(rested)) => drop(tokio::task::spawn_local(rest(rested))),
        Err(error) => tracing::warn!(%error, "a connection that was to rest is lost"),
    }
}

/// Puts a connection into the resting set, or gives it back where that cannot be.
fn settle(mut rested: Rested) -> std::io::Result<Option<Rested>> {
    let worker = Rc::clone(rested.place.worker());
    worker.freed();
    // What is about to be closed does not rest.
    if worker.is_closing() || !rested.stream.is_quiet() {
        return Ok(Some(rested));
    }
    let Some(seat) = worker.resting.seat(&rested.stream) else { return Ok(Some(rested)) };
    let Rested { stream, peer, place: Place { counted, .. }, known } = rested;
    let (socket, since) = (stream.detach()?, worker.clock.now());
    worker.resting.put(seat, resting::Entry { socket, peer, known, since, counted });
    Ok(None)
}

/// Builds up what rested as a bare socket.
pub fn rouse(worker: &Rc<Worker>, entry: resting::Entry) {
    let resting::Entry { socket, peer, known, counted, .. } = entry;
    match socket.attach() {
        Ok(stream) => {
            let place = Place::take(worker, counted);
            tokio::task::spawn_local(wake(Rested { stream, peer, place, known }));
        }
        Err(error) => tracing::warn!(%error, "a connection that rested is lost"),
    }
}

/// Waits in a task until the caller says something.
async fn rest(rested: Rested) {
    let link = rested.place.link();
    link.enter(Phase::Resting, rested.place.worker().clock.now());
    let readable = async {
        match &rested.stream {
            Stream::Tcp(tcp) => tcp.readable().await,
            Stream::Unix(unix) => unix.readable().await,
            Stream::Tls(tls) => tls.get_ref().0.readable().await,
        }
    };
    let woken = tokio::select! {
        biased;
        signal = std::future::poll_fn(|cx| link.poll_signal(cx)) => Err(signal),
        readable = readable => Ok(readable),
    };
    // Otherwise nobody is in the middle of anything, so a plain close is what keep-alive leads callers
    // to expect.
    if let Ok(Ok(())) = woken {
        tokio::task::spawn_local(wake(rested));
    }
}

/// Reads what arrived, and speaks the protocol that it begins with.
async fn wake(rested: Rested) {
    let Rested { mut stream, peer, place, known } = rested;
    let (worker, link) = (Rc::clone(place.worker()), Rc::clone(place.link()));
    link.enter(Phase::Idle, worker.clock.now());
    let (is_http2, read) = if known {
        (stream.negotiated_h2(), Bytes::new())
    } else {
        match sniff(&mut stream, &worker, &link).await {
            Sniffed::Protocol { is_http2, read } => (is_http2, read),
            Sniffed::Silence => return lay_down(Rested { stream, peer, place, known }),
            Sniffed::End => return,
        }
    };
    let caller = Rc::new(Caller::new(worker, link, peer, stream.is_tls()));
    if is_http2 {
        // A task of its own, without the room that a request of HTTP/1 needs.
        tokio::task::spawn_local(http2::serve(stream, read, caller, place));
    } else {
        http1::serve(stream, read, caller, place).await;
    }
}

/// What a connection begins with.
enum Sniffed {
    /// With HTTP/2's preface or not, and all that was read to find out.
    Protocol { is_http2: bool, read: Bytes },
    /// Nothing for so long that it should rest.
    Silence,
    /// It ended, or was told to.
    End,
}

async fn sniff(stream: &mut Stream, worker: &Worker, link: &Link) -> Sniffed {
    let mut read = BytesMut::with_capacity(FIRST_READ);
    loop {
        let got = tokio::select! {
            biased;
            signal = std::future::poll_fn(|cx| link.poll_signal(cx)) => match signal {
                Signal::Rest if read.is_empty() => return Sniffed::Silence,
                Signal::Rest | Signal::Watch => continue,
                // Who has spoken by now is not closed for having been silent.
                Signal::Close if read.is_empty() && stream.has_arrived() => continue,
                Signal::HeaderTimeout | Signal::Close | Signal::Cut => return Sniffed::End,
            },
            got = stream.read_buf(&mut read) => got,
        };
        if !got.is_ok_and(|got| got > 0) {
            return Sniffed::End;
        }
        link.on_read(worker.clock.now());
        let compared = read.len().min(PREFACE.len());
        let is_http2 = read.get(..compared) == PREFACE.get(..compared);
        if !is_http2 || compared == PREFACE.len() {
            return Sniffed::Protocol { is_http2, read: read.freeze() };
        }
    }
}

/// Says that there is no room, if the first packet of an answer fits into the socket's buffer, which on
/// a fresh connection it does.
pub fn refuse(stream: &Stream) {
    if let Stream::Tcp(tcp) = stream {
        let _ = tcp.try_write(NO_ROOM);
    }
}

/// Closes in order: our side first, then whatever the caller still sends is let run out.
async fn close(mut stream: Stream) {
    let mut sink = vec![0; 8192];
    let drained = async {
        // TLS says goodbye first, which a caller that reads nothing does not let it do.
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut sink).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the task that `serve` becomes.
    fn size<A, B, C, D, F>(_serve: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_task_is_no_larger_than_its_protocol_needs() {
        let (http1, http2) = (size(http1::serve), size(http2::serve));
        assert!(http2 <= 1728, "{http2} bytes a connection, most of it hyper's");
        assert!(http1 <= 6656, "{http1} bytes a connection, most of it for the request in flight");
    }
}
