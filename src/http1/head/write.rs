//! Heads, written.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, StatusCode, Uri};

/// `GET /x HTTP/1.1`, and its end.
pub fn write_request_line(out: &mut BytesMut, method: &Method, target: &Uri) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let path = target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // `http://host?query` has no path.
    if !path.starts_with(['/', '*']) {
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// `HTTP/1.1 200 OK`, and its end. Segue says that it speaks 1.1 to whoever asks (RFC 9110 §6.2).
pub fn write_status_line(out: &mut BytesMut, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub fn write_length(out: &mut BytesMut, bytes: u64) {
    write_header(out, CONTENT_LENGTH.as_str(), HeaderValue::from(bytes).as_bytes());
}

pub fn write_header(out: &mut BytesMut, name: impl AsRef<[u8]>, value: &[u8]) {
    out.extend_from_slice(name.as_ref());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
