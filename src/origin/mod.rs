//! The sample application: what the demo, the tests and the benchmarks serve from.
//!
//! It answers every kind of request that a proxy has to carry (see [`route`]'s endpoints), keeps a
//! [`ledger`] by which a lost or doubled write can be told, and does wrong on request (see [`fault`]).
//! It is also a benchmark's subject: a plain GET takes nothing that bare hyper does not take.
//!
//! ```text
//! worker ─ accepts ─ connection ─ route ─ answer ┬ at once
//!    │                   │                        └ in time (ledger, streams, websocket)
//!    └ counts: seen      └ fault, delay, burn ─ spoil
//! ```

mod answer;
mod body;
mod burn;
mod connection;
pub mod content;
mod delay;
mod fault;
mod ledger;
mod quantity;
mod route;
mod seen;
mod socket;
mod spoil;
mod streams;
mod websocket;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;

pub use delay::{Delay, DelayError};
pub use fault::{Fault, FaultError, FaultKind};
pub use ledger::Counts;
pub use seen::Seen;

use crate::config::{Address, ByteSize};
use burn::Burn;
use ledger::Ledger;
use socket::Bound;
use worker::{Phase, Shared, Signal};

/// A size as it is typed on a command line: `256MiB`.
pub fn parse_size(text: &str) -> Option<ByteSize> {
    quantity::size(text)
}

/// A duration as it is typed on a command line: `10s`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    quantity::duration(text)
}

/// How an instance behaves.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// Port 0 lets the kernel choose; see [`Running::address`].
    pub listen: Address,
    /// Sent with every answer as `X-Instance`.
    pub name: Option<String>,
    /// Threads; one for each core unless told otherwise.
    pub workers: NonZeroUsize,
    /// Added to every answer.
    pub delay: Delay,
    /// Computing done for every request, measured on this machine at start.
    pub cpu: Duration,
    /// Held, and touched once.
    pub memory: ByteSize,
    pub faults: Vec<Fault>,
    /// A connection is closed after this many answers.
    pub keep_alive_requests: Option<NonZeroU64>,
    /// Where writes are recorded; `None` = in memory.
    pub ledger: Option<LedgerFile>,
    /// How long [`Running::stop`] waits for what is in flight.
    pub grace: Duration,
    /// Of the random delays.
    pub seed: u64,
}

/// An append-only file, which instances may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerFile {
    pub path: PathBuf,
    /// `fdatasync` before a write is answered.
    pub sync: bool,
}

impl OriginSettings {
    /// An instance that does nothing odd.
    pub fn new(listen: Address) -> Self {
        Self {
            listen,
            name: None,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            delay: Delay::None,
            cpu: Duration::ZERO,
            memory: ByteSize(0),
            faults: Vec::new(),
            keep_alive_requests: None,
            ledger: None,
            grace: Duration::from_secs(10),
            seed: 0,
        }
    }

    /// The same on a free port of this machine.
    pub fn on_loopback() -> Self {
        Self::new(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error("cannot listen on {address}: {error}; choose another address, or end what holds it")]
    Listen { address: String, error: io::Error },
    #[error("cannot open the ledger {}: {error}", path.display())]
    Ledger { path: PathBuf, error: io::Error },
    #[error("the instance name {0:?} cannot be sent as a header; use letters, digits, - and _")]
    Name(String),
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    #[error("cannot put the faults in force: {0}")]
    Faults(io::Error),
}

/// The sample application.
pub struct Origin;

impl Origin {
    /// Listens and serves on threads of its own. Once it returns, connections are accepted.
    pub fn start(settings: OriginSettings) -> Result<Running, OriginError> {
        let name = settings.name;
        // A space would break the ledger's lines.
        if let Some(name) =
            name.as_ref().filter(|name| name.contains(' ') || HeaderValue::try_from(*name).is_err())
        {
            return Err(OriginError::Name(name.clone()));
        }
        let ledger = match settings.ledger {
            None => Ledger::in_memory(),
            Some(file) => Ledger::open(&file.path, name.as_deref().unwrap_or_default(), file.sync)
                .map_err(|error| OriginError::Ledger { path: file.path, error })?,
        };
        let bound = Bound::bind(&settings.listen)
            .map_err(|error| OriginError::Listen { address: show(&settings.listen), error })?;
        let workers = settings.workers.get();
        let shared = Arc::new(Shared {
            bound,
            ledger,
            faults: fault::Faults::default(),
            delay: settings.delay,
            burn: Burn::of(settings.cpu),
            keep_alive_requests: settings.keep_alive_requests,
            name,
            seed: settings.seed,
            counters: (0..workers).map(|_| Arc::default()).collect(),
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            signal: watch::Sender::new(Signal { phase: Phase::Serve, listening: true }),
            // Not zero: the kernel gives pages of zeros only when they are touched.
            _ballast: vec![1; settings.memory.as_usize()],
        });
        shared.set_faults(&settings.faults).map_err(OriginError::Faults)?;
        let threads = worker::start(&shared, settings.grace).inspect_err(|_| shared.end(Phase::Kill))?;
        Ok(Running { shared, threads })
    }
}

/// A running instance. Dropping it ends it at once, like [`Running::kill`].
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.shared.bound.address
    }

    /// Where it listens; `None` on a Unix socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self.address() {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// Writes per key so far; of all instances that share the ledger's file.
    pub fn ledger(&self) -> Result<Counts, io::Error> {
        self.shared.ledger.counts()
    }

    pub fn seen(&self) -> Seen {
        self.shared.seen()
    }

    /// Replaces all faults, as `PUT /__fault` does.
    pub fn set_faults(&self, faults: &[Fault]) -> Result<(), OriginError> {
        self.shared.set_faults(faults).map_err(OriginError::Faults)
    }

    /// Stops listening, finishes what is in flight (within the grace), and ends. Blocks until then.
    pub fn stop(mut self) {
        self.shared.end(Phase::Drain);
        self.join();
    }

    /// Ends at once; connections are cut where they stand, as if the process had died.
    pub fn kill(self) {
        drop(self);
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.end(Phase::Kill);
        self.join();
    }
}

/// An address as it is typed: `127.0.0.1:3000`, `unix:/run/app.sock`.
pub fn show(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

#[cfg(test)]
mod tests;
