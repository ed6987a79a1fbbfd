//! Both sides against each other, and against hyper, over a wire that cuts what passes at any place.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::client;
use super::server;
use crate::net::Stream;

/// A body that comes in frames, each of them late.
#[derive(Clone, Debug, Default)]
struct Pieces {
    left: VecDeque<Bytes>,
    /// Its length is said beforehand.
    known: bool,
    trailers: Option<HeaderMap>,
    late: bool,
}

impl Pieces {
    fn whole(&self) -> Vec<u8> {
        self.left.iter().flatten().copied().collect()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.late = !self.late;
        if self.late {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = self.left.pop_front().map(Frame::data);
        Poll::Ready(frame.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.known || self.is_end_stream() {
            SizeHint::with_exact(self.whole().len() as u64)
        } else {
            SizeHint::default()
        }
    }
}

/// One exchange as it should be.
#[derive(Clone, Debug)]
struct Exchange {
    method: Method,
    path: String,
    header: String,
    request: Pieces,
    status: StatusCode,
    answer: Pieces,
}

/// What one side made of what the other one said.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    what: String,
    header: String,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Exchange {
    fn to_request(&self) -> Request<Pieces> {
        // hyper takes and sends no trailers otherwise.
        let request = Request::builder().header("te", "trailers").header("trailer", "x-sum");
        let request = request.method(&self.method).uri(&self.path);
        request.header("host", "test").header("x-mark", &self.header).body(self.request.clone()).unwrap()
    }

    fn to_response(&self) -> Response<Pieces> {
        Response::builder()
            .status(self.status)
            .header("x-mark", &self.header)
            .header("trailer", "x-sum")
            .body(self.answer.clone())
            .unwrap()
    }

    fn has_answer_body(&self) -> bool {
        self.method != Method::HEAD
            && ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&self.status)
    }

    fn expected_request(&self) -> Heard {
        let body = &self.request;
        Heard {
            what: format!("{} {}", self.method, self.path),
            header: self.header.clone(),
            body: body.whole(),
            trailers: body.trailers.clone().filter(|_| !body.known),
        }
    }

    fn expected_answer(&self) -> Heard {
        let (has_body, body) = (self.has_answer_body(), &self.answer);
        Heard {
            what: self.status.to_string(),
            header: self.header.clone(),
            body: if has_body { body.whole() } else { Vec::new() },
            trailers: body.trailers.clone().filter(|_| has_body && !body.known),
        }
    }
}

async fn heard<B>(what: String, headers: &HeaderMap, body: B) -> Heard
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let header = headers["x-mark"].to_str().unwrap().to_owned();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    Heard { what, header, body: body.to_bytes().to_vec(), trailers }
}

async fn serve<S>(io: S, exchanges: &[Exchange]) -> Vec<Heard>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = server::Connection::new(io, 64 * 1024);
    let mut all = Vec::new();
    for exchange in exchanges {
        assert!(poll_fn(|cx| connection.poll_request(cx)).await.unwrap());
        let request = connection.take_request(|body| body);
        let (parts, body) = request.into_parts();
        all.push(heard(format!("{} {}", parts.method, parts.uri), &parts.headers, body).await);
        let mut answering = connection.begin(exchange.to_response(), false);
        let next = poll_fn(|cx| connection.poll_answer(&mut answering, cx)).await.unwrap();
        assert_eq!(next, server::Next::Request);
    }
    let more = poll_fn(|cx| connection.poll_request(cx)).await.unwrap();
    assert!(!more, "nothing is left over");
    all
}

async fn serve_by_hyper<S>(io: S, exchanges: &[Exchange]) -> Vec<Heard>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let all = Rc::new(std::cell::RefCell::new(Vec::new()));
    let into = Rc::clone(&all);
    let answers = Rc::new(exchanges.to_vec());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (into, answers) = (Rc::clone(&into), Rc::clone(&answers));
        async move {
            let (parts, body) = request.into_parts();
            let what = format!("{} {}", parts.method, parts.uri);
            let heard = heard(what, &parts.headers, body).await;
            into.borrow_mut().push(heard);
            let nth = into.borrow().len() - 1;
            Ok::<_, std::convert::Infallible>(answers[nth].to_response())
        }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    served.await.unwrap();
    all.take()
}

async fn call(io: UnixStream, exchanges: &[Exchange]) -> Vec<Heard> {
    let connection = client::Connection::new(Stream::Unix(io), None, None);
    let host = HeaderValue::from_static("test");
    let mut all = Vec::new();
    for exchange in exchanges {
        assert!(connection.is_open());
        let added = client::Added { lines: b"x-added: 1\r\n", host: &host };
        let sent = connection.send(&mut exchange.to_request(), added, |_| {}).await;
        let response = sent.map_err(|unanswered| unanswered.fault).unwrap();
        let (parts, body) = response.into_response().into_parts();
        all.push(heard(parts.status.to_string(), &parts.headers, body).await);
    }
    assert!(connection.is_open(), "and may be used again");
    assert_eq!(Rc::strong_count(&connection), 1, "nothing holds it");
    all
}

async fn call_by_hyper(io: UnixStream, exchanges: &[Exchange]) -> Vec<Heard> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::task::spawn_local(connection);
    let mut all = Vec::new();
    for exchange in exchanges {
        sender.ready().await.unwrap();
        let (parts, body) = sender.send_request(exchange.to_request()).await.unwrap().into_parts();
        all.push(heard(parts.status.to_string(), &parts.headers, body).await);
    }
    all
}

