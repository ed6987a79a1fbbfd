//! The open loop: requests go out when they are due, and latency runs from then, free of coordinated omission.
//!
//! [`segue::load`] does the same with everything that a test needs. It costs more for each request than a proxy does,
//! though, and this one has to share a core with the origin and still not be what is measured: one thread, bare
//! sockets, all that is due in one go.
//!
//! What is due is looked for whenever an answer comes, and every [`TICK`]: a timer set anew for each request would cost
//! the core as much as the requests do, and `epoll_wait` counts in milliseconds, which makes bursts of what was not one.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::percentiles;
use super::stalls::Stalls;
use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::machine::{self, Placing, Priority};

/// As many connections as the closed loop has: more in flight is waiting, and counted as latency.
const CONNECTIONS: usize = 64;
const REQUEST: &[u8] = b"GET /bytes/1024 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
/// Latency counts for requests that are due between these shares of the time: before them proxies open their
/// connections, and around them the measuring itself takes the load's core for a moment.
const RECORDED: (f64, f64) = (0.3, 0.9);
/// Requests that have not been answered so long after the last was due have failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Fewer requests have no p99.9.
const ENOUGH: u64 = 1000;
const EVENTS: usize = CONNECTIONS + 1;
/// How late a request may go out on an idle machine; part of its latency.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };
/// Tells the timer from a connection, whose token is its index.
const TIMER: u64 = u64::MAX;
/// More than an answer with its head.
const READ: usize = 4096;

pub struct Open(JoinHandle<Outcome<Ended>>);

impl Open {
    /// `seed`: of the arrivals, the same ones for everybody.
    pub fn start(
        port: u16,
        rate_per_second: f64,
        duration: Duration,
        placing: &Placing,
        seed: u64,
    ) -> Outcome<Self> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(port)?);
        }
        let real_time = placing.real_time;
        Ok(Self(spawn(move || {
            if real_time {
                machine::make_real_time(Priority::Measured)?;
            }
            Loop::new(connections, rate_per_second, duration)?.run(seed)
        })))
    }

    pub fn finish(self) -> Outcome<Ended> {
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
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// Indices of those with nothing in flight, the last used one at the end.
    idle: Vec<usize>,
    /// When requests were due that no connection was free for.
    waiting: VecDeque<Instant>,
    rate_per_second: f64,
    duration: Duration,
    ended: Ended,
}

/// What became of the requests.
pub struct Ended {
    /// From when each was due to when it had been answered.
    answered: Vec<Range<Instant>>,
    failed: usize,
    /// Requests that were due then count.
    recorded: Range<Instant>,
}

// === impl Loop ===

impl Loop {
    fn new(connections: Vec<Connection>, rate_per_second: f64, duration: Duration) -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, connection) in (0..).zip(&connections) {
            let token = epoll::EventData::new_u64(index);
            epoll::add(&epoll, &connection.socket, token, epoll::EventFlags::IN)?;
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            timer,
            idle: (0..connections.len()).rev().collect(),
            connections,
            waiting: VecDeque::new(),
            rate_per_second,
            duration,
            // With room for all: growing it would be a pause in the load.
            ended: Ended {
                answered: Vec::with_capacity((rate_per_second * duration.as_secs_f64()) as usize),
                failed: 0,
                recorded: Instant::now()..Instant::now(),
            },
        })
    }

    fn run(mut self, seed: u64) -> Outcome<Ended> {
        let Self { rate_per_second, duration, .. } = self;
        let tick = Itimerspec { it_interval: TICK, it_value: TICK };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &tick)?;
        let mut random = fastrand::Rng::with_seed(seed);
        // Exponential gaps make Poisson arrivals; 1 − x is never zero.
        let mut gap = || Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate_per_second);
        let start = Instant::now();
        let (end, last) = (start + duration, start + duration + PATIENCE);
        self.ended.recorded = start + duration.mul_f64(RECORDED.0)..start + duration.mul_f64(RECORDED.1);
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
            let ready = match epoll::wait(&self.epoll, &mut events[..], None) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter().take(ready) {
                match event.data.u64() {
                    TIMER => self.hush()?,
                    index => self.receive(index as usize)?,
                }
            }
        }
        self.ended.failed += self.in_flight() + self.waiting.len();
        Ok(self.ended)
    }

    /// A timer is ready until it has been read.
    fn hush(&self) -> Outcome<()> {
        rustix::io::read(&self.timer, &mut [0; 8])?;
        Ok(())
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
                _ => self.ended.failed += 1,
            }
        }
    }

    fn receive(&mut self, index: usize) -> Outcome<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        match connection.receive() {
            Ok(false) => {}
            Ok(true) => {
                if let Some(due) = connection.due.take()
                    && self.ended.recorded.contains(&due)
                {
                    self.ended.answered.push(due..Instant::now());
                }
                self.idle.push(index);
            }
            Err(_) => {
                // The run goes on with one fewer; the figure says so.
                self.ended.failed += usize::from(connection.due.take().is_some());
                self.idle.retain(|idle| *idle != index);
                epoll::delete(&self.epoll, &connection.socket)?;
                connection.close();
            }
        }
        Ok(())
    }
}

// === impl Ended ===

impl Ended {
    /// Of the requests that the machine did not hold up; how many those are not, and what p99.9 is with them, are figures
    /// too.
    pub fn figures(&self, stalls: Option<&Stalls>) -> Outcome<Figures> {
        let stalls = stalls.map(Stalls::with_aftermath).unwrap_or_default();
        let (mut all, mut unhindered) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
        for span in &self.answered {
            let latency = (span.end - span.start).as_micros() as u64;
            all.record(latency)?;
            if !stalls.touch(span) {
                unhindered.record(latency)?;
            }
        }
        let hindered = 1.0 - unhindered.len() as f64 / all.len() as f64;
        // Requests that met a stall far more often than it was one are themselves long enough to meet one.
        let are_slow = hindered > f64::midpoint(1.0, stalls.share_of(&self.recorded));
        let are_few = unhindered.len() < ENOUGH;
        let mut figures = percentiles(if are_slow || are_few { &all } else { &unhindered });
        figures.insert(Figure::Errors, self.failed as f64);
        if !all.is_empty() {
            figures.insert(Figure::StalledPercent, hindered * 100.0);
            figures.insert(Figure::P999OfAllMs, all.value_at_percentile(99.9) as f64 / 1e3);
        }
        Ok(figures)
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
