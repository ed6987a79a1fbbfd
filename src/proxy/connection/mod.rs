//! One caller's connection: handshakes, rest, HTTP/1.1 or HTTP/2, and its end.
//!
//! ```text
//!   accepted ─► PROXY header, TLS ─► resting ─► readable ─► HTTP ──► closed
//!                                       ▲                    │ ├──► tunnel
//!                                       └── idle for a while ┘
//! ```
//!
//! hyper keeps 18–21 KB for a connection with nothing in flight, so after two sweeps of idleness it is
//! shut down gracefully, taken apart, and only its socket rests. A connection starts out resting too:
//! one that never says anything never costs more than its socket.

mod http1;
mod http2;
mod io;
mod link;

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
use super::worker::{Worker, count_end};
use crate::http1::server;
use crate::net::{EitherBody, Stream};

/// How a connection begins that wants HTTP/2 without TLS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
    caller: Rc<Caller>,
    place: Place,
    /// The protocol is known, by ALPN or from before: HTTP/1 unless TLS negotiated otherwise.
    known: bool,
}

/// A connection's place in its worker's set and in the shared count; given up when dropped.
pub struct Place {
    worker: Rc<Worker>,
    key: usize,
}

impl Place {
    fn take(worker: &Rc<Worker>, link: Rc<Link>) -> Self {
        Self { key: worker.enter(link), worker: Rc::clone(worker) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.leave(self.key);
    }
}

/// Takes over an accepted connection.
pub fn begin(worker: &Rc<Worker>, stream: Stream, peer: Option<SocketAddr>, entrance: Arc<Entrance>) {
    let link = Rc::new(Link::new(worker.clock.now()));
    let place = Place::take(worker, Rc::clone(&link));
    let ip = peer.map(|peer| peer.ip());
    if entrance.tls.is_none() && !entrance.proxy_protocol {
        let caller = Rc::new(Caller::new(Rc::clone(worker), link, ip, false));
        tokio::task::spawn_local(rest(Rested { stream, caller, place, known: false }));
        return;
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        if let Some((stream, ip)) = handshake(&worker, stream, ip, &entrance).await {
            let is_tls = stream.is_tls();
            let caller = Rc::new(Caller::new(worker, link, ip, is_tls));
            let begun = Rested { stream, caller, place, known: is_tls };
            if is_tls {
                // The first request may have come with the end of the handshake: then it waits inside
                // the session, and the socket will not become readable for it.
                tokio::task::spawn_local(wake(begun));
            } else {
                tokio::task::spawn_local(rest(begun));
            }
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

/// Waits until the caller says something. This future is all that a quiet connection costs.
async fn rest(rested: Rested) {
    let link = &rested.caller.link;
    link.enter(Phase::Resting, rested.caller.worker.clock.now());
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
    let Rested { mut stream, caller, place, known } = rested;
    caller.link.enter(Phase::Idle, caller.worker.clock.now());
    if stream.negotiated_h2() {
        return http2::serve(stream, Bytes::new(), caller, place).await;
    }
    if known {
        return http1::serve(stream, Bytes::new(), caller, place).await;
    }
    match sniff(&mut stream, &caller).await {
        None => {}
        Some((true, read)) => http2::serve(stream, read, caller, place).await,
        Some((false, read)) => http1::serve(stream, read, caller, place).await,
    }
}

/// Whether the connection begins with HTTP/2's preface, and all that was read to find out; `None` when
/// it ended or was told to.
async fn sniff(stream: &mut Stream, caller: &Caller) -> Option<(bool, Bytes)> {
    let mut read = BytesMut::with_capacity(4096);
    loop {
        let got = tokio::select! {
            biased;
            signal = std::future::poll_fn(|cx| caller.link.poll_signal(cx)) => match signal {
                Signal::Rest => continue,
                Signal::HeaderTimeout | Signal::Close | Signal::Cut => return None,
            },
            got = stream.read_buf(&mut read) => got.ok()?,
        };
        if got == 0 {
            return None;
        }
        caller.link.on_read(caller.worker.clock.now());
        let compared = read.len().min(PREFACE.len());
        if read.get(..compared) != PREFACE.get(..compared) {
            return Some((false, read.freeze()));
        }
        if compared == PREFACE.len() {
            return Some((true, read.freeze()));
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
