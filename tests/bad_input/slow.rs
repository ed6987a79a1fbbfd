//! Callers that take their time, and callers that leave half-way.

use std::time::{Duration, Instant};

use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{PATIENCE, Segue, until};

const HASTY: &str =
    "[callers]\nheader_timeout = \"700ms\"\nidle_timeout = \"2s\"\nstall_timeout = \"700ms\"\n";

#[test]
fn a_head_that_does_not_end_gets_408() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", HASTY);
    for part in ["G", "GET / HTTP/1.1\r\nhost: te", "GET / HTTP/1.1\r\nhost: test\r\n", "PRI * HTTP/2.0\r\n"]
    {
        let started = Instant::now();
        let mut wire = Wire::sent(segue.address, part);
        let answer = wire.try_answer();
        // What may still become HTTP/2 can only be closed.
        if !part.starts_with('P') {
            let answer = answer.unwrap();
            assert_eq!(
                (answer.status, answer.header("segue-error")),
                (408, Some("caller_too_slow")),
                "{part:?}"
            );
        }
        wire.assert_closed();
        assert!(started.elapsed() >= Duration::from_millis(400), "{part:?}: too early");
    }
    // One byte now and then does not prolong it.
    let mut wire = Wire::open(segue.address);
    let started = Instant::now();
    for byte in
        b"GET / HTTP/1.1\r\nhost: test\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            .chunks(1)
    {
        if wire.try_send(byte).is_err()
            || started.elapsed() > PATIENCE
            || !wire.is_silent(Duration::from_millis(100))
        {
            break;
        }
    }
    assert_eq!(wire.answer().status, 408);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_slow_head_on_a_used_connection_gets_408_too() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", HASTY);
    let mut wire = Wire::open(segue.address);
    assert_eq!(wire.get("/").status, 200);
    wire.send("GET / HTTP/1.1\r\n");
    assert_eq!(wire.answer().status, 408);
    wire.assert_closed();
}

#[test]
fn a_slow_head_that_began_behind_another_request_gets_408_too() {
    let origin = RawOrigin::answering(|_| {
        std::thread::sleep(Duration::from_millis(100));
        Reply::ok("ok")
    });
    let segue = Segue::with(&origin.url(), None, "", HASTY);
    let first = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    // In one piece, and while the first is being answered.
    for pieces in [&[first, "GET /second HT"][..], &[first, "", "GET /second HT"]] {
        let mut wire = Wire::open(segue.address);
        match pieces {
            [one, two] => wire.send([*one, *two].concat()),
            pieces => {
                for piece in pieces {
                    wire.send(piece);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        assert_eq!(wire.answer().status, 200);
        assert_eq!(wire.answer().status, 408, "{pieces:?}");
        wire.assert_closed();
    }
}

#[test]
fn an_empty_line_after_a_request_keeps_nothing_open() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", HASTY);
    let mut wire =
        Wire::sent(segue.address, "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nab\r\n");
    assert_eq!(wire.answer().status, 200);
    wire.assert_closed();
    let mut wire = Wire::sent(segue.address, "GET / HTTP/1.1\r\nhost: test\r\n\r\n\r\n");
    assert_eq!(wire.answer().status, 200);
    assert_eq!(wire.get("/again").status, 200, "and is no request");
}

#[test]
fn a_body_that_does_not_come_gets_408() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", HASTY);
    for head in ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut wire = Wire::sent(segue.address, format!("POST / HTTP/1.1\r\nhost: test\r\n{head}"));
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("segue-error")), (408, Some("caller_too_slow")));
        wire.assert_closed();
    }
    until("the instance to see both broken off", || (origin.broken_off() == 2).then_some(()));
    assert_eq!(origin.heard().len(), 0, "no half body is a request");
}

#[test]
fn an_idle_connection_is_closed_and_others_are_not() {
    let origin = RawOrigin::answering(|_| {
        std::thread::sleep(Duration::from_millis(3200));
        Reply::ok("late")
    });
    let segue = Segue::with(&origin.url(), None, "", HASTY);
    let mut busy = Wire::sent(segue.address, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    let started = Instant::now();
    let mut idle = Wire::open(segue.address);
    idle.assert_closed();
    let lived = started.elapsed();
    assert!(lived >= Duration::from_millis(1500), "closed after {lived:?}");
    assert_eq!(busy.answer().status, 200, "a request in flight is not idle");
}

#[test]
fn a_caller_that_shuts_its_side_has_left() {
    // Longer than it takes until an exchange is watched.
    let origin = RawOrigin::answering(|_| {
        std::thread::sleep(Duration::from_secs(5));
        Reply::ok("still here")
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    for request in [
        "GET / HTTP/1.1\r\nhost: test\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ] {
        let mut wire = Wire::sent(segue.address, request);
        wire.shut_write();
        wire.assert_closed();
        until("its exchange to end", || (segue.service()["in_flight"] == 0).then_some(()));
    }
}

#[test]
fn a_caller_that_shuts_its_side_gets_an_answer_that_comes_soon() {
    let origin = RawOrigin::answering(|_| Reply::ok("here it is"));
    let segue = Segue::with(&origin.url(), None, "", "");
    // Again where the machine stood still just then.
    until("an answer", || {
        let mut wire = Wire::sent(segue.address, "GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        wire.shut_write();
        wire.rest().ends_with(b"here it is").then_some(())
    });
}

#[test]
fn a_caller_that_stops_in_the_middle_is_let_go() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    for part in [
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nhost: test\r\n",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nabc",
    ] {
        let mut wire = Wire::sent(segue.address, part);
        wire.shut_write();
        let rest = String::from_utf8_lossy(&wire.rest()).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 4"), "{part:?}: {rest}");
    }
    assert_eq!(origin.heard().len(), 0);
    until("all of them to be gone", || {
        (segue.call("GET", "/v1/status", "").1["connections"] == 0).then_some(())
    });
}
