//! Too many connections, and connections that are not what the listener expects.

use std::io::Write as _;
use std::time::Duration;

use crate::support::certificates::{Authority, TlsCaller};
use crate::support::raw::{RawOrigin, Wire};
use crate::support::{Segue, free_port, get, until};

#[test]
fn one_connection_too_many_gets_503_and_the_others_are_served() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "[callers]\nmax_connections = 8\n");
    let mut within: Vec<Wire> = (0..8).map(|_| Wire::open(segue.address)).collect();
    for wire in &mut within {
        assert_eq!(wire.get("/").status, 200);
    }
    let mut beyond = Wire::open(segue.address);
    let answer = beyond.answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.header("segue-error"), Some("too_many_connections"));
    beyond.assert_closed();
    for wire in &mut within {
        assert_eq!(wire.get("/").status, 200);
    }
    within.pop();
    until("the place to be free again", || {
        let mut wire = Wire::open(segue.address);
        let _ = wire.try_send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        wire.try_answer().is_ok_and(|answer| answer.status == 200).then_some(())
    });
}

#[test]
fn a_tls_port_ends_what_is_not_tls() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let tls = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let rest = format!(
        "[callers]\nhandshake_timeout = \"700ms\"\n[[listeners]]\naddress = \"{tls}\"\ntls = {{ {} }}\n",
        files.toml()
    );
    let segue = Segue::with(&origin.url(), None, "", &rest);
    let caller = TlsCaller::to("web.test");
    let mut known = authority.connect(tls, &caller).unwrap().wire;
    assert_eq!(known.get("/").status, 200);

    let noise: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let hello_and_noise = [&b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"[..], &noise].concat();
    let in_clear = b"GET / HTTP/1.1\r\nhost: web.test\r\n\r\n".to_vec();
    for bytes in [noise, hello_and_noise, in_clear, vec![0; 100], Vec::new()] {
        let mut wire = Wire::open(tls);
        let _ = wire.try_send(&bytes);
        let rest = wire.rest();
        assert!(!rest.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(known.get("/").status, 200, "an open connection is not touched");
    assert_eq!(authority.connect(tls, &caller).unwrap().wire.get("/").status, 200);
    // TLS on a port in clear is a malformed request line.
    let answer = Wire::sent(segue.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").answer();
    assert_eq!(answer.status, 400);
    let ended = segue.call("GET", "/v1/status", "").1;
    assert!(ended["ended"]["tls_handshake"].as_u64() >= Some(4), "they are counted: {ended}");
}

#[test]
fn connections_that_end_at_once_cost_nothing() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", "");
    get(segue.address, "/");
    for n in 0..500 {
        let mut stream = std::net::TcpStream::connect(segue.address).unwrap();
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: t");
        }
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_linger((n % 3 == 0).then_some(Duration::ZERO));
    }
    until("all of them to be gone", || {
        (segue.call("GET", "/v1/status", "").1["connections"] == 0).then_some(())
    });
    assert_eq!(get(segue.address, "/").status, 200);
}
