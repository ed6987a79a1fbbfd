//! Owned copies of a head. Header values are slices of a connection's read buffer, so a clone would keep
//! a whole buffer alive for a few hundred bytes of headers.
//!
//! A copy for a shadow that is spoken to in HTTP/1.1 is made of lines, ready to be written: nobody looks its headers up.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use crate::tee::compare::Asked;
use crate::upstream::Added;

const SEGUE_TEE: HeaderName = HeaderName::from_static("segue-tee");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What a copy is marked with, so that nobody takes it for a caller's.
const MARK: &str = "shadow";

/// `00-`, a trace of 16 bytes, `-`, a span of 8, `-`, flags.
const TRACEPARENT_LENGTH: usize = 55;
/// Room for the headers that a copy gets of its own.
const OWN_LINES: usize = 128;

/// The head that a copy is made of.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub version: Version,
    pub headers: &'a HeaderMap,
}

impl<'a> Original<'a> {
    pub fn of<B>(request: &'a Request<B>) -> Self {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        Self { method, uri, version: request.version(), headers }
    }
}

/// A head of its own, marked as a copy.
pub struct Copy {
    pub target: PathAndQuery,
    pub host: Option<HeaderValue>,
    pub headers: HeaderMap,
    /// Headers that are written beside those of the map.
    pub lines: Added,
    /// The caller's: HTTP/2 takes cookies apart.
    pub version: Version,
}

/// Which form a copy gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For HTTP/1.1, where it can be: in the map are only the headers that the connection writes in its own way.
    Lines,
    /// All of them in the map.
    Map,
}

/// Bytes that a copy will hold, about.
pub fn size_of(of: &Original<'_>) -> u64 {
    let headers: usize = of.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = of.uri.path_and_query().map_or(1, |target| target.as_str().len());
    (headers + target) as u64
}

impl Copy {
    /// `of` and what is `added` are as the source will get them; `size` is what [`size_of`] says of them. `sampled` goes
    /// into the trace.
    ///
    /// All of it is in one buffer.
    pub fn new(of: &Original<'_>, added: &Added, size: u64, form: Form, sampled: bool) -> Self {
        // `: ` and the end of a line for each.
        let room = size as usize + 4 * of.headers.len() + added.lines().len() + OWN_LINES;
        let mut buffer = BytesMut::with_capacity(room);
        let (target, mut headers) = (own_target(&mut buffer, of), HeaderMap::new());
        let host;
        let lines = match form {
            Form::Lines if can_be_lines(of) => {
                host = of.headers.get(HOST).map(|value| own_value(&mut buffer, value));
                if let Some(length) = of.headers.get(CONTENT_LENGTH) {
                    headers.append(CONTENT_LENGTH, own_value(&mut buffer, length));
                }
                write(&mut buffer, of, added, sampled);
                Added::of_lines(buffer.freeze(), host.clone())
            }
            Form::Lines | Form::Map => {
                headers.reserve(of.headers.len());
                for (name, value) in of.headers {
                    headers.append(name.clone(), own_value(&mut buffer, value));
                }
                added.insert_into(&mut headers);
                mark(&mut headers, sampled);
                host = headers.get(HOST).cloned();
                Added::default()
            }
        };
        Self { target, host, headers, lines, version: of.version }
    }
}

/// Whether the headers can be written as they are. They keep their order: a `Host` that is not the first one would become
/// it, and the cookies that HTTP/2 took apart are put together by the connection.
fn can_be_lines(of: &Original<'_>) -> bool {
    of.version != Version::HTTP_2 && of.headers.keys().next() == Some(&HOST)
}

/// Whether the connection writes this header itself, wherever it was.
fn is_framing(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_LENGTH
}

/// Whether a copy has its own instead, or none. The body is whole; nobody waits for an invitation to send it. A trace of its
/// own: joining the caller's would double its spans.
fn is_replaced(name: &HeaderName) -> bool {
    *name == SEGUE_TEE || *name == EXPECT || *name == TRACEPARENT || *name == TRACESTATE
}