/// Passes on what comes, in pieces of these lengths, over and over.
async fn cut(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, lengths: &[usize]) {
    let mut buffer = [0; 4096];
    let mut lengths = lengths.iter().cycle();
    while let Some(length) = lengths.next()
        && let Ok(read @ 1..) = from.read(&mut buffer[..*length]).await
        && to.write_all(&buffer[..read]).await.is_ok()
    {
        tokio::task::yield_now().await;
    }
    let _ = to.shutdown().await;
}

/// Runs both ends with a wire between them that cuts.
fn between<C, S>(cuts: &[usize], call: C, serve: S) -> (Vec<Heard>, Vec<Heard>)
where
    C: AsyncFnOnce(UnixStream) -> Vec<Heard>,
    S: AsyncFnOnce(tokio::io::DuplexStream) -> Vec<Heard>,
{
    let options = tokio::runtime::LocalOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
    runtime.block_on(async {
        let (caller, of_caller) = UnixStream::pair().unwrap();
        let (server, of_server) = tokio::io::duplex(300);
        let (from_caller, to_caller) = of_caller.into_split();
        let (from_server, to_server) = tokio::io::split(of_server);
        let wire = async {
            tokio::join!(cut(from_caller, to_server, cuts), cut(from_server, to_caller, cuts));
        };
        let all = async { tokio::join!(call(caller), serve(server), wire) };
        let done = tokio::time::timeout(std::time::Duration::from_mins(1), all).await;
        let (answers, requests, ()) = done.expect("both sides wait for each other");
        (answers, requests)
    })
}

fn pieces() -> impl Strategy<Value = Pieces> {
    let piece = prop_oneof![0..20_usize, 1000..1100_usize, 3000..5000_usize];
    let frames = proptest::collection::vec((piece, any::<u8>()), 0..6);
    (frames, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(frames, known, trails, late)| {
        let left: VecDeque<_> = frames.iter().map(|&(length, of)| vec![of; length].into()).collect();
        let trailers = (trails && !known && !left.is_empty())
            .then(|| HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]));
        Pieces { left, known, trailers, late }
    })
}

fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let method = prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT]);
    let status = prop::sample::select(vec![200, 200, 200, 204, 304, 404, 503]);
    let exchange = (method, "/[a-z0-9]{0,30}", "[ -~]{0,60}", pieces(), status, pieces());
    let exchange = exchange.prop_map(|(method, path, header, mut request, status, mut answer)| {
        if [Method::GET, Method::HEAD].contains(&method) {
            // hyper drops a body of theirs whose length it does not know.
            request = Pieces { known: true, trailers: None, ..request };
        }
        let status = StatusCode::from_u16(status).unwrap();
        if [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
            answer = Pieces { left: VecDeque::new(), known: true, trailers: None, late: false };
        }
        Exchange { method, path, header: header.trim().to_owned(), request, status, answer }
    });
    proptest::collection::vec(exchange, 1..6)
}

fn judge(exchanges: &[Exchange], (answers, requests): (Vec<Heard>, Vec<Heard>)) {
    let expected: Vec<_> = exchanges.iter().map(Exchange::expected_request).collect();
    assert_eq!(requests, expected);
    let expected: Vec<_> = exchanges.iter().map(Exchange::expected_answer).collect();
    assert_eq!(answers, expected);
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1..8_usize, 1..400_usize, Just(4096)], 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn both_sides_agree(exchanges in exchanges(), cuts in cuts()) {
        let both = between(&cuts, async |io| call(io, &exchanges).await, async |io| serve(io, &exchanges).await);
        judge(&exchanges, both);
    }

    #[test]
    fn the_caller_s_side_agrees_with_hyper(exchanges in exchanges(), cuts in cuts()) {
        let both = between(
            &cuts,
            async |io| call_by_hyper(io, &exchanges).await,
            async |io| serve(io, &exchanges).await,
        );
        judge(&exchanges, both);
    }

    #[test]
    fn the_instance_s_side_agrees_with_hyper(exchanges in exchanges(), cuts in cuts()) {
        let both = between(
            &cuts,
            async |io| call(io, &exchanges).await,
            async |io| serve_by_hyper(io, &exchanges).await,
        );
        judge(&exchanges, both);
    }
}

#[test]
fn a_hundred_requests_in_one_piece_are_answered_in_their_order() {
    let options = tokio::runtime::LocalOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build_local(options).unwrap();
    runtime.block_on(async {
        let (mut caller, io) = tokio::io::duplex(64 * 1024);
        let requests: Vec<_> = (0..100)
            .map(|n| match n % 3 {
                0 => format!("GET /{n} HTTP/1.1\r\n\r\n"),
                1 => format!("POST /{n} HTTP/1.1\r\ncontent-length: 2\r\n\r\nab"),
                _ => format!("PUT /{n} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\n\r\n"),
            })
            .collect();
        let wire = requests.concat();
        caller.write_all(wire.as_bytes()).await.unwrap();
        caller.shutdown().await.unwrap();
        let connection = server::Connection::new(io, 64 * 1024);
        for n in 0..100 {
            assert!(poll_fn(|cx| connection.poll_request(cx)).await.unwrap());
            let request = connection.take_request(|body| body);
            assert_eq!(request.uri().path(), format!("/{n}"));
            // Every other body is read by nobody.
            if n % 2 == 0 {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body.len(), if n % 3 == 0 { 0 } else { 2 });
            } else {
                drop(request);
            }
            let mut answering = connection.begin(Response::new(Empty::new()), false);
            let next = poll_fn(|cx| connection.poll_answer(&mut answering, cx)).await.unwrap();
            assert_eq!(next, server::Next::Request, "{n}");
        }
        assert!(!poll_fn(|cx| connection.poll_request(cx)).await.unwrap());
    });
}
