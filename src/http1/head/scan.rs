//! A head as nearly everybody writes it, told in one pass: single blanks, CRLF, `name: value` without blanks at its ends,
//! no controls but tabs.
//!
//! Whatever is written otherwise, is no head at all or has not arrived whole is `None` here, and `httparse` says which. What
//! is taken here, `httparse` takes too and reads the same; a property test holds them together.

use http::{StatusCode, Version};

/// The method, the target, their protocol and where the header lines begin.
pub(super) fn request_line(head: &[u8]) -> Option<(&[u8], &[u8], Version, usize)> {
    let method = head.get(..token(head))?;
    let rest = head.get(method.len()..)?.strip_prefix(b" ")?;
    let target = rest.get(..rest.iter().position(|byte| !TARGET[usize::from(*byte)])?)?;
    let rest = rest.get(target.len()..)?.strip_prefix(b" ")?;
    let version = version(rest)?;
    rest.get(PROTOCOL..)?.strip_prefix(b"\r\n")?;
    let is_whole = !method.is_empty() && !target.is_empty();
    is_whole.then_some((method, target, version, method.len() + target.len() + PROTOCOL + 4))
}

/// The status, its protocol and where the header lines begin.
pub(super) fn status_line(head: &[u8]) -> Option<(StatusCode, Version, usize)> {
    let version = version(head)?;
    let code = head.get(PROTOCOL..)?.strip_prefix(b" ")?;
    let status = StatusCode::from_bytes(code.get(..3)?).ok()?;
    let reason = code.get(3..)?;
    let length = if reason.starts_with(b" ") { text(reason) } else { 0 };
    reason.get(length..)?.strip_prefix(b"\r\n")?;
    Some((status, version, PROTOCOL + 4 + length + 2))
}

/// Tells each header line: where it begins, its name and its value, with `: ` between them. Gives the end of the head,
/// behind its empty line; `None` also where `each` gives it.
pub(super) fn lines<'b>(
    head: &'b [u8],
    from: usize,
    mut each: impl FnMut(usize, &'b [u8], &'b [u8]) -> Option<()>,
) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = head.get(at..)?;
        let (name, rest) = rest.split_at_checked(token(rest))?;
        if name.is_empty() {
            return rest.starts_with(b"\r\n").then_some(at + 2);
        }
        let rest = rest.strip_prefix(b": ")?;
        let (value, rest) = rest.split_at_checked(text(rest))?;
        rest.strip_prefix(b"\r\n")?;
        if is_blank(value.first()) || is_blank(value.last()) {
            return None;
        }
        each(at, name, value)?;
        at += name.len() + 2 + value.len() + 2;
    }
}

const PROTOCOL: usize = b"HTTP/1.1".len();

fn version(text: &[u8]) -> Option<Version> {
    match text.get(..PROTOCOL)? {
        b"HTTP/1.1" => Some(Version::HTTP_11),
        b"HTTP/1.0" => Some(Version::HTTP_10),
        _ => None,
    }
}

fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

/// How many bytes of a token (RFC 9110 §5.6.2) `bytes` begins with.
fn token(bytes: &[u8]) -> usize {
    let mut length = 0;
    for byte in bytes {
        if !TOKEN[usize::from(*byte)] {
            break;
        }
        length += 1;
    }
    length
}

