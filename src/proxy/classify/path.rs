//! Paths that can be read in one way only.
//!
//! Servers disagree about `..`, `//`, `%2f`, `;` and the like: what Segue takes for `/public/x` an instance may
//! route as `/admin`. A path that is not written in its canonical form is therefore a write, and everything that
//! looks at paths afterwards (rules, words, opt-ins) may compare bytes.

/// What is unusual about a path, in words for people; `None` when it is canonical.
///
/// Canonical means: starts with `/`; no empty, `.` or `..` segment (one trailing `/` is fine); only the characters
/// that RFC 3986 allows in a segment, without `;`; percent-encoding only where it is needed, and only of what cannot
/// be taken for a delimiter, a control character or another encoding, in valid UTF-8.
pub fn quirk(path: &str) -> Option<&'static str> {
    if is_simple(path) { None } else { quirk_of_segments(path) }
}

/// Nearly every path is canonical and needs no closer look: nothing is encoded, and no segment is empty or begins with a dot.
fn is_simple(path: &str) -> bool {
    let mut begins_segment = false;
    for &byte in path.as_bytes() {
        if byte == b'/' {
            if begins_segment {
                return false;
            }
            begins_segment = true;
        } else {
            if !is_plain(byte) || (begins_segment && byte == b'.') {
                return false;
            }
            begins_segment = false;
        }
    }
    path.starts_with('/')
}

fn quirk_of_segments(path: &str) -> Option<&'static str> {
    let Some(rest) = path.as_bytes().strip_prefix(b"/") else {
        return Some("it does not start with `/`");
    };
    let mut segments = rest.split(|&b| b == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" if segments.peek().is_some() => return Some("it has an empty segment (`//`)"),
            b"." | b".." => return Some("it has a `.` or `..` segment"),
            _ => {}
        }
        if !segment.iter().all(|&b| is_plain(b))
            && let Some(quirk) = segment_quirk(segment)
        {
            return Some(quirk);
        }
    }
    None
}

fn segment_quirk(segment: &[u8]) -> Option<&'static str> {
    let mut bytes = segment.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            match encoded(&mut bytes) {
                Some(0x80..) => {}
                Some(b) if is_unreserved(b) => return Some("it encodes a character that needs no encoding"),
                Some(0..0x20 | 0x7f) => return Some("it encodes a control character"),
                Some(b'/' | b'\\' | b';' | b'%' | b'?' | b'#') => return Some("it encodes a delimiter"),
                Some(_) => {}
                None => return Some("it has an invalid percent-encoding"),
            }
        } else if byte == b';' {
            return Some("it has a path parameter (`;`)");
        } else if !is_plain(byte) {
            return Some("it has a character that must be encoded");
        }
    }
    None
}

/// The byte encoded after a `%`. A byte above ASCII takes the rest of its UTF-8 sequence along, which must be encoded
/// too and be valid: overlong forms are a classic disguise of `/`.
fn encoded(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = hex_pair(bytes)?;
    let length = match first {
        0..0x80 => return Some(first),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut sequence = [first; 4];
    for slot in sequence.iter_mut().take(length).skip(1) {
        if bytes.next()? != b'%' {
            return None;
        }
        *slot = hex_pair(bytes)?;
    }
    std::str::from_utf8(sequence.get(..length)?).ok().map(|_| first)
}

/// Two hexadecimal digits.
pub fn hex_pair(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high << 4 | low).ok()
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// May stand in a segment as itself.
const fn is_plain(byte: u8) -> bool {
    PLAIN[byte as usize]
}

const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x80 {
        table[byte] = is_unreserved(byte as u8)
            || matches!(
                byte as u8,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{is_simple, quirk, quirk_of_segments};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_simple_path_is_canonical(path in "[/.a%;~-]{0,8}") {
            prop_assert!(!is_simple(&path) || quirk_of_segments(&path).is_none());
        }
    }

    #[test]
    fn ordinary_paths_are_canonical() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/a/...",
            "/.well-known/x",
            "/a/b:undo",
            "/~u/@v1.2,3",
            "/a%20b",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/%F0%9F%98%80",
            "/a=b&c+d",
            "/x(1)*!'$",
            "/%3A%40",
        ] {
            assert_eq!(quirk(path), None, "{path}");
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_not() {
        for path in [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/./a",
            "/a/..",
            "/a/../b",
            "/a/.",
            "/%2e%2e/a",
            "/%2E",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/a;b",
            "/a;b=c/d",
            "/a%3bb",
            "/a%3Fb",
            "/a%23b",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/%61",
            "/%2D",
            "/%7E",
            "/%252e",
            "/caf\u{e9}",
            "/a b",
            "/a\"b",
            "/a|b",
            "/{a}",
            "/a^b",
            "/%c0%af",
            "/%e0%80%af",
            "/%ff",
            "/%c3",
            "/%c3x",
            "/%c3%2f",
            "/%ed%a0%80",
            "/a\0",
        ] {
            assert!(quirk(path).is_some(), "{path:?}");
        }
    }
}
