//! Answers that take their time, or come in pieces.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::{self, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;

use super::answer::{Answer, plain, with_type};
use super::body::AnswerBody;

/// `GET /sse` without `?ms=`.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// A gRPC message: not compressed, seven bytes, field 1 = "segue".
const GRPC_MESSAGE: &[u8] = b"\0\0\0\0\x07\x0a\x05segue";

pub(super) async fn slow(ms: u64) -> io::Result<Answer> {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(plain(http::StatusCode::OK, format!("waited {ms} ms\n")))
}

/// `chunks` lines, `ms` apart; who asks for trailers gets their number in one.
pub(super) fn chunks(chunks: u64, ms: u64, asked: &HeaderMap) -> Answer {
    let trailers = asked
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    let last = trailers.then(|| {
        let mut fields = HeaderMap::new();
        fields.insert("stream-chunks", HeaderValue::from(chunks));
        fields
    });
    let lines = timed(Duration::from_millis(ms), Some(chunks), last, |n| format!("chunk {n}\n"));
    let mut answer = with_type(HeaderValue::from_static("text/plain; charset=utf-8"), lines);
    if trailers {
        answer.headers_mut().insert(header::TRAILER, HeaderValue::from_static("stream-chunks"));
    }
    answer
}

/// A number in a query, such as `ms` in `?ms=5`.
pub(super) fn number(query: Option<&str>, name: &str) -> Option<u64> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

/// Events until the caller leaves, or `?events=N` of them, `?ms=M` apart.
pub(super) fn events(query: Option<&str>) -> Answer {
    let every = number(query, "ms").map_or(EVENT_INTERVAL, Duration::from_millis);
    let events = timed(every, number(query, "events"), None, |n| format!("id: {n}\ndata: tick\n\n"));
    let mut answer = with_type(HeaderValue::from_static("text/event-stream"), events);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A unary gRPC answer: one message, and the status in the trailers.
pub(super) fn grpc() -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames =
        [Frame::data(Bytes::from_static(GRPC_MESSAGE)), Frame::trailers(trailers)].map(Ok::<_, io::Error>);
    let body = AnswerBody::stream(StreamBody::new(stream::iter(frames)));
    with_type(HeaderValue::from_static("application/grpc"), body)
}

/// `count` texts (without end if `None`), each but the first after a wait, then the trailers.
fn timed(
    every: Duration,
    count: Option<u64>,
    trailers: Option<HeaderMap>,
    text: impl Fn(u64) -> String + Copy + 'static,
) -> AnswerBody {
    let state = (1_u64, trailers);
    let frames = stream::unfold(state, move |(n, trailers)| async move {
        if count.is_some_and(|count| n > count) {
            return trailers.map(|fields| (Frame::trailers(fields), (n, None)));
        }
        if n > 1 && !every.is_zero() {
            tokio::time::sleep(every).await;
        }
        Some((Frame::data(Bytes::from(text(n))), (n + 1, trailers)))
    });
    let frames = futures_util::StreamExt::map(frames, Ok::<_, Infallible>);
    let frames = futures_util::StreamExt::map(frames, |frame| frame.map_err(|never| match never {}));
    AnswerBody::stream(StreamBody::new(frames))
}
