//! The machine: which cores do what, and what has to be said of it beside a figure.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use crate::Outcome;

/// Load, origin and shadow.
const LOAD_CORE: usize = 0;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub kernel: String,
    pub cores: usize,
    /// Open files of one process; limits the scenarios with many connections.
    pub descriptors: u64,
    /// Processes that wanted to run in the minute before the start. Above zero, others disturbed.
    pub load_before: f64,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            cpu: model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1),
            descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        }
    }

    /// A proxy's cores: apart from the load's, where there are enough.
    pub fn proxy_cores(&self, workers: usize) -> Vec<usize> {
        if self.cores > workers { (1..=workers).collect() } else { (0..self.cores).collect() }
    }

    /// The cores of load and origin: one, unless the proxy needs them all anyway.
    pub fn load_cores(&self, workers: usize) -> Vec<usize> {
        if self.cores > workers { vec![LOAD_CORE] } else { (0..self.cores).collect() }
    }
}

/// Moves this thread, and whatever it starts from now on, to these cores.
pub fn pin(cores: &[usize]) -> Outcome<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    sched_setaffinity(None, &set).map_err(|error| format!("cannot move to cores {cores:?}: {error}"))?;
    Ok(())
}

/// Ticks that these cores have been busy, and have passed in all.
pub fn core_ticks(cores: &[usize]) -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut sums = (0, 0);
    for core in cores {
        let name = format!("cpu{core} ");
        let ticks = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
        // user nice system idle iowait irq softirq steal; what follows is already in `user`.
        let ticks: Vec<u64> = ticks.split(' ').take(8).filter_map(|n| n.parse().ok()).collect();
        let all: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        sums = (sums.0 + all - idle, sums.1 + all);
    }
    sums
}
