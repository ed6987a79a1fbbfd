//! Heads as `http`'s types, and back onto the wire. What is written as usual is found by `scan`, everything else by
//! `httparse`.
//!
//! Values share the buffer that they were read into; nothing but unusual names is copied.

mod lines;
mod scan;
mod signs;
mod write;

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};
use httparse::Status;

pub use self::lines::Lines;
pub use self::signs::{Length, Signs, number};
pub use self::write::{write_header, write_length, write_request_line, write_status_line};
use super::reply::Headers;

/// Headers that are parsed into room on the stack; more is rare, and gets room of its own.
const USUAL_HEADERS: usize = 64;
/// Twice what the largest setting for callers lets through, and far beyond what instances send.
const MOST_HEADERS: usize = 2_000;
/// A map with more room than this is not kept for the next message.
const KEPT_HEADERS: usize = 128;
/// What `http::Uri` can hold.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("malformed: {0}")]
    Malformed(httparse::Error),
    #[error("a request target that is no URI")]
    Target,
    #[error("the request target is longer than 64 KiB")]
    TargetTooLong,
    #[error("a status outside 100 to 999")]
    Status,
    #[error("the header section is too large")]
    TooLarge,
    #[error("too many headers")]
    TooManyHeaders,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    #[error("a Transfer-Encoding that is not chunked alone")]
    Coding,
}

/// How far a head that is still arriving was looked at, so that one which comes in a byte at a time
/// is not parsed again for each of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress(usize);

impl Progress {
    /// Whether `buffer` may hold a whole head.
    fn is_worth_parsing(self, buffer: &[u8]) -> bool {
        if self.0 == 0 {
            return !buffer.is_empty();
        }
        // The empty line may have begun in what was there before.
        let fresh = buffer.get(self.0.saturating_sub(3)..).unwrap_or_default();
        fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n")
    }
}

/// Drops the empty lines that some callers send behind a body (RFC 9112 §2.2): they are no beginning of a head.
pub fn skip_empty_lines(buffer: &mut BytesMut, progress: &mut Progress) {
    while buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        *progress = Progress::default();
    }
}

/// A part of the buffer: where it begins, and its length. Heads are far smaller than 4 GiB.
type Span = (u32, u32);

fn span(base: &[u8], part: &[u8]) -> Span {
    let from = (part.as_ptr() as usize).wrapping_sub(base.as_ptr() as usize);
    (from as u32, part.len() as u32)
}

fn cut(head: &Bytes, (from, length): Span) -> Bytes {
    head.slice(from as usize..(from + length) as usize)
}

/// The same for the last part that is needed, which costs no count of those that share the buffer.
fn cut_last(mut head: Bytes, (from, length): Span) -> Bytes {
    head.truncate((from + length) as usize);
    head.advance((from as usize).min(head.len()));
    head
}

/// A head that was found at the beginning of a buffer, before it is taken out of there.
struct Found<L> {
    length: usize,
    version: Version,
    line: L,
    headers: usize,
}

/// Where a header's name and value are.
type Spans = (Span, Span);

