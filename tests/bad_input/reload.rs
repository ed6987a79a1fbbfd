//! A running Segue and a file that becomes bad, and good again.

use std::io::{Read, Write};

use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, until};

/// Waits until the log says `what` more often than before.
fn await_log(segue: &Segue, what: &str, before: usize) {
    until(what, || (segue.log().matches(what).count() > before).then_some(()));
}

fn change(segue: &Segue, text: &str, by_signal: bool, expect: &str) {
    let before = segue.log().matches(expect).count();
    if by_signal {
        // The watcher sees the save as well; what is then the running file is not taken over twice.
        std::fs::write(&segue.config, text).unwrap();
        segue.signal("HUP");
    } else {
        // As editors save: beside it, then renamed.
        let beside = segue.config.with_extension("tmp");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &segue.config).unwrap();
    }
    await_log(segue, expect, before);
}

#[test]
fn a_bad_file_changes_nothing_and_a_good_one_cuts_nobody() {
    let first = RawOrigin::answering(|_| Reply::ok("first"));
    let second = RawOrigin::answering(|_| Reply::ok("second"));
    let segue = Segue::with(&first.url(), None, "", "");
    let good = std::fs::read_to_string(&segue.config).unwrap();
    let mut wire = Wire::open(segue.address);
    assert_eq!(wire.get("/").text(), "first");

    let other = good.replace(&first.url(), &second.url());
    for by_signal in [true, false] {
        for (bad, why) in [
            (good.replace("source =", "sauce ="), "did you mean `source`"),
            (good.replace("http://", "htp://"), "is not an endpoint"),
            (
                good.replace(&segue.address.to_string(), "127.0.0.1:1"),
                "`listeners.address` cannot change while running",
            ),
            (format!("{good}\nx = "), "string values must be quoted"),
        ] {
            change(&segue, &bad, by_signal, why);
            assert!(segue.log().contains("the configuration was not taken over"));
            assert_eq!(wire.get("/").text(), "first", "nothing has changed");
        }
        change(&segue, &other, by_signal, "the configuration was taken over");
        until("the new instance to answer", || (wire.get("/").text() == "second").then_some(()));
        change(&segue, &good, by_signal, "the configuration was taken over");
        until("the old instance to answer again", || (wire.get("/").text() == "first").then_some(()));
    }
}

#[test]
fn limits_change_under_open_connections() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "[callers]\nmax_uri_bytes = \"8 KiB\"\n");
    let text = std::fs::read_to_string(&segue.config).unwrap();
    let mut wire = Wire::open(segue.address);
    let long = format!("/{}", "u".repeat(1000));
    assert_eq!(wire.get(&long).status, 200);
    change(&segue, &text.replace("8 KiB", "512 B"), true, "the configuration was taken over");
    until("the new limit to hold", || (wire.get(&long).status == 414).then_some(()));
}

#[test]
fn timeouts_of_a_service_hold_over_a_change_and_after_a_rest() {
    let (closed, closes) = std::sync::mpsc::channel();
    let closed = std::sync::Mutex::new(closed);
    // Answers the first request of a connection unless it is for `/never`, and says when the connection is closed.
    let origin = RawOrigin::by_hand(move |mut stream, _| {
        let mut head = [0; 4096];
        let read = stream.read(&mut head).unwrap_or(0);
        if !head[..read].starts_with(b"GET /never") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
        while let Ok(1..) = stream.read(&mut head) {}
        let _ = closed.lock().unwrap().send(());
    });
    let upstream = "upstream = { answer_timeout = \"1500ms\", idle_timeout = \"1s\" }\n";
    let segue = Segue::with(&origin.url(), None, upstream, "[callers]\nmax_uri_bytes = \"8 KiB\"\n");
    let text = std::fs::read_to_string(&segue.config).unwrap();
    let is_closed = || closes.recv_timeout(crate::support::PATIENCE).unwrap();
    let mut wire = Wire::open(segue.address);
    // The second time round the service has been at rest.
    for changed in [text.replace("8 KiB", "4 KiB"), text] {
        let connections = origin.connections();
        wire.send("GET /never HTTP/1.1\r\nhost: test\r\n\r\n");
        until("the request to be there", || (origin.connections() > connections).then_some(()));
        change(&segue, &changed, true, "the configuration was taken over");
        assert_eq!(wire.answer().status, 504);
        is_closed();
        assert_eq!(wire.get("/").status, 200);
        is_closed();
    }
}
