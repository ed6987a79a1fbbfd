//! HTTP/2 with one caller.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::io::Watched;
use super::{Phase, Place, Signal};
use crate::net::{EitherBody, LocalExecutor, Stream};
use crate::proxy::caller::{self, Caller};
use crate::proxy::forward::upload::Upload;
use crate::proxy::worker::count_end;

/// What one upload may have on its way: full speed at 10 ms of round trip needs 13 MB/s × 10 ms.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes of answers that hyper buffers for one stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Not an `async fn`: that would keep room for its arguments beside what is made of them, in every connection.
pub(super) fn serve(
    stream: Stream,
    read: Bytes,
    caller: Rc<Caller>,
    place: Place,
) -> impl Future<Output = ()> {
    let worker = Rc::clone(&caller.worker);
    caller.link.set_multiplexed();
    caller.link.enter(Phase::Idle, worker.clock.now());
    let limits = &worker.table().plan.callers;
    let io = Watched::new(stream, read, Rc::clone(&caller.link), Rc::clone(&worker));
    let for_requests = Rc::clone(&caller);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let caller = Rc::clone(&for_requests);
        let mut request = request.map(|body| Upload::new(EitherBody::Http2(body)));
        async move { Ok::<_, Infallible>(caller::answer(&caller, &mut request).await.into_response()) }
    });
    // All streams together may be parked with their windows full, and still leave room for one more.
    let connection_window = STREAM_WINDOW.saturating_mul(limits.max_concurrent_streams.saturating_add(8));
    let mut connection = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.max_header_bytes.bytes()).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(io), service);
    if worker.is_closing() {
        Pin::new(&mut connection).graceful_shutdown();
    }
    async move {
        let _place = &place;
        let worker = &caller.worker;
        loop {
            let turn = poll_fn(|cx| {
                if let Poll::Ready(signal) = caller.link.poll_signal(cx) {
                    return Poll::Ready(Err(signal));
                }
                Pin::new(&mut connection).poll(cx).map(Ok)
            })
            .await;
            match turn {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    count_end(worker, if error.is_parse() { "malformed" } else { "http2" });
                    tracing::debug!(%error, "HTTP/2 connection failed");
                    return;
                }
                // GOAWAY; what is in flight ends.
                Err(Signal::Close | Signal::HeaderTimeout) => Pin::new(&mut connection).graceful_shutdown(),
                Err(Signal::Cut) => {
                    count_end(worker, "caller_stalled");
                    return;
                }
                // It always is.
                Err(Signal::Watch) => {}
                Err(Signal::Rest) => {
                    caller.forwarding.forget();
                    caller.link.set_rested();
                    worker.freed();
                }
            }
        }
    }
}