/// Finds a head, takes it out of `buffer` and makes `http`'s types of it; its headers go into `map`, which is empty.
/// `look` finds those that are written as usual, `find` all others.
fn parse<L, T>(
    buffer: &mut BytesMut,
    progress: &mut Progress,
    map: &mut HeaderMap,
    look: impl FnOnce(&[u8], &mut [Spans]) -> Option<Found<L>>,
    find: impl for<'b, 'h> Fn(
        &'b [u8],
        &'h mut [MaybeUninit<httparse::Header<'b>>],
        &mut [Spans],
    ) -> Result<Status<Found<L>>, HeadError>,
    make: impl FnOnce(L, Bytes) -> Result<T, HeadError>,
) -> Result<Option<(T, Signs)>, HeadError> {
    if !progress.is_worth_parsing(buffer) {
        progress.0 = buffer.len();
        return Ok(None);
    }
    let mut usual = [((0, 0), (0, 0)); USUAL_HEADERS];
    let mut many = Vec::new();
    let found = match look(buffer, &mut usual) {
        Some(found) => Status::Complete(found),
        None => match find(buffer, &mut [MaybeUninit::uninit(); USUAL_HEADERS], &mut usual) {
            Err(HeadError::TooManyHeaders) => {
                many.resize(MOST_HEADERS, ((0, 0), (0, 0)));
                find(buffer, &mut vec![MaybeUninit::uninit(); MOST_HEADERS], &mut many)?
            }
            found => found?,
        },
    };
    let Status::Complete(Found { length, version, line, headers }) = found else {
        progress.0 = buffer.len();
        return Ok(None);
    };
    *progress = Progress::default();
    let head = buffer.split_to(length).freeze();
    let mut signs = Signs::new(version);
    map.try_reserve(headers).map_err(|_| HeadError::TooManyHeaders)?;
    let spans = if many.is_empty() { usual.as_slice() } else { many.as_slice() };
    for &(name, value) in spans.iter().take(headers) {
        let name =
            HeaderName::from_bytes(head.get(name.0 as usize..(name.0 + name.1) as usize).unwrap_or(&[]))
                .map_err(|_| HeadError::Malformed(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_maybe_shared(cut(&head, value))
            .map_err(|_| HeadError::Malformed(httparse::Error::HeaderValue))?;
        signs.note(&name, &value);
        map.try_append(name, value).map_err(|_| HeadError::TooManyHeaders)?;
    }
    Ok(Some((make(line, head)?, signs)))
}

fn note(base: &[u8], headers: &[httparse::Header<'_>], spans: &mut [Spans]) -> usize {
    for (header, spans) in headers.iter().zip(spans) {
        *spans = (span(base, header.name.as_bytes()), span(base, header.value));
    }
    headers.len()
}

fn malformed(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        error => HeadError::Malformed(error),
    }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Empties a map, and keeps its memory for the next head.
pub fn recycle(map: &mut HeaderMap) {
    if map.capacity() > KEPT_HEADERS {
        *map = HeaderMap::new();
    } else {
        map.clear();
    }
}

/// Takes a request's head out of `buffer`, into `request`, whose map is empty; `None` = it is not all there. (A request is
/// a quarter of a kilobyte: it is written where it stays.)
pub fn parse_request(
    buffer: &mut BytesMut,
    progress: &mut Progress,
    request: &mut Request<()>,
) -> Result<Option<Signs>, HeadError> {
    let parsed = parse(
        buffer,
        progress,
        request.headers_mut(),
        look_for_request,
        |bytes, headers, spans| {
            let mut found = httparse::Request::new(&mut []);
            match found.parse_with_uninit_headers(bytes, headers).map_err(malformed)? {
                Status::Partial => Ok(Status::Partial),
                Status::Complete(length) => {
                    let (Some(method), Some(target)) = (found.method, found.path) else {
                        return Err(HeadError::Target);
                    };
                    let method = Method::from_bytes(method.as_bytes())
                        .map_err(|_| HeadError::Malformed(httparse::Error::Token))?;
                    if target.len() > MAX_TARGET {
                        return Err(HeadError::TargetTooLong);
                    }
                    let (version, line) = (version(found.version), (method, span(bytes, target.as_bytes())));
                    let headers = note(bytes, found.headers, spans);
                    Ok(Status::Complete(Found { length, version, line, headers }))
                }
            }
        },
        |(method, target), head| {
            let target = Uri::from_maybe_shared(cut_last(head, target)).map_err(|_| HeadError::Target)?;
            Ok((method, target))
        },
    )?;
    let Some(((method, target), signs)) = parsed else { return Ok(None) };
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.version_mut() = signs.version;
    Ok(Some(signs))
}

fn look_for_request(bytes: &[u8], spans: &mut [Spans]) -> Option<Found<(Method, Span)>> {
    let (method, target, version, from) = scan::request_line(bytes)?;
    let mut headers = 0;
    let length = scan::lines(bytes, from, |at, name, value| {
        let line = ((at as u32, name.len() as u32), ((at + name.len() + 2) as u32, value.len() as u32));
        *spans.get_mut(headers)? = line;
        headers += 1;
        Some(())
    })?;
    if target.len() > MAX_TARGET {
        return None;
    }
    let target = ((method.len() + 1) as u32, target.len() as u32);
    Some(Found { length, version, line: (Method::from_bytes(method).ok()?, target), headers })
}

/// Takes an answer's head out of `buffer`; `None` = it is not all there.
pub fn parse_response(
    buffer: &mut BytesMut,
    progress: &mut Progress,
) -> Result<Option<(StatusCode, Headers, Signs)>, HeadError> {
    if !progress.is_worth_parsing(buffer) {
        progress.0 = buffer.len();
        return Ok(None);
    }
    match lines::take(buffer) {
        Some((status, lines, signs)) => {
            *progress = Progress::default();
            Ok(Some((status, Headers::Lines(lines), signs)))
        }
        None => parse_response_as_map(buffer, progress),
    }
}

#[cold]
fn parse_response_as_map(
    buffer: &mut BytesMut,
    progress: &mut Progress,
) -> Result<Option<(StatusCode, Headers, Signs)>, HeadError> {
    let mut map = HeaderMap::new();
    let parsed = parse(
        buffer,
        progress,
        &mut map,
        |_, _| None,
        |bytes, headers, spans| {
            let mut response = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, headers);
            match parsed.map_err(malformed)? {
                Status::Partial => Ok(Status::Partial),
                Status::Complete(length) => {
                    let code = response.code.unwrap_or_default();
                    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Status)?;
                    let headers = note(bytes, response.headers, spans);
                    let version = version(response.version);
                    Ok(Status::Complete(Found { length, version, line: status, headers }))
                }
            }
        },
        |line, _| Ok(line),
    )?;
    // HTTP/2 may keep them: see `Lines::into_map`.
    for value in map.values_mut() {
        *value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| HeadError::Malformed(httparse::Error::HeaderValue))?;
    }
    Ok(parsed.map(|(status, signs)| (status, Headers::Map(Box::new(map)), signs)))
}

/// Takes a trailer section, up to its empty line, out of `buffer`; `None` = it is not all there.
pub fn parse_trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, HeadError> {
    let mut room = [httparse::EMPTY_HEADER; USUAL_HEADERS];
    let (length, map) = match httparse::parse_headers(buffer, &mut room).map_err(malformed)? {
        Status::Partial => return Ok(None),
        Status::Complete((length, headers)) => {
            let mut map = HeaderMap::with_capacity(headers.len());
            for header in headers {
                let name = HeaderName::from_bytes(header.name.as_bytes());
                let value = HeaderValue::from_bytes(header.value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(HeadError::Malformed(httparse::Error::HeaderName));
                };
                map.try_append(name, value).map_err(|_| HeadError::TooManyHeaders)?;
            }
            (length, map)
        }
    };
    buffer.advance(length);
    Ok(Some(map))
}

#[cfg(test)]
mod tests;
