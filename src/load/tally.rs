//! Counting a run: live, for whoever watches, and whole, as its report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::client::{Fault, Request};
use super::lanes::Due;

/// Failures that are described; the others are only counted.
const DESCRIBED: usize = 20;
/// Latency is kept in microseconds up to this; longer ones count as this long.
const LONGEST: Duration = Duration::from_hours(1);

/// Counts of a load under way.
#[derive(Debug)]
pub struct Live {
    sent: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    writes: AtomicU64,
    interval: Mutex<Histogram<u64>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            interval: Mutex::new(empty()),
        }
    }
}

impl Live {
    /// Requests that came due and went to work, writes among them.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests that are over, failed or not.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Latencies in microseconds since the last call; starts over.
    pub fn take_interval(&self) -> Histogram<u64> {
        std::mem::replace(&mut self.interval.lock().unwrap_or_else(PoisonError::into_inner), empty())
    }
}

fn empty() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are allowed"));
    histogram.auto(true);
    histogram
}

fn record(histogram: &mut Histogram<u64>, micros: u64) {
    // It grows as far as `LONGEST` needs, so nothing is refused.
    let _ = histogram.record(micros);
}

/// What a run did and met.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// `reads + writes`; each of them is over.
    pub sent: u64,
    pub failed: u64,
    pub reads: u64,
    pub writes: u64,
    /// Numbers of the writes that were answered with success; [`LoadReport::key`] names their keys.
    pub acknowledged: Vec<u64>,
    /// Numbers of the writes that failed: whether they were taken is not known here.
    pub uncertain: Vec<u64>,
    /// Microseconds from due to last byte, of the requests that did not fail.
    pub latency: Histogram<u64>,
    pub slowest: Option<Slowest>,
    /// The first few.
    pub failures: Vec<Failure>,
    /// From the first request's being due to the last one's end.
    pub elapsed: Duration,
    /// Tells this run's keys from those of any other.
    run: u64,
}

impl LoadReport {
    /// The key in the ledger of a write.
    pub fn key(&self, number: u64) -> String {
        key(self.run, number)
    }
}

pub(super) fn key(run: u64, number: u64) -> String {
    format!("w{run:016x}-{number}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slowest {
    pub latency: Duration,
    /// When it was due, from the start of the run.
    pub due: Duration,
    /// Such as `GET /item/7`.
    pub request: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was due, from the start of the run.
    pub due: Duration,
    /// Such as `POST /ledger/w0123-7`.
    pub request: String,
    pub reason: String,
}

/// The report in the making. One thread writes it.
pub(super) struct Tally {
    report: LoadReport,
    start: Instant,
    live: Arc<Live>,
}

impl Tally {
    pub fn new(run: u64, start: Instant, live: Arc<Live>) -> Self {
        let report = LoadReport {
            sent: 0,
            failed: 0,
            reads: 0,
            writes: 0,
            acknowledged: Vec::new(),
            uncertain: Vec::new(),
            latency: empty(),
            slowest: None,
            failures: Vec::new(),
            elapsed: Duration::ZERO,
            run,
        };
        Self { report, start, live }
    }

    pub fn begin(&mut self, request: &Request) {
        self.report.sent += 1;
        if request.write.is_some() {
            self.report.writes += 1;
        } else {
            self.report.reads += 1;
        }
        self.live.sent.store(self.report.sent, Ordering::Relaxed);
        self.live.writes.store(self.report.writes, Ordering::Relaxed);
    }

    pub fn end(&mut self, due: &Due, request: &Request, outcome: Result<(), Fault>, now: Instant) {
        let after_start = due.at.saturating_duration_since(self.start);
        match outcome {
            Ok(()) => {
                if let Some(number) = request.write {
                    self.report.acknowledged.push(number);
                }
                let latency = now.saturating_duration_since(due.at);
                let micros = latency.min(LONGEST).as_micros() as u64;
                record(&mut self.report.latency, micros);
                record(&mut self.live.interval.lock().unwrap_or_else(PoisonError::into_inner), micros);
                if self.report.slowest.as_ref().is_none_or(|slowest| slowest.latency < latency) {
                    self.report.slowest =
                        Some(Slowest { latency, due: after_start, request: request.to_string() });
                }
            }
            Err(fault) => {
                self.report.failed += 1;
                if let Some(number) = request.write {
                    self.report.uncertain.push(number);
                }
                if self.report.failures.len() < DESCRIBED {
                    let (request, reason) = (request.to_string(), fault.to_string());
                    self.report.failures.push(Failure { due: after_start, request, reason });
                }
            }
        }
        self.live.failed.store(self.report.failed, Ordering::Relaxed);
        self.live.done.fetch_add(1, Ordering::Relaxed);
    }

    pub fn finish(mut self, now: Instant) -> LoadReport {
        self.report.elapsed = now.saturating_duration_since(self.start);
        self.report
    }
}
