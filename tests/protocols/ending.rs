//! SIGTERM: answers in flight are finished, everybody else is shown out at once.

use std::time::{Duration, Instant};

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, SETTINGS, frame, get};
use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, until};

fn slow(milliseconds: u64) -> RawOrigin {
    RawOrigin::answering(move |heard| {
        if heard.line().contains("/slow") {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        Reply::ok("whole")
    })
}

#[test]
fn what_is_in_flight_ends_well_and_the_rest_at_once() {
    let origin = slow(2500);
    let mut segue = Segue::with(&origin.url(), None, "", "");
    let mut idle = Wire::open(segue.address);
    assert_eq!(idle.get("/").status, 200);
    let mut quiet = Wire::open(segue.address);
    let mut http2 = Frames::open(segue.address, &[]);
    http2.find(SETTINGS);
    let mut busy = Wire::sent(segue.address, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut busy2 = Frames::open(segue.address, &[]);
    busy2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/slow"))).unwrap();
    until("both to be in flight", || (segue.service()["in_flight"] == 2).then_some(()));

    let started = Instant::now();
    segue.signal("TERM");
    idle.assert_closed();
    quiet.assert_closed();
    http2.find(GOAWAY).expect("an idle HTTP/2 caller is told");
    while http2.next().is_ok() {}
    assert!(started.elapsed() < Duration::from_secs(2), "idle ones wait for nobody");
    let answer = busy.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "whole"));
    assert_eq!(answer.header("connection"), Some("close"), "{}", answer.head);
    busy.assert_closed();
    // Callers in HTTP/2 are told one after the other, so the answer may come before the GOAWAY.
    let (mut body, mut told) = (Vec::new(), false);
    while let Ok(frame) = busy2.next() {
        told |= frame.kind == GOAWAY;
        if frame.kind == DATA {
            body.extend(frame.payload);
        }
    }
    assert!(told && body == b"whole", "told: {told}, answered: {body:?}");
    assert_eq!(segue.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "the grace period was not needed");
}

#[test]
fn the_grace_period_is_an_end() {
    let origin = slow(60_000);
    let mut segue = Segue::with(&origin.url(), None, "", "shutdown_grace = \"1s\"\n");
    let mut busy = Wire::sent(segue.address, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it to be in flight", || (segue.service()["in_flight"] == 1).then_some(()));
    let started = Instant::now();
    segue.signal("TERM");
    assert!(busy.try_answer().is_err());
    assert_eq!(segue.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(15));
}
