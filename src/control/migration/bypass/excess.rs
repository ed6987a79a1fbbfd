//! Requests that an instance has counted and Segue has not sent. Pure.
//!
//! Both counts are of the same stretch of time, but neither is of one moment: an instance may count a request at its
//! beginning or at its end, and Segue knows what it has sent at least and at most. What is left after the most that it
//! can have been, and a tolerance, others have sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over which the two are compared: long enough for pages that are brought up to date every few seconds.
pub(super) const STRETCH: Duration = Duration::from_secs(10);
/// More than Segue has sent, within a stretch, that means nothing: somebody's look, a page that lags behind …
const FEW: u64 = 10;
/// … or one in fifty of what was sent, whichever is more.
const SHARE: u64 = 50;

/// What Segue has sent to the instance up to some moment, its own checks and looks included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Answered.
    pub least: u64,
    /// These, those under way, and those that may have arrived before they came to nothing.
    pub most: u64,
}

/// The last looks at both.
#[derive(Clone, Debug, Default)]
pub(super) struct Excess(VecDeque<Look>);

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    counted: f64,
    sent: Sent,
}

impl Excess {
    /// A look at what the instance has counted, and at what had been sent before it (`least`) and after it (`most`).
    pub fn look(&mut self, at: Instant, counted: f64, sent: Sent) {
        if self.0.back().is_some_and(|last| counted < last.counted || sent.least < last.sent.least) {
            // One of them counts from the start again.
            self.0.clear();
        }
        self.0.push_back(Look { at, counted, sent });
        // The oldest that is kept is as old as a stretch, so that there is always a whole one.
        while self.0.get(1).is_some_and(|second| at.saturating_duration_since(second.at) >= STRETCH) {
            self.0.pop_front();
        }
    }

    /// Within the last stretch; `None` until there are two looks.
    pub fn requests(&self) -> Option<u64> {
        let (first, last) = (self.0.front()?, self.0.back().filter(|_| self.0.len() > 1)?);
        let counted = (last.counted - first.counted) as u64;
        let sent = last.sent.most.saturating_sub(first.sent.least);
        let excess = counted.saturating_sub(sent);
        Some(if excess > FEW.max(sent / SHARE) { excess } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A look each two seconds.
    fn after(looks: &[(f64, u64, u64)]) -> Option<u64> {
        let start = Instant::now();
        let mut excess = Excess::default();
        for (n, (counted, least, most)) in looks.iter().enumerate() {
            let at = start + Duration::from_secs(2) * n as u32;
            excess.look(at, *counted, Sent { least: *least, most: *most });
        }
        excess.requests()
    }

    #[test]
    fn what_others_have_sent_is_what_is_left() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[(5000.0, 10, 10)]), None, "there was a time before Segue");
        assert_eq!(after(&[(5000.0, 10, 10), (5100.0, 110, 110)]), Some(0));
        assert_eq!(after(&[(5000.0, 10, 10), (5140.0, 110, 110)]), Some(40));
        assert_eq!(after(&[(5000.0, 10, 10), (5110.0, 110, 110)]), Some(0), "a few");
        assert_eq!(after(&[(0.0, 0, 0), (10_200.0, 10_000, 10_000)]), Some(0), "one in fifty");
        assert_eq!(after(&[(0.0, 0, 0), (10_201.0, 10_000, 10_000)]), Some(201));
        assert_eq!(
            after(&[(0.0, 0, 30), (140.0, 100, 130)]),
            Some(0),
            "what is under way may be counted already"
        );
    }

    #[test]
    fn what_was_is_forgotten_after_a_stretch_and_a_restart() {
        let mut looks = vec![(0.0, 0, 0), (100.0, 0, 0)];
        for _ in 0..4 {
            looks.push((100.0, 0, 0));
        }
        assert_eq!(after(&looks), Some(100), "ten seconds ago it was less");
        looks.push((100.0, 0, 0));
        assert_eq!(after(&looks), Some(0));
        assert_eq!(after(&[(500.0, 0, 0), (600.0, 0, 0), (3.0, 0, 0)]), None, "the instance was restarted");
        assert_eq!(after(&[(500.0, 90, 90), (600.0, 3, 3)]), None, "Segue was upgraded");
    }

    proptest! {
        /// Whatever is sent, and whenever it is counted, nobody is blamed for Segue's own requests.
        #[test]
        fn own_requests_are_nobody_elses(
            steps in proptest::collection::vec((0..5000u64, 0..200u64, 0.0..=1.0f64), 2..12),
        ) {
            let mut answered = 0;
            let looks: Vec<_> = steps.iter().map(|(sent, open, counted)| {
                answered += sent;
                // Of those under way some were counted when they began.
                ((answered as f64 + *open as f64 * counted).floor(), answered, answered + open)
            }).collect();
            prop_assert!(matches!(after(&looks), None | Some(0)));
        }
    }
}
