//! What one side answered, in a form that pins nothing: no read buffer, no connection.

use std::time::Duration;

use http::StatusCode;

use crate::http1::Headers;

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

/// BLAKE3 of a body, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub hash: [u8; 32],
    pub length: u64,
}

impl Digest {
    pub fn of(hasher: &blake3::Hasher) -> Self {
        Self { hash: *hasher.finalize().as_bytes(), length: hasher.count() }
    }

    /// No body and an empty one are the same.
    pub(super) fn same(ours: Option<&Self>, theirs: Option<&Self>) -> bool {
        let body = |digest: Option<&Self>| digest.filter(|digest| digest.length > 0).copied();
        body(ours) == body(theirs)
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
pub struct NotedHeaders([Option<Box<str>>; Noted::ALL.len()]);

impl NotedHeaders {
    /// The first of each name counts.
    pub fn of(headers: &Headers) -> Self {
        let mut noted = Self::default();
        for (name, value) in headers.iter() {
            if let Some(known) = Noted::named(name)
                && let Some(place @ None) = noted.0.get_mut(known as usize)
            {
                // Lossy is enough: bytes outside UTF-8 still compare, if not as finely.
                *place = Some(String::from_utf8_lossy(value).into());
            }
        }
        noted
    }

    pub fn get(&self, name: Noted) -> Option<&str> {
        self.0.get(name as usize)?.as_deref()
    }
}
