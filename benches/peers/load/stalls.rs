//! When the machine itself stood still.
//!
//! A virtual machine's cores are taken away by its host, for milliseconds, as often as the host likes. One such pause in
//! a measurement of seconds is its p99.9, whoever was being measured. A thread on each core, before all that is measured,
//! wakes often and notes when it was late: nothing that is measured can hold it up, so then nothing could run.

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

pub struct Watch {
    is_over: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Outcome<Vec<Range<Instant>>>>>,
}

/// In order, apart from each other.
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
                let mut stalls = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    sleep(PERIOD);
                    let now = Instant::now();
                    if now - before > PERIOD + LATE {
                        stalls.push(before..now);
                    }
                }
                Ok(stalls)
            })
        };
        let watchers = cores.into_iter().map(watch).collect();
        Self { is_over, watchers }
    }

    pub fn finish(mut self) -> Outcome<Stalls> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for watcher in self.watchers.drain(..) {
            all.extend(watcher.join().map_err(|_| "a thread that watched for stalls has died")??);
        }
        // What piled up is worked off in the same time again: an open loop leaves half of a core free.
        let all = all.into_iter().map(|stall| stall.start..stall.end + (stall.end - stall.start)).collect();
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
    /// Whether the machine stood still, or worked off what had piled up, at any time of this span.
    pub fn touch(&self, span: &Range<Instant>) -> bool {
        let begun = self.0.partition_point(|stall| stall.start <= span.end);
        self.0.get(..begun).and_then(<[_]>::last).is_some_and(|stall| stall.end >= span.start)
    }
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
