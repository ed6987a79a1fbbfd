//! An answer's head whose header lines are passed on as they came.
//!
//! That is possible when they are written as Segue would write them (`name: value`, CRLF) and say nothing that
//! has to be understood before they are passed on. Headers that end at a proxy are cut out. Whatever is not as simple becomes
//! a map.

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use super::signs::Signs;
use super::{USUAL_HEADERS, scan};

/// Hop-by-hop headers of one answer that are cut out; with more of them it becomes a map.
const MOST_CUTS: usize = 8;
/// Far below what `http::HeaderName` can hold.
const LONGEST_NAME: usize = 1024;

/// Header lines of an answer, each `name: value` and CRLF: checked, without those that end at a proxy.
#[derive(Debug)]
pub struct Lines {
    text: Bytes,
    /// What `Content-Length` says.
    pub length: Option<u64>,
    pub has_date: bool,
    /// There is one that [`crate::proxy::classify::suspect`] looks at.
    pub may_be_suspect: bool,
}

/// What becomes of a line.
enum Fate {
    Pass,
    Cut,
    NeedsMap,
}

impl Lines {
    /// The lines as they go over the wire.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Names, in any case, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.text[..];
        std::iter::from_fn(move || {
            // A value has no CR in it, and a name no colon.
            let end = memchr(b'\r', rest)?;
            let (line, behind) = rest.split_at(end);
            rest = behind.get(2..).unwrap_or_default();
            let colon = memchr(b':', line)?;
            Some((line.get(..colon)?, line.get(colon + 2..)?))
        })
    }

    /// Of a copy: HTTP/2 keeps values for as long as a connection (RFC 7541 §2.3.2), and they would keep all of the memory
    /// that was read into.
    pub fn into_map(self) -> HeaderMap {
        let own = Self { text: Bytes::copy_from_slice(&self.text), ..self };
        let mut map = HeaderMap::new();
        for (name, value) in own.iter() {
            // Both were checked when the lines were taken.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(own.text.slice_ref(value)))
            {
                map.append(name, value);
            }
        }
        map
    }
}

/// Takes an answer's head out of `buffer`; `None` = it is not all there, or has to be a map, or is no head.
pub(super) fn take(buffer: &mut BytesMut) -> Option<(StatusCode, Lines, Signs)> {
    let (status, version, first) = scan::status_line(buffer)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let mut survey = Survey {
        signs: Signs::new(version),
        lines: 0,
        cuts: Cuts::default(),
        has_date: false,
        may_be_suspect: false,
    };
    let length = scan::lines(buffer, first, |at, name, value| survey.line(at, name, value))?;
    let Survey { signs, cuts, has_date, may_be_suspect, .. } = survey;
    if signs.has_two_framings() {
        return None;
    }
    let mut text = buffer.split_to(length);
    let cut = cuts.apply(&mut text);
    // The status line, and the empty line at the end.
    text.truncate(length - cut - 2);
    text.advance(first);
    let text = text.freeze();
    let lines = Lines { text, length: signs.length(), has_date, may_be_suspect };
    Some((status, lines, signs))
}

/// What an answer's headers say, found in one pass.
struct Survey {
    signs: Signs,
    lines: usize,
    cuts: Cuts,
    has_date: bool,
    may_be_suspect: bool,
}

impl Survey {
    /// `None` = it has to be a map.
    fn line(&mut self, at: usize, name: &[u8], value: &[u8]) -> Option<()> {
        self.lines += 1;
        match self.judge(name, value) {
            // So that there is room for them in a map.
            _ if name.len() > LONGEST_NAME || self.lines > USUAL_HEADERS => None,
            Fate::Pass => Some(()),
            Fate::Cut => self.cuts.add(at, at + name.len() + 2 + value.len() + 2),
            Fate::NeedsMap => None,
        }
    }

    fn judge(&mut self, name: &[u8], value: &[u8]) -> Fate {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // By length first: nearly every name is told apart by that.
        match name.len() {
            2 if is("te") => Fate::Cut,
            4 if is("date") => {
                self.has_date = true;
                Fate::Pass
            }
            // An offer of another protocol, without an upgrade.
            7 if is("upgrade") => Fate::Cut,
            8 if is("location") => self.tells(),
            10 if is("set-cookie") => self.tells(),
            10 if is("keep-alive") => Fate::Cut,
            10 if is("connection") => {
                self.signs.note_connection(value);
                if self.signs.names_headers() { Fate::NeedsMap } else { Fate::Cut }
            }
            14 if is("content-length") => {
                self.signs.note_length(value);
                if self.signs.length().is_some() && !self.signs.has_repeated_length() {
                    Fate::Pass
                } else {
                    Fate::NeedsMap
                }
            }
            15 if is("clear-site-data") => self.tells(),
            16 if is("proxy-connection") => Fate::Cut,
            17 if is("transfer-encoding") => {
                self.signs.note_coding(value);
                Fate::Cut
            }
            18 if is("proxy-authenticate") => Fate::Cut,
            19 if is("proxy-authorization") => Fate::Cut,
            _ => Fate::Pass,
        }
    }

    fn tells(&mut self) -> Fate {
        self.may_be_suspect = true;
        Fate::Pass
    }
}

