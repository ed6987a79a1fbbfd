//! What a caller hears, and who hears of a caller that leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use http_body_util::{Empty, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::http1::BodyError;
use http::Response;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

type Received = Request<Body<DuplexStream>>;

/// A caller that has said `wire`, and what was made of it.
async fn received(wire: &str) -> (Connection<DuplexStream>, DuplexStream, Received) {
    let (mut caller, io) = tokio::io::duplex(64 * 1024);
    caller.write_all(wire.as_bytes()).await.unwrap();
    let connection = Connection::new(io, 16 * 1024);
    assert!(std::future::poll_fn(|cx| connection.poll_request(cx)).await.unwrap());
    let request = connection.take_request(|body| body);
    (connection, caller, request)
}

fn poll_body(body: &mut Body<DuplexStream>, waker: &Waker) -> Poll<Option<Result<Bytes, BodyError>>> {
    let frame = http_body::Body::poll_frame(Pin::new(body), &mut Context::from_waker(waker));
    frame.map_ok(|frame| frame.into_data().unwrap_or_default())
}

async fn answer(connection: &Connection<DuplexStream>, status: u16, body: &'static str) -> Next {
    let response = Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap();
    let mut answering = connection.begin(response, false);
    std::future::poll_fn(|cx| connection.poll_answer(&mut answering, cx)).await.unwrap()
}

/// All that was written to the caller once the connection is gone.
async fn written(connection: Connection<DuplexStream>, mut caller: DuplexStream) -> String {
    drop(connection);
    let mut text = String::new();
    caller.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn a_caller_that_leaves_is_noticed_by_whoever_looks() {
    run(async {
        // With nothing to read, the connection's task looks itself.
        let (connection, caller, _request) = received("GET / HTTP/1.1\r\n\r\n").await;
        let task = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&task));
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), false).is_pending());
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), true).is_pending());
        drop(caller);
        assert_eq!(task.count(), 1);
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), true).is_ready());

        // In the middle of a body its reader does, and says so.
        let head = "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab";
        let (connection, caller, request) = received(head).await;
        let (task, reader) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
        let waker = Waker::from(Arc::clone(&task));
        let of_reader = Waker::from(Arc::clone(&reader));
        let mut body = request.into_body();
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), true).is_pending());
        assert!(matches!(poll_body(&mut body, &of_reader), Poll::Ready(Some(Ok(data))) if data == "ab"));
        assert!(poll_body(&mut body, &of_reader).is_pending());
        drop(caller);
        assert_eq!((task.count(), reader.count()), (0, 1));
        let broken = poll_body(&mut body, &of_reader);
        assert!(matches!(broken, Poll::Ready(Some(Err(BodyError::Incomplete)))), "{broken:?}");
        assert_eq!(task.count(), 1);
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), true).is_ready());
    });
}

#[test]
fn after_a_body_the_connection_looks_again() {
    run(async {
        let head = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n";
        let (connection, mut caller, request) = received(head).await;
        let task = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut body = request.into_body();
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), true).is_pending());
        caller.write_all(b"ab").await.unwrap();
        assert!(poll_body(&mut body, Waker::noop()).is_ready());
        assert_eq!(task.count(), 1, "it hears that nobody else reads any more");
        assert!(connection.poll_gone(&mut Context::from_waker(&waker), true).is_pending());
        drop(caller);
        assert_eq!(task.count(), 2);
    });
}

#[test]
fn a_body_that_outlives_its_connection_ends() {
    run(async {
        let head = "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n";
        let (connection, _caller, request) = received(head).await;
        let reader = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&reader));
        let mut body = request.into_body();
        assert!(poll_body(&mut body, &waker).is_pending());
        drop(connection);
        assert_eq!(reader.count(), 1);
        assert!(matches!(poll_body(&mut body, &waker), Poll::Ready(Some(Err(BodyError::Closed)))));
        assert!(matches!(poll_body(&mut body, &waker), Poll::Ready(None)));
    });
}

#[test]
fn a_caller_is_invited_at_most_once_and_never_after_its_answer() {
    run(async {
        let head = "POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        let (connection, mut caller, request) = received(head).await;
        let mut body = request.into_body();
        assert!(poll_body(&mut body, Waker::noop()).is_pending());
        assert!(poll_body(&mut body, Waker::noop()).is_pending());
        caller.write_all(b"ab").await.unwrap();
        assert!(poll_body(&mut body, Waker::noop()).is_ready());
        assert_eq!(answer(&connection, 200, "ok").await, Next::Request);
        let text = written(connection, caller).await;
        assert!(text.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{text}");
        assert_eq!(text.matches("100 Continue").count(), 1, "{text}");

        let (connection, caller, request) = received(head).await;
        let mut body = request.into_body();
        assert_eq!(answer(&connection, 417, "no").await, Next::Close);
        assert!(poll_body(&mut body, Waker::noop()).is_pending());
        let text = written(connection, caller).await;
        assert!(text.starts_with("HTTP/1.1 417 ") && text.contains("connection: close\r\n"), "{text}");
        assert!(!text.contains("100 Continue"), "{text}");
    });
}

#[test]
fn what_follows_an_answer_is_said_in_it() {
    let body = "content-length: 2\r\n\r\n";
    run(async {
        for (head, rest, next) in [
            ("GET / HTTP/1.1\r\n\r\n", "", Next::Request),
            ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "", Next::Close),
            ("GET / HTTP/1.0\r\n\r\n", "", Next::Close),
            ("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", "", Next::Request),
            (&format!("POST / HTTP/1.1\r\n{body}"), "ab", Next::Request),
            (&format!("POST / HTTP/1.1\r\n{body}"), "a", Next::Close),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\na\r\n0\r\n\r\n", Next::Request),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\nab", Next::Close),
            (&format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n{body}"), "0\r\n\r\n", Next::Close),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", "ab", Next::Close),
        ] {
            let (connection, caller, request) = received(&format!("{head}{rest}")).await;
            // Nobody reads the body.
            drop(request);
            assert_eq!(answer(&connection, 404, "no").await, next, "{head}{rest}");
            let text = written(connection, caller).await;
            assert_eq!(text.contains("connection: close\r\n"), next == Next::Close, "{head}{rest}: {text}");
        }
    });
}

#[test]
fn an_answer_has_the_one_length_that_its_body_has() {
    run(async {
        let (connection, caller, _request) = received("GET / HTTP/1.1\r\n\r\n").await;
        let response = Response::builder()
            .header("content-length", "2")
            .header("content-length", "2")
            .body(Full::new(Bytes::from("ok")))
            .unwrap();
        let mut answering = connection.begin(response, false);
        std::future::poll_fn(|cx| connection.poll_answer(&mut answering, cx)).await.unwrap();
        assert_eq!(written(connection, caller).await.matches("content-length").count(), 1);

        let (connection, _caller, _request) = received("GET / HTTP/1.1\r\n\r\n").await;
        let response = Response::builder().header("content-length", "3").body(Empty::new()).unwrap();
        let mut answering = connection.begin(response, false);
        let written = std::future::poll_fn(|cx| connection.poll_answer(&mut answering, cx)).await;
        assert!(matches!(written, Err(Fault::Answer)), "an answer that falls short is no answer");
    });
}
