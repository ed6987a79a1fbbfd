//! HTTP/1.1 with one caller, until the connection rests, becomes a tunnel, or ends.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::io::Watched;
use super::{Phase, Place, Rested, Signal, close, rest};
use crate::net::Stream;
use crate::proxy::caller::{self, Caller};
use crate::proxy::tunnel;
use crate::proxy::worker::count_end;

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\nsegue-error: caller_too_slow\r\n\r\n";

enum Turn {
    Ended(hyper::Result<()>),
    Signal(Signal),
}

pub(super) async fn serve(stream: Stream, read: Bytes, caller: Rc<Caller>, place: Place) {
    let worker = Rc::clone(&caller.worker);
    let limits = &worker.table().plan.callers;
    let io = Watched::new(stream, read, Rc::clone(&caller.link), Rc::clone(&worker));
    let for_requests = Rc::clone(&caller);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let caller = Rc::clone(&for_requests);
        async move {
            let mut response = caller::answer(Rc::clone(&caller), request).await;
            if caller.worker.is_closing() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                // Said in the answer, so that the caller does not send another request here.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        // A caller that shuts its side has left: nothing else tells so before the next write, and until
        // then a parked place, an instance's work and a drain would wait for nobody.
        .half_close(false)
        // What a head may have, and room for as much of a body; the exact limits are the service's.
        .max_buf_size(limits.max_header_bytes.as_usize().saturating_mul(2).max(16 * 1024))
        .serve_connection(TokioIo::new(io), service);
    let mut resting = false;
    loop {
        let turn = poll_fn(|cx| {
            if let Poll::Ready(signal) = caller.link.poll_signal(cx) {
                return Poll::Ready(Turn::Signal(signal));
            }
            Pin::new(&mut connection).poll(cx).map(Turn::Ended)
        })
        .await;
        match turn {
            Turn::Signal(Signal::Rest) => {
                resting = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Turn::Signal(Signal::Close) => {
                resting = false;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Turn::Signal(Signal::HeaderTimeout) => {
                count_end(&worker, "header_timeout");
                let (mut stream, _) = connection.into_parts().io.into_inner().into_parts();
                // The caller may be gone; it was told if it is not.
                let _ = stream.write_all(TIMED_OUT).await;
                return close(stream).await;
            }
            Turn::Signal(Signal::Cut) => {
                count_end(&worker, "caller_stalled");
                return;
            }
            Turn::Ended(Err(error)) => {
                count_end(&worker, kind(&error));
                tracing::debug!(%error, "connection failed");
                // hyper has answered what it could not parse; the answer has to arrive.
                if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
                    close(connection.into_parts().io.into_inner().into_parts().0).await;
                }
                return;
            }
            Turn::Ended(Ok(())) => break,
        }
    }
    let parts = connection.into_parts();
    let (stream, unread) = parts.io.into_inner().into_parts();
    let read = joined(parts.read_buf, unread);
    drop(parts.service);
    if let Some(ticket) = caller.take_ticket() {
        caller.link.enter(Phase::Tunnel, worker.clock.now());
        return tunnel::run(stream, read, ticket, &caller).await;
    }
    if !resting {
        return close(stream).await;
    }
    if read.is_empty() {
        tokio::task::spawn_local(rest(Rested { stream, caller, place, known: true }));
    } else {
        // It spoke in the very moment it was to rest.
        caller.link.enter(Phase::Idle, worker.clock.now());
        tokio::task::spawn_local(again(stream, read, caller, place));
    }
}

/// Boxed, because it leads back to [`serve`].
fn again(stream: Stream, read: Bytes, caller: Rc<Caller>, place: Place) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(serve(stream, read, caller, place))
}

fn joined(first: Bytes, then: Bytes) -> Bytes {
    match (first.is_empty(), then.is_empty()) {
        (_, true) => first,
        (true, false) => then,
        (false, false) => {
            let mut all = BytesMut::from(first);
            all.extend_from_slice(&then);
            all.freeze()
        }
    }
}

/// Stable labels for connections that ended badly.
fn kind(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() {
        "too_large"
    } else if error.is_parse() || error.is_parse_status() {
        "malformed"
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "caller_left"
    } else if error.is_timeout() {
        "timeout"
    } else if error.is_user() || error.is_body_write_aborted() {
        "answer_broke"
    } else {
        "io"
    }
}
