//! Open-loop load: requests go out when they are due, whether or not earlier ones have come back.
//!
//! Real callers do not wait for each other. A generator that does (a closed loop) sends less the
//! moment the service stalls, and so measures the stall once instead of once for every caller that
//! would have met it. Here latency runs from the moment a request was *due*, through any wait for a
//! connection, to the last byte of its answer.
//!
//! ```text
//! arrivals (pure) ─ pacer thread: sleeps until due ─ queue ─ lanes, one exchange each ─ tally
//! ```
//!
//! Every write has a key of its own, so that afterwards [`audit()`] can hold the application's ledger
//! against what was acknowledged. Nothing that may have reached the other side is ever sent again: a
//! kept-alive connection that closes under a request is a failed request. Only a request that
//! provably never left, because its connection had been closed while resting, goes to a new one.

mod arrivals;
mod audit;
mod client;
mod lanes;
mod tally;

use std::num::NonZeroU64;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

pub use audit::{Audit, audit};
pub use tally::{Failure, Live, LoadReport, Slowest};

use crate::config::{Endpoint, Scheme};
use arrivals::Arrivals;
use lanes::Due;

/// Of the pacer's sleep. The kernel's usual 50 µs would show in the latency of a fast service.
const TIMER_SLACK_NANOSECONDS: NonZeroU64 = NonZeroU64::new(1_000).unwrap();

#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// `http` is HTTP/1.1 with keep-alive, `h2c` HTTP/2 with prior knowledge.
    pub target: Endpoint,
    /// Sent as Host; the target's own name unless set.
    pub host: Option<String>,
    /// The mean of the Poisson arrivals.
    pub rate_per_second: f64,
    /// `None` = until [`Load::stop`].
    pub duration: Option<Duration>,
    /// Beyond it requests wait for a connection, and their latency says so.
    pub max_connections: usize,
    /// Share of requests that are writes, from 0 to 1.
    pub write_share: f64,
    pub reads: Reads,
    /// Of the arrivals and of what they ask.
    pub seed: u64,
    /// A request fails when its answer is not complete so long after it was sent.
    pub answer_timeout: Duration,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Deterministic endpoints of the sample application; a wrong byte in an answer is a failure.
    Sample,
    /// Any of these, evenly; only the status and the end of the body are checked.
    Paths(Vec<String>),
}

impl LoadSettings {
    pub fn new(target: Endpoint, rate_per_second: f64) -> Self {
        Self {
            target,
            host: None,
            rate_per_second,
            duration: None,
            max_connections: 256,
            write_share: 0.1,
            reads: Reads::Sample,
            seed: 1,
            answer_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot send {0} requests a second; the rate must be above 0")]
    Rate(f64),
    #[error("a share of writes of {0} makes no sense; write 0 to 1")]
    WriteShare(f64),
    #[error("cannot load an https endpoint; use its http or h2c one")]
    Https,
    #[error("no path to read, or no connection to read it over; give at least one of each")]
    Nothing,
    #[error("cannot start the load: {0}")]
    Start(std::io::Error),
    #[error("the load ended without a report; its thread has said why")]
    Died,
}

/// A load under way. Dropping it stops it, and loses its report.
pub struct Load {
    live: Arc<Live>,
    /// Closing it tells the pacer to stop.
    stop: Option<std_mpsc::Sender<()>>,
    report: oneshot::Receiver<LoadReport>,
}

impl Load {
    /// Begins at once, on two threads of its own.
    pub fn start(settings: LoadSettings) -> Result<Self, LoadError> {
        check(&settings)?;
        let (due_sender, due) = mpsc::unbounded_channel();
        let (stop, stopped) = std_mpsc::channel();
        let (report_sender, report) = oneshot::channel();
        let live = Arc::new(Live::default());
        let start = Instant::now();

        let arrivals = Arrivals::new(settings.seed, settings.rate_per_second, settings.write_share);
        let duration = settings.duration;
        let pacer = std::thread::Builder::new().name("load-pacer".into());
        pacer
            .spawn(move || pace(arrivals, start, duration, &stopped, &due_sender))
            .map_err(LoadError::Start)?;

        let (ready, is_ready) = std_mpsc::channel();
        let counters = Arc::clone(&live);
        let lanes = std::thread::Builder::new().name("load-lanes".into());
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    let report = runtime.block_on(lanes::run(settings, start, due, counters));
                    // Nobody may be waiting for it.
                    let _ = report_sender.send(report);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        };
        lanes.spawn(run).map_err(LoadError::Start)?;
        is_ready.recv().map_err(|_| LoadError::Died)?.map_err(LoadError::Start)?;
        Ok(Self { live, stop: Some(stop), report })
    }

    /// A whole run of [`LoadSettings::duration`].
    pub async fn run(settings: LoadSettings) -> Result<LoadReport, LoadError> {
        Self::start(settings)?.done().await
    }

    /// The counts so far.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Sends nothing more; what is under way comes to its end.
    pub fn stop(&mut self) {
        self.stop = None;
    }

    /// Stops, and waits for what is under way.
    pub async fn finish(mut self) -> Result<LoadReport, LoadError> {
        self.stop();
        self.done().await
    }

    /// Waits for the end of the duration, and of what is then under way.
    pub async fn done(mut self) -> Result<LoadReport, LoadError> {
        (&mut self.report).await.map_err(|_| LoadError::Died)
    }
}

fn check(settings: &LoadSettings) -> Result<(), LoadError> {
    let has_reads = match &settings.reads {
        Reads::Sample => true,
        Reads::Paths(paths) => !paths.is_empty(),
    };
    if !(settings.rate_per_second > 0.0 && settings.rate_per_second.is_finite()) {
        Err(LoadError::Rate(settings.rate_per_second))
    } else if !(0.0..=1.0).contains(&settings.write_share) {
        Err(LoadError::WriteShare(settings.write_share))
    } else if settings.target.scheme == Scheme::Https {
        Err(LoadError::Https)
    } else if settings.max_connections == 0 || !has_reads {
        Err(LoadError::Nothing)
    } else {
        Ok(())
    }
}

/// Hands each request over when it is due. A thread of its own, because the runtime's timer counts
/// in milliseconds.
fn pace(
    arrivals: Arrivals,
    start: Instant,
    duration: Option<Duration>,
    stopped: &std_mpsc::Receiver<()>,
    lanes: &mpsc::UnboundedSender<Due>,
) {
    // Without it the run is only a little less punctual.
    let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NANOSECONDS));
    for arrival in arrivals {
        if duration.is_some_and(|duration| arrival.due >= duration) {
            return;
        }
        let at = start + arrival.due;
        let gap = at.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(gap) != Err(std_mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        if lanes.send(Due { at, ask: arrival.ask }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
