//! What one side answered, in a form that pins nothing: no read buffer, no connection.

use std::time::Duration;

use http::StatusCode;

use crate::http1::Headers;

use super::digest::Digest;

/// One side of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `None` = no answer began.
    pub head: Option<Head>,
    /// Of the body as it was sent, coded; `None` = there was none.
    pub body: Option<Digest>,
    pub end: End,
    /// From the start of the exchange to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the start of the exchange to the last byte of a complete answer.
    pub last_byte: Option<Duration>,
    /// The caller took its answer so slowly that it held the source back: `last_byte` says nothing about
    /// the instance. Never set for the shadow.
    pub caller_slow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: StatusCode,
    pub noted: NotedHeaders,
}

impl Head {
    pub fn of(status: StatusCode, headers: &Headers) -> Self {
        Self { status, noted: NotedHeaders::of(headers) }
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    /// Only the source's side has a caller who can leave.
    CallerLeft,
    ConnectFailed,
    /// Reset or closed before the end.
    BrokeOff,
    /// The deadline of this side passed.
    TimedOut,
    /// Not HTTP, or not as announced.
    Malformed,
    /// Cut at a limit of Segue's own.
    TooLarge,
}

impl End {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::CallerLeft => "caller left",
            Self::ConnectFailed => "connect failed",
            Self::BrokeOff => "broke off",
            Self::TimedOut => "timed out",
            Self::Malformed => "malformed",
            Self::TooLarge => "too large",
        }
    }
}

/// The headers that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    ETag,
    LastModified,
    Location,
    ContentType,
    ContentEncoding,
    ContentRange,
}

impl Noted {
    pub const ALL: [Self; 6] = [
        Self::ETag,
        Self::LastModified,
        Self::Location,
        Self::ContentType,
        Self::ContentEncoding,
        Self::ContentRange,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ETag => "etag",
            Self::LastModified => "last-modified",
            Self::Location => "location",
            Self::ContentType => "content-type",
            Self::ContentEncoding => "content-encoding",
            Self::ContentRange => "content-range",
        }
    }

    /// `name`: in any case.
    fn named(name: &[u8]) -> Option<Self> {
        // By length first, which tells nearly all of the others apart.
        let known = match name.len() {
            4 => Self::ETag,
            8 => Self::Location,
            12 => Self::ContentType,
            13 if name.first().is_some_and(|first| first.eq_ignore_ascii_case(&b'l')) => Self::LastModified,
            13 => Self::ContentRange,
            16 => Self::ContentEncoding,
            _ => return None,
        };
        name.eq_ignore_ascii_case(known.as_str().as_bytes()).then_some(known)
    }
}

/// Copies of their values, because a `HeaderValue` keeps the whole read buffer of its connection alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotedHeaders {
    /// One after the other, in the order of [`Noted::ALL`].
    text: Box<str>,
    /// Where each of them ends in the text; one that is absent ends where it begins.
    ends: [u32; Noted::ALL.len()],
    present: [bool; Noted::ALL.len()],
}

impl NotedHeaders {
    pub fn of(headers: &Headers) -> Self {
        let mut found = [const { None::<&[u8]> }; Noted::ALL.len()];
        headers.for_each(|name, value| {
            if let Some(place) = Noted::named(name).and_then(|noted| found.get_mut(noted as usize)) {
                // Of several the first one counts.
                place.get_or_insert(value);
            }
        });
        let mut text = String::with_capacity(found.iter().flatten().map(|value| value.len()).sum());
        let mut noted = Self::default();
        for ((value, end), present) in found.iter().zip(&mut noted.ends).zip(&mut noted.present) {
            if let Some(value) = value {
                *present = true;
                match str::from_utf8(value) {
                    Ok(value) => text.push_str(value),
                    // Bytes outside UTF-8 still compare, if not as finely.
                    Err(_) => text.push_str(&String::from_utf8_lossy(value)),
                }
            }
            *end = text.len() as u32;
        }
        Self { text: text.into_boxed_str(), ..noted }
    }

    pub fn get(&self, name: Noted) -> Option<&str> {
        let place = name as usize;
        if !*self.present.get(place)? {
            return None;
        }
        let end = *self.ends.get(place)? as usize;
        let start =
            place.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |at| *at as usize);
        self.text.get(start..end)
    }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};

    use super::*;

    fn noted(headers: &HeaderMap) -> NotedHeaders {
        NotedHeaders::of(&Headers::Map(Box::new(headers.clone())))
    }

    #[test]
    fn each_header_is_found_whatever_else_there_is() {
        let mut headers = HeaderMap::new();
        assert_eq!(noted(&headers), NotedHeaders::default());
        for (n, name) in Noted::ALL.into_iter().enumerate() {
            assert_eq!(Noted::named(name.as_str().to_uppercase().as_bytes()), Some(name));
            headers.append(HeaderName::from_static(name.as_str()), HeaderValue::from(n));
            headers.append(HeaderName::from_static(name.as_str()), HeaderValue::from_static("a second one"));
        }
        headers.insert("date", HeaderValue::from_static("today"));
        headers.insert(LOCATION, HeaderValue::from_static(""));
        headers.remove("content-encoding");
        let found = noted(&headers);
        let expected = [Some("0"), Some("1"), Some(""), Some("3"), None, Some("5")];
        assert_eq!(Noted::ALL.map(|name| found.get(name)), expected);
        // Their order in the head is nobody's business.
        let backwards: HeaderMap = Noted::ALL
            .iter()
            .rev()
            .filter_map(|n| Some((n.as_str().parse().ok()?, headers.get(n.as_str())?.clone())))
            .collect();
        assert_eq!(noted(&backwards), found);
    }

    #[test]
    fn bytes_outside_utf8_are_kept_as_far_as_they_go() {
        let value = HeaderValue::from_bytes(b"/caf\xe9").unwrap();
        let found = noted(&HeaderMap::from_iter([(LOCATION, value)]));
        assert_eq!(found.get(Noted::Location), Some("/caf\u{fffd}"));
    }
}
