//! A started program with its descendants: pinned, accounted for by the kernel, and gone when dropped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;
use crate::machine::{self, Priority};

/// The slowest of them, Traffic Server, takes two seconds on a quiet machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Of `utime` and `stime` in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on these cores; what it prints goes to `log`.
    pub fn start(command: &Command, cores: &[usize], real_time: bool, log: PathBuf) -> Outcome<Self> {
        let list = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        // taskset, and chrt before it, become the program: the pid stays the same.
        let mut pinned = if real_time {
            let mut taskset = machine::real_time(Priority::Measured, &[]);
            taskset.arg("taskset");
            taskset
        } else {
            Command::new("taskset")
        };
        pinned.arg("-c").arg(list).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => pinned.env(name, value),
                None => pinned.env_remove(name),
            };
        }
        let output = File::create(&log)?;
        pinned.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let program = command.get_program().display();
        let child = pinned.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
        Ok(Self { child, log })
    }

    /// Waits until something accepts connections on the port.
    pub fn wait_for(&mut self, port: u16) -> Outcome<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("ended with {status} instead of listening: {}", self.last_words()).into());
            }
            if start.elapsed() > START_TIMEOUT {
                return Err(format!("does not listen on {port}: {}", self.last_words()).into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// CPU time used so far, by all of the family.
    pub fn cpu(&self) -> Duration {
        self.family().iter().map(|&pid| cpu(pid)).sum()
    }

    /// Highest resident memory so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.family().iter().map(|&pid| status(pid, "VmHWM:")).sum()
    }

    /// Memory that is backed by no file, in bytes: what connections need, without code and libraries.
    pub fn anonymous_memory(&self) -> u64 {
        self.family().iter().map(|&pid| status(pid, "RssAnon:")).sum()
    }

    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(&pid) = family.get(next) {
            for thread in threads(pid) {
                let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
                family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            next += 1;
        }
        family
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let descendants: Vec<u32> = self.family().into_iter().skip(1).collect();
        self.signal(Signal::TERM);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > STOP_TIMEOUT {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                for pid in descendants.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                return;
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// Two lower bounds, the greater of which is nearer the truth: the scheduler's nanoseconds of the threads that
/// live, and the ticks of the whole process, which include threads that have ended.
fn cpu(pid: u32) -> Duration {
    let nanoseconds = |thread: &PathBuf| {
        let schedstat = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        schedstat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    };
    let living = Duration::from_nanos(threads(pid).iter().map(nanoseconds).sum());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field, the name, may hold blanks; utime and stime are the 14th and 15th.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    living.max(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// A line of `/proc/PID/status` in kB, as bytes.
fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The first of these names that PATH or the system's folders hold.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons live in sbin, which is not in everybody's PATH.
    let folders: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from)).collect();
    let held = |name: &&str| folders.iter().map(|folder| folder.join(name)).find(|file| is_program(file));
    names.iter().find_map(held)
}

pub fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
