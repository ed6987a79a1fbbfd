//! The application as its callers meet it: over sockets.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::*;

fn start() -> Running {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut OriginSettings)) -> Running {
    let mut settings = OriginSettings::on_loopback();
    settings.grace = Duration::from_millis(200);
    change(&mut settings);
    Origin::start(settings).unwrap()
}

fn faulty(fault: &str) -> Running {
    start_with(|settings| settings.faults = vec![fault.parse().unwrap()])
}

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Result<Bytes, hyper::Error>,
    trailers: Option<HeaderMap>,
}

impl Got {
    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.text()).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Ask = http::request::Builder;

fn ask(method: &str, path: &str) -> Ask {
    Request::builder().method(method).uri(path)
}

async fn try_send(origin: &Running, ask: Ask, body: &str) -> Result<Got, hyper::Error> {
    let stream = tokio::net::TcpStream::connect(origin.addr().unwrap()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = ask.header("host", "sample").body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    Ok(collect(sender.send_request(request).await?).await)
}

async fn send(origin: &Running, ask: Ask, body: &str) -> Got {
    try_send(origin, ask, body).await.unwrap()
}

async fn get(origin: &Running, path: &str) -> Got {
    send(origin, ask("GET", path), "").await
}

async fn send_http2(origin: &Running, method: &str, path: &str) -> Got {
    let stream = tokio::net::TcpStream::connect(origin.addr().unwrap()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = ask(method, &format!("http://sample{path}")).body(Full::new(Bytes::new())).unwrap();
    collect(sender.send_request(request).await.unwrap()).await
}

async fn collect(answer: http::Response<hyper::body::Incoming>) -> Got {
    let (head, body) = answer.into_parts();
    let collected = body.collect().await;
    let trailers = collected.as_ref().ok().and_then(|whole| whole.trailers().cloned());
    let body = collected.map(http_body_util::Collected::to_bytes);
    Got { status: head.status, headers: head.headers, body, trailers }
}

/// Everything that comes back until the connection ends.
fn raw(origin: &Running, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(origin.addr().unwrap())?;
    stream.write_all(request.as_bytes())?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

#[tokio::test]
async fn plain_reads() {
    let origin = start();
    assert_eq!(get(&origin, "/").await.text().as_bytes(), content::HELLO);
    assert_eq!(get(&origin, "/item/7").await.text(), content::item("7"));
    assert_eq!(get(&origin, "/bytes/200000").await.body.unwrap(), content::bytes(200_000));
    assert_ne!(get(&origin, "/now").await.text(), get(&origin, "/now").await.text());
    assert_eq!(get(&origin, "/slow/5").await.status, StatusCode::OK);
    assert_eq!(get(&origin, "/status/404").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(&origin, "/status/204").await.status, StatusCode::NO_CONTENT);
    assert_eq!(get(&origin, "/status/101").await.status, StatusCode::BAD_REQUEST);
    assert!(get(&origin, "/cookie").await.header("set-cookie").starts_with("session="));
    assert_eq!(get(&origin, "/nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(send(&origin, ask("DELETE", "/item/7"), "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_head_is_a_get_without_its_body_over_either_protocol() {
    let origin = start();
    let head = send(&origin, ask("HEAD", "/bytes/1000"), "").await;
    assert_eq!((head.header("content-length"), head.text()), ("1000", ""));
    let head = send_http2(&origin, "HEAD", "/bytes/1000").await;
    assert_eq!((head.header("content-length"), head.text()), ("1000", ""));
}

#[tokio::test]
async fn ranges_and_validators() {
    let origin = start();
    let part = send(&origin, ask("GET", "/bytes/100").header("range", "bytes=10-19"), "").await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.header("content-range"), "bytes 10-19/100");
    assert_eq!(part.body.unwrap(), content::bytes(100)[10..20]);
    let none = send(&origin, ask("GET", "/bytes/100").header("range", "bytes=100-"), "").await;
    assert_eq!(
        (none.status, none.header("content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */100")
    );

    let tag = get(&origin, "/etag").await.header("etag").to_owned();
    let again = send(&origin, ask("GET", "/etag").header("if-none-match", &tag), "").await;
    assert_eq!((again.status, again.text()), (StatusCode::NOT_MODIFIED, ""));
}

#[tokio::test]
async fn streams_trailers_and_events() {
    let origin = start();
    let plain = get(&origin, "/stream/3/1").await;
    assert_eq!((plain.text(), plain.trailers.as_ref()), ("chunk 1\nchunk 2\nchunk 3\n", None));
    assert_eq!(plain.headers.get("content-length"), None);
    let trailed = send(&origin, ask("GET", "/stream/2/0").header("te", "trailers"), "").await;
    assert_eq!(trailed.trailers.unwrap()["stream-chunks"], "2");
    let events = get(&origin, "/sse?events=2&ms=1").await;
    assert_eq!(events.text(), "id: 1\ndata: tick\n\nid: 2\ndata: tick\n\n");
    assert_eq!(events.header("content-type"), "text/event-stream");
}

#[tokio::test]
async fn bodies_come_back_and_are_counted() {
    let origin = start();
    let body = "x".repeat(300_000);
    let echoed = send(&origin, ask("POST", "/echo").header("content-type", "text/odd"), &body).await;
    assert_eq!((echoed.text(), echoed.header("content-type")), (body.as_str(), "text/odd"));
    let counted = send(&origin, ask("PUT", "/upload"), &body).await.json();
    assert_eq!(counted["bytes"], 300_000);
    assert_eq!(counted["blake3"], blake3::hash(body.as_bytes()).to_hex().as_str());
}

#[tokio::test]
async fn headers_come_back_with_all_their_values() {
    let origin = start();
    let request = ask("GET", "/headers?q=1").header("X-Two", "a").header("x-two", "b");
    let seen = send(&origin, request, "").await.json();
    assert_eq!(seen["headers"]["x-two"], serde_json::json!(["a", "b"]));
    assert_eq!((&seen["target"], &seen["version"]), (&"/headers?q=1".into(), &"HTTP/1.1".into()));
}

#[tokio::test]
async fn writes_are_counted_by_key() {
    let origin = start();
    for sequence in 1..=2 {
        let answer = send(&origin, ask("POST", "/ledger/a"), "payload").await.json();
        assert_eq!(answer["sequence"], sequence);
    }
    send(&origin, ask("PUT", "/ledger/b"), "").await;
    assert_eq!(get(&origin, "/ledger/a").await.json()["writes"], 2);
    assert_eq!(get(&origin, "/ledger/none").await.json()["writes"], 0);
    assert_eq!(get(&origin, "/ledger").await.json(), serde_json::json!({"a": 2, "b": 1}));
    assert_eq!(origin.ledger().unwrap(), Counts::from([("a".into(), 2), ("b".into(), 1)]));
}

#[tokio::test]
async fn a_write_whose_body_broke_off_was_not_taken() {
    let origin = start();
    let head = "POST /ledger/a HTTP/1.1\r\nhost: sample\r\ncontent-length: 10\r\n\r\nonly";
    let mut stream = TcpStream::connect(origin.addr().unwrap()).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(origin.ledger().unwrap(), Counts::new());
}

#[tokio::test]
async fn instances_share_a_ledger_and_say_who_answered() {
    let folder = tempfile::tempdir().unwrap();
    let instance = |name: &str| {
        start_with(|settings| {
            settings.name = Some(name.to_owned());
            settings.ledger = Some(LedgerFile { path: folder.path().join("ledger"), sync: false });
        })
    };
    let (blue, green) = (instance("blue"), instance("green"));
    assert_eq!(send(&blue, ask("POST", "/ledger/a"), "").await.header("x-instance"), "blue");
    let second = send(&green, ask("POST", "/ledger/a"), "").await;
    assert_eq!((second.header("x-instance"), &second.json()["sequence"]), ("green", &2.into()));
    assert_eq!(get(&blue, "/ledger").await.json(), serde_json::json!({"a": 2}));
}

#[tokio::test]
async fn other_protocols_that_post() {
    let origin = start();
    assert!(send(&origin, ask("POST", "/graphql"), "{}").await.json()["data"].is_object());
    let answer = send(&origin, ask("POST", "/rpc"), r#"{"jsonrpc":"2.0","id":7,"method":"x"}"#).await.json();
    assert_eq!((&answer["id"], &answer["result"]), (&7.into(), &"ok".into()));

    let got = send_http2(&origin, "POST", "/segue.sample.Sample/Get").await;
    assert_eq!(got.header("content-type"), "application/grpc");
    assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    let message = got.body.unwrap();
    assert_eq!(usize::from(message[4]) + 5, message.len());
    assert_eq!(origin.ledger().unwrap(), Counts::new());
    send_http2(&origin, "POST", "/segue.sample.Sample/Put").await;
    assert_eq!(origin.ledger().unwrap().len(), 1);
}

#[tokio::test]
async fn websocket_messages_are_echoed() {
    let origin = start();
    assert_eq!(get(&origin, "/ws").await.status, StatusCode::UPGRADE_REQUIRED);
    let url = format!("ws://{}/ws", origin.addr().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

#[tokio::test]
async fn teed_requests_are_told_apart() {
    let origin = start();
    get(&origin, "/").await;
    send(&origin, ask("GET", "/").header("Segue-Tee", "shadow"), "").await;
    send(&origin, ask("POST", "/ledger/a").header("segue-tee", "shadow"), "").await;
    let seen = get(&origin, "/__seen").await.json();
    assert_eq!((&seen["total"], &seen["teed"], &seen["writes_teed"]), (&3.into(), &2.into(), &1.into()));
    assert_eq!(seen["by_method"], serde_json::json!({"GET": 2, "POST": 1}));
    assert_eq!(origin.seen().total, 3);
}

#[tokio::test]
async fn a_unix_socket_serves_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listen = || start_with(|settings| settings.listen = Address::Unix(path.clone()));
    // A socket file that a killed predecessor left is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let origin = listen();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(content::HELLO));

    origin.set_faults(&["refuse".parse().unwrap()]).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_err());
    origin.set_faults(&[]).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    origin.stop();
    assert!(!path.exists());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = start();
    let mut settings = OriginSettings::on_loopback();
    settings.listen = first.address().clone();
    let message = Origin::start(settings).err().unwrap().to_string();
    assert!(message.contains(&first.addr().unwrap().to_string()), "{message}");
}

#[tokio::test]
async fn connections_end_after_the_number_of_requests_they_are_given() {
    let origin = start_with(|settings| settings.keep_alive_requests = NonZeroU64::new(2));
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    // Five are sent; two are answered, then the connection ends.
    let answers = raw(&origin, &request.repeat(2)).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2);
    assert_eq!(answers.matches("connection: close").count(), 1);
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let origin = start_with(|settings| settings.grace = Duration::from_secs(30));
    let (address, seen) = (origin.addr().unwrap(), Arc::clone(&origin.shared));
    let asking = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /slow/100 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        all
    });
    // An idle connection does not hold the end up.
    let _idle = TcpStream::connect(address).unwrap();
    while seen.seen().total == 0 {
        std::thread::yield_now();
    }
    let begun = std::time::Instant::now();
    origin.stop();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(asking.join().unwrap().ends_with("waited 100 ms\n"));
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn killing_cuts_what_is_in_flight() {
    let origin = start();
    let address = origin.addr().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    while origin.seen().total == 0 {
        tokio::task::yield_now().await;
    }
    origin.kill();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    assert!(all.is_empty());
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn delays_are_waited_for() {
    let origin = start_with(|settings| settings.delay = Delay::Constant(Duration::from_millis(30)));
    let begun = std::time::Instant::now();
    get(&origin, "/").await;
    assert!(begun.elapsed() >= Duration::from_millis(30));
    get(&origin, "/__seen").await;

    let origin = faulty("extra-latency=30ms@100");
    let begun = std::time::Instant::now();
    get(&origin, "/").await;
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn faults_of_the_answer() {
    let whole = "GET /bytes/1000 HTTP/1.1\r\nhost: a\r\n\r\n";

    let cut = String::from_utf8(raw(&faulty("truncate"), whole).unwrap()).unwrap();
    let (head, body) = cut.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 1000"));
    assert_eq!(body.len(), 500);

    let error = raw(&faulty("reset"), whole).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let head = "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(raw(&faulty("reset"), head).unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let garbage = raw(&faulty("malformed"), whole).unwrap();
    assert!(!garbage.is_empty() && !garbage.starts_with(b"HTTP/"));

    let failed = get(&faulty("error=503"), "/item/7").await;
    assert_eq!(failed.status, StatusCode::SERVICE_UNAVAILABLE);

    let wrong = get(&faulty("wrong-body"), "/item/7").await;
    let (wrong, right) = (wrong.text(), content::item("7"));
    assert_eq!(wrong.bytes().zip(right.bytes()).filter(|(one, other)| one != other).count(), 1);
    assert!(serde_json::from_str::<Value>(wrong).is_ok());

    let huge = send(&faulty("huge-body=3MiB"), ask("GET", "/"), "").await;
    assert_eq!(huge.body.unwrap().len(), 3 << 20);
}

#[tokio::test]
async fn faults_over_http2_hit_their_stream() {
    let reset = send_http2(&faulty("reset"), "GET", "/bytes/1000").await;
    assert_eq!(reset.status, StatusCode::OK);
    assert!(reset.body.is_err());
    assert!(send_http2(&faulty("truncate"), "GET", "/bytes/1000").await.body.is_err());
}

#[tokio::test]
async fn faults_that_never_end_give_what_they_say_and_no_more() {
    let read_some = |fault: &str, up_to: usize| {
        let origin = faulty(fault);
        let mut stream = TcpStream::connect(origin.addr().unwrap()).unwrap();
        stream.write_all(b"GET /bytes/1000 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut all = vec![0; up_to];
        let mut length = 0;
        while let Ok(read) = stream.read(&mut all[length..]) {
            length += read;
            if read == 0 {
                break;
            }
        }
        all.truncate(length);
        (String::from_utf8(all).unwrap(), origin.seen().total)
    };
    assert_eq!(read_some("hang-after-accept", 10), (String::new(), 0));
    assert_eq!(read_some("hang", 10), (String::new(), 1));
    let (head, _) = read_some("hang-after-header", 10_000);
    assert!(head.contains("content-length: 1000") && head.ends_with("\r\n\r\n"), "{head}");
    let (endless, _) = read_some("endless-body", 3_000_000);
    assert_eq!(endless.len(), 3_000_000);
}

#[tokio::test]
async fn a_planted_share_of_faults_is_exact() {
    let origin = faulty("error=500@2.5");
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(get(&origin, "/").await.status == 500);
    }
    assert_eq!(failed, 5);
}

#[tokio::test]
async fn faults_are_switched_while_it_runs() {
    let origin = start();
    let set = send(&origin, ask("PUT", "/__fault"), "error=500\nextra-latency=1ms@50").await;
    assert_eq!(set.status, StatusCode::OK);
    assert_eq!(get(&origin, "/__fault").await.text(), "error=500@100\nextra-latency=1000us@50\n");
    assert_eq!(get(&origin, "/").await.status, 500);
    let refused = send(&origin, ask("PUT", "/__fault"), "eror=500").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("wrong-body"));
    send(&origin, ask("DELETE", "/__fault"), "").await;
    assert_eq!(get(&origin, "/").await.status, 200);
}

#[tokio::test]
async fn a_refusing_instance_keeps_its_address_and_comes_back() {
    let origin = start();
    let address = origin.addr().unwrap();
    for _ in 0..3 {
        origin.set_faults(&["refuse".parse().unwrap()]).unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        origin.set_faults(&[]).unwrap();
        assert_eq!(get(&origin, "/").await.status, 200);
    }
}

#[tokio::test]
async fn connections_spread_over_the_workers() {
    let origin = start_with(|settings| settings.workers = NonZeroUsize::new(2).unwrap());
    let open: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(origin.addr().unwrap()).unwrap()).collect();
    let load = |worker: usize| origin.shared.loads[worker].load(std::sync::atomic::Ordering::Relaxed);
    while load(0) + load(1) < open.len() {
        std::thread::yield_now();
    }
    assert!(load(0).abs_diff(load(1)) <= 6, "{} and {}", load(0), load(1));
}
