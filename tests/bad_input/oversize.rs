//! Too much of anything is refused with the status that says of what.

use crate::support::raw::{RawOrigin, Wire};
use crate::support::{Answer, Segue};

const LIMITS: &str = "[callers]\nmax_body_bytes = \"64 KiB\"\nmax_header_bytes = \"16 KiB\"\nmax_uri_bytes = \"4 KiB\"\nmax_header_count = 50\n";

fn start() -> (RawOrigin, Segue) {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", LIMITS);
    (origin, segue)
}

fn ask(segue: &Segue, bytes: impl AsRef<[u8]>) -> Answer {
    let mut wire = Wire::open(segue.address);
    // A refusal may come before all of it is sent, and must arrive all the same.
    let _ = wire.try_send(bytes);
    wire.answer()
}

#[test]
fn targets_and_headers() {
    let (origin, segue) = start();
    let target = |length: usize| {
        ask(&segue, format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "u".repeat(length - 1)))
    };
    assert_eq!(target(4096).status, 200);
    let refused = target(4097);
    assert_eq!((refused.status, refused.header("segue-error")), (414, Some("uri_too_long")));
    for length in [10_000, 66_000, 1 << 20] {
        let status = target(length).status;
        assert!(status == 414 || status == 431, "{length}: {status}");
    }

    let header = |length: usize| {
        ask(&segue, format!("GET / HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "h".repeat(length)))
    };
    assert_eq!(header(15_000).status, 200);
    let refused = header(16 * 1024);
    assert_eq!((refused.status, refused.header("segue-error")), (431, Some("headers_too_large")));
    for length in [40_000, 1 << 20] {
        assert_eq!(header(length).status, 431, "{length}");
    }

    let count = |count: usize| {
        let headers =
            (1..count).fold(String::new(), |headers, n| headers + "x-" + &n.to_string() + ": y\r\n");
        ask(&segue, format!("GET / HTTP/1.1\r\nhost: test\r\n{headers}\r\n"))
    };
    assert_eq!(count(50).status, 200);
    for many in [51, 99, 101, 5000] {
        assert_eq!(count(many).status, 431, "{many} headers");
    }
    assert_eq!(origin.heard().len(), 3, "only what was within the limits arrived");
}

#[test]
fn bodies() {
    let (origin, segue) = start();
    let with_length = |length: usize| {
        let mut bytes =
            format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + length, b'b');
        ask(&segue, bytes)
    };
    assert_eq!(with_length(65_536).status, 200);
    let refused = with_length(65_537);
    assert_eq!((refused.status, refused.header("segue-error")), (413, Some("body_too_large")));
    assert_eq!(with_length(200_000).status, 413);

    let chunked = |chunks: usize| {
        let mut bytes = b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..chunks {
            bytes.extend_from_slice(b"400\r\n");
            bytes.resize(bytes.len() + 1024, b'c');
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        ask(&segue, bytes)
    };
    assert_eq!(chunked(64).status, 200);
    assert_eq!(chunked(65).status, 413);
    assert_eq!(chunked(150).status, 413);

    let lengths: Vec<usize> = origin.heard().iter().map(|heard| heard.body.len()).collect();
    assert_eq!(lengths, [65_536, 65_536], "nothing too large arrived whole");
    assert_eq!(origin.faults(), [""; 0]);
}

#[test]
fn a_body_that_is_announced_too_large_need_not_be_sent() {
    let (origin, segue) = start();
    let mut wire =
        Wire::sent(segue.address, "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 999999999\r\n\r\n");
    assert_eq!(wire.answer().status, 413);
    wire.assert_closed();
    let mut wire = Wire::sent(
        segue.address,
        "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 413, "and is not invited either");
    assert_eq!(origin.connections(), 0);
}
