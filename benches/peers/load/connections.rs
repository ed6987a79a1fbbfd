//! Connections that ask once and then rest.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::tls::{TlsCaller, TlsStream};
use crate::Outcome;
use crate::scenario::Downstream;

const TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET /bytes/16 HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The end of a body of 16 bytes is all that a reader has to find.
const BODY: usize = 16;

/// Preface; empty SETTINGS; HEADERS that end stream 1: `:method GET`, `:scheme http`, `:path /`, all three from the
/// static table, and `:authority localhost`.
const REQUEST_H2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x0e\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x09localhost";
const SETTINGS: u8 = 0x4;
const SETTINGS_ACK: &[u8] = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00";
const END_STREAM: u8 = 0x1;
const FRAME_HEADER: usize = 9;

enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// As many as were opened, kept open until dropped.
pub struct Resting {
    port: u16,
    downstream: Downstream,
    caller: TlsCaller,
    held: Vec<Connection>,
}

impl Resting {
    pub fn new(port: u16, downstream: Downstream, certificate: &Path) -> Outcome<Self> {
        let caller = TlsCaller::new(certificate, port)?;
        Ok(Self { port, downstream, caller, held: Vec::new() })
    }

    /// Opens more, one after another, until there are `count`.
    pub fn grow(&mut self, count: usize) -> Outcome<()> {
        while self.held.len() < count {
            let connection =
                self.open().map_err(|error| format!("connection {}: {error}", self.held.len()))?;
            self.held.push(connection);
        }
        Ok(())
    }

    /// Connections that the other side has closed since.
    pub fn closed(&self) -> usize {
        let is_closed = |connection: &&Connection| {
            let socket = match connection {
                Connection::Plain(socket) => socket,
                Connection::Tls(stream) => &stream.sock,
            };
            let peeked = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
            matches!(peeked, Ok(0))
        };
        self.held.iter().filter(is_closed).count()
    }

    fn open(&self) -> Outcome<Connection> {
        if self.downstream == Downstream::Tls {
            let mut stream = self.caller.connect()?;
            stream.sock.set_read_timeout(Some(TIMEOUT))?;
            ask_http1(&mut stream)?;
            return Ok(Connection::Tls(Box::new(stream)));
        }
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        if self.downstream == Downstream::H2c { ask_http2(&mut stream) } else { ask_http1(&mut stream) }?;
        Ok(Connection::Plain(stream))
    }
}

fn ask_http1(stream: &mut (impl Read + Write)) -> Outcome<()> {
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let length = stream.read(&mut chunk)?;
        answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some_and(|head| answer.len() >= head + 4 + BODY) {
            return if answer.starts_with(b"HTTP/1.1 200") {
                Ok(())
            } else {
                Err("not answered by 200".into())
            };
        }
        if length == 0 {
            return Err("closed in the middle of its first answer".into());
        }
    }
}

fn ask_http2(stream: &mut (impl Read + Write)) -> Outcome<()> {
    stream.write_all(REQUEST_H2)?;
    loop {
        let mut header = [0; FRAME_HEADER];
        stream.read_exact(&mut header)?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        stream.read_exact(&mut payload)?;
        let stream_id = u32::from_be_bytes([s0, s1, s2, s3]);
        if kind == SETTINGS && flags == 0 {
            stream.write_all(SETTINGS_ACK)?;
        } else if stream_id == 1 && flags & END_STREAM != 0 {
            return Ok(());
        }
    }
}
