//! The machine: which cores do what, and what has to be said of it beside a figure.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
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
    /// Whether anything may run before everything of usual priority: open loops, or others on this machine are in their
    /// tails, and what watches for stalls.
    pub real_time: bool,
}

/// Where a measurement runs, and before whom.
pub struct Placing {
    /// Apart from the load's, where there are enough.
    pub proxy: Vec<usize>,
    /// Of load, origin and shadow: one, unless the proxy needs them all anyway.
    pub load: Vec<usize>,
    /// Before everything of usual priority. Open loops only: they leave the cores time, a closed one would take it all.
    pub real_time: bool,
}

impl Placing {
    /// All that anything of it runs on.
    pub fn cores(&self) -> BTreeSet<usize> {
        self.load.iter().chain(&self.proxy).copied().collect()
    }
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
            real_time: succeeds(real_time(Priority::Watch, &[]).arg("true")),
        }
    }

    pub fn placing(&self, workers: usize, is_open_loop: bool) -> Placing {
        let all = || (0..self.cores).collect();
        let (proxy, load) =
            if self.cores > workers { ((1..=workers).collect(), vec![LOAD_CORE]) } else { (all(), all()) };
        Placing { proxy, load, real_time: is_open_loop && self.real_time }
    }
}

/// Real-time ones: before all that has a usual one, and in turns with their like.
#[derive(Clone, Copy)]
pub enum Priority {
    /// Of all that is measured, and of the load.
    Measured = 1,
    /// Before that.
    Watch = 2,
}

/// Starts, or with options changes, what the arguments to come name. Children inherit it.
pub fn real_time(priority: Priority, options: &[&str]) -> Command {
    let mut command = Command::new("chrt");
    command.arg("--fifo").args(options).arg((priority as u8).to_string());
    command
}

/// This thread alone.
pub fn make_real_time(priority: Priority) -> Outcome<()> {
    let thread = gettid().as_raw_nonzero().to_string();
    if succeeds(real_time(priority, &["--pid"]).arg(thread)) { Ok(()) } else { Err("chrt has failed".into()) }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
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
