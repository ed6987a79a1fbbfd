//! How long a switchover would hold callers, at most.
//!
//! The drain ends when the slowest of the requests in flight does. If `k` are in flight and each is over within a
//! quantile `q` of the source's latency with probability `q`, all are with probability `q^k`; so the quantile that is
//! taken grows with `k`, that `q^k` stays at or above 95 %. What follows the drain is added as it is bounded.
//! Provisional: requests in flight are longer than the average one, and steps that nobody has timed count with
//! their limits.

use std::time::Duration;

use crate::record::Summary;

/// A transaction of the store with its `fsync`, on a slow network disk.
pub const STORE_SWAP: Duration = Duration::from_millis(50);

/// Answers that a p99 rests on at least: one lies beyond it.
const LEAST_ANSWERS: u64 = 100;

/// What is known before the switchover.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drain {
    /// Of the source's answers to callers, recently.
    pub source: Summary,
    /// Most requests in flight at once, recently.
    pub in_flight: u64,
    /// Age of the oldest request in flight now.
    pub oldest: Duration,
    /// Bound of what follows a drain, each step: the store's swap, hooks, the last synchronisation.
    pub steps: Duration,
}

/// An upper bound, or `None` where the source has answered too little to know.
pub fn predict_pause(drain: &Drain) -> Option<Duration> {
    if drain.source.count < LEAST_ANSWERS {
        return None;
    }
    let us = match drain.in_flight {
        // 0.99^5 and 0.999^51 are 95 %.
        0..=5 => drain.source.p99,
        6..=51 => drain.source.p999,
        _ => drain.source.max,
    };
    // What is that old already has shown that it is slower than all that; it may take as long again.
    let slowest = Duration::from_micros(us).max(drain.oldest.saturating_mul(2));
    Some(slowest.saturating_add(drain.steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Summary = Summary {
        count: 1000,
        p50: 1_000,
        p90: 2_000,
        p99: 10_000,
        p999: 40_000,
        max: 90_000,
        mean: 1_500.0,
    };
    const CALM: Drain = Drain { source: SOURCE, in_flight: 1, oldest: Duration::ZERO, steps: STORE_SWAP };

    fn millis(drain: Drain) -> Option<u128> {
        predict_pause(&drain).map(|pause| pause.as_millis())
    }

    #[test]
    fn the_more_are_in_flight_the_slower_the_slowest_of_them() {
        assert_eq!(millis(CALM), Some(60));
        assert_eq!(millis(Drain { in_flight: 20, ..CALM }), Some(90));
        assert_eq!(millis(Drain { in_flight: 500, ..CALM }), Some(140));
    }

    #[test]
    fn a_request_that_hangs_and_a_hook_that_takes_long_are_in_the_bound() {
        assert_eq!(millis(Drain { oldest: Duration::from_secs(4), ..CALM }), Some(8_050));
        assert_eq!(millis(Drain { steps: Duration::from_secs(4), ..CALM }), Some(4_010));
    }

    #[test]
    fn a_source_that_was_hardly_asked_has_no_bound() {
        assert_eq!(millis(Drain { source: Summary { count: 99, ..SOURCE }, ..CALM }), None);
        assert_eq!(millis(Drain { source: Summary::default(), ..CALM }), None);
    }
}
