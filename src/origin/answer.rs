//! The endpoints.
//!
//! Those that need no waiting are answered in [`at_once`], so that the benchmarked ones pay for
//! neither a boxed future nor a body that is not already there.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;

use super::body::AnswerBody;
use super::content::{self, Range};
use super::fault::Fault;
use super::ledger::Ledger;
use super::route::Route;
use super::worker::Site;
use super::{streams, websocket};

pub(super) type Answer = Response<AnswerBody>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A JSON-RPC or fault-list body beyond this is not one.
const SMALL_BODY: usize = 64 * 1024;

/// Endpoints that can answer without waiting for anything; `None` for the others.
pub(super) fn at_once(site: &Site, route: Route<'_>, request: &Request<Incoming>) -> Option<Answer> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    Some(match route {
        Route::Hello if read => whole(TEXT, Bytes::from_static(content::HELLO)),
        Route::Bytes(n) if read => stretch(n, request.headers().get(header::RANGE)),
        Route::Item(id) if read => whole(JSON, content::item(id).into()),
        Route::Now if read => now(),
        Route::Status(code) => status(code),
        Route::Headers => headers(request),
        Route::Tagged if read => tagged(request),
        Route::Cookie if read => cookie(),
        Route::Seen if read => json(&json!(site.shared.seen())),
        Route::Faults if read => whole(TEXT, fault_list(&site.shared.faults.list()).into()),
        Route::Faults if *request.method() == Method::DELETE => set_faults(site, b""),
        Route::Unknown => plain(StatusCode::NOT_FOUND, "no such endpoint\n"),
        _ if *request.method() == Method::OPTIONS => {
            let mut answer = empty(StatusCode::NO_CONTENT);
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, POST, PUT"));
            answer
        }
        _ => return None,
    })
}

/// All other endpoints.
pub(super) async fn in_time(site: &Site, route: Route<'_>, mut request: Request<Incoming>) -> Answer {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let post = *request.method() == Method::POST;
    let write = post || *request.method() == Method::PUT;
    let answer = match route {
        Route::Slow { ms } if read => streams::slow(ms).await,
        Route::Stream { chunks, ms } if read => Ok(streams::chunks(chunks, ms, request.headers())),
        Route::Events if read => Ok(streams::events(request.uri().query())),
        Route::Ledger if read => with_ledger(site, Ledger::counts).await.map(|counts| json(&json!(counts))),
        Route::LedgerKey(key) if read => {
            let (asked, key) = (key.to_owned(), key);
            let writes = with_ledger(site, move |ledger| ledger.count(&asked)).await;
            writes.map(|writes| json(&json!({"key": key, "writes": writes})))
        }
        Route::LedgerKey(key) if write => append(site, key, request).await,
        Route::Echo if write => Ok(echo(request)),
        Route::Upload if write => upload(request).await,
        Route::WebSocket if read => Ok(websocket::upgrade(&mut request)),
        Route::GraphQl => consume(request).await.map(|()| json(&json!({"data": {"item": {"id": "1"}}}))),
        Route::Rpc if post => rpc(request).await,
        Route::GrpcGet if post => consume(request).await.map(|()| streams::grpc()),
        Route::GrpcPut if post => grpc_put(site, request).await,
        Route::Faults if write => small_body(request).await.map(|body| set_faults(site, &body)),
        _ => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "this endpoint does not take that method\n")),
    };
    answer.unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
}

pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = whole(TEXT, text.into());
    *answer.status_mut() = status;
    answer
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(AnswerBody::EMPTY);
    *answer.status_mut() = status;
    answer
}

pub(super) fn with_type(kind: HeaderValue, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn whole(kind: HeaderValue, body: Bytes) -> Answer {
    with_type(kind, AnswerBody::Whole(body))
}

fn json(value: &serde_json::Value) -> Answer {
    whole(JSON, value.to_string().into())
}

fn stretch(n: u64, range: Option<&HeaderValue>) -> Answer {
    let mut answer = with_type(BINARY, AnswerBody::Pattern { at: 0, end: n });
    answer.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let range = match range {
        None => return answer,
        Some(range) => content::range(range.to_str().ok(), n),
    };
    let covered = match range {
        Range::Whole => return answer,
        Range::Part(at, end) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            *answer.body_mut() = AnswerBody::Pattern { at, end };
            format!("bytes {at}-{}/{n}", end - 1)
        }
        Range::Unsatisfiable => {
            *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            *answer.body_mut() = AnswerBody::EMPTY;
            format!("bytes */{n}")
        }
    };
    if let Ok(covered) = HeaderValue::try_from(covered) {
        answer.headers_mut().insert(header::CONTENT_RANGE, covered);
    }
    answer
}

fn now() -> Answer {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    json(&json!({"now_us": since_epoch.as_micros() as u64, "random": fastrand::u64(..)}))
}

