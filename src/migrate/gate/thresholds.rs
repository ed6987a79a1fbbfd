//! Where the gates draw their lines, and why there.

use std::time::Duration;

use crate::config::Migration;

/// Answers without which a p99 speaks against nobody: of fewer, those that a single stall held up, one for each of twenty
/// connections, are more than 1 %.
pub const LEAST_FOR_P99: u64 = 2_000;

/// See [`Thresholds::default`] for the reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Pairs before comparison, errors or latency may pass.
    pub min_pairs: u64,
    /// Of the compared pairs, as a share.
    pub max_mismatched: f64,
    /// By how much the shadow's share of errors may exceed the source's.
    pub max_error_excess: f64,
    /// Mismatches, or errors of its own, after which a shadow beyond a share above fails without the minimum
    /// sample.
    pub hopeless: u64,
    pub p50: Margin,
    pub p90: Margin,
    pub p99: Margin,
    /// Good runs of the checks in a row.
    pub min_good_runs: u64,
    /// Intervals that are looked at for a plateau; even.
    pub warm_intervals: usize,
    /// Pairs that make an interval count.
    pub min_interval_pairs: u64,
    /// By how much its median may still fall from the older half of these intervals to the newer one.
    pub warm: Margin,
    pub max_replication_lag: Duration,
}

/// A shadow is beyond it when it is slower both by the ratio and by the floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    pub ratio: f64,
    /// A smaller difference never decides.
    pub floor: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            // Three pairs lie above a p99 then, and a shadow that errs in 1 % shows an error with 95 %.
            min_pairs: 300,
            // One of 300 may be a clock or an id; a fault planted in 1 % of the answers is beyond it.
            max_mismatched: 0.005,
            // The margin that errors are to be judged by once there is a confidence.
            max_error_excess: 0.005,
            // In 300 pairs at the permitted 0.5 %, twenty are all but impossible (expected are 1.5).
            hopeless: 20,
            // Callers feel a quarter more; below 200 µs a wake-up and a loopback round trip are measured.
            p50: Margin { ratio: 1.25, floor: Duration::from_micros(200) },
            // The tail of a few hundred pairs is coarser, and a busy core delays by a scheduler's turn: about 1 ms.
            p90: Margin { ratio: 1.35, floor: Duration::from_millis(1) },
            // Three pairs decide it at the minimum sample; two turns in a row are no fault of the shadow's.
            p99: Margin { ratio: 1.5, floor: Duration::from_millis(2) },
            // One may be luck between two crashes; three at the usual 5 s are a quarter of a minute.
            min_good_runs: 3,
            // Two against two, so that a single noisy interval does not make a plateau.
            warm_intervals: 4,
            // A median of fewer moves by more than the 10 % that are looked for.
            min_interval_pairs: 20,
            // Caches fill by factors; a tenth is noise between neighbouring intervals.
            warm: Margin { ratio: 1.1, floor: Duration::from_micros(200) },
            // What is behind is sent inside the pause, and a second of it is a pause's whole budget with a database.
            max_replication_lag: Duration::from_secs(1),
        }
    }
}

/// What a service's settings say, and the defaults.
impl From<&Migration> for Thresholds {
    fn from(settings: &Migration) -> Self {
        Self { min_pairs: settings.min_pairs, ..Self::default() }
    }
}

impl Margin {
    /// Whether `slower` is beyond `faster` by more than this.
    pub(super) fn is_exceeded(&self, faster: Duration, slower: Duration) -> bool {
        let beyond_ratio = slower.as_secs_f64() > faster.as_secs_f64() * self.ratio;
        beyond_ratio && slower.saturating_sub(faster) > self.floor
    }
}