fn write(buffer: &mut BytesMut, of: &Original<'_>, added: &Added, sampled: bool) {
    let (mut has_te, mut has_connection) = (false, false);
    for (name, value) in of.headers {
        if !is_framing(name) && !is_replaced(name) {
            has_te |= *name == TE;
            has_connection |= *name == CONNECTION;
            line(buffer, name, value.as_bytes());
        }
    }
    buffer.put_slice(added.lines());
    line(buffer, &SEGUE_TEE, MARK.as_bytes());
    line(buffer, &TRACEPARENT, &traceparent(sampled));
    if has_te && !has_connection {
        // It is hop-by-hop, so HTTP/1.1 wants it named.
        line(buffer, &CONNECTION, TE.as_str().as_bytes());
    }
}

fn line(buffer: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        buffer.extend_from_slice(part);
    }
}

/// The same in a map.
pub fn mark(headers: &mut HeaderMap, sampled: bool) {
    headers.insert(SEGUE_TEE, HeaderValue::from_static(MARK));
    headers.remove(EXPECT);
    headers.remove(TRACESTATE);
    if let Ok(parent) = HeaderValue::from_bytes(&traceparent(sampled)) {
        headers.insert(TRACEPARENT, parent);
    }
}

fn traceparent(sampled: bool) -> [u8; TRACEPARENT_LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (_, fields) = text.split_at_mut(3);
    let (trace, fields) = fields.split_at_mut(32);
    let (span, flags) = fields.split_at_mut(17);
    write_hex(trace, &fastrand::u128(1..).to_be_bytes());
    write_hex(&mut span[1..], &fastrand::u64(1..).to_be_bytes());
    write_hex(&mut flags[1..], &[u8::from(sampled)]);
    text
}

/// Two digits for each byte.
fn write_hex(place: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS[usize::from(value)];
    for ([high, low], byte) in place.as_chunks_mut().0.iter_mut().zip(bytes) {
        (*high, *low) = (digit(byte >> 4), digit(byte & 0xf));
    }
}

