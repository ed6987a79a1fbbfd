//! What the gates judge by: plain numbers, collected by whoever asks for a verdict.

use std::time::Duration;

use crate::instance::{Allocation, InstanceId};

/// Everything known at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The shadow that is to become active, as it is now.
    pub shadow: Subject,
    pub observed: Observed,
    pub sizing: Sizing,
    /// `None` = nothing is replicated by Segue.
    pub replication: Option<Replication>,
    pub pause: Pause,
}

/// An instance at one size. What was measured of another one, or before a resize, says nothing about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub instance: InstanceId,
    /// How often its allocation was changed so far.
    pub resizes: u32,
}

/// What was measured, and of whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub of: Subject,
    /// `None` = there is no suite of checks.
    pub health: Option<Health>,
    pub pairs: Pairs,
    /// Of the pairs that both sides answered to the last byte.
    pub source: Quantiles,
    pub shadow: Quantiles,
    /// Of the shadow, the oldest first.
    pub intervals: Vec<Interval>,
}

/// The recent runs of the suite of checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub runs: u64,
    /// Of the runs: at least one check failed.
    pub failed: u64,
    /// Good runs since the last failed one.
    pub good_in_a_row: u64,
    pub last_failure: Option<String>,
}

/// Counts of pairs. One pair may be in several of them. Of the two counts of errors only the difference is judged, so
/// that pairs in which both sides erred may stand in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Both sides were asked.
    pub asked: u64,
    /// Both answered to the end, and the answers could be held against each other.
    pub compared: u64,
    /// Of those compared: the answers differ.
    pub mismatched: u64,
    /// The shadow answered 5xx or not at all where the source answered well.
    pub shadow_errors: u64,
    /// The other way round.
    pub source_errors: u64,
    /// The caller left or the source broke off: nothing can be learned of the shadow.
    pub aborted: u64,
}

/// How long answers took, to the last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    pub count: u64,
    pub p50: Quantile,
    pub p90: Quantile,
    pub p99: Quantile,
}

/// A quantile of a sample, and the two values that the true one lies between but for bad luck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantile {
    pub low: Duration,
    pub seen: Duration,
    pub high: Duration,
}

/// How far luck may carry a quantile, in standard deviations of its rank: one in 740 is beyond, each way, where answers
/// do not depend on each other. They do (a scheduler's turn, a burst), so that fewer would not be enough.
const SIGMAS: f64 = 3.0;

/// The shadow's pairs of one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub count: u64,
    pub p50: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizing {
    /// That it is to serve with; `None` = not known yet.
    pub wanted: Option<Allocation>,
    /// That it has; `None` = its provider cannot say.
    pub granted: Option<Allocation>,
    /// Why the last attempt to bring it there failed.
    pub refused: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// How far the shadow is behind.
    pub lag: Duration,
    /// What is on its side was read back and is the source's.
    pub verified: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// An upper bound; `None` = not enough is known, see [`predict_pause`](super::predict_pause).
    pub predicted: Option<Duration>,
    pub budget: Duration,
}

impl Pairs {
    /// In which the shadow could have erred.
    pub(super) const fn telling(&self) -> u64 {
        self.asked.saturating_sub(self.aborted)
    }
}

impl Quantiles {
    /// Of `count` answers, of which `at` gives the quantiles, from 0 to 1.
    pub fn of(count: u64, at: impl Fn(f64) -> Duration) -> Self {
        // The number of answers below the true quantile is binomial: David & Nagaraja, Order Statistics, § 7.1.
        let about = |quantile: f64| {
            let reach = SIGMAS * (quantile * (1.0 - quantile) / count.max(1) as f64).sqrt();
            Quantile {
                low: at((quantile - reach).max(0.0)),
                seen: at(quantile),
                high: at((quantile + reach).min(1.0)),
            }
        };
        Self { count, p50: about(0.5), p90: about(0.9), p99: about(0.99) }
    }
}

impl Evidence {
    /// Whether what was observed is of the instance that is to be judged, at the size that it has.
    pub(super) fn is_pinned(&self) -> bool {
        self.observed.of == self.shadow
    }
}
