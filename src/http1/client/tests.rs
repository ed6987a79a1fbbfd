//! What a connection to an instance makes of its answers, and that nothing keeps it when it is given up.

use std::cell::Cell;

use http_body_util::{BodyExt as _, Empty, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use http_body::Frame;

/// A body of which only the beginning ever comes.
#[derive(Default)]
struct Endless(Option<Bytes>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let options = tokio::runtime::LocalOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
    runtime.block_on(work)
}

fn pair() -> (Rc<Connection>, UnixStream) {
    let (ours, instance) = UnixStream::pair().unwrap();
    (Connection::new(Stream::Unix(ours), None, None), instance)
}

async fn ask<B>(
    connection: &Rc<Connection>,
    method: Method,
    body: B,
    informed: impl Fn(StatusCode),
) -> Result<Reply<Body>, Unanswered>
where
    B: http_body::Body<Data = Bytes> + Default + Unpin + 'static,
{
    let host = HeaderValue::from_static("test");
    let mut request = Request::builder().method(method).uri("/").body(body).unwrap();
    connection.send(&mut request, Added { lines: b"", host: &host }, informed).await
}

async fn until_freed(connection: &Rc<Connection>) {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Rc::strong_count(connection), 1, "something still holds it");
}

/// What a caller gets of an answer and the end behind it, and whether the connection was kept.
fn answered(method: Method, wire: &[u8]) -> (Result<Vec<u8>, String>, bool) {
    run(async {
        let (connection, mut instance) = pair();
        instance.write_all(wire).await.unwrap();
        instance.shutdown().await.unwrap();
        let answer = match ask(&connection, method, Empty::<Bytes>::new(), |_| {}).await {
            Ok(reply) => reply.body.collect().await.map_err(|error| error.to_string()),
            Err(unanswered) => Err(unanswered.fault.to_string()),
        };
        (answer.map(|body| body.to_bytes().to_vec()), connection.is_reusable())
    })
}

#[test]
fn an_answer_ends_where_it_says_and_what_is_behind_it_ends_the_connection() {
    let (broken, kept, closed) = (None::<&[u8]>, true, false);
    for (method, wire, body, reusable) in [
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(&b"ok"[..]), kept),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 2", Some(b"ok"), closed),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", broken, closed),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", broken, closed),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nok", Some(b"ok"), closed),
        (Method::GET, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(b"ok"), closed),
        (
            Method::GET,
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
            Some(b""),
            kept,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
            Some(b""),
            closed,
        ),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", Some(b""), kept),
        (Method::GET, "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nno", Some(b""), closed),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", Some(b""), kept),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", Some(b""), kept),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Some(b""), kept),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", Some(b""), closed),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Some(b"ok"),
            kept,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
            broken,
            closed,
        ),
        (Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", broken, closed),
        (Method::GET, "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n", broken, closed),
        (Method::GET, "HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n", broken, closed),
        (Method::GET, "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n", broken, closed),
        (Method::GET, "HTTP/1.1 99 No\r\ncontent-length: 0\r\n\r\n", broken, closed),
        (Method::GET, "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", broken, closed),
        (Method::GET, "HTTP/1.1 100 Continue\r\n\r\n", broken, closed),
        (Method::GET, "", broken, closed),
    ] {
        let (answer, is_reusable) = answered(method, wire.as_bytes());
        assert_eq!((answer.as_deref().ok(), is_reusable), (body, reusable), "{wire:?}: {answer:?}");
    }
}

#[test]
fn an_answer_before_the_request_is_whole_ends_the_connection_and_frees_it() {
    run(async {
        let (connection, mut instance) = pair();
        instance.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        let body = Endless(Some("some".into()));
        let response = ask(&connection, Method::POST, body, |_| {}).await.map_err(|of| of.fault).unwrap();
        assert_eq!(Rc::strong_count(&connection), 3, "its body, and whoever sends the request's");
        assert_eq!(response.body.collect().await.unwrap().to_bytes(), "no");
        assert!(!connection.is_reusable());
        until_freed(&connection).await;
        let mut sent = String::new();
        instance.read_to_string(&mut sent).await.unwrap();
        assert!(sent.ends_with("4\r\nsome\r\n"), "{sent:?}");
    });
}

#[test]
fn giving_up_at_any_step_frees_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no";
    for given in 0..=answer.len() {
        run(async {
            let (connection, mut instance) = pair();
            instance.write_all(&answer[..given]).await.unwrap();
            let whole = async {
                let response = ask(&connection, Method::POST, Endless(None), |_| {}).await;
                let body = response.map_err(|of| of.fault).unwrap().body;
                body.collect().await.unwrap();
            };
            let mut whole = Box::pin(whole);
            for _ in 0..10 {
                let polled = poll_fn(|cx| Poll::Ready(whole.as_mut().poll(cx))).await;
                assert!(polled.is_pending());
                tokio::task::yield_now().await;
            }
            drop(whole);
            assert!(!connection.is_reusable());
            until_freed(&connection).await;
        });
    }
}

#[test]
fn a_body_that_breaks_off_is_nobody_s_request() {
    run(async {
        let (connection, mut instance) = pair();
        let host = HeaderValue::from_static("test");
        let request = Request::post("/").header("content-length", "9").body(Full::new(Bytes::from("short")));
        let mut request = request.unwrap();
        let added = Added { lines: b"", host: &host };
        let Err(unanswered) = connection.send(&mut request, added, |_| {}).await else { panic!() };
        assert!(matches!(unanswered.fault, SendFault::Upload));
        assert!(!unanswered.whole && !connection.is_reusable());
        let mut sent = Vec::new();
        instance.read_to_end(&mut sent).await.unwrap();
        until_freed(&connection).await;
    });
}

#[test]
fn the_host_stands_before_what_is_added() {
    run(async {
        let (connection, mut instance) = pair();
        let host = HeaderValue::from_static("app.example");
        for own in [None, Some("mine")] {
            let request = Request::get("/a");
            let request = own.into_iter().fold(request, |request, own| request.header("host", own));
            let mut request = request.body(Empty::<Bytes>::new()).unwrap();
            let added = Added { lines: b"x-a: 1\r\nx-b: 2\r\n", host: &host };
            instance.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            assert!(connection.send(&mut request, added, |_| {}).await.is_ok());
            let named = own.unwrap_or("app.example");
            let expected = format!("GET /a HTTP/1.1\r\nhost: {named}\r\nx-a: 1\r\nx-b: 2\r\n\r\n");
            let mut sent = vec![0; expected.len()];
            instance.read_exact(&mut sent).await.unwrap();
            assert_eq!(String::from_utf8(sent).unwrap(), expected);
        }
    });
}

#[test]
fn heads_before_the_answer_are_told_and_a_switch_hands_the_stream_over() {
    run(async {
        let (connection, mut instance) = pair();
        let heads = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(1000);
        instance.write_all(heads.as_bytes()).await.unwrap();
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nfirst";
        instance.write_all(switch).await.unwrap();
        let told = Cell::new(0);
        let informed = |_| told.set(told.get() + 1);
        let response = ask(&connection, Method::GET, Empty::<Bytes>::new(), informed).await;
        assert_eq!(response.map_err(|of| of.fault).unwrap().status, 101);
        assert_eq!(told.get(), 1000);
        let (mut stream, read) = connection.take_upgraded().unwrap();
        assert_eq!(read, "first");
        stream.write_all(b"second").await.unwrap();
        drop(stream);
        let mut sent = String::new();
        instance.read_to_string(&mut sent).await.unwrap();
        assert!(sent.ends_with("second"));
        assert!(!connection.is_reusable());
    });
}
