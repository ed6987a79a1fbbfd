//! What a request's head gets on its way to an instance.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Headers that are not in a request's own map. Whoever adds them has seen to it that the map has none of the same name.
#[derive(Debug, Default)]
pub struct Added {
    entries: Vec<(HeaderName, HeaderValue)>,
    /// The same as HTTP/1.1 writes them.
    lines: Vec<u8>,
}

impl Added {
    pub fn new(entries: Vec<(HeaderName, HeaderValue)>) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &entries {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        Self { entries, lines }
    }

    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Takes them out of a map again.
    pub fn remove_from(&self, headers: &mut HeaderMap) {
        for (name, _) in &self.entries {
            headers.remove(name);
        }
    }

    /// Puts them into a map.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.entries {
            headers.insert(name, value.clone());
        }
    }
}
