//! What a request's head gets on its way to an instance.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, HeaderValue};

/// Headers that are not in a request's own map. Whoever adds them has seen to it that the map has none of the same name.
#[derive(Debug, Default)]
pub struct Added {
    /// Made when they are given; where only lines are, HTTP/2 reads them.
    entries: Vec<(HeaderName, HeaderValue)>,
    /// The same as HTTP/1.1 writes them.
    lines: Bytes,
    /// Instead of the instance's own, for a request that names none.
    host: Option<HeaderValue>,
}

impl Added {
    pub fn new(entries: Vec<(HeaderName, HeaderValue)>) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &entries {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        Self { entries, lines: lines.into(), host: None }
    }

    /// Whole lines, with names in lower case: `name: value\r\n`. `host` is in none of them.
    pub const fn of_lines(lines: Bytes, host: Option<HeaderValue>) -> Self {
        Self { entries: Vec::new(), lines, host }
    }

    /// For a request that names none.
    pub const fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Takes them out of a map again.
    pub fn remove_from(&self, headers: &mut HeaderMap) {
        for (name, _) in &self.entries {
            headers.remove(name);
        }
        for (name, _) in self.read() {
            headers.remove(name);
        }
    }

    /// Puts them into a map.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.entries {
            headers.insert(name, value.clone());
        }
        for (name, value) in self.read() {
            headers.append(name, value);
        }
    }

    /// What is there as lines alone.
    fn read(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let lines = if self.entries.is_empty() { &*self.lines } else { b"" };
        lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
            let name = HeaderName::from_bytes(name).ok()?;
            let value = HeaderValue::from_bytes(value.strip_prefix(b": ")?).ok()?;
            // It is HTTP/1.1's alone, and would take what it names with it.
            (name != CONNECTION).then_some((name, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_as_lines_is_there_for_http2_too() {
        let lines: &[u8] =
            b"accept: */*\r\nx-time: 10:30\r\nvia: a\r\nvia: b\r\nempty: \r\nconnection: te\r\n";
        let added = Added::of_lines(Bytes::from_static(lines), None);
        let mut headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("app"))]);
        for _ in 0..2 {
            added.insert_into(&mut headers);
            assert_eq!(headers.len(), 6, "{headers:?}");
            assert_eq!(headers["x-time"], "10:30");
            assert_eq!(headers.get_all("via").iter().collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(headers["empty"], "");
            // As for a request that goes to another connection.
            added.remove_from(&mut headers);
            assert_eq!(headers.len(), 1);
        }
        assert_eq!(added.lines(), lines);
    }

    #[test]
    fn entries_become_lines() {
        let entry = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let added = Added::new(vec![entry("x-a", "1"), entry("x-b", "2")]);
        assert_eq!(added.lines(), b"x-a: 1\r\nx-b: 2\r\n");
        let mut headers = HeaderMap::new();
        added.insert_into(&mut headers);
        assert_eq!((headers.len(), headers["x-b"].as_bytes()), (2, &b"2"[..]));
    }
}
