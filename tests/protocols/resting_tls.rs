//! TLS connections that have nothing to do rest with their session, which goes on where it was.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;

use crate::resting::{EAGER, bare_sockets, resting, status};
use crate::support::certificates::{Authority, TlsCaller};
use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{PATIENCE, Segue, free_port, until};

/// Segue with a TLS listener, in front of an origin that answers with the path it was asked for.
struct Stage {
    origin: RawOrigin,
    authority: Authority,
    segue: Segue,
    address: SocketAddr,
}

impl Stage {
    fn new(rest: &str) -> Self {
        let origin = RawOrigin::answering(|heard| {
            let path = heard.line().split(' ').nth(1).unwrap_or_default();
            if path == "/slow" {
                std::thread::sleep(PATIENCE * 2);
            }
            Reply::ok(path)
        });
        let authority = Authority::new();
        let files = authority.issue("web", &["web.test"]);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let rest = format!("{rest}\n[[listeners]]\naddress = \"{address}\"\ntls = {{ {} }}\n", files.toml());
        let segue = Segue::with(&origin.url(), None, "", &rest);
        Self { origin, authority, segue, address }
    }

    fn open(&self, tls12: bool) -> Session {
        let config = self.authority.config(&TlsCaller { tls12, ..TlsCaller::to("web.test") });
        let tls = ClientConnection::new(Arc::new(config), "web.test".try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut opened = Session { tls, socket, unread: Vec::new() };
        while opened.tls.is_handshaking() {
            opened.tls.complete_io(&mut opened.socket).unwrap();
        }
        opened
    }

    fn await_rest(&self, count: u64) {
        until("all to rest", || (resting(&self.segue) == count).then_some(()));
    }

    fn await_waking(&self, count: u64) {
        until("one to wake", || (resting(&self.segue) < count).then_some(()));
    }
}

/// A caller that decides by itself which bytes of its records it sends.
struct Session {
    tls: ClientConnection,
    socket: TcpStream,
    unread: Vec<u8>,
}

/// How the other side ended a connection.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With a goodbye of its own.
    InOrder,
    CutOff,
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: web.test\r\n\r\n")
}

impl Session {
    /// The records that carry `plaintext`, and whatever else is to be sent.
    fn records(&mut self, plaintext: &str) -> Vec<u8> {
        self.tls.writer().write_all(plaintext.as_bytes()).unwrap();
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    fn send(&mut self, plaintext: &str) {
        let records = self.records(plaintext);
        self.socket.write_all(&records).unwrap();
    }

    fn more(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 4096];
        loop {
            match self.tls.reader().read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.tls.read_tls(&mut self.socket)?;
                    self.tls.process_new_packets().map_err(std::io::Error::other)?;
                }
                read => {
                    let read = read?;
                    self.unread.extend_from_slice(&chunk[..read]);
                    return Ok(read);
                }
            }
        }
    }

    /// The body of the next answer, and whether the connection is to end with it.
    fn answer(&mut self) -> (String, bool) {
        loop {
            let text = String::from_utf8_lossy(&self.unread).into_owned();
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.unwrap().parse().unwrap();
                if rest.len() >= length {
                    let body = rest[..length].to_owned();
                    self.unread.drain(..head.len() + 4 + length);
                    return (body, head.contains("connection: close"));
                }
            }
            assert_ne!(self.more().unwrap(), 0, "closed instead of an answer");
        }
    }

    fn get(&mut self, path: &str) {
        self.send(&request(path));
        assert_eq!(self.answer(), (path.to_owned(), false));
    }

    fn end(&mut self) -> End {
        match self.more() {
            Ok(0) => End::InOrder,
            Ok(_) => panic!("more than an end: {:?}", String::from_utf8_lossy(&self.unread)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("left open")
            }
            Err(_) => End::CutOff,
        }
    }
}

#[test]
fn a_session_rests_and_wakes_again_and_again() {
    let stage = Stage::new(EAGER);
    let mut sessions: Vec<Session> = (0..20).map(|number| stage.open(number % 2 == 0)).collect();
    // The first time as it came out of its handshake, with tickets that it has not even read.
    for round in 0..5 {
        stage.await_rest(20);
        assert_eq!(bare_sockets(&stage.segue), 20, "round {round}");
        for (number, session) in sessions.iter_mut().enumerate() {
            session.get(&format!("/{round}/{number}"));
        }
    }
    assert_eq!(status(&stage.segue, "connections"), 20);
    let heard = stage.origin.heard();
    assert_eq!(heard.len(), 100);
    assert!(heard.iter().all(|of| of.header("x-forwarded-for") == Some("127.0.0.1")));
    assert!(heard.iter().all(|of| of.header("x-forwarded-proto") == Some("https")), "known after rest too");
}

#[test]
fn a_record_that_comes_in_pieces_is_put_together_over_a_rest() {
    let stage = Stage::new(EAGER);
    let mut session = stage.open(false);
    let records = session.records(&request("/pieces"));
    for piece in records.chunks(records.len().div_ceil(3)) {
        stage.await_rest(1);
        session.socket.write_all(piece).unwrap();
        stage.await_waking(1);
    }
    assert_eq!(session.answer().0, "/pieces");
}

