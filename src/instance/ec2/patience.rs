//! How long things may take, and how soon they are tried or looked at again. Pure.

use std::time::Duration;

/// The defaults are for EC2 itself; a test that has an API of its own is in more of a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one request. Most are answered within a second.
    pub attempt: Duration,
    /// How often a request is sent before it is given up.
    pub attempts: u32,
    /// Before a request is sent for the second time; it doubles from then on.
    pub first_pause: Duration,
    /// Between two looks at a machine that is becoming something else.
    pub look: Duration,
    /// What was seen of a machine's state answers for it for this long: it is asked for several times a second, and an
    /// account has some ten such requests a second for all that it does.
    pub glance: Duration,
    /// For a machine to become something else. Some take minutes to shut down.
    pub change: Duration,
    /// From a machine's start until the application takes connections.
    pub boot: Duration,
}

/// Longer pauses would only keep whoever waits from being told.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(15),
            attempts: 6,
            first_pause: Duration::from_millis(500),
            look: Duration::from_secs(2),
            glance: Duration::from_secs(2),
            change: Duration::from_mins(5),
            boot: Duration::from_mins(5),
        }
    }
}

impl Patience {
    /// Before attempt `next`, counted from 1. `chance` from 0 to 1 keeps those that were turned away together from coming
    /// back together.
    pub(super) fn pause(&self, next: u32, chance: f64) -> Duration {
        let doublings = next.saturating_sub(2).min(16);
        let most = self.first_pause.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        most.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit_and_never_vanish() {
        let patience = Patience::default();
        let most = |next| patience.pause(next, 1.0).as_millis();
        assert_eq!([2, 3, 4, 5, 6, 7, 99].map(most), [500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(patience.pause(2, 0.0), Duration::from_millis(250));
        // Whoever waits for a call is told within two minutes.
        let pauses: Duration = (2..=patience.attempts).map(|next| patience.pause(next, 1.0)).sum();
        assert!(pauses + patience.attempt * patience.attempts < Duration::from_mins(2));
    }
}
