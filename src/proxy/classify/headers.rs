//! What the headers of a request say about it, gathered in one pass.
//!
//! One walk over the map is cheaper than a hash lookup for each name, and it sees names that a lookup misses:
//! CGI-style gateways (WSGI, Rack, PHP) fold `_` and `-` together, so `x_http_method_override` overrides too.

use http::{HeaderMap, HeaderValue};

use super::{Head, Reason};

/// Headers of interest, reduced to what the decisions need.
#[derive(Debug, Default)]
pub struct Signs<'a> {
    /// A reason that makes the request a write whatever else is said.
    pub hard: Option<Reason>,
    pub has_body: bool,
    pub event_stream: bool,
    content_type: ContentType<'a>,
}

#[derive(Debug, Default)]
enum ContentType<'a> {
    #[default]
    None,
    One(&'a [u8]),
    /// Several, which of them counts is anybody's guess.
    Several,
}

/// The types of content that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Absent,
    Json,
    Graphql,
    UrlEncoded,
    Multipart,
    Other,
}

/// Authentication schemes whose proof holds for one connection or one request. A copy would be refused, and where
/// both instances share the memory of used proofs it could be the copy that uses up the caller's own.
const ONE_USE_SCHEMES: &[&str] =
    &["digest", "ntlm", "negotiate", "kerberos", "hawk", "oauth", "mac", "dpop", "hoba", "mutual"];

impl<'a> Signs<'a> {
    pub fn read(head: &Head<'a>) -> Self {
        let mut signs = Self { has_body: head.has_body, ..Self::default() };
        for (name, value) in head.headers {
            match name.as_str() {
                "upgrade" | "http2-settings" => signs.hard = Some(Reason::Upgrade),
                "connection" if contains(value.as_bytes(), "upgrade") => signs.hard = Some(Reason::Upgrade),
                "authorization" if is_one_use(value) => signs.hard = Some(Reason::OneUseCredentials),
                "accept" => signs.event_stream |= accepts_event_stream(value.as_bytes()),
                "transfer-encoding" => signs.has_body = true,
                "content-length" => signs.has_body |= value.as_bytes().iter().any(|&b| b != b'0'),
                "content-type" => {
                    signs.content_type = match signs.content_type {
                        ContentType::None => ContentType::One(value.as_bytes()),
                        _ => ContentType::Several,
                    }
                }
                name if overrides_method(name) => signs.hard = Some(Reason::MethodOverride),
                _ => {}
            }
        }
        signs
    }

    pub fn media(&self) -> Media {
        match self.content_type {
            ContentType::None => Media::Absent,
            ContentType::One(value) => media(value),
            ContentType::Several => Media::Other,
        }
    }

    /// JSON by any of its names, for content that is passed on but not parsed.
    pub fn is_json_like(&self) -> bool {
        let ContentType::One(value) = self.content_type else { return false };
        let essence = essence(value);
        eq(essence, "application/json")
            || eq(essence, "application/x-ndjson")
            || (essence.len() > 5 && essence.get(essence.len() - 5..).is_some_and(|tail| eq(tail, "+json")))
    }

    /// What frameworks read form fields from, or several types of which one may be.
    pub fn is_form_like(&self) -> bool {
        match self.content_type {
            ContentType::None => false,
            ContentType::One(value) => {
                let essence = essence(value);
                eq(essence, "application/x-www-form-urlencoded") || media(value) == Media::Multipart
            }
            ContentType::Several => true,
        }
    }

    /// `application/grpc`, alone or with a codec; not gRPC-Web, whose framing carries trailers in the body.
    pub fn is_grpc(&self) -> bool {
        let ContentType::One(value) = self.content_type else { return false };
        let essence = essence(value);
        eq(essence, "application/grpc")
            || essence.get(..17).is_some_and(|head| eq(head, "application/grpc+")) && essence.len() > 17
    }

    /// Whether the content type is exactly this one, parameters aside.
    pub fn is_type(&self, wanted: &str) -> bool {
        matches!(self.content_type, ContentType::One(value) if eq(essence(value), wanted))
    }
}

/// The content type of a body that is about to be parsed.
pub fn media_of(headers: &HeaderMap) -> Media {
    let mut values = headers.get_all(http::header::CONTENT_TYPE).iter();
    match (values.next(), values.next()) {
        (None, _) => Media::Absent,
        (Some(value), None) => media(value.as_bytes()),
        (Some(_), Some(_)) => Media::Other,
    }
}

/// Whether content has to be decoded before it means anything.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(http::header::CONTENT_ENCODING)
        .iter()
        .any(|value| !eq(value.as_bytes().trim_ascii(), "identity") && !value.is_empty())
}

/// Content is only parsed when it is certain to be UTF-8: in UTF-7 or UTF-16 the same bytes say something else.
fn media(value: &[u8]) -> Media {
    let mut parts = value.split(|&b| b == b';');
    let essence = parts.next().unwrap_or_default().trim_ascii();
    if essence.len() >= 10 && essence.get(..10).is_some_and(|head| eq(head, "multipart/")) {
        return Media::Multipart;
    }
    let utf8 = parts.map(<[u8]>::trim_ascii).all(|parameter| {
        parameter.is_empty() || eq(parameter, "charset=utf-8") || eq(parameter, "charset=\"utf-8\"")
    });
    if !utf8 {
        Media::Other
    } else if eq(essence, "application/json") {
        Media::Json
    } else if eq(essence, "application/graphql") {
        Media::Graphql
    } else if eq(essence, "application/x-www-form-urlencoded") {
        Media::UrlEncoded
    } else {
        Media::Other
    }
}

fn essence(value: &[u8]) -> &[u8] {
    value.split(|&b| b == b';').next().unwrap_or_default().trim_ascii()
}

fn is_one_use(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii_start();
    let scheme = value.split(|&b| b == b' ' || b == b'\t' || b == b',').next().unwrap_or_default();
    ONE_USE_SCHEMES.iter().any(|one_use| eq(scheme, one_use))
        || scheme.get(..6).is_some_and(|head| eq(head, "scram-"))
}

/// Names are in lower case already.
fn overrides_method(name: &str) -> bool {
    const NAMES: [&str; 3] = ["x-http-method-override", "x-method-override", "x-http-method"];
    let bytes = name.as_bytes();
    bytes.first() == Some(&b'x')
        && NAMES.iter().any(|known| {
            known.len() == bytes.len()
                && known.bytes().zip(bytes).all(|(k, &b)| k == b || (k == b'-' && b == b'_'))
        })
}

fn eq(bytes: &[u8], lower: &str) -> bool {
    bytes.eq_ignore_ascii_case(lower.as_bytes())
}

fn contains(bytes: &[u8], lower: &str) -> bool {
    bytes.windows(lower.len()).any(|window| eq(window, lower))
}

fn accepts_event_stream(accept: &[u8]) -> bool {
    accept.split(|&b| b == b',').any(|range| range.len() >= 17 && eq(essence(range), "text/event-stream"))
}