fn own_target(buffer: &mut BytesMut, of: &Original<'_>) -> PathAndQuery {
    let target = of.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    buffer.extend_from_slice(target.as_bytes());
    // What was parsed once parses again.
    PathAndQuery::from_maybe_shared(buffer.split().freeze())
        .unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

fn own_value(buffer: &mut BytesMut, value: &HeaderValue) -> HeaderValue {
    buffer.extend_from_slice(value.as_bytes());
    let copy: Bytes = buffer.split().freeze();
    let mut copy = HeaderValue::from_maybe_shared(copy).unwrap_or_else(|_| HeaderValue::from_static(""));
    copy.set_sensitive(value.is_sensitive());
    copy
}

impl Asked {
    /// In one pass, as nearly no request has any of them.
    pub(super) fn of(method: &Method, headers: &HeaderMap, credentials: bool) -> Self {
        let mut asked = Self { method: method.clone(), conditional: false, ranged: false, credentials };
        for name in headers.keys() {
            match name.as_str() {
                "if-none-match" | "if-modified-since" | "if-match" | "if-unmodified-since" => {
                    asked.conditional = true;
                }
                "range" => asked.ranged = true,
                _ => {}
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/a/b?c=d").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn copy(request: &Request<()>, added: &Added, form: Form, sampled: bool) -> Copy {
        let of = Original::of(request);
        Copy::new(&of, added, size_of(&of), form, sampled)
    }

    /// All the headers of a copy, wherever they are, but its trace.
    fn all(copy: &Copy) -> Vec<(String, String)> {
        let mut headers = copy.headers.clone();
        copy.lines.insert_into(&mut headers);
        if let Some(host) = copy.lines.host() {
            headers.insert(HOST, host.clone());
        }
        let trace = headers.remove(TRACEPARENT).unwrap();
        assert!(trace.to_str().unwrap().starts_with("00-"), "{trace:?}");
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        all.sort();
        all
    }

    #[test]
    fn both_forms_say_the_same() {
        let headers = [
            ("host", "app.example"),
            ("accept", "*/*"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-caf", "1: 2"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("segue-tee", "forged"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
            ("empty", ""),
        ];
        let entry = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let added =
            Added::new(vec![entry("x-forwarded-for", "10.0.0.1"), entry("x-forwarded-proto", "http")]);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let request = request(version, &headers);
            let copies = [Form::Lines, Form::Map].map(|form| copy(&request, &added, form, true));
            for copy in &copies {
                assert_eq!(copy.target.as_str(), "/a/b?c=d");
                assert_eq!(copy.host.as_ref().unwrap(), "app.example");
                assert_eq!(copy.version, version);
            }
            let [mut lines, map] = copies.map(|copy| all(&copy));
            // The connection's own doing where it is not in the lines.
            lines.retain(|(name, _)| name != "connection");
            assert_eq!(lines, map);
            let names: Vec<_> = map.iter().map(|(name, _)| &**name).collect();
            let expected = [
                "accept",
                "cookie",
                "cookie",
                "empty",
                "host",
                "segue-tee",
                "te",
                "x-caf",
                "x-forwarded-for",
                "x-forwarded-proto",
            ];
            assert_eq!(names, expected);
            assert!(map.contains(&("segue-tee".to_owned(), "shadow".to_owned())), "{map:?}");
        }
    }

    #[test]
    fn what_would_change_places_is_left_to_the_connection() {
        let form = |version, headers: &[_]| {
            let request = request(version, headers);
            let copy = copy(&request, &Added::default(), Form::Lines, false);
            if copy.lines.lines().is_empty() { Form::Map } else { Form::Lines }
        };
        let (host, cookie) = (("host", "app.example"), ("cookie", "a=1"));
        assert_eq!(form(Version::HTTP_11, &[host, cookie]), Form::Lines);
        assert_eq!(form(Version::HTTP_11, &[cookie, host]), Form::Map);
        assert_eq!(form(Version::HTTP_2, &[host, cookie, ("cookie", "b=2")]), Form::Map);
    }

    #[test]
    fn a_copy_pins_nothing_of_the_request() {
        let buffer = Bytes::from(b"app.example*/*/a".to_vec());
        let value = |range| HeaderValue::from_maybe_shared(buffer.slice(range)).unwrap();
        let mut request = request(Version::HTTP_11, &[]);
        request.headers_mut().insert(HOST, value(0..11));
        request.headers_mut().insert("accept", value(11..14));
        let target = PathAndQuery::from_maybe_shared(buffer.slice(14..)).unwrap();
        *request.uri_mut() = target.into();
        let copies = [Form::Lines, Form::Map].map(|form| copy(&request, &Added::default(), form, false));
        drop(request);
        assert!(buffer.is_unique());
        assert!(copies.iter().all(|copy| copy.target == "/a"));
    }

    #[test]
    fn every_copy_has_a_trace_of_its_own() {
        let [one, other] =
            [true, false].map(|sampled| String::from_utf8(traceparent(sampled).to_vec()).unwrap());
        assert_ne!(one[..52], other[..52]);
        for (text, flags) in [(&one, "01"), (&other, "00")] {
            let fields: Vec<_> = text.split('-').collect();
            assert_eq!(fields.iter().map(|field| field.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
            assert!(text.bytes().all(|b| matches!(b, b'-' | b'0'..=b'9' | b'a'..=b'f')), "{text}");
            assert!(u128::from_str_radix(fields[1], 16).unwrap() > 0 && fields[3] == flags);
        }
    }

    #[test]
    fn conditions_and_ranges_are_noted() {
        let asked =
            |name| Asked::of(&Method::GET, request(Version::HTTP_11, &[(name, "x")]).headers(), false);
        for name in ["if-none-match", "if-modified-since", "if-match", "if-unmodified-since"] {
            assert!(asked(name).conditional && !asked(name).ranged, "{name}");
        }
        assert!(asked("range").ranged && !asked("range").conditional);
        assert!(!asked("if-range").conditional && !asked("accept").ranged);
    }
}
