//! What an instance consumes, as counters that only rise and levels of the moment.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One look at an instance. What a provider cannot see is `None`, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since the instance was made, over all its processes.
    pub cpu: Option<Duration>,
    /// Bytes in use, without what the kernel would give up at once (inactive file pages).
    pub memory: Option<u64>,
    /// The most bytes that were in use at once.
    pub memory_peak: Option<u64>,
    /// Of the instance's data directory or volumes, in bytes.
    pub storage: Option<u64>,
    pub io: Option<IoUsage>,
    pub throttling: Option<Throttling>,
    pub pressure: Option<Pressure>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Of disks, in bytes since the instance was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IoUsage {
    pub read: u64,
    pub written: u64,
}

/// By the CPU quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throttling {
    /// Scheduler periods in which the instance wanted to run, and those of them in which it was stopped.
    pub periods: u64,
    pub throttled: u64,
    pub time: Duration,
}

/// Time in which at least one task waited, since the instance was made (pressure stall information, `some`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    pub cpu: Duration,
    pub memory: Duration,
    pub io: Duration,
}
