//! When a worker gives memory back to the system.
//!
//! That stops the worker for up to a millisecond. Done every second, that alone is what one request in a thousand waits
//! for; and what connections free that come and go is wanted by the next ones anyway.

use std::time::{Duration, Instant};

/// So many connections fewer than there were, and it is done soon: with what a busy one takes, several megabytes.
const EBB: usize = 256;
const SOON: Duration = Duration::from_secs(1);
/// And once more for those that went after them.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// Otherwise; a tenth of what a p99.9 sees.
const LATER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Ebb {
    /// The most connections that held memory, at any sweep since it was given back.
    peak: usize,
    /// Something was freed since.
    freed: bool,
    gave_back: Instant,
    /// It was because many had gone.
    ebbed: bool,
}

impl Ebb {
    pub const fn new(now: Instant) -> Self {
        Self { peak: 0, freed: false, gave_back: now, ebbed: false }
    }

    /// A connection has freed what it held.
    pub const fn on_freed(&mut self) {
        self.freed = true;
    }

    /// Whether it is time, while `held` connections hold memory; it is then taken as done.
    pub fn is_due(&mut self, held: usize, now: Instant) -> bool {
        self.peak = self.peak.max(held);
        let ebbed = self.peak - held >= EBB;
        let wait = match (ebbed, self.ebbed) {
            (true, _) => SOON,
            (false, true) => STRAGGLERS,
            (false, false) => LATER,
        };
        let due = self.freed && now.saturating_duration_since(self.gave_back) >= wait;
        if due {
            *self = Self { peak: held, ebbed, ..Self::new(now) };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_soon_after_many_have_gone_and_seldom_while_they_come_and_go() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ebb = Ebb::new(start);
        assert!(!ebb.is_due(1000, at(100)), "nothing was freed");

        ebb = Ebb::new(start);
        ebb.on_freed();
        assert!(!ebb.is_due(1000, at(8)));
        assert!(!ebb.is_due(745, at(9)), "255 fewer");
        assert!(ebb.is_due(744, at(9)), "256 fewer");
        assert!(!ebb.is_due(0, at(99)), "nothing was freed since");

        ebb.on_freed();
        assert!(!ebb.is_due(744, at(10)), "as many as there were");
        assert!(ebb.is_due(744, at(11)), "the last ones of those that went");
        for _ in 0..3 {
            ebb.on_freed();
            assert!(!ebb.is_due(800, at(12)));
            assert!(!ebb.is_due(744, at(20)), "they come and go");
        }
        assert!(ebb.is_due(744, at(21)), "but once in a while");

        ebb.on_freed();
        assert!(!ebb.is_due(488, start + Duration::from_millis(21_999)), "not twice a second");
        assert!(ebb.is_due(488, at(22)), "256 fewer than when it was done last");
    }
}
