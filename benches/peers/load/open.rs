//! The open loop: requests go out when they are due, and latency runs from then, free of coordinated omission.
//!
//! [`segue::load`] does the same with everything that a test needs. It costs more for each request than a proxy does,
//! though, and this one has to share a core with the origin and still not be what is measured: one thread, bare
//! sockets, all that is due in one go.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};

use super::percentiles;
use crate::Outcome;
use crate::figures::{Figure, Figures};

/// As many connections as the closed loop has: more in flight is waiting, and counted as latency.
const CONNECTIONS: usize = 64;
const REQUEST: &[u8] = b"GET /bytes/1024 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
/// Latency counts for requests that are due between these shares of the time: before them proxies open their
/// connections, and around them the measuring itself takes the load's core for a moment.
const RECORDED: (f64, f64) = (0.3, 0.9);
/// Requests that have not been answered so long after the last was due have failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the arrivals: the same ones for everybody.
const SEED: u64 = 1;
const EVENTS: usize = CONNECTIONS;
/// More than an answer with its head.
const READ: usize = 4096;

pub struct Open(JoinHandle<Outcome<Figures>>);

impl Open {
    pub fn start(port: u16, rate_per_second: f64, duration: Duration) -> Outcome<Self> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(port)?);
        }
        Ok(Self(spawn(move || Loop::new(connections)?.run(rate_per_second, duration))))
    }

    pub fn finish(self) -> Outcome<Figures> {
        self.0.join().map_err(|_| "the load's thread has died")?
    }
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    /// When the request in flight was due.
    due: Option<Instant>,
}

struct Loop {
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    /// Indices of those with nothing in flight, the last used one at the end.
    idle: Vec<usize>,
    /// When requests were due that no connection was free for.
    waiting: VecDeque<Instant>,
    recorded: Range<Instant>,
    latency: Histogram<u64>,
    failed: u64,
}

// === impl Loop ===

impl Loop {
    fn new(connections: Vec<Connection>) -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, connection) in (0..).zip(&connections) {
            let token = epoll::EventData::new_u64(index);
            epoll::add(&epoll, &connection.socket, token, epoll::EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            idle: (0..connections.len()).rev().collect(),
            connections,
            waiting: VecDeque::new(),
            recorded: Instant::now()..Instant::now(),
            latency: Histogram::new(3)?,
            failed: 0,
        })
    }

    fn run(mut self, rate_per_second: f64, duration: Duration) -> Outcome<Figures> {
        // The kernel's usual 50 µs would show in the latency of a fast proxy.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000));
        let mut random = fastrand::Rng::with_seed(SEED);
        // Exponential gaps make Poisson arrivals; 1 − x is never zero.
        let mut gap = || Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate_per_second);
        let start = Instant::now();
        let (end, last) = (start + duration, start + duration + PATIENCE);
        self.recorded = start + duration.mul_f64(RECORDED.0)..start + duration.mul_f64(RECORDED.1);
        let mut next = start + gap();
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS];
        loop {
            let now = Instant::now();
            while next <= now && next < end {
                self.waiting.push_back(next);
                next += gap();
            }
            self.send_waiting();
            let is_over = next >= end && self.waiting.is_empty() && self.in_flight() == 0;
            if is_over || now >= last || self.connections.iter().all(Connection::is_gone) {
                break;
            }
            let until = if next < end { next } else { last };
            let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
            let ready = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter().take(ready) {
                self.receive(event.data.u64() as usize)?;
            }
        }
        let unanswered = self.in_flight() + self.waiting.len();
        let mut figures = percentiles(&self.latency);
        figures.insert(Figure::Errors, (self.failed + unanswered as u64) as f64);
        Ok(figures)
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().filter(|connection| connection.due.is_some()).count()
    }

    fn send_waiting(&mut self) {
        while let Some(index) = self.idle.pop() {
            let Some(due) = self.waiting.pop_front() else {
                self.idle.push(index);
                return;
            };
            let Some(connection) = self.connections.get_mut(index) else { continue };
            // Less than the send buffer, which is empty: it goes whole or the connection is over.
            match connection.socket.write(REQUEST) {
                Ok(REQUEST_LENGTH) => connection.due = Some(due),
                _ => self.failed += 1,
            }
        }
    }

    fn receive(&mut self, index: usize) -> Outcome<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        match connection.receive() {
            Ok(false) => {}
            Ok(true) => {
                if let Some(due) = connection.due.take()
                    && self.recorded.contains(&due)
                {
                    self.latency.record(due.elapsed().as_micros() as u64)?;
                }
                self.idle.push(index);
            }
            Err(_) => {
                // The run goes on with one fewer; the figure says so.
                self.failed += u64::from(connection.due.take().is_some());
                self.idle.retain(|idle| *idle != index);
                epoll::delete(&self.epoll, &connection.socket)?;
                connection.close();
            }
        }
        Ok(())
    }
}

const REQUEST_LENGTH: usize = REQUEST.len();

// === impl Connection ===

impl Connection {
    fn open(port: u16) -> Outcome<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, received: Vec::with_capacity(READ), due: None })
    }

    /// Whether the answer is complete. An error ends the connection.
    fn receive(&mut self) -> Outcome<bool> {
        let mut chunk = [0; READ];
        let length = match self.socket.read(&mut chunk) {
            Ok(0) => return Err("closed".into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.received.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let whole = whole_answer(&self.received)?;
        if whole {
            self.received.clear();
        }
        Ok(whole)
    }

    fn close(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.received = Vec::new();
    }

    /// Given up after an error: an open one has room for an answer.
    fn is_gone(&self) -> bool {
        self.received.capacity() == 0
    }
}

/// Whether these are a whole answer; an error if it is not a good one.
fn whole_answer(received: &[u8]) -> Outcome<bool> {
    let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let body = received.len() - head - 4;
    let head = str::from_utf8(received.get(..head).unwrap_or_default())?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err("not answered by 200".into());
    }
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.ok_or("an answer without a length")?.1.trim().parse()?;
    Ok(body >= length)
}
