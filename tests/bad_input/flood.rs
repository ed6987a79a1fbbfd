//! HTTP/2 as a weapon: little sent, much to be done. Each attack is ended or throttled, memory stays
//! where it was, and another caller is served all the while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::frames::{
    ACK, CONTINUATION, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, fields,
    frame, get,
};
use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, until};

/// What an attack may add to Segue's memory: far below what any of these would take if it were kept.
const GROWTH: u64 = 24 << 20;

/// Runs `attack` while another caller asks again and again; then looks at the memory.
fn under_attack(origin: &RawOrigin, limits: &str, attack: impl FnOnce(&Segue)) {
    let segue = Segue::with(&origin.url(), None, "", limits);
    let mut other = Wire::open(segue.address);
    assert_eq!(other.get("/").status, 200);
    let before = segue.memory();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let (mut served, mut highest) = (0, 0);
            while !over.load(Ordering::Relaxed) || served == 0 {
                let started = Instant::now();
                assert_eq!(other.get("/").status, 200, "another caller is served");
                assert!(started.elapsed() < Duration::from_secs(20), "and not starved");
                served += 1;
                if served % 16 == 0 {
                    highest = highest.max(segue.memory());
                }
            }
            highest
        });
        let until_here = Over(&over);
        attack(&segue);
        drop(until_here);
        let highest = served.join().unwrap().max(segue.memory());
        let growth = highest.saturating_sub(before);
        assert!(growth < GROWTH, "grew by {} KiB", growth / 1024);
    });
    until("the attacker to be gone", || {
        // The other caller is the one that is left.
        (segue.call("GET", "/v1/status", "").1["connections"] == 1).then_some(())
    });
}

/// Lets the other caller go, also when the attack has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const fn stream(n: usize) -> u32 {
    2 * n as u32 + 1
}

#[test]
fn rapid_reset() {
    let origin = RawOrigin::answering(|heard| {
        if heard.head.contains("/slow") {
            std::thread::sleep(Duration::from_millis(200));
        }
        Reply::ok("ok")
    });
    under_attack(&origin, "", |segue| {
        let mut caller = Frames::open(segue.address, &[]);
        let read = caller.drain();
        let times = caller.flood(100_000, |n| {
            let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &get("/slow"));
            bytes.extend(frame(RST_STREAM, 0, stream(n), &8u32.to_be_bytes()));
            bytes
        });
        assert!(times < 100_000, "the connection is ended");
        drop(caller);
        read.join().unwrap();
    });
    assert!(origin.heard().iter().filter(|heard| heard.head.contains("/slow")).count() < 5000);
}

#[test]
fn continuation_flood() {
    let origin = RawOrigin::start();
    under_attack(&origin, "", |segue| {
        for block in [fields(&[("x", "y")]), fields(&[("x", &"y".repeat(1000))]), Vec::new()] {
            let mut caller = Frames::open(segue.address, &[]);
            let read = caller.drain();
            caller.send(&frame(HEADERS, END_STREAM, 1, &get("/"))).unwrap();
            let times = caller.flood(200_000, |_| frame(CONTINUATION, 0, 1, &block));
            assert!(times < 200_000, "the connection is ended ({} bytes each)", block.len());
            drop(caller);
            read.join().unwrap();
        }
    });
}

#[test]
fn a_header_list_that_is_too_large() {
    let origin = RawOrigin::start();
    under_attack(&origin, "", |segue| {
        let mut caller = Frames::open(segue.address, &[]);
        let long = "y".repeat(7000);
        let mut many = get("/");
        for _ in 0..10 {
            many.extend(fields(&[("x", &long)]));
        }
        let mut parts = many.chunks(16_000).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
            let flags = if kind == HEADERS { end | END_STREAM } else { end };
            caller.send(&frame(kind, flags, 1, part)).unwrap();
            kind = CONTINUATION;
        }
        // 431 (static table entry 8 with its value given, or a reset), or the connection's end.
        loop {
            match caller.next() {
                Ok(answer) if answer.stream == 1 || answer.kind == GOAWAY => {
                    assert!(matches!(answer.kind, HEADERS | RST_STREAM | GOAWAY));
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(error.kind() != std::io::ErrorKind::WouldBlock, "no answer at all");
                    break;
                }
            }
        }
    });
    assert!(!origin.heard().iter().any(|heard| heard.head.contains("yyyy")));
}