#[test]
fn half_a_head_does_not_rest() {
    let stage = Stage::new(EAGER);
    let mut session = stage.open(false);
    stage.await_rest(1);
    session.send("GET /half HTT");
    stage.await_waking(1);
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(resting(&stage.segue), 0);
    session.send("P/1.1\r\nhost: web.test\r\n\r\n");
    assert_eq!(session.answer().0, "/half");
}

#[test]
fn new_keys_that_come_during_a_rest_are_used_after_it() {
    let stage = Stage::new(EAGER);
    let mut session = stage.open(false);
    for round in 0..3 {
        stage.await_rest(1);
        session.tls.refresh_traffic_keys().unwrap();
        session.send("");
        stage.await_waking(1);
        stage.await_rest(1);
        session.get(&format!("/after/{round}"));
        session.tls.refresh_traffic_keys().unwrap();
        session.get(&format!("/with/{round}"));
    }
}

#[test]
fn a_goodbye_during_a_rest_is_answered() {
    let stage = Stage::new(EAGER);
    let mut session = stage.open(false);
    session.get("/");
    stage.await_rest(1);
    session.tls.send_close_notify();
    session.send("");
    assert_eq!(session.end(), End::InOrder);
    until("none to be left", || (status(&stage.segue, "connections") == 0).then_some(()));
}

#[test]
fn a_caller_that_leaves_without_a_word_leaves_the_count() {
    let stage = Stage::new(EAGER);
    let session = stage.open(false);
    stage.await_rest(1);
    drop(session);
    until("none to be left", || (status(&stage.segue, "connections") == 0).then_some(()));
}

#[test]
fn nonsense_during_a_rest_is_refused() {
    let stage = Stage::new(EAGER);
    let mut session = stage.open(false);
    stage.await_rest(1);
    // As long as it says, and nothing that these keys made.
    session.socket.write_all(b"\x17\x03\x03\x00\x18").unwrap();
    session.socket.write_all(&[7; 0x18]).unwrap();
    let refused = session.more().unwrap_err();
    assert!(refused.to_string().contains("BadRecordMac"), "{refused}");
    until("none to be left", || (status(&stage.segue, "connections") == 0).then_some(()));
}

/// A session that rests, and one that is kept ready.
const IDLE: [(&str, u64); 2] = [(EAGER, 2), ("[callers]\n", 0)];

#[test]
fn the_idle_timeout_and_a_shutdown_end_it_with_a_goodbye() {
    for (callers, resting) in IDLE {
        let stage = Stage::new(&format!("{callers}idle_timeout = \"2s\"\n"));
        let mut session = stage.open(false);
        session.get("/");
        assert_eq!(session.end(), End::InOrder);
        until("none to be left", || (status(&stage.segue, "connections") == 0).then_some(()));

        let stage = Stage::new(&format!("shutdown_grace = \"120s\"\n{callers}"));
        let mut sessions = [stage.open(false), stage.open(true)];
        for session in &mut sessions {
            session.get("/");
        }
        stage.await_rest(resting);
        let _busy = Wire::sent(stage.segue.address, request("/slow"));
        until("it to be in flight", || (stage.segue.service()["in_flight"] == 1).then_some(()));
        stage.segue.signal("TERM");
        // The process itself waits for what is in flight.
        for session in &mut sessions {
            assert_eq!(session.end(), End::InOrder);
        }
    }
}

#[test]
fn an_upgrade_refuses_none_that_is_idle() {
    for (callers, resting) in IDLE {
        let mut stage = Stage::new(callers);
        let [mut speaks, mut quiet] = [stage.open(false), stage.open(false)];
        stage.await_rest(resting);
        let mut predecessor = stage.segue.upgrade();
        speaks.send(&request("/last"));
        assert_eq!(speaks.answer(), ("/last".to_owned(), true));
        assert_eq!((speaks.end(), quiet.end()), (End::InOrder, End::InOrder));
        assert!(predecessor.wait().success(), "{}", predecessor.log());
        stage.open(false).get("/successor");
    }
}

/// What is sent at any moment around going to rest, in any pieces, is answered once and in order.
#[test]
fn nothing_is_lost_between_waking_and_resting() {
    const COUNT: usize = 60;
    const ROUNDS: usize = 8;
    let stage = Stage::new(EAGER);
    let mut sessions: Vec<Session> = (0..COUNT).map(|number| stage.open(number % 3 == 0)).collect();
    let mut sent = 0;
    for round in 0..ROUNDS {
        let mut expected = vec![Vec::new(); COUNT];
        for (number, session) in sessions.iter_mut().enumerate() {
            let mut records = Vec::new();
            for nth in 0..fastrand::usize(1..4) {
                let path = format!("/{round}/{number}/{nth}");
                records.extend(session.records(&request(&path)));
                expected[number].push(path);
                if fastrand::u8(..4) == 0 {
                    session.tls.refresh_traffic_keys().unwrap_or_default();
                }
            }
            let (first, second) = records.split_at(fastrand::usize(..=records.len()));
            session.socket.write_all(first).unwrap();
            // All together takes the time within which those of the last round go to rest.
            std::thread::sleep(Duration::from_micros(fastrand::u64(..10_000)));
            session.socket.write_all(second).unwrap();
        }
        for (session, paths) in sessions.iter_mut().zip(expected) {
            sent += paths.len();
            for path in paths {
                assert_eq!(session.answer(), (path, false));
            }
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(200..450)));
    }
    assert_eq!(stage.origin.heard().len(), sent, "each once");
}
