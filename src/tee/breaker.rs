//! Stops teeing to a shadow that does not answer, and finds out when it does again.
//!
//! Closed, it counts failures in a row; open, it refuses; half open, it lets exactly one pair probe.
//! Workers ask and lane threads report, so the whole state is one atomic word: a worker must never wait
//! for a lane thread that was preempted with a lock in its hand. What happens is decided by [`State`],
//! a plain value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::skip::Skip;
use crate::config::Tee;

/// A shadow that stays dead is probed ever more rarely, up to 2⁴ = 16 times the configured pause:
/// 80 s with the defaults, so that one which recovers is teed to again within a minute and a half.
const MAX_DOUBLINGS: u8 = 4;

#[derive(Debug)]
pub struct Breaker {
    state: AtomicU64,
    after: u32,
    pause: Duration,
    origin: Instant,
}

/// What a pair that was let through must report back. Dropped without a report (the pair was given up
/// before the shadow could be judged), it counts neither way, and a probe's place is free again.
#[derive(Debug)]
#[must_use = "report how the pair ended"]
pub struct Pass {
    breaker: Arc<Breaker>,
    /// Reports from before the last change of phase are void: a late answer to an old pair neither
    /// closes nor opens anything.
    epoch: u16,
    probe: bool,
    reported: bool,
}

/// For people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open,
    HalfOpen,
}

impl Breaker {
    /// `tee.breaker_after` = 0 never opens.
    pub fn new(tee: &Tee, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU64::new(State::CLOSED.pack()),
            after: tee.breaker_after,
            pause: tee.breaker_for,
            origin: now,
        })
    }

    /// Asks to send one pair to the shadow.
    pub fn try_pass(self: &Arc<Self>, now: Instant) -> Result<Pass, Skip> {
        let now = self.millis(now);
        let (before, admitted) = self.step(|state| state.admit(now));
        let pass = |probe| Pass { breaker: Arc::clone(self), epoch: before.epoch, probe, reported: false };
        admitted.map(pass).ok_or(Skip::BreakerOpen)
    }

    pub fn phase(&self) -> Phase {
        match State::unpack(self.state.load(Ordering::Relaxed)).kind {
            Kind::Closed { .. } => Phase::Closed,
            Kind::Open { .. } => Phase::Open,
            Kind::Probing => Phase::HalfOpen,
        }
    }

    /// Applies a decision to the shared word; gives the state it was made on, and what else it says.
    fn step<T>(&self, decide: impl Fn(State) -> (State, T)) -> (State, T) {
        let mut word = self.state.load(Ordering::Relaxed);
        loop {
            let before = State::unpack(word);
            let (after, answer) = decide(before);
            let next = after.pack();
            // Nearly always nothing changes, and then nothing is written.
            if next == word {
                return (before, answer);
            }
            match self.state.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (before, answer),
                Err(current) => word = current,
            }
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }
}

impl Pass {
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// The shadow answered, whatever the answer.
    pub fn succeeded(mut self) {
        self.report(State::succeeded);
    }

    /// The shadow did not answer: connect error, reset, time-out, malformed answer. An answer with a 5xx
    /// status is no failure here: it is what comparing is for.
    pub fn failed(mut self, now: Instant) {
        let (now, after) = (self.breaker.millis(now), self.breaker.after);
        let pause = self.breaker.pause.as_millis() as u64;
        self.report(|state| state.failed(now, after, pause));
    }

    fn report(&mut self, next: impl Fn(State) -> State) {
        self.reported = true;
        let epoch = self.epoch;
        self.breaker.step(|state| if state.epoch == epoch { (next(state), ()) } else { (state, ()) });
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe && !self.reported {
            self.report(State::abandoned);
        }
    }
}

/// The decisions, pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    kind: Kind,
    /// How often the pause was doubled.
    doublings: u8,
    /// Counts openings and closings.
    epoch: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Closed {
        failures: u32,
    },
    /// Until so many milliseconds after the origin.
    Open {
        until: u64,
    },
    /// One probe is on its way.
    Probing,
}

