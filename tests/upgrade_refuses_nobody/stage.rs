//! Two instances whose answers can be held back, and Segue in front of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::{Segue, until};

/// An instance that answers a write when it is told to, and a read at once; every answer names it.
pub struct Instance {
    pub address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    held: bool,
    /// Writes that have arrived whole.
    writes: Vec<String>,
}

impl Instance {
    pub fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                // It ends when Segue closes the connection.
                std::thread::spawn(move || serve(name, &stream, &state));
            }
        });
        Self { address, state }
    }

    pub fn hold(&self) {
        self.state.0.lock().unwrap().held = true;
    }

    pub fn release(&self) {
        self.state.0.lock().unwrap().held = false;
        self.state.1.notify_all();
    }

    pub fn writes(&self) -> Vec<String> {
        self.state.0.lock().unwrap().writes.clone()
    }

    pub fn await_write(&self, path: &str) {
        until("a write to arrive", || self.writes().iter().any(|write| write == path).then_some(()));
    }
}

/// Requests without a body alone.
fn serve(name: &str, stream: &TcpStream, state: &(Mutex<State>, Condvar)) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        if request.starts_with("POST ") {
            let path = request.split(' ').nth(1)?;
            let mut held = state.0.lock().unwrap();
            held.writes.push(path.to_owned());
            while held.held {
                held = state.1.wait(held).unwrap();
            }
        }
        write!(&mut &*stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()).ok()?;
    }
}

pub struct Stage {
    pub source: Instance,
    pub shadow: Instance,
    pub segue: Segue,
}

impl Stage {
    pub fn new() -> Self {
        Self::with_park_timeout("25s")
    }

    pub fn with_park_timeout(timeout: &str) -> Self {
        let (source, shadow) = (Instance::start("source"), Instance::start("shadow"));
        let url = |of: &Instance| format!("http://{}", of.address);
        let service = format!(
            "tee = {{ percent = 0.0 }}\n[services.web.switchover]\npark_timeout = \"{timeout}\"\ndrain_timeout = \"20s\""
        );
        let rest = "workers = 2\nshutdown_grace = \"25s\"";
        let segue = Segue::with(&url(&source), Some(&url(&shadow)), &service, rest);
        Self { source, shadow, segue }
    }

    pub fn await_gate(&self, phase: &str) {
        until("the gate", || (self.segue.service()["gate"] == phase).then_some(()));
    }

    /// A switchover whose end is not waited for.
    pub fn begin_switchover(&self, body: &'static str) -> std::thread::JoinHandle<crate::support::Answer> {
        let admin = self.segue.admin;
        std::thread::spawn(move || {
            crate::support::request(
                admin,
                format!(
                    "POST /v1/services/web/switchover HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                     content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ),
            )
        })
    }
}

/// A connection that stays.
pub struct Caller(TcpStream);

impl Caller {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, method: &str, path: &str) {
        let length = if method == "POST" { "content-length: 0\r\n" } else { "" };
        write!(self.0, "{method} {path} HTTP/1.1\r\nhost: test\r\n{length}\r\n").unwrap();
    }

    pub fn answer(&mut self) -> crate::support::Answer {
        crate::support::read_answer(&mut self.0).unwrap()
    }

    /// Says that the connection was closed in order: an end, not a reset.
    pub fn await_end(&mut self) {
        assert_eq!(self.0.read(&mut [0; 1]).unwrap(), 0);
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.0
    }
}
