//! An instance that remembers every request to the byte, and answers whatever it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Connections are numbered from 0, and so are the requests of each.
    pub connection: usize,
    pub place: usize,
    pub method: String,
    pub target: String,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer; `None` closes the connection without a word.
pub type Answering = dyn Fn(&Recorded) -> Option<Vec<u8>> + Send + Sync;

pub struct Recorder {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Recorded>>,
    answering: Box<Answering>,
    stopped: AtomicBool,
}

impl Recorder {
    /// Answers everything with the same few bytes.
    pub fn start() -> Self {
        Self::answering(|_| Some(ok("recorded")))
    }

    /// The same, at every address of this machine.
    pub fn everywhere() -> Self {
        Self::at("0.0.0.0:0", |_| Some(ok("recorded")))
    }

    pub fn answering(answer: impl Fn(&Recorded) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", answer)
    }

    fn at(address: &str, answer: impl Fn(&Recorded) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            answering: Box::new(answer),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(connection, stream));
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything so far, in the order in which it was complete.
    pub fn seen(&self) -> Vec<Recorded> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, connection: usize, mut stream: TcpStream) {
        let mut pending = Vec::new();
        for place in 0.. {
            let Some(request) = read_request(&mut stream, &mut pending, connection, place) else { return };
            self.seen.lock().unwrap().push(request.clone());
            let answer = (self.answering)(&request);
            let wrote = answer.map(|answer| stream.write_all(&answer));
            if !matches!(wrote, Some(Ok(()))) {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

fn read_request(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    connection: usize,
    place: usize,
) -> Option<Recorded> {
    let end = fill(stream, pending, |bytes| position(bytes, b"\r\n\r\n").map(|at| at + 4))?;
    let head = String::from_utf8_lossy(&pending[..end]).into_owned();
    pending.drain(..end);
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Recorded { connection, place, method, target, headers, body: Vec::new() };
    if let Some(length) = request.header("content-length") {
        let length: usize = length.parse().ok()?;
        fill(stream, pending, |bytes| (bytes.len() >= length).then_some(()))?;
        request.body = pending.drain(..length).collect();
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let line = fill(stream, pending, |bytes| position(bytes, b"\r\n"))?;
            let size = usize::from_str_radix(&String::from_utf8_lossy(&pending[..line]), 16).ok()?;
            let whole = line + 2 + size + 2;
            fill(stream, pending, |bytes| (bytes.len() >= whole).then_some(()))?;
            request.body.extend_from_slice(&pending[line + 2..line + 2 + size]);
            pending.drain(..whole);
            if size == 0 {
                break;
            }
        }
    }
    Some(request)
}

fn fill<T>(stream: &mut TcpStream, pending: &mut Vec<u8>, found: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(found) = found(pending) {
            return Some(found);
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => pending.extend_from_slice(&buffer[..read]),
        }
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A 200 with this text.
pub fn ok(text: &str) -> Vec<u8> {
    answer("200 OK", "content-type: text/plain\r\n", text)
}

/// `headers` are whole lines.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A head without a body or a length of its own, as a 304 or an answer to HEAD.
pub fn bare(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}\r\n").into_bytes()
}
