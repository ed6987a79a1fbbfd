//! When the machine itself stood still, or crept.
//!
//! A virtual machine's cores are taken away by its host, for milliseconds, as often as the host likes, or run at a tenth of
//! their speed for as long. One such pause in a measurement of seconds is its p99.9, whoever was being measured. A thread on
//! each core, before all that is measured, wakes often and notes when it was late: nothing that is measured can hold it up,
//! so then nothing could run. And it notes what a few thousand cycles of arithmetic took, which depends on nothing but
//! the core.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::machine::{self, Priority};

const PERIOD: Duration = Duration::from_micros(250);
/// What a timer and a switch of threads take is well below. So is what the kernel does without interruption for a proxy.
const LATE: Duration = Duration::from_micros(300);
/// Steps of arithmetic, a microsecond or so.
const STEPS: u32 = 500;
/// How often they are timed: the fastest was not interrupted.
const TRIALS: usize = 3;
/// So many times what they take on this core when it is fast: clocks that follow the temperature are well below.
const CREEPING: u32 = 2;
/// What piled up is worked off in so many times the time that it took to pile up, with a quarter of a core to spare: at
/// half of its saturation a proxy is busier than half, as it finds fewer requests at a time.
const AFTERMATH: u32 = 3;

pub struct Watch {
    is_over: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Outcome<Vec<Look>>>>,
}

/// One waking of the thread on a core.
struct Look {
    since_last: Range<Instant>,
    arithmetic: Duration,
}

/// When any of the watched cores did. In order, apart from each other.
#[derive(Default)]
pub struct Stalls(Vec<Range<Instant>>);

// === impl Watch ===

impl Watch {
    pub fn start(cores: impl IntoIterator<Item = usize>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let watch = |core| {
            let is_over = Arc::clone(&is_over);
            spawn(move || {
                machine::pin(&[core])?;
                machine::make_real_time(Priority::Watch)?;
                let mut looks = Vec::new();
                let mut last = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    sleep(PERIOD);
                    let now = Instant::now();
                    looks.push(Look { since_last: last..now, arithmetic: arithmetic() });
                    last = now;
                }
                Ok(looks)
            })
        };
        let watchers = cores.into_iter().map(watch).collect();
        Self { is_over, watchers }
    }

    pub fn finish(mut self) -> Outcome<Stalls> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for watcher in self.watchers.drain(..) {
            let looks = watcher.join().map_err(|_| "a thread that watched for stalls has died")??;
            all.extend(stalls(&looks));
        }
        Ok(Stalls(merged(all)))
    }
}

impl Drop for Watch {
    /// Where a load has failed, too.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

// === impl Stalls ===

impl Stalls {
    /// Until what had piled up was worked off, too.
    pub fn with_aftermath(&self) -> Self {
        let lasting = |stall: &Range<Instant>| stall.start..stall.end + (stall.end - stall.start) * AFTERMATH;
        Self(merged(self.0.iter().map(lasting).collect()))
    }

    /// Whether there was one at any time of this span.
    pub fn touch(&self, span: &Range<Instant>) -> bool {
        self.within(span).next().is_some()
    }

    /// How much of this span they took, as a share.
    pub fn share_of(&self, span: &Range<Instant>) -> f64 {
        let lost: Duration =
            self.within(span).map(|stall| stall.end.min(span.end) - stall.start.max(span.start)).sum();
        lost.as_secs_f64() / (span.end - span.start).as_secs_f64()
    }

    fn within(&self, span: &Range<Instant>) -> impl Iterator<Item = &Range<Instant>> {
        let from = self.0.partition_point(|stall| stall.end < span.start);
        self.0.iter().skip(from).take_while(move |stall| stall.start <= span.end)
    }
}

/// When the core of these looks stood still or crept.
fn stalls(looks: &[Look]) -> impl Iterator<Item = Range<Instant>> {
    let mut paces: Vec<_> = looks.iter().map(|look| look.arithmetic).collect();
    paces.sort_unstable();
    // Not the very fastest: a moment's boost is no measure.
    let fast = paces.get(paces.len() / 10).copied().unwrap_or_default();
    let is_stall = move |look: &&Look| {
        let passed = look.since_last.end - look.since_last.start;
        passed > PERIOD + LATE || look.arithmetic > fast * CREEPING
    };
    looks.iter().filter(is_stall).map(|look| look.since_last.clone())
}

/// What a fixed number of steps takes at the moment.
fn arithmetic() -> Duration {
    let trial = |_| {
        let start = Instant::now();
        let mut state = black_box(1_u64);
        for _ in 0..STEPS {
            state = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        black_box(state);
        start.elapsed()
    };
    (0..TRIALS).map(trial).min().unwrap_or_default()
}

fn merged(mut spans: Vec<Range<Instant>>) -> Vec<Range<Instant>> {
    spans.sort_by_key(|span| span.start);
    spans.dedup_by(|next, kept| {
        let overlaps = next.start <= kept.end;
        if overlaps {
            kept.end = kept.end.max(next.end);
        }
        overlaps
    });
    spans
}
