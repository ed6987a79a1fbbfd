//! Copies that leave in twos.
//!
//! A shadow that is asked now and then sleeps in between, and waking it is half of what sending a copy takes; the code of a
//! copy, too, has gone from the caches by then. Where copies come fast one of them waits for the next, and both share
//! that. Never more than two: a shadow that is asked many things at once is slower for it, and how fast it is is the question.

use std::time::{Duration, Instant};

/// How long one waits for the next. Where they come more seldom nobody waits.
const WAIT: Duration = Duration::from_millis(2);

/// Who leaves.
#[derive(Debug, PartialEq, Eq)]
pub enum Leaving<T> {
    Alone(T),
    Both(T, T),
    /// It waits now, until [`Company::overdue`].
    Nobody,
}

#[derive(Debug)]
pub struct Company<T> {
    waiting: Option<(T, Instant)>,
    /// When the one before came.
    last: Option<Instant>,
}

impl<T> Company<T> {
    pub const fn new() -> Self {
        Self { waiting: None, last: None }
    }

    pub fn join(&mut self, one: T, now: Instant) -> Leaving<T> {
        let last = self.last.replace(now);
        match self.waiting.take() {
            Some((other, _)) => Leaving::Both(other, one),
            None if last.is_some_and(|last| now.saturating_duration_since(last) < WAIT) => {
                self.waiting = Some((one, now));
                Leaving::Nobody
            }
            None => Leaving::Alone(one),
        }
    }

    /// When who waits has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|(_, since)| *since + WAIT)
    }

    /// Who has waited long enough.
    pub fn overdue(&mut self, now: Instant) -> Option<T> {
        self.waiting.take_if(|(_, since)| now.saturating_duration_since(*since) >= WAIT).map(|(one, _)| one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_soon_after_another_waits_for_the_next_one() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let mut company = Company::new();
        assert_eq!(company.join(1, at(0)), Leaving::Alone(1), "who knows when the next one comes");
        assert_eq!(company.join(2, at(2_000)), Leaving::Alone(2), "they come too seldom");
        assert_eq!(company.join(3, at(3_999)), Leaving::Nobody);
        assert_eq!(company.join(4, at(4_100)), Leaving::Both(3, 4));
        assert_eq!(company.join(5, at(4_200)), Leaving::Nobody);
        assert_eq!(company.join(6, at(4_200)), Leaving::Both(5, 6), "never more than two");
    }

    #[test]
    fn nobody_waits_long() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let mut company = Company::new();
        assert_eq!((company.due(), company.overdue(start)), (None, None));
        company.join(1, at(0));
        company.join(2, at(500));
        assert_eq!(company.due(), Some(at(2_500)));
        assert_eq!(company.overdue(at(2_499)), None);
        assert_eq!(company.overdue(at(2_500)), Some(2));
        assert_eq!((company.due(), company.overdue(at(9_000))), (None, None), "it has left");
    }
}
