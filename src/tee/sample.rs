//! Which reads are teed: exactly the configured share, at any prefix, whatever the number of workers.
//!
//! Independent coin tosses miss a small rate by far at a few hundred requests; taking every n-th read
//! aliases with periodic traffic. So the tickets of a service are cut into strata of 1/p tickets each,
//! and one ticket of each stratum is picked at random: the count can never be off by one or more, and
//! no period in the traffic can stay in step with the picks.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;

use super::session::{InvalidKeyName, SessionKeySource, SessionSampler};
use super::skip::Skip;
use crate::config::{Percent, Sampling, Tee};

/// How a service chooses its reads; cheap to clone, shared by all workers.
#[derive(Clone, Debug)]
pub enum Selection {
    Requests(Arc<Sampler>),
    Sessions(Arc<(SessionKeySource, SessionSampler)>),
}

/// What was decided about one eligible read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Picked,
    /// Left out by the sampling itself, which is no skip.
    NotPicked,
    Skipped(Skip),
}

impl Selection {
    /// A changed percentage or mode is a new selection; whoever holds the old one finishes with it.
    ///
    /// `seed` fixes which reads or sessions are picked. Give every proxy of a service the same seed if
    /// a session is to be teed by all of them or by none.
    pub fn new(tee: &Tee, seed: u64) -> Result<Self, InvalidKeyName> {
        Ok(match &tee.sampling {
            Sampling::Request => Self::Requests(Arc::new(Sampler::new(tee.percent, seed))),
            Sampling::Session(key) => Self::Sessions(Arc::new((
                SessionKeySource::new(key)?,
                SessionSampler::new(tee.percent, &seed.to_le_bytes()),
            ))),
        })
    }

    /// Decides on one eligible read; call it exactly once for each.
    pub fn choose(&self, headers: &HeaderMap, client: Option<IpAddr>) -> Choice {
        let picked = match self {
            Self::Requests(sampler) if sampler.is_off() => return Choice::Skipped(Skip::Off),
            Self::Requests(sampler) => sampler.pick(),
            Self::Sessions(session) if session.1.is_off() => return Choice::Skipped(Skip::Off),
            Self::Sessions(session) => match session.0.key(headers, client) {
                Some(key) => session.1.pick(key.as_bytes()),
                None => return Choice::Skipped(Skip::SessionKeyMissing),
            },
        };
        if picked { Choice::Picked } else { Choice::NotPicked }
    }
}

/// Exact-rate sampling over the eligible reads of one service.
#[derive(Debug)]
pub struct Sampler {
    next: OwnLine,
    parts: u32,
    /// How often `parts` goes into a period, and what is left.
    shortest: u32,
    rest: u32,
    seed: u64,
}

/// 128 bytes, because prefetchers fetch lines in pairs: the only shared write of the hot path must not
/// slow down what lies beside it.
#[derive(Debug)]
#[repr(align(128))]
struct OwnLine(AtomicU64);

/// Tickets in one period, after which the strata's boundaries repeat.
const WHOLE: u32 = Percent::WHOLE;

impl Sampler {
    pub fn new(percent: Percent, seed: u64) -> Self {
        let parts = percent.parts();
        let (shortest, rest) = (WHOLE.checked_div(parts).unwrap_or(0), WHOLE.checked_rem(parts).unwrap_or(0));
        Self { next: OwnLine(AtomicU64::new(0)), parts, shortest, rest, seed }
    }