/// How many bytes of a value or a reason `bytes` begins with: anything but controls, the tab excepted.
fn text(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += without_controls(bytes.get(at..).unwrap_or_default());
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

/// Eight bytes at a time: values are most of a head.
fn without_controls(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Subtracting borrows into a byte only from a lower one that is found itself, so that the lowest found is right.
        let below_blank = word.wrapping_sub(EACH * 0x20) & !word;
        let unlike_delete = word ^ (EACH * 0x7f);
        let delete = unlike_delete.wrapping_sub(EACH) & !unlike_delete;
        let found = (below_blank | delete) & HIGH;
        if found != 0 {
            return n * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().take_while(|byte| **byte >= 0x20 && **byte != 0x7f).count()
}

const TOKEN: [bool; 256] = alphanumeric_or(b"!#$%&'*+-.^_`|~");

/// Of RFC 3986, without the fragment that a target has none of.
const TARGET: [bool; 256] = alphanumeric_or(b"-._~:/?@!$&'()*+,;=%[]");

const fn alphanumeric_or(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Line = (Vec<u8>, Vec<u8>);

    /// The end of the head and its lines.
    fn scanned(head: &[u8], from: usize) -> Option<(usize, Vec<Line>)> {
        let mut found = Vec::new();
        let end = lines(head, from, |at, name, value| {
            assert_eq!(head[at..at + name.len()], *name);
            found.push((name.to_vec(), value.to_vec()));
            Some(())
        })?;
        Some((end, found))
    }

    fn owned(headers: &[httparse::Header<'_>]) -> Vec<Line> {
        headers.iter().map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec())).collect()
    }

    #[test]
    fn what_is_usual_is_taken() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "M-SEARCH * HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET http://[::1]:80/a%20b?c=d;e HTTP/1.1\r\nHost: a\r\nX: a b\tc\r\nEmpty: \r\nLong: 0123456789 \u{e9}\r\n\r\nbody",
        ] {
            let (.., from) = request_line(head.as_bytes()).unwrap();
            assert!(scanned(head.as_bytes(), from).is_some(), "{head:?}");
        }
        for line in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 999 \r\n",
            "HTTP/1.1 200\r\n",
            "HTTP/1.1 404 Not \u{e9} Found\r\n",
        ] {
            assert_eq!(status_line(line.as_bytes()).unwrap().2, line.len(), "{line:?}");
        }
    }

    #[test]
    fn controls_end_a_value_wherever_they_stand() {
        for control in (0..0x20).filter(|byte| *byte != b'\t').chain([0x7f]) {
            for at in 0..20 {
                let mut bytes = [0x80; 24];
                bytes[at] = control;
                // Neither what borrows nor what lies behind it is taken for the first one.
                bytes[at + 1] = 0x20;
                bytes[at + 2] = control;
                assert_eq!(text(&bytes), at, "{control}");
            }
        }
        let others: Vec<u8> = (0x20..=0xff).filter(|byte| *byte != 0x7f).chain([b'\t']).collect();
        assert_eq!(text(&others), others.len());
    }

    /// Heads that are nearly right: what is usual, with bytes put in, taken out and changed.
    fn nearly(start: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let lines = prop::collection::vec(
            prop::sample::select(vec![
                "Host: a\r\n",
                "x-y: 0123456789abc def\tg\r\n",
                "Empty: \r\n",
                "bare:x\r\n",
                "end: x \r\n",
                "lf: x\n",
                "\u{e9}: x\r\n",
                "obs: \u{e9}\r\n fold\r\n",
            ]),
            0..4,
        );
        let slips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..3);
        (prop::sample::select(start), lines, slips).prop_map(|(start, lines, slips)| {
            let mut head = [start, &lines.concat(), "\r\nbody"].concat().into_bytes();
            for (at, byte, slip) in slips {
                let at = at.index(head.len());
                match slip {
                    0 => head[at] = byte,
                    1 => head.insert(at, byte),
                    _ => drop(head.remove(at)),
                }
            }
            head
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn requests_are_read_as_httparse_reads_them(
            head in nearly(&["GET / HTTP/1.1\r\n", "PUT /a?b=%20 HTTP/1.0\r\n", "GET  / HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\n"]),
        ) {
            if let Some((method, target, version, from)) = request_line(&head)
                && let Some((end, found)) = scanned(&head, from)
            {
                let mut room = [httparse::EMPTY_HEADER; 16];
                let mut request = httparse::Request::new(&mut room);
                prop_assert_eq!(request.parse(&head), Ok(httparse::Status::Complete(end)));
                prop_assert_eq!(request.method.map(str::as_bytes), Some(method));
                prop_assert_eq!(request.path.map(str::as_bytes), Some(target));
                prop_assert_eq!(request.version, Some(u8::from(version == Version::HTTP_11)));
                prop_assert_eq!(owned(request.headers), found);
            }
        }

        #[test]
        fn answers_are_read_as_httparse_reads_them(
            head in nearly(&["HTTP/1.1 200 OK\r\n", "HTTP/1.0 404 Not Found\r\n", "HTTP/1.1 200\r\n", "HTTP/2 200 OK\r\n"]),
        ) {
            if let Some((status, version, from)) = status_line(&head)
                && let Some((end, found)) = scanned(&head, from)
            {
                let mut room = [httparse::EMPTY_HEADER; 16];
                let mut response = httparse::Response::new(&mut room);
                prop_assert_eq!(response.parse(&head), Ok(httparse::Status::Complete(end)));
                prop_assert_eq!(response.code, Some(status.as_u16()));
                prop_assert_eq!(response.version, Some(u8::from(version == Version::HTTP_11)));
                prop_assert_eq!(owned(response.headers), found);
            }
        }
    }
}
