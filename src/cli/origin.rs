//! `segue origin`: the sample application as a process of its own.

use std::io;
use std::net::ToSocketAddrs as _;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Address, ByteSize};
use crate::origin::{self, Delay, Fault, LedgerFile, Origin, OriginError, OriginSettings};

/// Serve the sample application.
#[derive(Args, Debug)]
pub struct OriginArgs {
    /// Where to listen: HOST:PORT (port 0 takes a free one) or unix:PATH
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Address,
    /// Sent with every answer as X-Instance
    #[arg(long)]
    name: Option<String>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Time added to every answer: const:5ms, uniform:1ms..10ms, exp:5ms (mean) or
    /// lognormal:5ms,1.0 (median, sigma)
    #[arg(long, value_name = "DIST")]
    latency: Option<Delay>,
    /// Computing done for every request, in microseconds of an undisturbed core
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu_us: u64,
    /// Memory to hold, such as 256MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<ByteSize>,
    /// Something to do wrong, KIND[=ARG][@PERCENT]: hang-after-accept, hang-after-header, hang,
    /// slow=10s, extra-latency=5ms, endless-body, huge-body=1GiB, malformed, reset, truncate,
    /// error=500, wrong-body, refuse. May be given several times, and changed by PUT /__fault
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,
    /// Close each connection after this many answers
    #[arg(long, value_name = "N")]
    keep_alive_requests: Option<NonZeroU64>,
    /// Record writes in this append-only file, which instances may share, instead of in memory
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Write the ledger through to the disk before a write is answered
    #[arg(long, requires = "ledger")]
    ledger_fsync: bool,
    /// How long SIGTERM waits for what is in flight
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    grace: Duration,
    /// Of the random latencies
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum OriginCommandError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGTERM or SIGINT, then finishes what is in flight; a second one ends it at once.
pub fn run(args: OriginArgs) -> Result<(), OriginCommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(OriginCommandError::Signals)?;
    runtime.block_on(async {
        // Before anybody is told the address: who then sends a signal is understood.
        let mut terminate = signal(SignalKind::terminate()).map_err(OriginCommandError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(OriginCommandError::Signals)?;
        let running = Origin::start(settings(args))?;
        eprintln!("listening on {}", origin::show(running.address()));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let stopped = tokio::task::spawn_blocking(move || running.stop());
        tokio::select! {
            _ = stopped => Ok(()),
            _ = terminate.recv() => std::process::exit(1),
            _ = interrupt.recv() => std::process::exit(1),
        }
    })
}

fn settings(args: OriginArgs) -> OriginSettings {
    let usual = OriginSettings::new(args.listen);
    OriginSettings {
        name: args.name,
        workers: args.workers.unwrap_or(usual.workers),
        delay: args.latency.unwrap_or_default(),
        cpu: Duration::from_micros(args.cpu_us),
        memory: args.memory.unwrap_or(usual.memory),
        faults: args.fault,
        keep_alive_requests: args.keep_alive_requests,
        ledger: args.ledger.map(|path| LedgerFile { path, sync: args.ledger_fsync }),
        grace: args.grace,
        seed: args.seed,
        ..usual
    }
}

fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::Unix(path.into()));
    }
    let mut found =
        text.to_socket_addrs().map_err(|error| format!("{error}; write HOST:PORT or unix:PATH"))?;
    found.next().map(Address::Tcp).ok_or_else(|| "the host has no address".to_owned())
}

fn size(text: &str) -> Result<ByteSize, String> {
    origin::parse_size(text).ok_or_else(|| "write a size such as 64KiB, 256MiB or 1GiB".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    origin::parse_duration(text).ok_or_else(|| "write a time such as 500ms, 10s or 2m".to_owned())
}
