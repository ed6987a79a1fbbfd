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
    names_headers: bool,
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
            names_headers: false,
            expects_continue: false,
        }
    }

    pub(super) fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        let value = value.as_bytes();
        match name.as_str() {
            "content-length" => self.note_length(value),
            "transfer-encoding" => self.note_coding(value),
            "connection" => self.note_connection(value),
            "expect" => self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
    }

    pub(super) fn note_length(&mut self, value: &[u8]) {
        let length = number(value);
        self.bad_length |= length.is_none() || (self.lengths > 0 && length != self.length);
        self.length = length;
        self.lengths += 1;
    }

    pub(super) fn note_coding(&mut self, value: &[u8]) {
        self.chunked = !self.has_coding && value.eq_ignore_ascii_case(b"chunked");
        self.has_coding = true;
    }

    pub(super) fn note_connection(&mut self, value: &[u8]) {
        for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            match token {
                token if token.eq_ignore_ascii_case(b"close") => self.closes = true,
                token if token.eq_ignore_ascii_case(b"keep-alive") => self.keeps = true,
                _ => self.names_headers = true,
            }
        }
    }

    /// How the body is framed (RFC 9112 §6.3); `None` = nothing is said.
    ///
    /// A transfer coding outranks a length; whether both together are let through is not decided here.
    pub fn framing(&self) -> Result<Option<Length>, HeadError> {
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
        Ok(self.length.map(Length::Known))
    }

    /// Makes one of equal lengths that were said more than once.
    pub fn unite_lengths(&self, headers: &mut HeaderMap) {
        if let (Some(length), true) = (self.length, self.has_repeated_length()) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }

    pub(super) const fn has_repeated_length(&self) -> bool {
        self.lengths > 1
    }

    pub(super) const fn length(&self) -> Option<u64> {
        self.length
    }

    /// `Connection` names headers that end here with it.
    pub(super) const fn names_headers(&self) -> bool {
        self.names_headers
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
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}
