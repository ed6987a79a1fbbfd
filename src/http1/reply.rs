//! An answer between an instance and a caller.
//!
//! Most answers are passed on without anybody looking at their headers. Those of HTTP/1.1 stay the lines that they came
//! as: making a map of them, and lines of the map, costs more than finding them.

use http::{HeaderMap, Response, StatusCode};

use super::head::Lines;

/// An answer's status, headers and body.
#[derive(Debug)]
pub struct Reply<B> {
    pub status: StatusCode,
    pub headers: Headers,
    pub body: B,
}

/// The headers of an answer.
#[derive(Debug)]
pub enum Headers {
    /// Nothing in them is for Segue alone: what ends at a proxy is gone already.
    Lines(Lines),
    /// Boxed, so that lines, the usual form, are not moved about in the room that a map takes.
    Map(Box<HeaderMap>),
}

impl<B> Reply<B> {
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Reply<C> {
        Reply { status: self.status, headers: self.headers, body: change(self.body) }
    }

    /// The same for who has no use for lines.
    pub fn into_response(self) -> Response<B> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.into_map();
        response
    }
}

impl<B> From<Response<B>> for Reply<B> {
    fn from(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: Headers::Map(Box::new(parts.headers)), body }
    }
}

impl Headers {
    pub fn into_map(self) -> HeaderMap {
        match self {
            Self::Lines(lines) => lines.into_map(),
            Self::Map(map) => *map,
        }
    }

    /// Each header, in its order; names are in any case. (No iterator: one over either form would look at
    /// each step which it is.)
    pub fn for_each<'a>(&'a self, mut see: impl FnMut(&'a [u8], &'a [u8])) {
        match self {
            Self::Lines(lines) => lines.iter().for_each(|(name, value)| see(name, value)),
            Self::Map(map) => {
                map.iter().for_each(|(name, value)| see(name.as_str().as_bytes(), value.as_bytes()));
            }
        }
    }

    /// There may be one that [`crate::proxy::classify::suspect`] looks at.
    pub const fn may_be_suspect(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.may_be_suspect,
            Self::Map(_) => true,
        }
    }
}
