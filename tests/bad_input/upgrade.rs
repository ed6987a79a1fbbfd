//! Upgrades as a way round the proxy: what is carried as a tunnel is no longer looked at.

use std::io::{Read, Write};

use crate::support::Segue;
use crate::support::raw::{RawOrigin, Reply, Wire};

#[test]
fn http2_cannot_be_reached_by_an_upgrade_in_clear() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(
        segue.address,
        "GET /x HTTP/1.1\r\nhost: test\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 200);
    let heard = &origin.take()[0];
    assert_eq!(heard.header("upgrade"), None, "{}", heard.head);
    assert_eq!(heard.header("http2-settings"), None, "{}", heard.head);
    assert_eq!(wire.get("/y").status, 200, "the connection goes on as HTTP/1.1");
}

#[test]
fn an_upgrade_has_to_be_asked_for_in_connection_too() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(segue.address, "GET /x HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(wire.answer().status, 200);
    assert_eq!(origin.take()[0].header("upgrade"), None);
}

#[test]
fn an_upgrade_that_is_refused_leaves_http_in_charge() {
    let origin = RawOrigin::answering(|heard| {
        let refused = "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n";
        if heard.header("upgrade").is_some() { Reply::Send(refused.into()) } else { Reply::ok("fine") }
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(
        segue.address,
        "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 777\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 426);
    // Were this a tunnel, these bytes would arrive as they are: with two framings.
    wire.send("POST /y HTTP/1.1\r\nhost: test\r\nsegue-tee: x\r\ncontent-length: 2\r\n\r\nab");
    assert_eq!(wire.answer().status, 200);
    let heard = origin.take();
    assert_eq!(heard.last().unwrap().header("segue-tee"), None, "the second request was looked at");
    assert_eq!(origin.faults(), [""; 0]);
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_switch() {
    let origin = RawOrigin::by_hand(|mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let switching =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: evil\r\n\r\nsecret";
        let _ = stream.write_all(switching.as_bytes());
        let _ = stream.read(&mut [0; 4096]);
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let answer = Wire::open(segue.address).get("/x");
    assert_eq!(answer.status, 502);
    assert!(!answer.text().contains("secret"));
}
