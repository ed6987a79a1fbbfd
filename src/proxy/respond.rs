//! Everything that Segue answers by itself, turned into a response in one place.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::gate::Refused;
use crate::http1::head::HeadError;
use crate::tee::compare::End;
use crate::upstream::ConnectError;

/// Says that Segue, not the instance, answered, and why. Stable, for logs and tests.
pub const SEGUE_ERROR: HeaderName = HeaderName::from_static("segue-error");

/// Why a request was not answered by an instance. The side at fault is in the status: 4xx the
/// caller's, 502 and 504 the instance's, 503 Segue's own limits.
#[derive(Debug, thiserror::Error)]
pub enum Reject {
    #[error("{0}")]
    MalformedHead(HeadError),
    #[error("CONNECT is not served here")]
    ConnectRefused,
    #[error("the header section is larger than this server accepts")]
    HeadersTooLarge,
    #[error("the request target is longer than this server accepts")]
    UriTooLong,
    #[error("Content-Length and Transfer-Encoding together")]
    AmbiguousLength,
    #[error("a transfer coding other than chunked")]
    TransferCoding,
    #[error("{0}")]
    BadTarget(&'static str),
    #[error("{0}")]
    BadHost(&'static str),
    #[error("the body is larger than this server accepts")]
    BodyTooLarge,
    #[error("the request was not completed in time")]
    CallerTooSlow,
    #[error("the request broke off")]
    CallerBroke,
    #[error("no service is configured for this host and path")]
    NoService,
    #[error(transparent)]
    Parked(#[from] Refused),
    #[error("no connection to the instance: {0}")]
    Connect(#[from] ConnectError),
    #[error("the instance broke the exchange off: {0}")]
    Broken(String),
    #[error("the instance did not answer in time")]
    AnswerTimeout,
    #[error("the exchange was cut at the drain deadline")]
    Cut,
}

impl Reject {
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::MalformedHead(_)
            | Self::AmbiguousLength
            | Self::BadTarget(_)
            | Self::BadHost(_)
            | Self::CallerBroke => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::CallerTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoService => StatusCode::NOT_FOUND,
            Self::Parked(_) | Self::Cut | Self::Connect(ConnectError::Busy(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Connect(ConnectError::Timeout(_)) | Self::AnswerTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The same as the outcome of the source's side of a pair.
    pub const fn end(&self) -> End {
        match self {
            Self::Connect(_) => End::ConnectFailed,
            Self::AnswerTimeout => End::TimedOut,
            Self::BodyTooLarge | Self::CallerTooSlow | Self::CallerBroke => End::CallerLeft,
            _ => End::BrokeOff,
        }
    }

    /// Stable label for metrics and the `Segue-Error` header.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::MalformedHead(_) => "malformed_head",
            Self::ConnectRefused => "connect_refused",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::AmbiguousLength => "ambiguous_length",
            Self::TransferCoding => "transfer_coding",
            Self::BadTarget(_) => "bad_target",
            Self::BadHost(_) => "bad_host",
            Self::BodyTooLarge => "body_too_large",
            Self::CallerTooSlow => "caller_too_slow",
            Self::CallerBroke => "caller_broke",
            Self::NoService => "no_service",
            Self::Parked(Refused::TooManyParked) => "too_many_parked",
            Self::Parked(Refused::ParkedTooLong) => "parked_too_long",
            Self::Connect(ConnectError::Busy(_)) => "upstream_busy",
            Self::Connect(_) => "connect_failed",
            Self::Broken(_) => "upstream_broke",
            Self::AnswerTimeout => "answer_timeout",
            Self::Cut => "cut",
        }
    }

    /// What went wrong is said in full for the caller's own faults; the rest is for the log, because
    /// it names the inside.
    pub fn response(&self) -> Response<Bytes> {
        let status = self.status();
        let detail = if status.is_client_error() { self.to_string() } else { String::new() };
        let reason = status.canonical_reason().unwrap_or_default();
        let body = if detail.is_empty() {
            format!("{} {reason}\n", status.as_u16())
        } else {
            format!("{} {reason}: {detail}\n", status.as_u16())
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(SEGUE_ERROR, HeaderValue::from_static(self.as_str()));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
