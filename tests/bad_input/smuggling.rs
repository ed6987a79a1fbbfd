//! Requests that two parsers might read differently. Each one is refused, or reaches the instance
//! re-encoded so that only one reading is left.

use std::time::Duration;

use crate::support::Segue;
use crate::support::raw::{Heard, RawOrigin, Wire};

enum Expect {
    /// The first answer has one of these statuses, the connection ends, and nothing reached the instance.
    Refused(&'static [u16]),
    /// Answered by the instance, which heard exactly these request lines.
    Heard(&'static [&'static str]),
    /// Either is right; what the instance heard is judged all the same.
    Either(&'static [u16]),
}

use Expect::{Either, Heard as Hears, Refused};

const BAD: &[u16] = &[400];

/// `\n` in these is CR LF.
fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

/// What follows a request whose length was misread.
const HIDDEN: &str = "GET /hidden HTTP/1.1\nhost: test\n\n";

fn framing() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let post = |headers: &str, body: &str| crlf(&format!("POST /x HTTP/1.1\nhost: test\n{headers}\n{body}"));
    vec![
        (
            "a length, then a coding",
            post("content-length: 4\ntransfer-encoding: chunked\n", "1\na\n0\n\n"),
            Either(BAD),
        ),
        (
            "a coding, then a length",
            post("transfer-encoding: chunked\ncontent-length: 4\n", "1\na\n0\n\n"),
            Either(BAD),
        ),
        ("two lengths", post("content-length: 4\ncontent-length: 5\n", "abcde"), Refused(BAD)),
        (
            "the same length twice",
            post("content-length: 4\ncontent-length: 4\n", "abcd"),
            Hears(&["POST /x HTTP/1.1"]),
        ),
        ("a list of lengths", post("content-length: 4, 4\n", "abcd"), Refused(BAD)),
        ("a signed length", post("content-length: +4\n", "abcd"), Refused(BAD)),
        ("a negative length", post("content-length: -4\n", "abcd"), Refused(BAD)),
        ("a hexadecimal length", post("content-length: 0x4\n", "abcd"), Refused(BAD)),
        ("a length with a space inside", post("content-length: 4 4\n", "abcd"), Refused(BAD)),
        ("an empty length", post("content-length: \n", ""), Refused(BAD)),
        (
            "a length beyond 64 bits",
            post("content-length: 18446744073709551620\n", "abcd"),
            Refused(&[400, 413]),
        ),
        ("the coding identity", post("transfer-encoding: identity\n", HIDDEN), Refused(&[400, 501])),
        ("an invented coding", post("transfer-encoding: xchunked\n", HIDDEN), Refused(&[400, 501])),
        (
            "chunked is not the last",
            post("transfer-encoding: chunked, identity\n", HIDDEN),
            Refused(&[400, 501]),
        ),
        ("a second coding", post("transfer-encoding: gzip, chunked\n", "1\na\n0\n\n"), Refused(&[400, 501])),
        ("chunked twice", post("transfer-encoding: chunked, chunked\n", "1\na\n0\n\n"), Refused(&[400, 501])),
        (
            "chunked on two lines",
            post("transfer-encoding: chunked\ntransfer-encoding: chunked\n", "1\na\n0\n\n"),
            Refused(&[400, 501]),
        ),
        (
            "identity on a second line",
            post("transfer-encoding: chunked\ntransfer-encoding: identity\n", HIDDEN),
            Refused(&[400, 501]),
        ),
        ("a quoted coding", post("transfer-encoding: \"chunked\"\n", HIDDEN), Refused(&[400, 501])),
        (
            "a vertical tab before the coding",
            post("transfer-encoding: \x0bchunked\n", HIDDEN),
            Refused(&[400, 501]),
        ),
        (
            "capitals in the coding",
            post("Transfer-Encoding: cHuNkEd\n", "1\na\n0\n\n"),
            Hears(&["POST /x HTTP/1.1"]),
        ),
        ("a space before the colon", post("transfer-encoding : chunked\n", HIDDEN), Refused(BAD)),
        ("a tab before the colon", post("content-length\t: 4\n", "abcd"), Refused(BAD)),
        ("a folded coding", post("transfer-encoding:\n chunked\n", HIDDEN), Refused(BAD)),
        ("a folded header", post("x-a: b\n c\ncontent-length: 4\n", "abcd"), Refused(BAD)),
        (
            "a coding in HTTP/1.0",
            crlf("POST /x HTTP/1.0\nhost: test\ntransfer-encoding: chunked\n\n1\na\n0\n\n"),
            Refused(BAD),
        ),
        (
            "a body on GET",
            crlf("GET /x HTTP/1.1\nhost: test\ncontent-length: 33\n\nGET /hidden HTTP/1.1\nhost: test\n\n"),
            Hears(&["GET /x HTTP/1.1"]),
        ),
        (
            "a length named hop-by-hop",
            post("connection: content-length\ncontent-length: 4\n", "abcd"),
            Hears(&["POST /x HTTP/1.1"]),
        ),
        (
            "a coding named hop-by-hop",
            post("connection: transfer-encoding\ntransfer-encoding: chunked\n", "1\na\n0\n\n"),
            Hears(&["POST /x HTTP/1.1"]),
        ),
    ]
}

