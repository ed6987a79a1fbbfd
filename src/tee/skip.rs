//! Why a request was not teed. Every one is counted by reason; left out by the sampling is no reason.

use std::ops::AddAssign;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::sample::Choice;

/// A reason; its label is part of the interface (`segue_tee_skipped_total{reason}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The percentage is 0.
    Off,
    /// The one switch that stops all tees is thrown.
    Stopped,
    NoShadow,
    /// Not a read, or not known to be one.
    Write,
    /// Whole-session sampling, and the request names no session.
    SessionKeyMissing,

    /// Its buffered body turned out to be no read.
    BodyIsWrite,
    BodyTooLarge,
    /// The caller's upload broke off.
    BodyIncomplete,
    RateLimit,
    ByteLimit,
    QueueFull,
    Concurrency,
    /// The bytes that all pairs may hold are held.
    Memory,
    /// Every connection to the shadow is busy.
    Connections,
    BreakerOpen,
    /// The shadow could not be reached, so it has seen nothing. The pair's verdict says so as well.
    ConnectFailed,
    /// Segue is ending, or the service is switching over.
    Closing,
}

/// How far a request had come when it was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Never a candidate: outside the rate's denominator.
    NotEligible,
    /// Picked by the sampling, then dropped: what makes the effective rate fall short.
    Sampled,
}

impl Skip {
    pub const ALL: [Self; 17] = [
        Self::Off,
        Self::Stopped,
        Self::NoShadow,
        Self::Write,
        Self::SessionKeyMissing,
        Self::BodyIsWrite,
        Self::BodyTooLarge,
        Self::BodyIncomplete,
        Self::RateLimit,
        Self::ByteLimit,
        Self::QueueFull,
        Self::Concurrency,
        Self::Memory,
        Self::Connections,
        Self::BreakerOpen,
        Self::ConnectFailed,
        Self::Closing,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Stopped => "stopped",
            Self::NoShadow => "no_shadow",
            Self::Write => "write",
            Self::SessionKeyMissing => "session_key_missing",
            Self::BodyIsWrite => "body_is_write",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyIncomplete => "body_incomplete",
            Self::RateLimit => "rate_limit",
            Self::ByteLimit => "byte_limit",
            Self::QueueFull => "queue_full",
            Self::Concurrency => "concurrency",
            Self::Memory => "memory",
            Self::Connections => "connections",
            Self::BreakerOpen => "breaker_open",
            Self::ConnectFailed => "connect_failed",
            Self::Closing => "closing",
        }
    }

    pub const fn stage(self) -> Stage {
        match self {
            Self::Off | Self::Stopped | Self::NoShadow | Self::Write | Self::SessionKeyMissing => {
                Stage::NotEligible
            }
            _ => Stage::Sampled,
        }
    }
}

/// What became of the requests of one service; each worker and the lane keep their own, merged with `+=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TeeCounts {
    /// Reads that took part in the sampling.
    pub eligible: u64,
    /// Of these, the picked ones: `teed` + skipped after sampling + still under way.
    pub sampled: u64,
    /// Requests whose head was sent to the shadow.
    pub teed: u64,
    pub skipped: Skipped,
}

/// Skips by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped([u64; Skip::ALL.len()]);

impl TeeCounts {
    /// Counts what the sampling decided about one candidate.
    pub fn chosen(&mut self, choice: Choice) {
        match choice {
            Choice::Picked => {
                self.eligible += 1;
                self.sampled += 1;
            }
            Choice::NotPicked => self.eligible += 1,
            Choice::Skipped(reason) => self.skip(reason),
        }
    }

    pub fn skip(&mut self, reason: Skip) {
        self.skipped.add(reason, 1);
    }

    /// Teed per eligible read; `None` before there is one.
    pub fn effective_percent(&self) -> Option<f64> {
        (self.eligible > 0).then(|| self.teed as f64 * 100.0 / self.eligible as f64)
    }
}

impl AddAssign for TeeCounts {
    fn add_assign(&mut self, other: Self) {
        self.eligible += other.eligible;
        self.sampled += other.sampled;
        self.teed += other.teed;
        for (reason, count) in other.skipped.iter() {
            self.skipped.add(reason, count);
        }
    }
}

impl Skipped {
    pub fn add(&mut self, reason: Skip, count: u64) {
        // `reason as usize` is its place in `ALL`, which a test holds.
        if let Some(slot) = self.0.get_mut(reason as usize) {
            *slot += count;
        }
    }

    pub fn get(&self, reason: Skip) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Skip, u64)> + '_ {
        Skip::ALL.into_iter().zip(self.0)
    }

    /// All skips at one stage.
    pub fn at(&self, stage: Stage) -> u64 {
        self.iter().filter(|(reason, _)| reason.stage() == stage).map(|(_, count)| count).sum()
    }
}

/// `{"reason": count}`, reasons that never occurred left out.
impl Serialize for Skipped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (reason, count) in self.iter().filter(|(_, count)| *count > 0) {
            map.serialize_entry(reason.as_str(), &count)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        let mut labels: Vec<_> = Skip::ALL.iter().map(|reason| reason.as_str()).collect();
        for (place, reason) in Skip::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{}", reason.as_str());
            let mut counts = TeeCounts::default();
            counts.skip(reason);
            let counted: Vec<_> = counts.skipped.iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(reason, 1)]);
        }
        assert!(labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Skip::ALL.len());
    }

    #[test]
    fn what_never_took_part_in_the_sampling_is_told_apart() {
        let outside: Vec<_> =
            Skip::ALL.into_iter().filter(|reason| reason.stage() == Stage::NotEligible).collect();
        assert_eq!(outside, [Skip::Off, Skip::Stopped, Skip::NoShadow, Skip::Write, Skip::SessionKeyMissing]);
    }

    #[test]
    fn merged_counts_are_the_sums() {
        let mut all = TeeCounts::default();
        for worker in 1..=3 {
            let mut counts = TeeCounts { eligible: 100 * worker, sampled: 2 * worker, teed: worker, ..all };
            counts.skipped = Skipped::default();
            counts.skipped.add(Skip::Write, 10 * worker);
            counts.skip(Skip::QueueFull);
            all += counts;
        }
        assert_eq!((all.eligible, all.sampled, all.teed), (600, 12, 6));
        assert_eq!((all.skipped.get(Skip::Write), all.skipped.get(Skip::QueueFull)), (60, 3));
        assert_eq!((all.skipped.at(Stage::NotEligible), all.skipped.at(Stage::Sampled)), (60, 3));
        assert_eq!(all.effective_percent(), Some(1.0));
        assert_eq!(TeeCounts::default().effective_percent(), None);
    }

    #[test]
    fn what_the_sampling_decided_is_counted_once() {
        let mut counts = TeeCounts::default();
        for choice in [Choice::Picked, Choice::NotPicked, Choice::NotPicked, Choice::Skipped(Skip::Off)] {
            counts.chosen(choice);
        }
        assert_eq!((counts.eligible, counts.sampled, counts.skipped.get(Skip::Off)), (3, 1, 1));
    }

    #[test]
    fn only_reasons_that_occurred_are_written() {
        let mut counts = TeeCounts { eligible: 4, sampled: 2, teed: 1, ..TeeCounts::default() };
        counts.skip(Skip::BodyTooLarge);
        let json = serde_json::to_value(counts).unwrap();
        let expected = serde_json::json!(
            {"eligible": 4, "sampled": 2, "teed": 1, "skipped": {"body_too_large": 1}});
        assert_eq!(json, expected);
    }
}
