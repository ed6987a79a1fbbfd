//! A caller that keeps its connection, and knows that an answer to HEAD has no body.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{Answer, PATIENCE, read_answer};

/// One request, as a caller writes it.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: String,
    /// Without Host and Content-Length, which are added.
    pub headers: Vec<(String, String)>,
    /// `None` = no body, and no length is sent.
    pub body: Option<Vec<u8>>,
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: None }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn carrying(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        if kind.is_empty() { self } else { self.with("content-type", kind) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: shop.example:8080\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            write!(bytes, "{name}: {value}\r\n").unwrap();
        }
        if let Some(body) = &self.body {
            write!(bytes, "content-length: {}\r\n", body.len()).unwrap();
        }
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// A connection to one address, opened again when it was closed between two requests.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    pub fn ask(&mut self, ask: &Ask) -> Answer {
        let mut stream = self.stream.take().unwrap_or_else(|| connect(self.address));
        let asked = stream.write_all(&ask.bytes()).and_then(|()| {
            if ask.method == "HEAD" { read_head(&mut stream) } else { read_answer(&mut stream) }
        });
        let answer = asked.unwrap_or_else(|error| panic!("{} {}: {error}", ask.method, ask.target));
        if answer.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        answer
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.ask(&Ask::get(target))
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {head}")))?;
    Ok(Answer { status, head, body: Vec::new() })
}
