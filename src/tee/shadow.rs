//! What a service's shadow has been asked and how it answered, for all lane threads together.
//!
//! Lane threads lock it once or twice a pair; callers' paths never touch it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::compare::{Pair, RecentPairs, Verdict};
use super::plateau::Plateau;
use super::recent::RecentReads;
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
    marked_at: Option<Instant>,
    /// Retries of a pair whose connection the shadow had just closed.
    pub stale_retries: u64,
    pub pairs: RecentPairs,
    pub recent: RecentReads,
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
            marked_at: None,
            stale_retries: 0,
            pairs: RecentPairs::new(RECENT),
            recent: RecentReads::default(),
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
    /// Keeps a pair that began at `started`.
    pub fn remember(&mut self, pair: Pair, started: Instant) {
        let fresh = self.is_fresh(started);
        let verdict = pair.verdict as usize;
        if let (Some(count), Some(marked)) = (self.verdicts.get_mut(verdict), self.marked.get_mut(verdict)) {
            *count += 1;
            *marked += u64::from(!fresh);
        }
        if let Some(micros) = pair.shadow.last_byte_us.filter(|_| fresh) {
            self.plateau.record(micros);
        }
        self.pairs.push(pair);
    }

    /// Whether a pair that began at `started` is evidence: it may come in after the mark that it was before.
    pub fn is_fresh(&self, started: Instant) -> bool {
        self.marked_at.is_none_or(|marked| started >= marked)
    }

    /// What began before is no evidence any more; it goes on being counted.
    pub fn mark(&mut self, now: Instant) {
        self.marked_at = Some(now);
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::Method;

    use super::*;
    use crate::config::InstanceName;
    use crate::tee::compare::{Asked, End, Outcome, Parties, compare};

    fn pair() -> Pair {
        let asked = Asked { method: Method::GET, conditional: false, ranged: false, credentials: false };
        let parties = Parties {
            service: "web".into(),
            generation: 1,
            source_instance: InstanceName::Source,
            shadow_instance: InstanceName::Shadow,
        };
        let broke_off = Outcome::without_head(End::BrokeOff);
        let comparison = compare(&asked, &broke_off, &broke_off);
        Pair::new(SystemTime::UNIX_EPOCH, parties, &asked, "/", &broke_off, &broke_off, comparison)
    }

    #[test]
    fn a_pair_that_ends_after_a_mark_is_evidence_only_if_it_began_after_it() {
        let records = ShadowRecords::default();
        let mut records = records.lock();
        let before = Instant::now();
        let marked = before + Duration::from_millis(1);
        records.mark(marked);
        records.remember(pair(), before);
        assert_eq!(records.verdicts.iter().sum::<u64>(), 1);
        assert_eq!(records.verdicts_since_mark().iter().sum::<u64>(), 0);
        records.remember(pair(), marked);
        assert_eq!(records.verdicts.iter().sum::<u64>(), 2);
        assert_eq!(records.verdicts_since_mark().iter().sum::<u64>(), 1);
    }
}
