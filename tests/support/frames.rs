//! HTTP/2 frames by hand, for callers that no library would be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// An HTTP/2 connection with prior knowledge whose settings are exchanged.
pub struct Frames {
    pub tcp: TcpStream,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HPACK without a table and without Huffman: each field literally, not indexed.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn length(length: usize, into: &mut Vec<u8>) {
    if length < 127 {
        into.push(length as u8);
        return;
    }
    into.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        into.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    into.push(rest as u8);
}

pub fn get(path: &str) -> Vec<u8> {
    fields(&[(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "test")])
}

impl Frames {
    /// `settings`: identifier and value.
    pub fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        tcp.write_all(&frame(SETTINGS, 0, 0, &payload)).unwrap();
        tcp.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap();
        Self { tcp }
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tcp.write_all(bytes)
    }

    pub fn next(&mut self) -> std::io::Result<Frame> {
        let mut head = [0; 9];
        self.tcp.read_exact(&mut head)?;
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; size as usize];
        self.tcp.read_exact(&mut payload)?;
        if head[3] == PING && head[4] & ACK == 0 {
            // The other side waits for it before it ends a connection in order.
            let _ = self.send(&frame(PING, ACK, 0, &payload));
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind; `None` at the connection's end.
    pub fn find(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next() {
                Ok(frame) if frame.kind == kind => return Some(frame),
                Ok(_) => {}
                Err(error) => {
                    let timed_out =
                        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                    assert!(!timed_out, "neither a frame of kind {kind} nor an end");
                    return None;
                }
            }
        }
    }

    /// Sends `bytes` again and again until the other side ends the connection, or `times` are over;
    /// says how often. Reads nothing.
    pub fn flood(&mut self, times: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) -> usize {
        for n in 0..times {
            if self.send(&bytes(n)).is_err() {
                return n;
            }
        }
        times
    }

    /// Drops what comes until the end, on a thread of its own, so that the other side may write.
    pub fn drain(&self) -> std::thread::JoinHandle<Vec<u8>> {
        let mut tcp = self.tcp.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut tail = Vec::new();
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = tcp.read(&mut buffer) {
                tail.extend_from_slice(&buffer[..read]);
                let extra = tail.len().saturating_sub(64);
                tail.drain(..extra);
            }
            tail
        })
    }

    pub fn write_patience(&self, patience: Duration) {
        self.tcp.set_write_timeout(Some(patience)).unwrap();
    }
}