/// Lines to cut out, in their order.
#[derive(Default)]
struct Cuts {
    lines: [(usize, usize); MOST_CUTS],
    count: usize,
}

impl Cuts {
    fn add(&mut self, from: usize, to: usize) -> Option<()> {
        *self.lines.get_mut(self.count)? = (from, to);
        self.count += 1;
        Some(())
    }

    /// Moves what is behind each cut to the front, and says how much was cut.
    fn apply(&self, text: &mut BytesMut) -> usize {
        let lines = self.lines.get(..self.count).unwrap_or_default();
        let mut cut = 0;
        for (n, &(from, to)) in lines.iter().enumerate() {
            let next = lines.get(n + 1).map_or(text.len(), |&(from, _)| from);
            text.copy_within(to..next, from - cut);
            cut += to - from;
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(headers: &str) -> Option<Lines> {
        let mut buffer = BytesMut::from(format!("HTTP/1.1 200 OK\r\n{headers}\r\nbody").as_bytes());
        let (_, lines, _) = take(&mut buffer)?;
        assert_eq!(buffer, "body");
        Some(lines)
    }

    fn text(headers: &str) -> Option<String> {
        taken(headers).map(|lines| String::from_utf8(lines.text().to_vec()).unwrap())
    }

    #[test]
    fn lines_pass_as_they_came() {
        for lines in ["", "Server: x\r\n", "X-A: \u{e9} b\tc\r\ndate: now\r\ncontent-length: 4\r\n"] {
            assert_eq!(text(lines).as_deref(), Some(lines));
        }
    }

    #[test]
    fn what_ends_at_a_proxy_is_cut_out() {
        for (lines, left) in [
            ("Connection: keep-alive\r\n", ""),
            ("Keep-Alive: timeout=5\r\na: b\r\n", "a: b\r\n"),
            ("a: b\r\nTransfer-Encoding: chunked\r\n", "a: b\r\n"),
            (
                "a: b\r\nte: x\r\nConnection: close, keep-alive\r\nc: d\r\nUpgrade: h2c\r\ne: f\r\n",
                "a: b\r\nc: d\r\ne: f\r\n",
            ),
            ("Proxy-Connection: x\r\nproxy-authenticate: y\r\nProxy-Authorization: z\r\n", ""),
        ] {
            assert_eq!(text(lines).as_deref(), Some(left), "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_simple_becomes_a_map() {
        let many = "te: x\r\n".repeat(MOST_CUTS + 1);
        for lines in [
            "a:b\r\n",
            "a: b \r\n",
            "a:  b\r\n",
            "a: b\n",
            "a:\r\n",
            "Connection: x-secret\r\nx-secret: 1\r\n",
            "content-length: 4\r\ncontent-length: 4\r\n",
            "content-length: x\r\n",
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
            &many,
        ] {
            assert_eq!(text(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn lines_fit_into_a_map() {
        let lines = |count| "a: b\r\n".repeat(count);
        assert!(taken(&lines(USUAL_HEADERS)).is_some() && taken(&lines(USUAL_HEADERS + 1)).is_none());
        let named = |length| format!("{}: b\r\n", "a".repeat(length));
        assert!(taken(&named(LONGEST_NAME)).is_some() && taken(&named(LONGEST_NAME + 1)).is_none());
    }

    #[test]
    fn what_matters_later_is_noted() {
        let lines = taken("Date: now\r\nContent-Length: 4\r\n").unwrap();
        assert_eq!((lines.has_date, lines.length, lines.may_be_suspect), (true, Some(4), false));
        for line in ["Location: /\r\n", "Set-Cookie: a=b\r\n", "Clear-Site-Data: *\r\n"] {
            assert!(taken(line).unwrap().may_be_suspect, "{line}");
        }
    }

    #[test]
    fn a_map_keeps_nothing_of_what_was_read() {
        const ROOM: usize = 64 * 1024;
        let mut buffer = BytesMut::with_capacity(ROOM);
        buffer.extend_from_slice(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n");
        let (_, lines, _) = take(&mut buffer).unwrap();
        let map = lines.into_map();
        assert!(buffer.try_reclaim(ROOM));
        assert_eq!(map["a"], "b");
    }

    proptest! {
        /// Lines say what a map of the same head says, but for what ends at a proxy.
        #[test]
        fn lines_and_maps_agree(headers in proptest::collection::vec(header(), 0..=MOST_CUTS)) {
            let mut head = String::new();
            for (name, value) in &headers {
                head.extend([name, ": ", value.as_str(), "\r\n"]);
            }
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                if !["te", "keep-alive", "connection"].contains(&&*name.to_ascii_lowercase()) {
                    map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
                }
            }
            let lines = taken(&head).unwrap();
            let found: Vec<_> = lines.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
            prop_assert_eq!(found.len(), map.len());
            prop_assert_eq!(lines.into_map(), map);
        }
    }

    fn header() -> impl Strategy<Value = (&'static str, String)> {
        let names = prop::sample::select(vec![
            "X-a",
            "TE",
            "te",
            "Keep-Alive",
            "connection",
            "server",
            "Set-Cookie",
            "b",
        ]);
        (names, "[a-z]([ -~]{0,6}[!-~])?").prop_map(|(name, value)| {
            let value = if name.eq_ignore_ascii_case("connection") { "close".to_owned() } else { value };
            (name, value)
        })
    }
}
