//! Both ends of the wire by hand: a caller that sends exactly these bytes, and an instance that judges
//! exactly what reached it. Neither shares a parser with the product.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Answer, PATIENCE, dechunked};

// === A caller ===

pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// One connection of a caller; what it read beyond an answer belongs to the next one.
pub struct Wire {
    io: Box<dyn Duplex>,
    tcp: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    pub fn open(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        tcp.set_nodelay(true).unwrap();
        let io = Box::new(tcp.try_clone().unwrap());
        Self::over(io, tcp)
    }

    /// `io` runs over `tcp`.
    pub fn over(io: Box<dyn Duplex>, tcp: TcpStream) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { io, tcp, unread: Vec::new() }
    }

    pub fn sent(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut wire = Self::open(address);
        wire.send(bytes);
        wire
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.io.write_all(bytes.as_ref())?;
        self.io.flush()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    /// `GET path` on this connection, which stays open.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        self.answer()
    }

    pub fn try_answer(&mut self) -> std::io::Result<Answer> {
        self.read_answer(false)
    }

    pub fn answer(&mut self) -> Answer {
        self.try_answer().unwrap()
    }

    /// An answer to HEAD has a length and no body.
    pub fn answer_to_head(&mut self) -> Answer {
        self.read_answer(true).unwrap()
    }

    fn read_answer(&mut self, to_head: bool) -> std::io::Result<Answer> {
        let end = self.read_until(b"\r\n\r\n")?;
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {head:?}")))?;
        let mut answer = Answer { status, head, body: Vec::new() };
        if to_head || matches!(status, 100..200 | 204 | 304) {
            return Ok(answer);
        }
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().map_err(std::io::Error::other)?;
            while self.unread.len() < length {
                self.more()?;
            }
            answer.body = self.unread.drain(..length).collect();
        } else if answer.header("transfer-encoding").is_some() {
            let end = loop {
                if let Some(end) = chunked_end(&self.unread) {
                    break end;
                }
                self.more()?;
            };
            let raw: Vec<u8> = self.unread.drain(..end).collect();
            answer.body = dechunked(&raw);
        } else {
            while self.more().is_ok() {}
            answer.body = std::mem::take(&mut self.unread);
        }
        Ok(answer)
    }

    /// Reads until `mark` has come, and says where it ends.
    pub fn read_until(&mut self, mark: &[u8]) -> std::io::Result<usize> {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                return Ok(at + mark.len());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.io.read(&mut buffer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }

    /// Everything until the other side closes or resets the connection; panics if it does neither.
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    panic!("the connection was left open")
                }
                Err(_) => return std::mem::take(&mut self.unread),
            }
        }
    }

    /// Nothing more came, and the connection is over.
    pub fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "instead of an end: {:?}", String::from_utf8_lossy(&rest));
    }

    /// No byte came within `quiet`, and the connection is open.
    pub fn is_silent(&mut self, quiet: Duration) -> bool {
        if !self.unread.is_empty() {
            return false;
        }
        self.tcp.set_read_timeout(Some(quiet)).unwrap();
        let more = self.more();
        self.tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        more.is_err_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        })
    }

    pub fn shut_write(&self) {
        self.tcp.shutdown(Shutdown::Write).unwrap();
    }

    /// The stream itself, when it is no longer HTTP.
    pub fn into_inner(self) -> Box<dyn Duplex> {
        self.io
    }

    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }
}

/// Where a chunked body ends, trailers included.
fn chunked_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = at + bytes.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
        let size = String::from_utf8_lossy(&bytes[at..line]);
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at = line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
    }
    loop {
        let line = at + bytes.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
        let is_last = line == at;
        at = line + 2;
        if is_last {
            return Some(at);
        }
    }
}

// === An instance ===

/// One request that reached the instance whole.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which connection of the instance it came on, from 0.
    pub connection: usize,
    /// Which request of that connection it is, from 0.
    pub nth: usize,
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Heard {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }
}

pub enum Reply {
    Send(Vec<u8>),
    SendAndClose(Vec<u8>),
    /// Close without a word.
    Close,
}

impl Reply {
    pub fn ok(body: &str) -> Self {
        Self::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into())
    }
}

#[derive(Default)]
struct Notes {
    heard: Mutex<Vec<Heard>>,
    faults: Mutex<Vec<String>>,
    broken_off: AtomicUsize,
    connections: AtomicUsize,
}

/// An instance that accepts nothing but well-formed HTTP/1.1 with exactly one framing, and remembers it.
pub struct RawOrigin {
    pub address: SocketAddr,
    notes: Arc<Notes>,
}

impl RawOrigin {
    /// Answers everything with 200.
    pub fn start() -> Self {
        Self::answering(|_| Reply::ok("ok"))
    }

    pub fn answering(answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::by_hand_with_notes(move |stream, connection, notes| {
            serve(stream, connection, notes, &*answer);
        })
    }

    /// Each connection is `serve`'s, on a thread of its own.
    pub fn by_hand(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::by_hand_with_notes(move |stream, connection, _| serve(stream, connection))
    }