fn chunks() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let body = |body: &str| {
        let mut bytes = crlf("POST /x HTTP/1.1\nhost: test\ntransfer-encoding: chunked\n\n");
        bytes.extend_from_slice(body.as_bytes());
        bytes
    };
    vec![
        ("a size that is no number", body("zz\r\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("a size with a prefix", body("0x1\r\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("a signed size", body("+1\r\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("an empty size", body("\r\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("a size beyond 64 bits", body("10000000000000001\r\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("a size of the largest number", body("ffffffffffffffff0\r\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("a chunk longer than its size", body("1\r\nabc\r\n0\r\n\r\n"), Refused(BAD)),
        ("a size that ends in a bare LF", body("1\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("a bare LF in an extension", body("1;x\na\r\n0\r\n\r\n"), Refused(BAD)),
        ("an extension", body("1;x=\"y\"\r\na\r\n0\r\n\r\n"), Hears(&["POST /x HTTP/1.1"])),
        ("framing in a trailer", body("1\r\na\r\n0\r\ncontent-length: 5\r\nhost: evil\r\n\r\n"), Either(BAD)),
        ("a last chunk written long", body("1\r\na\r\n0000\r\n\r\n"), Hears(&["POST /x HTTP/1.1"])),
    ]
}

fn heads() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let get = |line: &str, headers: &str| crlf(&format!("{line}\n{headers}\n"));
    let mut high_bytes = get("GET /\u{e9} HTTP/1.1", "host: test\n");
    high_bytes.push(b' ');
    vec![
        ("two hosts", get("GET /x HTTP/1.1", "host: test\nhost: other\n"), Refused(BAD)),
        ("the same host twice", get("GET /x HTTP/1.1", "host: test\nhost: test\n"), Refused(BAD)),
        ("no host", get("GET /x HTTP/1.1", ""), Refused(BAD)),
        ("a host with a path", get("GET /x HTTP/1.1", "host: test/evil\n"), Refused(BAD)),
        ("a host with a space", get("GET /x HTTP/1.1", "host: te st\n"), Refused(BAD)),
        ("a host with userinfo", get("GET /x HTTP/1.1", "host: me@test\n"), Refused(BAD)),
        ("a host with two ports", get("GET /x HTTP/1.1", "host: test:80:81\n"), Refused(BAD)),
        ("a host with a port that is no number", get("GET /x HTTP/1.1", "host: test:http\n"), Refused(BAD)),
        ("a host with a bracket", get("GET /x HTTP/1.1", "host: [::1\n"), Refused(BAD)),
        ("a host with something after a bracket", get("GET /x HTTP/1.1", "host: [::1]test\n"), Refused(BAD)),
        ("an IPv6 host with a port", get("GET /x HTTP/1.1", "host: [::1]:80\n"), Hears(&["GET /x HTTP/1.1"])),
        ("a host with an empty port", get("GET /x HTTP/1.1", "host: test:\n"), Hears(&["GET /x HTTP/1.1"])),
        ("an empty host", get("GET /x HTTP/1.1", "host:\n"), Hears(&["GET /x HTTP/1.1"])),
        ("a list of hosts", get("GET /x HTTP/1.1", "host: test, other\n"), Refused(BAD)),
        ("the target contradicts the host", get("GET http://other/x HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("the target agrees with the host", get("GET http://test/x HTTP/1.1", "host: test\n"), Hears(&["GET /x HTTP/1.1"])),
        ("a target without a path", get("GET http://test?x HTTP/1.1", "host: test\n"), Hears(&["GET /?x HTTP/1.1"])),
        ("userinfo in the target", get("GET http://me@test/x HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("an authority as the target", get("GET test HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("a host named hop-by-hop", get("GET /x HTTP/1.1", "connection: host\nhost: test\n"), Hears(&["GET /x HTTP/1.1"])),
        ("CONNECT", get("CONNECT test:443 HTTP/1.1", "host: test:443\n"), Refused(&[405])),
        ("a space in a name", get("GET /x HTTP/1.1", "host: test\nx y: z\n"), Refused(BAD)),
        ("an empty name", get("GET /x HTTP/1.1", "host: test\n: z\n"), Refused(BAD)),
        ("a line without a colon", get("GET /x HTTP/1.1", "host: test\nxyz\n"), Refused(BAD)),
        ("a first header that is folded", get("GET /x HTTP/1.1", " host: test\n"), Refused(BAD)),
        ("a NUL in a value", get("GET /x HTTP/1.1", "host: test\nx: a\0b\n"), Refused(BAD)),
        ("a NUL in a name", get("GET /x HTTP/1.1", "host: test\nx\0: ab\n"), Refused(BAD)),
        ("a NUL in the target", get("GET /\0 HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("a bare CR in a value", get("GET /x HTTP/1.1", "host: test\nx: a\rtransfer-encoding: chunked\n"), Refused(BAD)),
        ("bare line feeds", b"GET /x HTTP/1.1\nhost: test\n\n".to_vec(), Either(BAD)),
        ("a bare line feed that hides a coding", b"POST /x HTTP/1.1\r\nhost: test\r\nx: y\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n".to_vec(), Either(BAD)),
        ("empty lines before it", crlf("\n\nGET /x HTTP/1.1\nhost: test\n\n"), Hears(&["GET /x HTTP/1.1"])),
        ("HTTP/0.9", b"GET /x\r\n\r\n".to_vec(), Refused(BAD)),
        ("version 1.2", get("GET /x HTTP/1.2", "host: test\n"), Refused(&[400, 505])),
        ("version 2.0", get("GET /x HTTP/2.0", "host: test\n"), Refused(&[400, 505])),
        ("no version number", get("GET /x HTTP/", "host: test\n"), Refused(BAD)),
        ("a fourth word", get("GET /x HTTP/1.1 x", "host: test\n"), Refused(BAD)),
        ("an empty method", get(" /x HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("a method that is no token", get("G(T /x HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("half of HTTP/2's preface", crlf("PRI * HTTP/2.0\n\nXX\n\n"), Refused(&[400, 505])),
        ("high bytes in the target", high_bytes, Either(BAD)),
        ("a relative target", get("GET x/y HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("only a query as the target", get("GET ?x HTTP/1.1", "host: test\n"), Either(BAD)),
        ("a fragment in the target", get("GET /x#y HTTP/1.1", "host: test\n"), Either(BAD)),
        ("an asterisk for GET", get("GET * HTTP/1.1", "host: test\n"), Refused(BAD)),
        ("an asterisk for OPTIONS", get("OPTIONS * HTTP/1.1", "host: test\n"), Hears(&["OPTIONS * HTTP/1.1"])),
        ("a caller in HTTP/1.0 without a host", get("GET /x HTTP/1.0", ""), Hears(&["GET /x HTTP/1.1"])),
        ("garbage after a request", {
            let mut bytes = get("GET /x HTTP/1.1", "host: test\n");
            bytes.extend_from_slice(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
            bytes
        }, Hears(&["GET /x HTTP/1.1"])),
        ("a request after a body", crlf("POST /x HTTP/1.1\nhost: test\ncontent-length: 2\n\nabGET /y HTTP/1.1\nhost: test\n\n"), Hears(&["POST /x HTTP/1.1", "GET /y HTTP/1.1"])),
    ]
}

/// Sends each of them on a connection of its own, and a good request after it.
fn judge(cases: Vec<(&'static str, Vec<u8>, Expect)>) {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wrong = Vec::new();
    for (name, bytes, expect) in cases {
        origin.take();
        let mut wire = Wire::sent(segue.address, &bytes);
        let mut statuses = Vec::new();
        let expected = if let Hears(what) = &expect { what.len() } else { 1 };
        while statuses.len() < expected
            && let Ok(answer) = wire.try_answer()
        {
            statuses.push(answer.status);
        }
        // A request that was hidden in it would be on its way now.
        wire.is_silent(Duration::from_millis(20));
        // Saying that it is done ends what is still open.
        wire.shut_write();
        while let Ok(answer) = wire.try_answer() {
            statuses.push(answer.status);
        }
        let canary = Wire::open(segue.address).get("/canary");
        let heard: Vec<Heard> = origin.take();
        let lines: Vec<&str> =
            heard.iter().map(Heard::line).filter(|line| !line.contains("/canary")).collect();
        let passed = statuses.iter().filter(|status| **status == 200).count();
        let first = statuses.first().copied().unwrap_or(0);
        let right = match expect {
            Refused(with) => with.contains(&first) && statuses.len() == 1 && lines.is_empty(),
            Hears(what) => first == 200 && lines == what,
            Either(with) => (with.contains(&first) && lines.is_empty()) || (first == 200 && lines.len() == 1),
        };
        if !right
            || passed != lines.len()
            || canary.status != 200
            || lines.iter().any(|line| line.contains("hidden"))
        {
            wrong.push(format!(
                "{name}: answered {statuses:?}, the instance heard {lines:?}, canary {}",
                canary.status
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(origin.faults(), [""; 0], "the instance got something malformed");
}

#[test]
fn lengths_and_codings_leave_one_reading() {
    judge(framing());
}

#[test]
fn chunks_leave_one_reading() {
    judge(chunks());
}

#[test]
fn request_lines_and_headers_leave_one_reading() {
    judge(heads());
}

#[test]
fn what_a_caller_forges_does_not_arrive() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let answer = crate::support::request(
        segue.address,
        "GET /x HTTP/1.1\r\nhost: test\r\nconnection: close, x-secret, x-forwarded-for\r\nx-secret: 1\r\n\
         x-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nsegue-tee: shadow\r\nkeep-alive: timeout=9\r\n\
         proxy-connection: x\r\nproxy-authorization: x\r\nte: gzip\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    let heard = &origin.take()[0];
    for gone in
        ["x-secret", "segue-tee", "keep-alive", "proxy-connection", "proxy-authorization", "te", "connection"]
    {
        assert_eq!(heard.header(gone), None, "{gone} in {}", heard.head);
    }
    assert_eq!(heard.values("x-forwarded-for"), ["127.0.0.1"], "{}", heard.head);
    assert!(!heard.head.contains("6.6.6.6"), "{}", heard.head);
}
