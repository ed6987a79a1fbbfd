//! What stands between a shadow and the switchover. Pure: evidence in, a verdict for each gate out.
//!
//! ```text
//!              ┌ health ────── the checks of the service's suite pass
//!              │ comparison ┐
//!              │ errors     ├─ the pairs say that the shadow answers as the source does
//!   evidence ──┤ latency    ┘
//!              │ warm ──────── its latency no longer falls
//!              │ sizing ────── it has the allocation that it will serve with
//!              │ replication ─ its data is the source's
//!              └ pause ─────── callers would be held for less than the budget
//! ```
//!
//! Three rules hold for all of them. Too little evidence is a verdict of its own and never a pass, and no
//! traffic is the least evidence there is. Evidence counts only for the instance, and for the size of it, that
//! it was taken at. A verdict carries the numbers that it rests on.
//!
//! Comparison, errors and latency are fixed thresholds over a minimum sample, with no stated confidence: near a
//! threshold chance decides. They say so: they are *provisional*, as is the pause.

mod evidence;
mod pairs;
mod pause;
mod standing;
#[cfg(test)]
mod tests;
mod thresholds;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use evidence::{
    Evidence, Health, Interval, Observed, Pairs, Pause, Quantile, Quantiles, Replication, Sizing, Subject,
};
pub use pause::{Drain, STORE_SWAP, predict_pause};
pub use thresholds::{LEAST_FOR_P99, Margin, Thresholds};

/// A named condition for the switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    Health,
    Comparison,
    Errors,
    Latency,
    Warm,
    Sizing,
    Replication,
    Pause,
}

/// What a gate says; in JSON the word stands under `verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// Nothing is known against it, and not enough for it.
    NeedsMore {
        n: u64,
        what: What,
    },
    /// The operator does not use what this gate watches. Does not stand in the way.
    NotConfigured,
}

/// What a gate waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Pairs,
    ComparedPairs,
    /// Runs of the suite of checks, every check passed.
    GoodRuns,
    /// Intervals with enough pairs in them.
    Intervals,
    /// Of the shadow, to the allocation that it will serve with.
    Resizes,
    /// Comparisons of the shadow's data with the source's.
    Verifications,
    /// Answers of the source.
    Answers,
}

/// One gate's verdict, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateVerdict {
    pub gate: Gate,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// A fixed threshold decided, without a stated confidence.
    pub provisional: bool,
    /// One line for people, with the numbers and the thresholds.
    pub reason: String,
    /// The same numbers for programs; durations in microseconds, shares in per cent.
    pub numbers: Map<String, Value>,
}

/// Judges every gate, in the order of [`Gate::ALL`].
pub fn judge(evidence: &Evidence, thresholds: &Thresholds) -> Vec<GateVerdict> {
    Gate::ALL
        .into_iter()
        .map(|gate| match gate {
            Gate::Health => standing::health(evidence, thresholds),
            Gate::Comparison => pairs::comparison(evidence, thresholds),
            Gate::Errors => pairs::errors(evidence, thresholds),
            Gate::Latency => pairs::latency(evidence, thresholds),
            Gate::Warm => standing::warm(evidence, thresholds),
            Gate::Sizing => standing::sizing(evidence),
            Gate::Replication => standing::replication(evidence, thresholds),
            Gate::Pause => standing::pause(evidence),
        })
        .collect()
}

/// Whether the switchover may begin: no gate fails, and none needs more.
pub fn all_open(verdicts: &[GateVerdict]) -> bool {
    !verdicts.is_empty() && verdicts.iter().all(|judged| judged.verdict.is_open())
}

impl Gate {
    pub const ALL: [Self; 8] = [
        Self::Health,
        Self::Comparison,
        Self::Errors,
        Self::Latency,
        Self::Warm,
        Self::Sizing,
        Self::Replication,
        Self::Pause,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Comparison => "comparison",
            Self::Errors => "errors",
            Self::Latency => "latency",
            Self::Warm => "warm",
            Self::Sizing => "sizing",
            Self::Replication => "replication",
            Self::Pause => "pause",
        }
    }

    /// Until a test with a stated confidence judges it.
    pub const fn is_provisional(self) -> bool {
        matches!(self, Self::Comparison | Self::Errors | Self::Latency | Self::Pause)
    }
}

impl Verdict {
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pass | Self::NotConfigured)
    }
}

impl What {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::ComparedPairs => "compared pairs",
            Self::GoodRuns => "good runs of the checks",
            Self::Intervals => "intervals with enough pairs",
            Self::Resizes => "resizes",
            Self::Verifications => "verifications",
            Self::Answers => "answers of the source",
        }
    }
}

impl GateVerdict {
    fn new(gate: Gate, verdict: Verdict, reason: String) -> Self {
        let provisional = gate.is_provisional();
        let reason = if provisional { format!("{reason} (provisional)") } else { reason };
        Self { gate, verdict, provisional, reason, numbers: Map::new() }
    }

    #[must_use]
    fn number(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.numbers.insert(name.to_owned(), value.into());
        self
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail => f.write_str("fail"),
            Self::NeedsMore { n, what } => write!(f, "needs {n} more {}", what.as_str()),
            Self::NotConfigured => f.write_str("not configured"),
        }
    }
}