    fn by_hand_with_notes(serve: impl Fn(TcpStream, usize, &Notes) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::<Notes>::default();
        let (for_threads, serve) = (Arc::clone(&notes), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (notes, serve) = (Arc::clone(&for_threads), Arc::clone(&serve));
                let connection = notes.connections.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || serve(stream, connection, &notes));
            }
        });
        Self { address, notes }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.notes.heard.lock().unwrap().clone()
    }

    /// What was heard since the last call.
    pub fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.notes.heard.lock().unwrap())
    }

    pub fn connections(&self) -> usize {
        self.notes.connections.load(Ordering::Relaxed)
    }

    /// Requests whose connection ended before they did.
    pub fn broken_off(&self) -> usize {
        self.notes.broken_off.load(Ordering::Relaxed)
    }

    /// What a strict server would have refused.
    pub fn faults(&self) -> Vec<String> {
        self.notes.faults.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, connection: usize, notes: &Notes, answer: &dyn Fn(&Heard) -> Reply) {
    let mut unread = Vec::new();
    for nth in 0.. {
        let heard = match read_request(&mut stream, &mut unread, connection, nth) {
            Ok(heard) => heard,
            Err(Ended::Between) => return,
            Err(Ended::Inside) => {
                notes.broken_off.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(Ended::Fault(fault)) => {
                notes.faults.lock().unwrap().push(fault);
                return;
            }
        };
        notes.heard.lock().unwrap().push(heard.clone());
        match answer(&heard) {
            Reply::Send(bytes) if stream.write_all(&bytes).is_ok() => {}
            Reply::SendAndClose(bytes) => {
                let _ = stream.write_all(&bytes);
                return;
            }
            Reply::Send(_) | Reply::Close => return,
        }
    }
}

enum Ended {
    Between,
    Inside,
    Fault(String),
}

fn read_request(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    connection: usize,
    nth: usize,
) -> Result<Heard, Ended> {
    let end = loop {
        if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let empty = unread.is_empty();
        more(stream, unread).map_err(|_| if empty { Ended::Between } else { Ended::Inside })?;
    };
    let head: Vec<u8> = unread.drain(..end).collect();
    let head = judge_head(&head)
        .map_err(|fault| Ended::Fault(format!("{fault}: {:?}", String::from_utf8_lossy(&head))))?;
    let mut heard = Heard { connection, nth, head, body: Vec::new(), trailers: String::new() };
    if let Some(length) = heard.header("content-length") {
        let length = length.parse::<usize>().map_err(|_| Ended::Fault(format!("length {length:?}")))?;
        while unread.len() < length {
            more(stream, unread).map_err(|_| Ended::Inside)?;
        }
        heard.body = unread.drain(..length).collect();
    } else if heard.header("transfer-encoding").is_some() {
        loop {
            let line = read_line(stream, unread)?;
            let size =
                usize::from_str_radix(&line, 16).map_err(|_| Ended::Fault(format!("chunk size {line:?}")))?;
            if size == 0 {
                break;
            }
            while unread.len() < size + 2 {
                more(stream, unread).map_err(|_| Ended::Inside)?;
            }
            heard.body.extend(unread.drain(..size));
            if unread.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                return Err(Ended::Fault("a chunk does not end where it says".into()));
            }
        }
        loop {
            match read_line(stream, unread)?.as_str() {
                "" => break,
                line => {
                    heard.trailers.push_str(line);
                    heard.trailers.push('\n');
                }
            }
        }
    }
    Ok(heard)
}

fn read_line(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<String, Ended> {
    let end = loop {
        if let Some(at) = unread.windows(2).position(|window| window == b"\r\n") {
            break at;
        }
        more(stream, unread).map_err(|_| Ended::Inside)?;
    };
    let line = String::from_utf8_lossy(&unread[..end]).into_owned();
    unread.drain(..end + 2);
    Ok(line)
}

fn more(stream: &mut TcpStream, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        read => {
            into.extend_from_slice(&buffer[..read]);
            Ok(())
        }
    }
}

/// RFC 9112, and nothing that it merely tolerates.
fn judge_head(head: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "not UTF-8")?;
    let text = text.strip_suffix("\r\n\r\n").ok_or("no end")?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("a request line that is not three words");
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("a method that is no token");
    }
    if !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) {
        return Err("a target that is not in origin form");
    }
    if version != "HTTP/1.1" || line.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("a bad request line");
    }
    let (mut hosts, mut lengths, mut codings) = (0, 0, 0);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err("a header name that is no token");
        }
        if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
            return Err("a control character in a header");
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" => {
                lengths += 1;
                if value.trim().is_empty() || !value.trim().bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err("a length that is no number");
                }
            }
            "transfer-encoding" => {
                codings += 1;
                if value.trim() != "chunked" {
                    return Err("a coding that is not chunked");
                }
            }
            _ => {}
        }
    }
    match (hosts, lengths + codings) {
        (1, 0 | 1) => Ok(head_text(head)),
        (1, _) => Err("two framings"),
        _ => Err("not exactly one Host"),
    }
}

fn head_text(head: &[u8]) -> String {
    String::from_utf8_lossy(head).into_owned()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
