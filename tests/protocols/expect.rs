//! `100 Continue` is the instance's to say.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::Segue;
use crate::support::raw::{RawOrigin, Wire};

const ASKING: &str = "POST /x HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn a_caller_is_invited_when_the_instance_invites() {
    let (invite, invited) = mpsc::channel::<()>();
    let invited = std::sync::Mutex::new(invited);
    let origin = RawOrigin::by_hand(move |mut stream, _| {
        let head = read_head(&mut stream);
        assert!(head.to_lowercase().contains("expect: 100-continue"), "{head}");
        invited.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"hello");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(segue.address, ASKING);
    assert!(wire.is_silent(Duration::from_millis(300)), "nobody has invited it yet");
    invite.send(()).unwrap();
    assert_eq!(wire.answer().status, 100);
    wire.send("hello");
    assert_eq!(wire.answer().text(), "done");
}

#[test]
fn a_caller_that_is_refused_is_never_invited() {
    for (status, answer) in
        [(417, "417 Expectation Failed"), (401, "401 Unauthorized"), (413, "413 Content Too Large")]
    {
        let origin = RawOrigin::by_hand(move |mut stream, _| {
            read_head(&mut stream);
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 2\r\n\r\nno");
            stream.write_all(answer.as_bytes()).unwrap();
            // Whatever else arrives would be a body that nobody wanted.
            let mut rest = Vec::new();
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty(), "the body came: {rest:?}");
        });
        let segue = Segue::with(&origin.url(), None, "", "");
        let mut wire = Wire::sent(segue.address, ASKING);
        let answer = wire.answer();
        assert_eq!((answer.status, answer.text().as_str()), (status, "no"), "the first answer is the last");
        // Longer than the second after which a body is sent to an instance that says nothing.
        let quiet = wire.is_silent(Duration::from_millis(1500));
        assert!(quiet || wire.rest().is_empty(), "no invitation comes later");
    }
}

#[test]
fn an_instance_that_knows_nothing_of_it_gets_the_body_after_a_second() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(segue.address, ASKING);
    assert_eq!(wire.answer().status, 100);
    wire.send("hello");
    assert_eq!(wire.answer().status, 200);
    assert_eq!(origin.take()[0].body, b"hello");
}

#[test]
fn early_hints_are_counted_and_not_passed_on() {
    let origin = RawOrigin::by_hand(|mut stream, _| {
        read_head(&mut stream);
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
        let answer = format!("{hints}{hints}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
        stream.write_all(answer.as_bytes()).unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let answer = Wire::open(segue.address).get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert_eq!(segue.service()["informational"], 2);
}
