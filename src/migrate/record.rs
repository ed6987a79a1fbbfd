//! Everything about one migration that outlives the process. The store keeps it as JSON; only its driver changes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::phase::{Cause, Progress};
use super::warm::Warmed;
use crate::config::{InstanceName, Policy};
use crate::instance::{Allocation, Finding, Resized, Spec};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub progress: Progress,
    /// The intent of the step is in the journal and its outcome is not.
    pub begun: bool,
    pub options: Options,
    /// The new instance, as it starts.
    pub spec: Spec,
    /// The slot that it goes into; the other one serves.
    pub slot: InstanceName,
    /// What the store had in that slot before, and has again when this is undone.
    #[serde(default)]
    pub slot_before: Option<Value>,
    /// The instance that serves, where Segue runs it.
    pub source: Option<Spec>,
    /// What the new instance will serve with.
    pub wanted: Allocation,
    pub granted: Option<Resized>,
    pub endpoints: Vec<String>,
    pub report: Vec<Finding>,
    /// The verdicts of the last look.
    pub gates: Vec<Value>,
    pub approved: bool,
    /// Nobody needs the source's grace period any more.
    #[serde(default)]
    pub retire: bool,
    /// Somebody asked for the way back.
    pub wish: Option<Cause>,
    /// Switchovers that gave up.
    pub aborted: u32,
    /// The source cannot take over again.
    pub no_way_back: bool,
    /// Of the source, before the switch.
    pub baseline: Option<Baseline>,
    /// How the switchover ended, as the API says it.
    pub switchover: Option<Value>,
    /// What came of warming it.
    #[serde(default)]
    pub warmed: Option<Warmed>,
    /// Who reached the source without passing Segue, when it was first seen.
    #[serde(default)]
    pub bypass: Option<Bypass>,
    /// What it waits for, or why it is being undone.
    pub reason: Option<String>,
    /// When the step began, in Unix time in milliseconds: for people, as clocks are set.
    pub since: u64,
    /// How long it has been under way, and its step, while a Segue was there to drive it.
    pub spent: Duration,
    pub spent_in_step: Duration,
}

/// Fixed when it begins; hooks, windows and checks are as the settings say at the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub policy: Policy,
    /// How long real answers of the new instance are watched before the source is retired.
    pub watch: Duration,
    /// How long the source is left in peace after that.
    pub grace: Duration,
    /// From the start to the switch; beyond it the migration is undone.
    pub deadline: Duration,
    /// Pairs without which nothing is judged.
    pub min_pairs: u64,
}

/// What reaches an instance without passing Segue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypass {
    pub connections: u64,
    /// That the instance has counted beyond those that Segue has sent it, within ten seconds.
    pub requests: u64,
}

impl Bypass {
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// Of each kind that was not `noted` at all: how many there are changes all the time.
    #[must_use]
    pub fn beyond(self, noted: Self) -> Self {
        let new = |now, noted| if noted == 0 { now } else { 0 };
        Self {
            connections: new(self.connections, noted.connections),
            requests: new(self.requests, noted.requests),
        }
    }

    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            connections: self.connections.max(other.connections),
            requests: self.requests.max(other.requests),
        }
    }
}

/// What callers were used to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    pub answers: u64,
    /// 5xx, and none at all.
    pub failed: u64,
    /// 0 = not known: it was written before there was such a number.
    #[serde(default)]
    pub p90_us: u64,
    pub p99_us: u64,
}

impl Baseline {
    pub fn failed_share(&self) -> f64 {
        if self.answers == 0 { 0.0 } else { self.failed as f64 / self.answers as f64 }
    }
}
