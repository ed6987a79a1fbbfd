//! What is said of a body's end, and of the connection's: one reading for whoever comes next.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::frames::{END_HEADERS, END_STREAM, Frames, HEADERS, fields, frame};
use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, request};

#[test]
fn an_answer_with_a_coding_that_would_be_lost_is_not_passed_on() {
    for codings in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
    ] {
        let origin = RawOrigin::answering(move |_| {
            Reply::SendAndClose(format!("HTTP/1.1 200 OK\r\n{codings}\r\n1\r\na\r\n0\r\n\r\n").into())
        });
        let segue = Segue::with(&origin.url(), None, "", "");
        let answer = request(segue.address, "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        assert_eq!((answer.status, answer.header("segue-error")), (502, Some("upstream_broke")), "{codings}");
    }
}

#[test]
fn an_answer_with_two_framings_gets_one_and_its_connection_is_not_trusted() {
    let origin = RawOrigin::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        Reply::Send(format!("{head}2\r\nab\r\n0\r\n\r\n").into())
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::open(segue.address);
    for connections in 1..=2 {
        let answer = wire.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ab"));
        assert_eq!(answer.header("content-length"), None, "{}", answer.head);
        assert_eq!(origin.connections(), connections);
    }
}

#[test]
fn lengths_said_twice_over_http2_become_one() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    for lengths in [&["0", "0"][..], &["00", "0"], &[""]] {
        let mut caller = Frames::open(segue.address, &[]);
        let mut head =
            vec![(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "test")];
        head.extend(lengths.iter().map(|length| ("content-length", *length)));
        caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&head))).unwrap();
        caller.find(HEADERS).unwrap();
        let heard = origin.take();
        assert_eq!(origin.faults(), [""; 0], "{lengths:?}");
        assert_eq!(heard[0].values("content-length"), ["0"], "{lengths:?}");
    }
}

#[test]
fn a_cookie_that_http2_took_apart_is_one_for_the_instance() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut caller = Frames::open(segue.address, &[]);
    let mut head = vec![(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "test")];
    head.extend([("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]);
    caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&head))).unwrap();
    caller.find(HEADERS).unwrap();
    assert_eq!(origin.take()[0].values("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn a_refusal_after_an_answer_to_head_has_its_body() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(segue.address, "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(wire.answer_to_head().status, 200);
    wire.send("what is this\r\n\r\n");
    let answer = wire.answer();
    assert_eq!(answer.status, 400);
    assert!(!answer.body.is_empty());
    wire.assert_closed();
}

#[test]
fn a_caller_hears_that_its_connection_ends() {
    let origin = RawOrigin::answering(|_| {
        Reply::Send(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno".to_vec())
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let chunked = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let mut wire = Wire::sent(segue.address, chunked);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "its body has no end");
    wire.assert_closed();

    // The instance answers without having asked for the body, so nobody knows whether it still comes.
    let origin = RawOrigin::by_hand(|mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno");
        let _ = stream.read(&mut [0; 1]);
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let asking = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let mut wire = Wire::sent(segue.address, asking);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.header("connection")), (417, Some("close")));
    wire.assert_closed();
}

#[test]
fn http10_is_never_upgraded() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(
        segue.address,
        "GET /ws HTTP/1.0\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 200);
    let heard = origin.take();
    assert_eq!(
        (heard[0].header("upgrade"), heard[0].header("connection")),
        (None, None),
        "{}",
        heard[0].head
    );
}

#[test]
fn an_upgrade_that_was_asked_for_before_the_end_began_gets_its_tunnel() {
    let (agree, agreed) = std::sync::mpsc::channel::<()>();
    let agreed = std::sync::Mutex::new(agreed);
    let origin = RawOrigin::by_hand(move |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        agreed.lock().unwrap().recv().unwrap();
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(switch.as_bytes()).unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said).unwrap();
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(
        segue.address,
        "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
    );
    crate::support::until("the request to be there", || (origin.connections() == 1).then_some(()));
    let mut idle = Wire::open(segue.address);
    // It is known to a worker, not only to the system.
    assert!(idle.is_silent(Duration::from_millis(100)));
    segue.signal("TERM");
    idle.assert_closed();
    agree.send(()).unwrap();
    assert_eq!(wire.answer().status, 101);
    wire.send("hello");
    assert_eq!(wire.rest(), b"hello");
}
