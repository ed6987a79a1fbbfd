//! Callers that take their time.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::stage::head;
use crate::support::{Answer, PATIENCE, read_answer};

/// A chunked upload under way.
pub struct Upload {
    stream: TcpStream,
    sent: Vec<u8>,
}

impl Upload {
    pub fn begin(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let head = head("POST /upload");
        stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
        let mut upload = Self { stream, sent: Vec::new() };
        upload.send(1000);
        upload
    }

    /// Sends so many bytes more.
    pub fn send(&mut self, bytes: usize) {
        let from = self.sent.len();
        self.sent.extend((from..from + bytes).map(|at| (at % 251) as u8));
        self.stream.write_all(format!("{bytes:x}\r\n").as_bytes()).unwrap();
        self.stream.write_all(&self.sent[from..]).unwrap();
        self.stream.write_all(b"\r\n").unwrap();
    }

    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Ends it; the instance has to have received exactly these bytes.
    pub fn finish(mut self) -> Answer {
        self.stream.write_all(b"0\r\n\r\n").unwrap();
        let answer = read_answer(&mut self.stream).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.head);
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(said["blake3"], blake3::hash(&self.sent).to_hex().as_str());
        answer
    }

    /// Waits for an answer without ending it.
    pub fn answer(mut self) -> std::io::Result<Answer> {
        read_answer(&mut self.stream)
    }
}

/// A request whose answer nobody reads yet.
pub fn sent(address: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes.as_ref()).unwrap();
    stream
}

pub fn sent_get(address: SocketAddr, path: &str) -> TcpStream {
    sent(address, format!("{}\r\n", head(&format!("GET {path}"))))
}

pub fn sent_post(address: SocketAddr, path: &str) -> TcpStream {
    sent(address, format!("{}content-length: 1\r\n\r\n1", head(&format!("POST {path}"))))
}

/// An HTTP/2 connection.
pub async fn http2(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}
