//! TLS towards callers, and what a balancer in front says about them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Files, TlsCaller, der};
use crate::support::raw::{RawOrigin, Wire};
use crate::support::{Segue, free_port, until};

fn listening(origin: &RawOrigin, tls: &str) -> (Segue, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let rest = format!("[[listeners]]\naddress = \"{address}\"\ntls = {{ {tls} }}\n");
    (Segue::with(&origin.url(), None, "", &rest), address)
}

#[test]
fn certificates_are_chosen_by_name_and_renewed_under_open_connections() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let one = authority.issue("one", &["one.test"]);
    let wild = authority.issue("wild", &["*.wild.test"]);
    let (segue, address) =
        listening(&origin, &format!("certificates = [{{ {} }}, {{ {} }}]", one.toml(), wild.toml()));
    let leaf = |name: &str| authority.connect(address, &TlsCaller::to(name)).map(|of| of.leaf);
    assert_eq!(leaf("one.test").unwrap(), der(&one));
    assert_eq!(leaf("a.wild.test").unwrap(), der(&wild));
    assert!(leaf("a.b.wild.test").is_err(), "gets the first, which is for another name");

    let mut open = authority.connect(address, &TlsCaller::to("one.test")).unwrap().wire;
    assert_eq!(open.get("/").status, 200);
    let renewed = authority.issue("renewed", &["one.test"]);
    one.replace(&renewed);
    segue.signal("HUP");
    until("the new certificate to be served", || (leaf("one.test").ok()? == der(&renewed)).then_some(()));
    assert_eq!(open.get("/").status, 200, "the same connection goes on");

    // A renewal that went wrong changes nothing.
    std::fs::write(&one.key, "no key").unwrap();
    segue.signal("HUP");
    until("the refusal", || segue.log().contains("was not taken over").then_some(()));
    assert_eq!(leaf("one.test").unwrap(), der(&renewed));
    assert_eq!(open.get("/").status, 200);
}

#[test]
fn versions() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let tls12 = TlsCaller { tls12: true, ..TlsCaller::to("web.test") };
    let tls13 = TlsCaller::to("web.test");
    let (_both, address) = listening(&origin, &files.toml());
    for (caller, version) in [(&tls12, "TLSv1_2"), (&tls13, "TLSv1_3")] {
        let mut connection = authority.connect(address, caller).unwrap();
        assert_eq!(connection.protocol, version);
        assert_eq!(connection.wire.get("/").status, 200);
    }
    let neither = TlsCaller { alpn: &[], ..TlsCaller::to("web.test") };
    let mut connection = authority.connect(address, &neither).unwrap();
    assert_eq!(connection.alpn, None);
    assert_eq!(connection.wire.get("/").status, 200, "without ALPN it is HTTP/1.1");
    let both = TlsCaller { alpn: &["http/1.1", "h2"], ..TlsCaller::to("web.test") };
    assert_eq!(authority.connect(address, &both).unwrap().alpn.as_deref(), Some("h2"));

    let (_new, address) = listening(&origin, &format!("{}, only_tls13 = true", files.toml()));
    assert!(authority.connect(address, &tls12).is_err());
    assert!(authority.connect(address, &tls13).is_ok());
}

#[test]
fn a_request_that_comes_in_one_packet_with_the_handshakes_end_is_heard() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let (_segue, address) = listening(&origin, &files.toml());
    let config = Arc::new(authority.config(&TlsCaller::to("web.test")));
    let mut session = ClientConnection::new(config, "web.test".try_into().unwrap()).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    while session.is_handshaking() {
        while session.wants_write() && session.is_handshaking() {
            session.write_tls(&mut tcp).unwrap();
        }
        session.read_tls(&mut tcp).unwrap();
        session.process_new_packets().unwrap();
    }
    // Its last flight has not been sent yet.
    session.writer().write_all(b"GET / HTTP/1.1\r\nhost: web.test\r\n\r\n").unwrap();
    let mut packet = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut packet).unwrap();
    }
    tcp.write_all(&packet).unwrap();
    let stream = StreamOwned::new(session, tcp.try_clone().unwrap());
    assert_eq!(Wire::over(Box::new(stream), tcp).answer().status, 200);
}