impl State {
    const CLOSED: Self = Self { kind: Kind::Closed { failures: 0 }, doublings: 0, epoch: 0 };

    /// Whether a pair may pass now, and if so whether as the probe.
    fn admit(self, now: u64) -> (Self, Option<bool>) {
        match self.kind {
            Kind::Closed { .. } => (self, Some(false)),
            Kind::Open { until } if now >= until => (Self { kind: Kind::Probing, ..self }, Some(true)),
            Kind::Open { .. } | Kind::Probing => (self, None),
        }
    }

    fn succeeded(self) -> Self {
        match self.kind {
            Kind::Closed { .. } => Self { kind: Kind::Closed { failures: 0 }, ..self },
            Kind::Probing => Self { epoch: self.epoch.wrapping_add(1), ..Self::CLOSED },
            Kind::Open { .. } => self,
        }
    }

    fn failed(self, now: u64, after: u32, pause: u64) -> Self {
        match self.kind {
            Kind::Closed { failures } => {
                let failures = failures.saturating_add(1);
                if after > 0 && failures >= after {
                    self.opened(now, pause, 0)
                } else {
                    Self { kind: Kind::Closed { failures }, ..self }
                }
            }
            Kind::Probing => self.opened(now, pause, (self.doublings + 1).min(MAX_DOUBLINGS)),
            Kind::Open { .. } => self,
        }
    }

    fn abandoned(self) -> Self {
        match self.kind {
            // The pause was over when the probe was let through: the next one may go at once.
            Kind::Probing => Self { kind: Kind::Open { until: 0 }, ..self },
            Kind::Closed { .. } | Kind::Open { .. } => self,
        }
    }

    fn opened(self, now: u64, pause: u64, doublings: u8) -> Self {
        let until = now.saturating_add(pause.saturating_mul(1 << doublings)).min(Self::VALUE_MAX);
        Self { kind: Kind::Open { until }, doublings, epoch: self.epoch.wrapping_add(1) }
    }

    // In the word, from the top: 2 bits kind, 6 doublings, 16 epoch, 40 failures or milliseconds; the
    // last are enough for 34 years.
    const VALUE_BITS: u32 = 40;
    const VALUE_MAX: u64 = (1 << Self::VALUE_BITS) - 1;

    fn pack(self) -> u64 {
        let (kind, value) = match self.kind {
            Kind::Closed { failures } => (0, u64::from(failures)),
            Kind::Open { until } => (1, until),
            Kind::Probing => (2, 0),
        };
        (kind << 62) | (u64::from(self.doublings) << 56) | (u64::from(self.epoch) << Self::VALUE_BITS) | value
    }