    /// Takes the next ticket and says whether this read is to be teed.
    ///
    /// At 0 % no ticket is taken: a tee that is off costs no shared write.
    pub fn pick(&self) -> bool {
        if self.parts == 0 {
            return false;
        }
        // Relaxed: a ticket has to be unique, nothing else is published with it.
        self.is_pick(self.next.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Reads that took a ticket so far.
    pub fn eligible(&self) -> u64 {
        self.next.0.load(Ordering::Relaxed)
    }

    pub fn is_off(&self) -> bool {
        self.parts == 0
    }

    /// Whether the read with this ticket is picked; the same answer for ever.
    ///
    /// With p = parts / WHOLE, stratum k holds the tickets of [⌈k/p⌉, ⌈(k+1)/p⌉), that is those with
    /// ⌊ticket · p⌋ = k. All arithmetic is exact: `ticket · parts` is taken apart by whole periods so
    /// that it fits into 64 bits.
    pub fn is_pick(&self, ticket: u64) -> bool {
        if self.parts == 0 {
            return false;
        }
        let whole = u64::from(WHOLE);
        let parts = u64::from(self.parts);
        let within = (ticket % whole) * parts;
        let stratum = (ticket / whole) * parts + within / whole;
        // How far the ticket is into its stratum, in units of 1/WHOLE stratum. Each ticket is `parts`
        // units long, so divisions by `parts` count tickets before it and from it on.
        let units = (within % whole) as u32;
        let (before, offset) = (units / self.parts, units % self.parts);
        // That is `before + ⌈(WHOLE - units) / parts⌉`, without a second division on every request's way.
        let length = self.shortest + u32::from(offset < self.rest);
        before == scale(mix(self.seed, stratum), length)
    }
}

/// A number that looks random, from a counter: the finaliser of `SplitMix64`.
const fn mix(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps 64 random bits onto `0..length` with a bias below 2⁻⁴⁴ for any stratum length.
const fn scale(random: u64, length: u32) -> u32 {
    ((random as u128 * length as u128) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::SessionKey;

    fn percent(parts: u32) -> Percent {
        Percent::new(f64::from(parts) / 10_000.0).unwrap()
    }

    fn sampler(parts: u32, seed: u64) -> Sampler {
        Sampler::new(percent(parts), seed)
    }

    /// |picked − n·p| < 1, without rounding.
    fn within_one(picked: u64, n: u64, parts: u32) -> bool {
        let picked = i128::from(picked) * i128::from(WHOLE);
        (picked - i128::from(n) * i128::from(parts)).abs() < i128::from(WHOLE)
    }

    fn rates() -> impl Strategy<Value = u32> {
        prop_oneof![Just(1), Just(20_000), Just(50_000), Just(333_333), Just(999_999), 1..=WHOLE]
    }

    proptest! {
        #[test]
        fn any_prefix_is_within_one_request_of_the_rate(parts in rates(), seed: u64, n in 1_u64..20_000) {
            let sampler = sampler(parts, seed);
            let mut picked = 0;
            for ticket in 0..n {
                picked += u64::from(sampler.pick());
                prop_assert!(within_one(picked, ticket + 1, parts), "{picked} of {}", ticket + 1);
            }
            prop_assert_eq!(sampler.eligible(), n);
        }

        #[test]
        fn every_stratum_has_one_pick_however_far_the_counter_is(
            parts in 1_000..=WHOLE, seed: u64, stratum in 0_u64..u64::MAX / 1_000_001,
        ) {
            let sampler = sampler(parts, seed);
            let start = |k: u64| (u128::from(k) * u128::from(WHOLE)).div_ceil(u128::from(parts)) as u64;
            prop_assume!((u128::from(stratum) + 1) * u128::from(WHOLE) / u128::from(parts) < u128::from(u64::MAX));
            let picks = (start(stratum)..start(stratum + 1)).filter(|t| sampler.is_pick(*t)).count();
            prop_assert_eq!(picks, 1);
        }
    }

    #[test]
    fn nothing_at_zero_everything_at_a_hundred() {
        let (off, all) = (sampler(0, 1), sampler(WHOLE, 1));
        for _ in 0..10_000 {
            assert!(!off.pick());
            assert!(all.pick());
        }
        assert_eq!(off.eligible(), 0);
        assert_eq!(all.eligible(), 10_000);
    }

    #[test]
    fn workers_together_meet_the_rate_exactly() {
        for parts in [20_000, 12_345, 700_001] {
            let sampler = sampler(parts, 7);
            let (threads, each) = (4, 50_003);
            let start = std::sync::Barrier::new(threads as usize);
            let picked: u64 = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            (0..each).map(|_| u64::from(sampler.pick())).sum::<u64>()
                        })
                    })
                    .collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            assert_eq!(sampler.eligible(), threads * each);
            assert!(within_one(picked, threads * each, parts), "{picked} at {parts}");
        }
    }