fn status(code: u16) -> Answer {
    match StatusCode::from_u16(code) {
        Ok(status @ (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) => empty(status),
        Ok(status) if !status.is_informational() => plain(status, format!("{status}\n")),
        _ => plain(StatusCode::BAD_REQUEST, "that is no final status; write 200 to 999\n"),
    }
}

/// The request's head as JSON. Each header has all its values, in order: a proxy must not lose one.
fn headers(request: &Request<Incoming>) -> Answer {
    let mut fields = serde_json::Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        fields.insert(name.as_str().to_owned(), json!(values));
    }
    let version = format!("{:?}", request.version());
    let target = request.uri().to_string();
    json(
        &json!({"method": request.method().as_str(), "target": target, "version": version, "headers": fields}),
    )
}

fn tagged(request: &Request<Incoming>) -> Answer {
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|tags| tags.split(',').map(str::trim).any(|tag| tag == content::TAG || tag == "*"))
    });
    let mut answer = if known {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        whole(TEXT, Bytes::from_static(content::TAGGED))
    };
    answer.headers_mut().insert(header::ETAG, HeaderValue::from_static(content::TAG));
    answer
}

fn cookie() -> Answer {
    let mut answer = whole(TEXT, Bytes::from_static(b"have a cookie\n"));
    let cookie = format!("session={:016x}; Path=/; HttpOnly", fastrand::u64(..));
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}

/// A write is taken only when its body has come whole: one that was cut off was not asked for. With
/// `?wait_ms=` it is taken so much later, even if the caller has left by then.
async fn append(site: &Site, key: &str, request: Request<Incoming>) -> io::Result<Answer> {
    let wait = streams::number(request.uri().query(), "wait_ms").map(Duration::from_millis);
    consume(request).await?;
    let (ledger, written) = (site.shared.ledger.clone(), key.to_owned());
    let append = using(ledger, move |ledger| ledger.append(&written));
    let sequence = match wait {
        None => append.await?,
        Some(wait) => {
            let late = async move {
                tokio::time::sleep(wait).await;
                append.await
            };
            tokio::task::spawn_local(late).await.map_err(io::Error::other)??
        }
    };
    Ok(json(&json!({"key": key, "sequence": sequence})))
}

async fn grpc_put(site: &Site, request: Request<Incoming>) -> io::Result<Answer> {
    consume(request).await?;
    with_ledger(site, |ledger| ledger.append("segue.sample.Sample.Put")).await?;
    Ok(streams::grpc())
}

/// A ledger that blocks is used off the worker's thread. Once begun a write is finished even if the
/// caller has left by then, as in most applications.
async fn with_ledger<T: Send + 'static>(
    site: &Site,
    work: impl FnOnce(&Ledger) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    using(site.shared.ledger.clone(), work).await
}

async fn using<T: Send + 'static>(
    ledger: Ledger,
    work: impl FnOnce(&Ledger) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if !ledger.blocks() {
        return work(&ledger);
    }
    tokio::task::spawn_blocking(move || work(&ledger)).await.map_err(io::Error::other)?
}

fn echo(request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(BINARY);
    with_type(kind, AnswerBody::stream(body.map_err(io::Error::other)))
}

async fn upload(request: Request<Incoming>) -> io::Result<Answer> {
    let mut body = request.into_body();
    let mut hasher = blake3::Hasher::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(io::Error::other)?.data_ref() {
            hasher.update(data);
        }
    }
    let digest = hasher.finalize();
    Ok(json(&json!({"bytes": hasher.count(), "blake3": digest.to_hex().as_str()})))
}

async fn rpc(request: Request<Incoming>) -> io::Result<Answer> {
    let body = small_body(request).await?;
    let id = serde_json::from_slice::<serde_json::Value>(&body).ok().and_then(|call| call.get("id").cloned());
    Ok(json(&json!({"jsonrpc": "2.0", "id": id, "result": "ok"})))
}

async fn consume(request: Request<Incoming>) -> io::Result<()> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(io::Error::other)?;
    }
    Ok(())
}

async fn small_body(request: Request<Incoming>) -> io::Result<Bytes> {
    let body = http_body_util::Limited::new(request.into_body(), SMALL_BODY);
    Ok(body.collect().await.map_err(io::Error::other)?.to_bytes())
}

fn fault_list(faults: &[Fault]) -> String {
    faults.iter().fold(String::new(), |mut list, fault| {
        let _ = writeln!(list, "{fault}");
        list
    })
}

/// Faults stand one to a line, or apart by spaces; none at all clears them.
fn set_faults(site: &Site, text: &[u8]) -> Answer {
    let parsed: Result<Vec<Fault>, _> =
        String::from_utf8_lossy(text).split_ascii_whitespace().map(str::parse).collect();
    match parsed {
        Err(error) => plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Ok(faults) => match site.shared.set_faults(&faults) {
            Ok(()) => whole(TEXT, fault_list(&faults).into()),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
    }
}
