//! Owned copies of a head. Header values are slices of a connection's read buffer, so a clone would keep
//! a whole buffer alive for a few hundred bytes of headers.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::HeaderValue;
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::upstream::Added;

/// Bytes that [`owned`] will hold, about.
pub fn size_of(parts: &Parts) -> u64 {
    let headers: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
    (headers + target) as u64
}

/// Target and headers in one buffer of their own.
pub(super) fn owned(parts: &Parts, added: &Added) -> (PathAndQuery, HeaderMap) {
    let mut buffer = BytesMut::with_capacity(size_of(parts) as usize);
    let mut headers = HeaderMap::with_capacity(parts.headers.len() + 6);
    for (name, value) in &parts.headers {
        headers.append(name.clone(), own_value(&mut buffer, value));
    }
    added.insert_into(&mut headers);
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    buffer.extend_from_slice(target.as_bytes());
    let target = PathAndQuery::from_maybe_shared(buffer.split().freeze());
    // What was parsed once parses again.
    (target.unwrap_or_else(|_| PathAndQuery::from_static("/")), headers)
}

fn own_value(buffer: &mut BytesMut, value: &HeaderValue) -> HeaderValue {
    buffer.extend_from_slice(value.as_bytes());
    let copy: Bytes = buffer.split().freeze();
    let mut copy = HeaderValue::from_maybe_shared(copy).unwrap_or_else(|_| HeaderValue::from_static(""));
    copy.set_sensitive(value.is_sensitive());
    copy
}