    #[test]
    fn a_period_in_the_traffic_is_sampled_like_the_rest() {
        // Every 50th read is the expensive one; at 2 % a counter would pick all of them or none.
        let sampler = sampler(20_000, 3);
        let n = 50_000;
        for phase in 0..50 {
            let picked = (0..n).filter(|i| sampler.is_pick(i * 50 + phase)).count();
            // Binomial(50 000, 2 %): mean 1 000, σ 31.3; six of them.
            assert!((812..=1_188).contains(&picked), "phase {phase}: {picked}");
        }
    }

    #[test]
    fn places_within_a_stratum_are_uniform_and_independent() {
        let sampler = sampler(50_000, 11);
        let strata = 40_000_u64;
        let places: Vec<usize> =
            (0..strata).map(|k| (0..20).position(|i| sampler.is_pick(k * 20 + i as u64)).unwrap()).collect();
        let mut single = [0_f64; 20];
        let mut pairs = [0_f64; 400];
        for pair in places.windows(2) {
            single[pair[0]] += 1.0;
            pairs[pair[0] * 20 + pair[1]] += 1.0;
        }
        let chi2 = |counts: &[f64]| {
            let expected = counts.iter().sum::<f64>() / counts.len() as f64;
            counts.iter().map(|c| (c - expected).powi(2) / expected).sum::<f64>()
        };
        // χ² beyond the 99.999 % points of 19 and 399 degrees of freedom.
        assert!(chi2(&single) < 59.0, "{}", chi2(&single));
        assert!(chi2(&pairs) < 530.0, "{}", chi2(&pairs));
    }

    #[test]
    fn strata_of_unequal_length_leave_no_ticket_out() {
        // At 30 % a period of ten tickets has strata of 4, 3 and 3.
        let sampler = sampler(300_000, 13);
        let periods = 30_000;
        for place in 0..10 {
            let picked = (0..periods).filter(|n| sampler.is_pick(n * 10 + place)).count() as f64;
            let expected = periods as f64 / if place < 4 { 4.0 } else { 3.0 };
            // σ is at most 82.
            assert!((picked - expected).abs() < 500.0, "place {place}: {picked}");
        }
    }

    #[test]
    fn the_seed_decides_which() {
        let picks = |seed| (0..10_000).filter(|t| sampler(20_000, seed).is_pick(*t)).collect::<Vec<_>>();
        assert_eq!(picks(1), picks(1));
        assert_ne!(picks(1), picks(2));
    }

    #[test]
    fn the_ticket_counter_has_a_cache_line_of_its_own() {
        assert_eq!(align_of::<OwnLine>(), 128);
        assert_eq!(size_of::<OwnLine>(), 128);
    }

    #[test]
    fn a_selection_tells_not_picked_from_skipped() {
        let headers = HeaderMap::new();
        let choose = |percent: f64, sampling: Sampling| {
            let tee = Tee { percent: Percent::new(percent).unwrap(), sampling, ..Tee::default() };
            Selection::new(&tee, 5).unwrap().choose(&headers, None)
        };
        let session = || Sampling::Session(SessionKey::Cookie("sid".into()));
        assert_eq!(choose(100.0, Sampling::Request), Choice::Picked);
        assert_eq!(choose(0.0001, Sampling::Request), Choice::NotPicked);
        assert_eq!(choose(0.0, Sampling::Request), Choice::Skipped(Skip::Off));
        assert_eq!(choose(0.0, session()), Choice::Skipped(Skip::Off));
        assert_eq!(choose(100.0, session()), Choice::Skipped(Skip::SessionKeyMissing));
    }
}
