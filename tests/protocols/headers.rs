//! Which headers go on, which do not, and what is added.

use crate::support::raw::{Heard, RawOrigin, Reply, Wire};
use crate::support::{Segue, request};

fn ask(segue: &Segue, origin: &RawOrigin, headers: &str) -> Heard {
    let answer =
        request(segue.address, format!("GET /x?y=%20z HTTP/1.1\r\n{headers}connection: close\r\n\r\n"));
    assert_eq!(answer.status, 200);
    origin.take().remove(0)
}

const OLD: &str = "x-forwarded-for: 9.9.9.9\r\nx-forwarded-for: 8.8.8.8\r\nx-forwarded-proto: https\r\n\
                   x-forwarded-host: outer.test\r\nforwarded: for=9.9.9.9\r\n";

#[test]
fn a_caller_is_described_and_not_believed() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    let heard = ask(&segue, &origin, &format!("host: Web.Test:81\r\n{OLD}"));
    assert_eq!(heard.line(), "GET /x?y=%20z HTTP/1.1", "the target is as it was");
    assert_eq!(heard.values("host"), ["Web.Test:81"], "and so is the host");
    assert_eq!(heard.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(heard.values("x-forwarded-proto"), ["http"]);
    assert_eq!(heard.values("x-forwarded-host"), ["Web.Test:81"]);
    assert_eq!(heard.values("forwarded"), ["for=127.0.0.1;host=\"Web.Test:81\";proto=http"]);
}

#[test]
fn a_trusted_proxy_is_added_to() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "[callers]\ntrust_forwarded = true\n");
    let heard = ask(&segue, &origin, &format!("host: web.test\r\n{OLD}"));
    assert_eq!(heard.values("x-forwarded-for"), ["9.9.9.9, 8.8.8.8, 127.0.0.1"]);
    assert_eq!(heard.values("x-forwarded-proto"), ["https"]);
    assert_eq!(heard.values("x-forwarded-host"), ["outer.test"]);
    assert_eq!(heard.values("forwarded"), ["for=9.9.9.9, for=127.0.0.1;host=\"web.test\";proto=http"]);
    let heard = ask(&segue, &origin, "host: web.test\r\n");
    assert_eq!(heard.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(heard.values("x-forwarded-proto"), ["http"]);
}

#[test]
fn what_belongs_to_one_connection_stays_on_it_both_ways() {
    let origin = RawOrigin::answering(|_| {
        Reply::Send(
            b"HTTP/1.1 200 OK\r\nconnection: x-inner, keep-alive\r\nx-inner: 1\r\nkeep-alive: timeout=5\r\n\
              proxy-authenticate: Basic\r\nx-outer: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
              content-length: 2\r\n\r\nok"
                .to_vec(),
        )
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(
        segue.address,
        "GET /x HTTP/1.1\r\nhost: test\r\nconnection: X-Mine , keep-alive\r\nx-mine: 1\r\nkeep-alive: 3\r\n\
         te: trailers, gzip;q=0.5\r\nproxy-connection: keep-alive\r\naccept: */*\r\ncookie: a=1\r\ncookie: b=2\r\n\
         accept-encoding: gzip\r\nx-empty:\r\n\r\n",
    );
    let answer = wire.answer();
    for gone in ["x-inner", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.header(gone), None, "{gone} in {}", answer.head);
    }
    assert_eq!(answer.header("x-outer"), Some("2"));
    assert_eq!(answer.head.to_lowercase().matches("set-cookie").count(), 2);
    let heard = origin.take().remove(0);
    for gone in ["x-mine", "keep-alive", "proxy-connection"] {
        assert_eq!(heard.header(gone), None, "{gone} in {}", heard.head);
    }
    assert_eq!(heard.header("accept-encoding"), Some("gzip"), "never altered");
    assert_eq!(heard.header("x-empty"), Some(""));
    assert_eq!(heard.values("cookie"), ["a=1", "b=2"]);
    assert_eq!(wire.get("/again").status, 200, "the connection is the caller's own affair");
}

#[test]
fn an_answers_headers_pass_as_they_are_written_without_those_of_its_connection() {
    let origin = RawOrigin::answering(|_| {
        Reply::Send(
            b"HTTP/1.1 200 OK\r\nServer: App/1.0 (x)\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
              X-CamelCase: a  b\r\nSet-Cookie: a=1\r\nTransfer-Encoding: chunked\r\nProxy-Authenticate: Basic\r\n\
              Set-Cookie: b=2\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n2\r\nok\r\n0\r\n\r\n"
                .to_vec(),
        )
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::open(segue.address);
    for _ in 0..2 {
        let answer = wire.get("/x");
        assert_eq!(
            answer.head,
            "HTTP/1.1 200 OK\r\nServer: App/1.0 (x)\r\nX-CamelCase: a  b\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Date: Thu, 01 Jan 1970 00:00:00 GMT\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(answer.body, b"ok");
    }
}
