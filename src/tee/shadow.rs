//! What a service's shadow has been asked and how it answered, for all lane threads together.
//!
//! Lane threads lock it once or twice a pair; callers' paths never touch it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::compare::{Pair, RecentPairs, Verdict};
use super::plateau::Plateau;
use super::skip::TeeCounts;
use crate::record::{Recorder, Totals};

/// Mismatches kept for people to look at, and as many other pairs.
const RECENT: usize = 256;

#[derive(Debug)]
pub struct ShadowRecords(Mutex<Inner>);

#[derive(Debug)]
pub struct Inner {
    pub counts: TeeCounts,
    /// The same for reads that could be told only from their body: another denominator.
    pub by_body: TeeCounts,
    pub verdicts: [u64; Verdict::ALL.len()],
    /// What `verdicts` were at the last mark.
    marked: [u64; Verdict::ALL.len()],
    /// Retries of a pair whose connection the shadow had just closed.
    pub stale_retries: u64,
    pub pairs: RecentPairs,
    /// Since the last mark.
    pub plateau: Plateau,
    /// Both sides of the same pairs: what a comparison of latencies may rest on.
    pub recorder: Recorder,
    totals: Totals,
}

impl Default for ShadowRecords {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            counts: TeeCounts::default(),
            by_body: TeeCounts::default(),
            verdicts: [0; Verdict::ALL.len()],
            marked: [0; Verdict::ALL.len()],
            stale_retries: 0,
            pairs: RecentPairs::new(RECENT),
            plateau: Plateau::default(),
            recorder: Recorder::default(),
            totals: Totals::default(),
        }))
    }
}

impl ShadowRecords {
    /// A panic elsewhere leaves counters that are at worst one pair short.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub fn remember(&mut self, pair: Pair) {
        if let Some(count) = self.verdicts.get_mut(pair.verdict as usize) {
            *count += 1;
        }
        if let Some(micros) = pair.shadow.last_byte_us {
            self.plateau.record(micros);
        }
        self.pairs.push(pair);
    }

    /// What was recorded before is no evidence any more; it goes on being counted.
    pub fn mark(&mut self) {
        self.totals();
        self.totals.mark();
        self.marked = self.verdicts;
        self.plateau.clear();
    }

    pub fn verdicts_since_mark(&self) -> [u64; Verdict::ALL.len()] {
        let mut since = self.verdicts;
        since.iter_mut().zip(self.marked).for_each(|(now, then)| *now -= then);
        since
    }

    /// Everything recorded so far.
    pub fn totals(&mut self) -> &Totals {
        if let Some(interval) = self.recorder.take_interval() {
            self.totals.absorb(&interval);
        }
        &self.totals
    }

    /// Ends the interval: what was recorded since the last time is what its view shows.
    pub fn turn(&mut self) {
        self.totals();
        self.totals.turn();
    }
}
