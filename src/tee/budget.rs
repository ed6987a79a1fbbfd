//! What the tee of a service may use: requests and bytes a second, pairs in flight, memory.
//!
//! Only sampled requests come here, so shared atomics are cheap enough; there is no lock, because a
//! worker must never wait for a lane thread. Limits are checked from the one that can be given back to
//! the ones that cannot, and what was taken is returned when the permit is dropped.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::skip::Skip;
use crate::config::{ByteSize, Tee};

/// Bytes that the pairs of all services hold together.
#[derive(Debug)]
pub struct Memory {
    held: AtomicU64,
    max: u64,
}

impl Memory {
    pub fn new(max: ByteSize) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), max: max.bytes() })
    }

    pub fn held(&self) -> ByteSize {
        ByteSize(self.held.load(Ordering::Relaxed))
    }

    fn take(&self, bytes: u64) -> Result<(), Skip> {
        self.held
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|sum| *sum <= self.max)
            })
            .map_or(Err(Skip::Memory), |_| Ok(()))
    }

    fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The limits of one service. A live change of settings makes a new one; permits of the old one return
/// to the old one.
#[derive(Debug)]
pub struct Budget {
    requests: Rate,
    bytes: Rate,
    /// Bytes that went through without having been granted: answers, whose length nobody knows
    /// beforehand. Later pairs wait until they are paid.
    owed: AtomicU64,
    in_flight: AtomicUsize,
    max_concurrency: usize,
    memory: Arc<Memory>,
}

/// Bytes are metered in grains, because governor counts in 32 bits: 64 bytes meter up to 256 GiB/s and
/// are below the size of any request head.
const GRAIN: u64 = 64;

impl Budget {
    /// `now` is the origin of the budget's time. A limit of 0 lets nothing pass.
    pub fn new(tee: &Tee, memory: Arc<Memory>, now: Instant) -> Arc<Self> {
        let grains = tee.max_bytes_per_second.bytes().div_ceil(GRAIN);
        Arc::new(Self {
            requests: Rate::per_second(tee.max_requests_per_second, now),
            bytes: Rate::per_second(u32::try_from(grains).unwrap_or(u32::MAX), now),
            owed: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            max_concurrency: tee.max_concurrency,
            memory,
        })
    }