#[test]
fn a_header_bomb_of_references() {
    let origin = RawOrigin::start();
    under_attack(&origin, "", |segue| {
        let mut caller = Frames::open(segue.address, &[]);
        // One large entry into the dynamic table, then thousands of references of a byte each.
        let mut block = get("/");
        block.push(0x40);
        let entry = fields(&[("x-bomb", &"b".repeat(3900))]);
        block.extend_from_slice(&entry[1..]);
        block.extend(std::iter::repeat_n(0xbe, 12_000));
        let read = caller.drain();
        for n in 0..20 {
            if caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &block)).is_err() {
                break;
            }
        }
        drop(caller);
        read.join().unwrap();
    });
    assert!(!origin.heard().iter().any(|heard| heard.head.contains("x-bomb")));
}

#[test]
fn pings_and_settings_that_nobody_reads_the_answers_to() {
    let origin = RawOrigin::start();
    let limits = "[callers]\nstall_timeout = \"1s\"\nidle_timeout = \"2s\"\n";
    under_attack(&origin, limits, |segue| {
        for bytes in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])] {
            let mut caller = Frames::open(segue.address, &[]);
            caller.write_patience(Duration::from_secs(4));
            // Its socket fills up in both directions; then it is either cut or waited for.
            let many = bytes.repeat(1000);
            caller.flood(20_000, |_| many.clone());
        }
    });
}

#[test]
fn answers_that_are_never_let_through() {
    let origin = RawOrigin::answering(|heard| {
        if heard.head.contains("/large") { Reply::ok(&"x".repeat(1 << 20)) } else { Reply::ok("ok") }
    });
    let limits = "[callers]\nstall_timeout = \"1s\"\nidle_timeout = \"3s\"\n";
    under_attack(&origin, limits, |segue| {
        // No window for any stream, and 100 large answers asked for.
        let mut caller = Frames::open(segue.address, &[(4, 0)]);
        for n in 0..100 {
            caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &get("/large"))).unwrap();
        }
        until("all of them to be in flight", || {
            (segue.service()["in_flight"].as_u64() >= Some(100)).then_some(())
        });
        caller.tcp.shutdown(std::net::Shutdown::Both).unwrap();
        until("the exchanges to be given up", || (segue.service()["in_flight"] == 0).then_some(()));
    });
}

#[test]
fn frames_that_break_the_protocol() {
    let origin = RawOrigin::start();
    under_attack(&origin, "", |segue| {
        let bodies: [Vec<u8>; 8] = [
            frame(HEADERS, END_HEADERS | END_STREAM, 2, &get("/")),
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &get("/")),
            frame(CONTINUATION, END_HEADERS, 1, &get("/")),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 200]),
            frame(PING, 0, 0, &[1; 7]),
            frame(SETTINGS, ACK, 0, &[1; 6]),
            [&[0xff, 0xff, 0xff, 0, 0][..], &[0; 4]].concat(),
            b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(),
        ];
        for bytes in bodies {
            let mut caller = Frames::open(segue.address, &[]);
            caller.send(&bytes).unwrap();
            caller.find(GOAWAY);
        }
    });
}

#[test]
fn pseudo_headers_that_disagree() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let blocks: [&[(&str, &str)]; 9] = [
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            (":authority", "test"),
            ("host", "other"),
        ],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "me@test")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/x")],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            (":authority", "test"),
            ("transfer-encoding", "chunked"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            (":authority", "test"),
            ("connection", "close"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x y HTTP/1.1\r\nx: y"),
            (":authority", "test"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            (":authority", "test"),
            ("x", "a\r\nevil: 1"),
        ],
        &[(":method", "CONNECT"), (":authority", "test:443")],
        &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "test")],
    ];
    for block in blocks {
        let mut caller = Frames::open(segue.address, &[]);
        caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(block))).unwrap();
        let refused = loop {
            match caller.next() {
                Ok(frame) if frame.stream == 1 || frame.kind == GOAWAY => break frame.kind,
                Ok(_) => {}
                Err(_) => break GOAWAY,
            }
        };
        assert!(matches!(refused, HEADERS | RST_STREAM | GOAWAY));
        assert!(origin.take().is_empty(), "{block:?} reached the instance");
    }
    // A length that is not true must not become another request's beginning.
    let mut caller = Frames::open(segue.address, &[]);
    let post = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/x"),
        (":authority", "test"),
        ("content-length", "3"),
    ]);
    caller.send(&frame(HEADERS, END_HEADERS, 1, &post)).unwrap();
    caller.send(&frame(0, END_STREAM, 1, b"abcGET /hidden HTTP/1.1\r\nhost: test\r\n\r\n")).unwrap();
    loop {
        match caller.next() {
            Ok(frame) if frame.stream == 1 && frame.kind != 8 => break,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert!(!origin.heard().iter().any(|heard| heard.line().contains("hidden")));
    assert_eq!(origin.faults(), [""; 0]);
}
