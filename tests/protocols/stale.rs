//! Connections that the instance closes just as they are used again.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, request};

#[test]
fn an_instance_that_closes_after_a_few_requests_fails_no_read() {
    let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let origin =
        RawOrigin::answering(
            move |heard| {
                if heard.nth == 2 { Reply::SendAndClose(last.into()) } else { Reply::ok("ok") }
            },
        );
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::open(segue.address);
    for n in 0..300 {
        let answer = wire.get(&format!("/{n}"));
        assert_eq!(answer.status, 200, "read {n}: {}", answer.text());
    }
    assert!(origin.connections() >= 100);
}

#[test]
fn a_connection_that_rested_too_long_fails_no_read() {
    // It hangs up on the next request of a connection: what a server does whose keep-alive has run out.
    let origin = RawOrigin::answering(|heard| if heard.nth == 0 { Reply::ok("ok") } else { Reply::Close });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::open(segue.address);
    for n in 0..10 {
        let answer = wire.get(&format!("/{n}"));
        assert_eq!(answer.status, 200, "read {n}: {}", answer.text());
        assert!(
            wire.is_silent(std::time::Duration::from_millis(60)),
            "long enough for it to be a rested one"
        );
    }
}

#[test]
fn a_write_that_was_heard_is_never_sent_again() {
    let seen = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&seen);
    let origin = RawOrigin::answering(move |heard| {
        if heard.line().starts_with("POST")
            || heard.line().starts_with("PUT")
            || heard.line().starts_with("DELETE")
        {
            counted.fetch_add(1, Ordering::Relaxed);
            return Reply::Close;
        }
        Reply::ok("ok")
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut sent = 0;
    for _ in 0..5 {
        // On a connection that has just been used, and on a new one.
        assert_eq!(crate::support::get(segue.address, "/warm").status, 200);
        for head in [
            "POST /w HTTP/1.1\r\ncontent-length: 2\r\n",
            "PUT /w HTTP/1.1\r\ncontent-length: 0\r\n",
            "DELETE /w HTTP/1.1\r\n",
        ] {
            let body = if head.contains(": 2") { "ab" } else { "" };
            let answer =
                request(segue.address, format!("{head}host: test\r\nconnection: close\r\n\r\n{body}"));
            assert_eq!((answer.status, answer.header("segue-error")), (502, Some("upstream_broke")));
            sent += 1;
        }
    }
    assert_eq!(seen.load(Ordering::Relaxed), sent, "each was heard once");
}
