//! The processes of an instance, and signals for them.
//!
//! Its cgroup knows all of them, also those that made a session of their own. Without one they are those of the
//! session that the first process leads, and those that inherited the lock.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::folder::{Folder, Run};
use super::group::Groups;
use super::stamp::Stat;

/// Of one instance, as its folder tells.
#[derive(Clone, Debug)]
pub struct Members {
    pub groups: Groups,
    pub run: Option<Run>,
    folder: Folder,
}

/// `O_CLOEXEC` as `/proc/PID/fdinfo` writes it. It does not depend on the architectures that Segue is built for.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

// === impl Members ===

impl Members {
    pub fn of(folder: &Folder) -> io::Result<Self> {
        let groups = folder.groups()?.unwrap_or_default();
        Ok(Self { groups, run: folder.run()?, folder: folder.clone() })
    }

    /// Those that live.
    pub fn pids(&self) -> BTreeSet<i32> {
        let grouped = self.groups.processes().unwrap_or_default();
        if !grouped.is_empty() {
            return grouped;
        }
        let session = self.run.iter().flat_map(|run| run.stamp.session());
        let mut pids: BTreeSet<i32> = session.map(|stat| stat.pid).collect();
        pids.extend(inheritors(&self.folder.lock()));
        pids
    }

    /// Sends it to all of them and to nobody else: a number that was given to a stranger between being read and
    /// being used is not among the members when these are read again with the process already in hand.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let found = self.pids().into_iter().filter_map(|pid| {
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            Some((pid, handle))
        });
        let found: Vec<_> = found.collect();
        let still = self.pids();
        for (_, handle) in found.iter().filter(|(pid, _)| still.contains(pid)) {
            match pidfd_send_signal(handle, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether none is left, nor any that is about to be: one that was started a moment ago has the lock before it
    /// has anything else.
    pub fn are_gone(&self) -> io::Result<bool> {
        Ok(self.pids().is_empty() && !self.folder.is_locked()?)
    }

    /// Whether all of them are frozen or stopped.
    pub fn are_fenced(&self) -> bool {
        if self.groups.can_freeze() {
            return self.groups.is_frozen();
        }
        let pids = self.pids();
        !pids.is_empty() && pids.iter().all(|pid| Stat::of(*pid).is_ok_and(|stat| stat.is_stopped()))
    }
}

/// Of processes that live, as `/proc` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// Of those that are there, and of the children that they have waited for.
    pub cpu: Duration,
    /// Resident bytes; pages that several share count for each.
    pub memory: u64,
}

/// Of the times in `/proc/PID/stat`, on every architecture that Segue is built for.
const TICKS_PER_SECOND: u32 = 100;

impl Members {
    /// What can be seen without cgroups.
    pub fn consume(&self) -> Consumed {
        let stats = self.pids().into_iter().filter_map(|pid| Stat::of(pid).ok());
        stats.fold(Consumed::default(), |sum, stat| Consumed {
            cpu: sum.cpu + Duration::from_secs(stat.cpu_ticks) / TICKS_PER_SECOND,
            memory: sum.memory + resident(stat.pid).unwrap_or(0),
        })
    }
}

fn resident(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok().map(|kib: u64| kib * 1024)
}

/// Who has the file open for its children too. Segue itself, which only looks, closes it on exec.
fn inheritors(lock: &Path) -> Vec<i32> {
    let Ok(lock) = lock.canonicalize() else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| inherits(*pid, &lock) && Stat::of(*pid).is_ok_and(|stat| !stat.is_dead())).collect()
}

fn inherits(pid: i32, lock: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
    let mut of_lock = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == lock));
    of_lock.any(|entry| {
        let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().display());
        let flags = fs::read_to_string(info).ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        });
        flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
    })
}
