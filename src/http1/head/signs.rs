//! What a head says of its own message: where the body ends, and whether anything follows it.

use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};

use super::HeadError;

/// How the end of a message's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Known(u64),
    Chunked,
    /// Where the connection ends.
    UntilClose,
}

/// What the headers say of the message itself, found while they are parsed.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    pub version: Version,
    length: Option<u64>,
    lengths: usize,
    bad_length: bool,
    has_coding: bool,
    /// It is `chunked`, once. What else was done to a body would be lost with this header, which does not pass a proxy.
    chunked: bool,
    closes: bool,
    keeps: bool,
    pub expects_continue: bool,
}

impl Signs {
    pub(super) const fn new(version: Version) -> Self {
        Self {
            version,
            length: None,
            lengths: 0,
            bad_length: false,
            has_coding: false,
            chunked: false,
            closes: false,
            keeps: false,
            expects_continue: false,
        }
    }

    pub(super) fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match name.as_str() {
            "content-length" => {
                let length = number(value);
                self.bad_length |= length.is_none() || (self.lengths > 0 && length != self.length);
                self.length = length;
                self.lengths += 1;
            }
            "transfer-encoding" => {
                self.chunked = !self.has_coding && value.as_bytes().eq_ignore_ascii_case(b"chunked");
                self.has_coding = true;
            }
            "connection" => {
                for token in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.closes |= token.eq_ignore_ascii_case(b"close");
                    self.keeps |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            "expect" => self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
    }

    /// How the body is framed (RFC 9112 §6.3); `None` = nothing is said. Equal lengths that were said more than once
    /// are made one in `headers`.
    ///
    /// A transfer coding outranks a length; whether both together are let through is not decided here.
    pub fn framing(&self, headers: &mut HeaderMap) -> Result<Option<Length>, HeadError> {
        if self.has_coding {
            return match (self.version, self.chunked) {
                (Version::HTTP_10, _) => Err(HeadError::CodingInHttp10),
                (_, true) => Ok(Some(Length::Chunked)),
                (_, false) => Err(HeadError::Coding),
            };
        }
        if self.bad_length {
            return Err(HeadError::ContentLength);
        }
        if let (Some(length), 2..) = (self.length, self.lengths) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(self.length.map(Length::Known))
    }

    /// A length beside a coding is how messages are smuggled.
    pub const fn has_two_framings(&self) -> bool {
        self.lengths > 0 && self.has_coding
    }

    /// Whether another message may follow this one on its connection.
    pub const fn keeps_alive(&self) -> bool {
        !self.closes && !self.has_two_framings() && (self.keeps || matches!(self.version, Version::HTTP_11))
    }
}

/// Digits alone: no sign, no blank, no list.
pub fn number(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}