    fn unpack(word: u64) -> Self {
        let value = word & Self::VALUE_MAX;
        let kind = match word >> 62 {
            0 => Kind::Closed { failures: value as u32 },
            1 => Kind::Open { until: value },
            _ => Kind::Probing,
        };
        Self { kind, doublings: (word >> 56) as u8 & 0x3f, epoch: (word >> Self::VALUE_BITS) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    struct Fixture {
        breaker: Arc<Breaker>,
        start: Instant,
    }

    impl Fixture {
        /// Opens after `after` failures, for one second.
        fn new(after: u32) -> Self {
            let tee = Tee { breaker_after: after, breaker_for: Duration::from_secs(1), ..Tee::default() };
            let start = Instant::now();
            Self { breaker: Breaker::new(&tee, start), start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn pass(&self, ms: u64) -> Option<Pass> {
            self.breaker.try_pass(self.at(ms)).ok()
        }

        fn fail(&self, ms: u64) {
            self.pass(ms).unwrap().failed(self.at(ms));
        }

        fn succeed(&self, ms: u64) {
            self.pass(ms).unwrap().succeeded();
        }
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let fixture = Fixture::new(3);
        for _ in 0..5 {
            fixture.fail(0);
            fixture.fail(0);
            fixture.succeed(0);
        }
        assert_eq!(fixture.breaker.phase(), Phase::Closed);
        (0..3).for_each(|_| fixture.fail(0));
        assert_eq!(fixture.breaker.phase(), Phase::Open);
        assert_eq!(fixture.breaker.try_pass(fixture.at(999)).unwrap_err(), Skip::BreakerOpen);
    }

    #[test]
    fn zero_never_opens() {
        let fixture = Fixture::new(0);
        (0..1_000).for_each(|_| fixture.fail(0));
        assert!(fixture.pass(0).is_some());
    }

    #[test]
    fn one_probe_decides() {
        let fixture = Fixture::new(1);
        fixture.fail(0);
        let probe = fixture.pass(1_000).unwrap();
        assert!(probe.is_probe());
        assert_eq!(fixture.breaker.phase(), Phase::HalfOpen);
        assert!(fixture.pass(1_000).is_none());
        assert!(fixture.pass(60_000).is_none());
        probe.succeeded();
        assert!(!fixture.pass(1_000).unwrap().is_probe());
        assert_eq!(fixture.breaker.phase(), Phase::Closed);
    }

    #[test]
    fn failed_probes_double_the_pause_up_to_sixteen_times_and_a_success_resets_it() {
        let fixture = Fixture::new(1);
        fixture.fail(0);
        let mut now = 0;
        for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 16_000, 16_000] {
            assert!(fixture.pass(now + pause - 1).is_none(), "before {pause}");
            now += pause;
            fixture.fail(now);
        }
        fixture.succeed(now + 16_000);
        fixture.fail(now + 16_000);
        assert!(fixture.pass(now + 16_999).is_none());
        assert!(fixture.pass(now + 17_000).is_some());
    }

    #[test]
    fn a_probe_given_up_makes_way_for_the_next() {
        let fixture = Fixture::new(1);
        fixture.fail(0);
        drop(fixture.pass(1_000).unwrap());
        assert!(fixture.pass(1_000).unwrap().is_probe());
    }

    #[test]
    fn late_reports_of_old_pairs_change_nothing() {
        let fixture = Fixture::new(1);
        let (old_good, old_bad, trip) = (fixture.pass(0), fixture.pass(0), fixture.pass(0));
        trip.unwrap().failed(fixture.at(0));
        let probe = fixture.pass(1_000).unwrap();
        old_good.unwrap().succeeded();
        assert_eq!(fixture.breaker.phase(), Phase::HalfOpen);
        probe.succeeded();
        old_bad.unwrap().failed(fixture.at(1_000));
        assert_eq!(fixture.breaker.phase(), Phase::Closed);
    }

    #[test]
    fn of_many_threads_exactly_one_probes() {
        let fixture = Fixture::new(1);
        let mut now = 0;
        for _ in 0..200 {
            fixture.fail(now);
            now += 1_000;
            let (probes, gate) = (AtomicUsize::new(0), Barrier::new(4));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        gate.wait();
                        let pass = fixture.pass(now);
                        probes.fetch_add(usize::from(pass.is_some()), Ordering::Relaxed);
                        // Nobody reports before everybody has asked.
                        gate.wait();
                        if let Some(pass) = pass {
                            pass.succeeded();
                        }
                    });
                }
            });
            assert_eq!(probes.into_inner(), 1);
        }
    }

    proptest! {
        #[test]
        fn the_word_holds_every_state(value in 0..=State::VALUE_MAX, failures: u32, doublings in 0..=MAX_DOUBLINGS, epoch: u16) {
            for kind in [Kind::Closed { failures }, Kind::Open { until: value }, Kind::Probing] {
                let state = State { kind, doublings, epoch };
                prop_assert_eq!(State::unpack(state.pack()), state);
            }
        }
    }
}
