//! One accepted connection: protocol, requests, faults, and its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{Either, LocalBoxFuture};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::answer::{self, Answer};
use super::body::AnswerBody;
use super::fault::{FaultKind, Strike};
use super::route::route;
use super::socket::{Sabotage, Socket, Stream};
use super::spoil::spoil;
use super::worker::{Place, Site};

const INSTANCE: HeaderName = HeaderName::from_static("x-instance");

/// Room for uploads on many streams at once; one stalled stream must not use up the connection's.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;
const MAX_STREAMS: u32 = 1024;

/// Serves until either side ends it, or until `finish` fires and what is in flight is done.
pub(super) async fn serve(
    site: Rc<Site>,
    mut stream: Stream,
    place: Rc<Place>,
    mut finish: oneshot::Receiver<()>,
) {
    if site.shared.faults.strike_connection() {
        let _ = finish.await;
        return;
    }
    let sniffed = tokio::select! {
        biased;
        sniffed = stream.sniff() => sniffed,
        _ = &mut finish => return,
    };
    let Ok((is_http2, sniffed)) = sniffed else { return };
    let sabotage = Arc::new(Sabotage::default());
    let io = TokioIo::new(Socket { stream, sniffed, sabotage: Arc::clone(&sabotage) });
    let service = Service(Rc::new(Visit { site, sabotage, place, requests: Cell::new(0) }));
    // Errors of a connection are the other side's news, not ours.
    if is_http2 {
        let mut connection = pin!(
            http2::Builder::new(OnThisThread)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(MAX_STREAMS)
                .serve_connection(io, service)
        );
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            _ = finish => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let mut connection = pin!(http1::Builder::new().serve_connection(io, service).with_upgrades());
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            _ = finish => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

#[derive(Clone)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// What the requests of one connection share.
struct Visit {
    site: Rc<Site>,
    sabotage: Arc<Sabotage>,
    place: Rc<Place>,
    requests: Cell<u64>,
}

struct Service(Rc<Visit>);

type Answering =
    Either<Ready<Result<Answer, Infallible>>, LocalBoxFuture<'static, Result<Answer, Infallible>>>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let visit = &self.0;
        let site = &visit.site;
        let route = route(request.uri().path());
        let mut strike = Strike::default();
        if !route.is_control() {
            site.counters.count(&request);
            strike = site.shared.faults.strike_request();
            strike.delay += site.sample_delay();
            if let Some(burn) = site.shared.burn {
                burn.run();
            }
        }
        if strike == Strike::default()
            && let Some(answer) = answer::at_once(site, route, &request)
        {
            let is_head = *request.method() == Method::HEAD;
            return Either::Left(ready(Ok(visit.finish(answer, is_head, request.version()))));
        }
        let visit = Rc::clone(visit);
        Either::Right(Box::pin(async move { Ok(visit.answer(request, strike).await) }))
    }
}

impl Visit {
    async fn answer(&self, request: Request<Incoming>, strike: Strike) -> Answer {
        if !strike.delay.is_zero() {
            tokio::time::sleep(strike.delay).await;
        }
        let (is_head, version) = (*request.method() == Method::HEAD, request.version());
        let answer = match strike.fault {
            Some(FaultKind::Hang) => std::future::pending().await,
            Some(FaultKind::Error(status)) => answer::plain(status, "a fault on purpose\n"),
            _ => {
                let uri = request.uri().clone();
                let route = route(uri.path());
                match answer::at_once(&self.site, route, &request) {
                    Some(answer) => answer,
                    None => answer::in_time(&self.site, route, request).await,
                }
            }
        };
        let answer = self.finish(answer, is_head, version);
        match strike.fault {
            Some(fault) if !matches!(fault, FaultKind::Error(_)) => {
                spoil(answer, fault, version, &self.sabotage)
            }
            _ => answer,
        }
    }

    /// What every answer has in common.
    fn finish(&self, mut answer: Answer, is_head: bool, version: Version) -> Answer {
        if let Some(name) = &self.site.name {
            answer.headers_mut().insert(INSTANCE, name.clone());
        }
        if is_head && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            if let Some(length) = answer.body().size_hint().exact() {
                answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            *answer.body_mut() = AnswerBody::EMPTY;
        }
        if let Some(most) = self.site.shared.keep_alive_requests {
            let requests = self.requests.get() + 1;
            self.requests.set(requests);
            if requests >= most.get() {
                if version == Version::HTTP_2 {
                    self.place.finish();
                } else {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
            }
        }
        answer
    }
}