/// In TLS 1.3 a refused certificate shows only when something is read.
fn is_served(authority: &Authority, address: SocketAddr, certificate: Option<&Files>) -> bool {
    let caller = TlsCaller { certificate, ..TlsCaller::to("web.test") };
    let Ok(mut connection) = authority.connect(address, &caller) else { return false };
    let sent = connection.wire.try_send("GET / HTTP/1.1\r\nhost: web.test\r\n\r\n");
    sent.is_ok() && connection.wire.try_answer().is_ok_and(|answer| answer.status == 200)
}

#[test]
fn mutual_tls() {
    let origin = RawOrigin::start();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let files = authority.issue("web", &["web.test"]);
    let known = authority.issue("caller", &["caller.test"]);
    let unknown = stranger.issue("caller", &["caller.test"]);
    let ca = authority.ca().display().to_string();
    let (_required, address) = listening(&origin, &format!("{}, client_ca = \"{ca}\"", files.toml()));
    assert!(is_served(&authority, address, Some(&known)));
    assert!(!is_served(&authority, address, None));
    assert!(!is_served(&authority, address, Some(&unknown)));
    let optional = format!("{}, client_ca = \"{ca}\", client_auth = \"optional\"", files.toml());
    let (_optional, address) = listening(&origin, &optional);
    assert!(is_served(&authority, address, Some(&known)));
    assert!(is_served(&authority, address, None));
    assert!(!is_served(&authority, address, Some(&unknown)), "a bad certificate is worse than none");
    assert_eq!(origin.heard().len(), 3);
}

#[test]
fn the_caller_that_a_balancer_names_is_the_caller() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let [clear, secure] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let rest = format!(
        "[callers]\nhandshake_timeout = \"1s\"\n\
         [[listeners]]\naddress = \"{clear}\"\nproxy_protocol = true\n\
         [[listeners]]\naddress = \"{secure}\"\nproxy_protocol = true\ntls = {{ {} }}\n",
        files.toml()
    );
    let segue = Segue::with(&origin.url(), None, "", &rest);
    let v1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 80\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
    v2.extend_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    v2.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    v2.extend_from_slice(&[0x13, 0x88, 0, 80]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    for (header, address, forwarded) in [
        (&v1, "203.0.113.7", "for=203.0.113.7;"),
        (&v2, "2001:db8::7", "for=\"[2001:db8::7]\";"),
        (&local, "127.0.0.1", "for=127.0.0.1;"),
    ] {
        let mut wire = Wire::sent(clear, header);
        assert_eq!(wire.get("/").status, 200);
        assert_eq!(wire.get("/again").status, 200);
        for heard in origin.take() {
            assert_eq!(heard.values("x-forwarded-for"), [address]);
            assert!(heard.header("forwarded").unwrap().starts_with(forwarded), "{}", heard.head);
        }
    }
    // It is said in clear, before TLS.
    let output = std::process::Command::new("curl")
        .args(["-sS", "--haproxy-protocol", "--cacert"])
        .arg(authority.ca())
        .args(["--resolve", &format!("web.test:{}:127.0.0.1", secure.port())])
        .arg(format!("https://web.test:{}/", secure.port()))
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"ok", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(origin.take()[0].values("x-forwarded-proto"), ["https"]);

    // Where it is expected, nobody passes without it; where it is not, it is garbage.
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"[..],
        b"PROXY TCP4 a b c d\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n",
        b"PROX",
    ] {
        Wire::sent(clear, bytes).assert_closed();
    }
    let mut wire = Wire::sent(segue.address, [&v1[..], b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"].concat());
    assert_eq!(wire.answer().status, 400);
    assert!(origin.take().is_empty());
}