    /// Asks to tee one request of that size (head and body), of which the copy is held until the permit
    /// is dropped.
    pub fn try_take(self: &Arc<Self>, bytes: u64, now: Instant) -> Result<Permit, Skip> {
        self.in_flight
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.max_concurrency).then(|| n + 1))
            .map_err(|_| Skip::Concurrency)?;
        // From here on dropping the permit returns what was taken.
        let mut permit = Permit { budget: Arc::clone(self), held: 0 };
        permit.hold(bytes)?;
        self.requests.take(1, now).map_err(|()| Skip::RateLimit)?;
        self.pay(bytes, now)?;
        Ok(permit)
    }

    /// Pairs that hold a permit.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Buys `bytes` and what is owed. More than a second's worth cannot be bought at once; the rest is
    /// owed again, so that a large request is delayed for, not refused for ever.
    fn pay(&self, bytes: u64, now: Instant) -> Result<(), Skip> {
        let owed = self.owed.swap(0, Ordering::Relaxed);
        let due = bytes.saturating_add(owed);
        let grains = u32::try_from(due.div_ceil(GRAIN)).unwrap_or(u32::MAX).min(self.bytes.burst);
        // Nothing is due only for an empty request; it still needs a limit above 0.
        if self.bytes.take(grains.max(1), now).is_err() {
            self.owe(owed);
            return Err(Skip::ByteLimit);
        }
        self.owe(due.saturating_sub(u64::from(grains) * GRAIN));
        Ok(())
    }

    fn owe(&self, bytes: u64) {
        if bytes > 0 {
            self.owed.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// The right to carry out one pair; give it back by dropping it.
#[derive(Debug)]
#[must_use = "dropping a permit ends the pair's claim"]
pub struct Permit {
    budget: Arc<Budget>,
    held: u64,
}

impl Permit {
    /// Holds more bytes, such as chunks of an answer that wait to be hashed.
    pub fn hold(&mut self, bytes: u64) -> Result<(), Skip> {
        self.budget.memory.take(bytes)?;
        self.held += bytes;
        Ok(())
    }

    /// Lets go of held bytes before the pair is over.
    pub fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.budget.memory.give_back(bytes);
    }

    /// Charges bytes of the shadow's answer to the byte rate, after the fact.
    pub fn charge(&self, bytes: u64) {
        self.budget.owe(bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.memory.give_back(self.held);
        self.budget.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A governor limit whose time is an argument.
struct Rate {
    /// `None` = a limit of 0, which governor has no word for.
    limiter: Option<RateLimiter<NotKeyed, InMemoryState, Given, NoOpMiddleware<Moment>>>,
    clock: Given,
    origin: Instant,
    /// The most that can be taken at once: one second's worth.
    burst: u32,
}

impl std::fmt::Debug for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} per second", self.burst)
    }
}

impl Rate {
    fn per_second(limit: u32, origin: Instant) -> Self {
        let clock = Given::default();
        let limiter = NonZeroU32::new(limit)
            .map(|limit| RateLimiter::direct_with_clock(Quota::per_second(limit), clock.clone()));
        Self { limiter, clock, origin, burst: limit }
    }

    fn take(&self, n: u32, now: Instant) -> Result<(), ()> {
        let (Some(limiter), Some(n)) = (&self.limiter, NonZeroU32::new(n)) else { return Err(()) };
        let nanos = now.saturating_duration_since(self.origin).as_nanos();
        self.clock.0.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
        match limiter.check_n(n) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }
}

/// The clock that governor reads: the latest `now` anybody has given, so that it never runs backwards
/// when two threads come with readings in the wrong order.
#[derive(Clone, Debug, Default)]
struct Given(Arc<AtomicU64>);

impl Clock for Given {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(Nanos::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Time since the budget's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Nanos);

impl Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, later: Nanos) -> Self {
        Self(Nanos::new(self.0.as_u64().saturating_add(later.as_u64())))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0)
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        self.0.as_u64().checked_sub(duration.as_u64()).map_or(*self, |nanos| Self(Nanos::new(nanos)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(requests: u32, bytes: u64, concurrency: usize) -> Tee {
        Tee {
            max_requests_per_second: requests,
            max_bytes_per_second: ByteSize(bytes),
            max_concurrency: concurrency,
            ..Tee::default()
        }
    }

    struct Fixture {
        budget: Arc<Budget>,
        memory: Arc<Memory>,
        start: Instant,
    }

    impl Fixture {
        fn new(tee: &Tee, memory: u64) -> Self {
            let (start, memory) = (Instant::now(), Memory::new(ByteSize(memory)));
            Self { budget: Budget::new(tee, Arc::clone(&memory), start), memory, start }
        }

        fn take(&self, bytes: u64, ms: u64) -> Result<Permit, Skip> {
            self.budget.try_take(bytes, self.start + Duration::from_millis(ms))
        }

        /// Requests of that size that pass when one is tried every millisecond.
        fn passed(&self, bytes: u64, ms: std::ops::Range<u64>) -> usize {
            ms.filter(|ms| self.take(bytes, *ms).is_ok()).count()
        }
    }

    #[test]
    fn requests_a_second_are_limited() {
        let fixture = Fixture::new(&limits(100, u64::MAX, 10), u64::MAX);
        // One second's worth at once, then 100 a second.
        let passed = fixture.passed(1, 0..2_001);
        assert!((299..=301).contains(&passed), "{passed}");
        assert_eq!(fixture.take(1, 2_001).unwrap_err(), Skip::RateLimit);
    }

    #[test]
    fn bytes_a_second_are_limited() {
        let fixture = Fixture::new(&limits(u32::MAX, 64_000, 10), u64::MAX);
        let passed = fixture.passed(640, 0..3_001);
        assert!((398..=401).contains(&passed), "{passed}");
        assert_eq!(fixture.take(640, 3_001).unwrap_err(), Skip::ByteLimit);
    }

    #[test]
    fn answers_are_paid_by_later_pairs() {
        let fixture = Fixture::new(&limits(u32::MAX, 64_000, 10), u64::MAX);
        fixture.take(64, 0).unwrap().charge(128_000);
        // 2 s of answer: what the burst still holds pays for one, the next must wait for the other.
        let first = (0..5_000).find(|ms| fixture.take(64, *ms).is_ok());
        let second = (0..5_000).find(|ms| *ms > first.unwrap() && fixture.take(64, *ms).is_ok());
        assert!(first.unwrap() <= 2, "{first:?}");
        assert!((1_000..2_100).contains(&second.unwrap()), "{second:?}");
    }

    #[test]
    fn a_request_larger_than_a_second_of_bytes_passes_in_its_turn() {
        let fixture = Fixture::new(&limits(u32::MAX, 6_400, 10), u64::MAX);
        assert!(fixture.take(64_000, 0).is_ok());
        let next = (0..20_000).find(|ms| fixture.take(64, *ms).is_ok()).unwrap();
        assert!((1_000..=10_000).contains(&next), "{next}");
    }

    #[test]
    fn concurrency_and_memory_come_back_when_a_permit_is_dropped() {
        let fixture = Fixture::new(&limits(u32::MAX, u64::MAX, 2), 100);
        let mut first = fixture.take(40, 0).unwrap();
        assert_eq!(fixture.take(61, 0).unwrap_err(), Skip::Memory);
        assert_eq!(fixture.budget.in_flight(), 1);
        let second = fixture.take(60, 0).unwrap();
        assert_eq!(fixture.take(0, 0).unwrap_err(), Skip::Concurrency);
        assert_eq!(first.hold(1), Err(Skip::Memory));
        drop(second);
        assert_eq!(first.hold(60), Ok(()));
        first.release(50);
        assert_eq!(fixture.memory.held(), ByteSize(50));
        drop(first);
        assert_eq!((fixture.memory.held(), fixture.budget.in_flight()), (ByteSize(0), 0));
    }

    #[test]
    fn services_share_the_memory() {
        let one = Fixture::new(&Tee::default(), 100);
        let other = Budget::new(&Tee::default(), Arc::clone(&one.memory), one.start);
        let _held = one.take(80, 0).unwrap();
        assert_eq!(other.try_take(30, one.start).unwrap_err(), Skip::Memory);
        assert_eq!(other.in_flight(), 0);
    }

    #[test]
    fn a_limit_of_nothing_lets_nothing_pass() {
        assert_eq!(Fixture::new(&limits(0, 1_000, 9), 9).take(0, 9_000).unwrap_err(), Skip::RateLimit);
        assert_eq!(Fixture::new(&limits(9, 0, 9), 9).take(0, 9_000).unwrap_err(), Skip::ByteLimit);
        assert_eq!(Fixture::new(&limits(9, 9, 0), 9).take(0, 9_000).unwrap_err(), Skip::Concurrency);
    }

    #[test]
    fn threads_never_exceed_the_caps() {
        let fixture = Fixture::new(&limits(u32::MAX, u64::MAX, 3), 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = fixture.take(7, 0);
                        assert!(fixture.memory.held() <= ByteSize(20));
                        assert!(fixture.budget.in_flight() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!((fixture.memory.held(), fixture.budget.in_flight()), (ByteSize(0), 0));
    }

    #[test]
    fn a_clock_reading_from_before_is_no_refill() {
        let fixture = Fixture::new(&limits(1, u64::MAX, 9), u64::MAX);
        assert!(fixture.take(1, 5_000).is_ok());
        assert_eq!(fixture.take(1, 4_000).unwrap_err(), Skip::RateLimit);
        assert!(fixture.take(1, 6_001).is_ok());
    }
}
