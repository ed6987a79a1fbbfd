//! When requests are due, and what they are: decided beforehand, whatever the answers do.
//!
//! Arrivals are Poisson: the gaps between them are exponential and independent, as those of many
//! callers who know nothing of each other. The same seed gives the same run.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// From the start of the run.
    pub due: Duration,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Of the read that this number picks.
    Read(u64),
    /// Of a key that no other write of the run has: its number, counted from 0.
    Write(u64),
}

/// All arrivals of a run, in order, without end.
#[derive(Debug)]
pub(super) struct Arrivals {
    random: fastrand::Rng,
    rate_per_second: f64,
    write_share: f64,
    seconds: f64,
    writes: u64,
}

impl Arrivals {
    pub fn new(seed: u64, rate_per_second: f64, write_share: f64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), rate_per_second, write_share, seconds: 0.0, writes: 0 }
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        // 1 - f64() lies in (0, 1], so the gap is finite.
        self.seconds += -(1.0 - self.random.f64()).ln() / self.rate_per_second;
        let ask = if self.random.f64() < self.write_share {
            self.writes += 1;
            Ask::Write(self.writes - 1)
        } else {
            Ask::Read(self.random.u64(..))
        };
        Some(Arrival { due: Duration::try_from_secs_f64(self.seconds).ok()?, ask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_poisson_at_the_asked_rate() {
        let arrivals: Vec<Arrival> = Arrivals::new(3, 1000.0, 0.2).take(50_000).collect();
        let last = arrivals.last().unwrap().due.as_secs_f64();
        assert!((last - 50.0).abs() < 1.0, "50,000 requests at 1000/s took {last} s");
        // Of a Poisson process the counts per second have a variance equal to their mean.
        let mut counts = vec![0.0_f64; 50];
        for arrival in &arrivals {
            if let Some(count) = counts.get_mut(arrival.due.as_secs() as usize) {
                *count += 1.0;
            }
        }
        let full = &counts[..45];
        let mean = full.iter().sum::<f64>() / 45.0;
        let variance = full.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 44.0;
        assert!((0.4..2.0).contains(&(variance / mean)), "variance {variance}, mean {mean}");
    }

    #[test]
    fn writes_have_their_share_and_distinct_numbers() {
        let arrivals = Arrivals::new(3, 1000.0, 0.2).take(10_000);
        let writes: Vec<u64> = arrivals
            .filter_map(|arrival| match arrival.ask {
                Ask::Write(number) => Some(number),
                Ask::Read(_) => None,
            })
            .collect();
        assert!((1800..2200).contains(&writes.len()));
        assert!(writes.iter().copied().eq(0..writes.len() as u64));
    }

    #[test]
    fn a_seed_is_a_run() {
        let run = |seed| Arrivals::new(seed, 50.0, 0.5).take(100).collect::<Vec<_>>();
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
