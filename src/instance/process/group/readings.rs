//! What an instance consumes, of the files of its cgroups.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Groups;
use crate::instance::{IoUsage, Pressure, Throttling, Usage};

// === impl Groups ===

impl Groups {
    /// All but storage.
    pub fn usage(&self) -> Usage {
        let unified = |name: &str| read(self.unified.as_deref()?, name);
        Usage {
            cpu: self.cpu_time(),
            memory: self.memory_in_use(),
            memory_peak: match &self.memory {
                Some(group) => number(group, "memory.max_usage_in_bytes"),
                None => unified("memory.peak").and_then(|text| text.trim().parse().ok()),
            },
            storage: None,
            io: match &self.blkio {
                Some(group) => read(group, "blkio.throttle.io_service_bytes").map(|text| v1_io(&text)),
                None => unified("io.stat").map(|text| v2_io(&text)),
            },
            throttling: match &self.cpu {
                Some(group) => read(group, "cpu.stat").and_then(|text| throttling(&text)),
                None => unified("cpu.stat").and_then(|text| throttling(&text)),
            },
            pressure: self.pressure(),
            oom_kills: self.oom_kills(),
        }
    }

    /// Processes that the kernel killed in them for want of memory, ever.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = match &self.memory {
            Some(group) => read(group, "memory.oom_control"),
            None => read(self.unified.as_deref()?, "memory.events"),
        };
        keyed(&text?, "oom_kill")
    }

    fn cpu_time(&self) -> Option<Duration> {
        if let Some(nanoseconds) = self.accounting.as_ref().and_then(|group| number(group, "cpuacct.usage")) {
            return Some(Duration::from_nanos(nanoseconds));
        }
        // Counted in every v2 group, whether or not it has the controller.
        let text = read(self.unified.as_deref()?, "cpu.stat")?;
        keyed(&text, "usage_usec").map(Duration::from_micros)
    }

    fn memory_in_use(&self) -> Option<u64> {
        let (group, file, unified) = match &self.memory {
            Some(group) => (group, "memory.usage_in_bytes", false),
            None => (self.unified.as_ref()?, "memory.current", true),
        };
        let inactive = inactive_file(&read(group, "memory.stat")?, unified);
        Some(number(group, file)?.saturating_sub(inactive))
    }

    fn pressure(&self) -> Option<Pressure> {
        let some = |name: &str| some_total(&read(self.unified.as_deref()?, name)?);
        Some(Pressure {
            cpu: some("cpu.pressure")?,
            memory: some("memory.pressure")?,
            io: some("io.pressure")?,
        })
    }
}

/// Pages of files that nobody touched lately, in bytes: the first that the kernel gives up.
pub(super) fn inactive_file(stat: &str, unified: bool) -> u64 {
    keyed(stat, if unified { "inactive_file" } else { "total_inactive_file" }).unwrap_or(0)
}

/// The number after `key` and a space.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn throttling(stat: &str) -> Option<Throttling> {
    let time = match keyed(stat, "throttled_usec") {
        Some(microseconds) => Duration::from_micros(microseconds),
        None => Duration::from_nanos(keyed(stat, "throttled_time")?),
    };
    Some(Throttling { periods: keyed(stat, "nr_periods")?, throttled: keyed(stat, "nr_throttled")?, time })
}

/// `8:0 Read 4096`, a line for each device and direction.
fn v1_io(text: &str) -> IoUsage {
    let of = |direction: &str| {
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            (words.next()? == direction).then_some(words.next()?.parse::<u64>().ok()?)
        });
        lines.sum()
    };
    IoUsage { read: of("Read"), written: of("Write") }
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 …`, a line for each device.
fn v2_io(text: &str) -> IoUsage {
    let of = |key: &str| {
        let words = text.split_ascii_whitespace();
        words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
    };
    IoUsage { read: of("rbytes="), written: of("wbytes=") }
}

/// Of `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`, in microseconds.
fn some_total(text: &str) -> Option<Duration> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let total = line.split(' ').find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

fn read(group: &Path, name: &str) -> Option<String> {
    fs::read_to_string(group.join(name)).ok()
}

fn number(group: &Path, name: &str) -> Option<u64> {
    read(group, name)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn v2_is_read_of_one_group() {
        let folder = group(&[
            ("cpu.stat", "usage_usec 1500\nnr_periods 10\nnr_throttled 4\nthrottled_usec 7000\n"),
            ("memory.current", "5000\n"),
            ("memory.stat", "anon 1\nactive_file 9\ninactive_file 1000\n"),
            ("memory.peak", "6000\n"),
            ("memory.events", "oom 3\noom_kill 2\noom_group_kill 0\n"),
            ("io.stat", "8:0 rbytes=100 wbytes=10 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n"),
            ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\nfull avg10=0.00 total=1\n"),
            ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"),
            ("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=13\n"),
        ]);
        let groups = Groups { unified: Some(folder.path().to_owned()), ..Groups::default() };
        let us = Duration::from_micros;
        let expected = Usage {
            cpu: Some(us(1500)),
            memory: Some(4000),
            memory_peak: Some(6000),
            storage: None,
            io: Some(IoUsage { read: 101, written: 12 }),
            throttling: Some(Throttling { periods: 10, throttled: 4, time: us(7000) }),
            pressure: Some(Pressure { cpu: us(11), memory: us(12), io: us(13) }),
            oom_kills: Some(2),
        };
        assert_eq!(groups.usage(), expected);
    }

    #[test]
    fn v1_is_read_of_its_trees() {
        let folder = group(&[
            ("cpuacct.usage", "1500000\n"),
            ("cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 7000000\n"),
            ("memory.usage_in_bytes", "5000\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 1000\n"),
            ("memory.max_usage_in_bytes", "6000\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("blkio.throttle.io_service_bytes", "8:0 Read 100\n8:0 Write 12\n8:0 Total 112\nTotal 112\n"),
        ]);
        let at = Some(folder.path().to_owned());
        let groups = Groups {
            cpu: at.clone(),
            accounting: at.clone(),
            memory: at.clone(),
            blkio: at,
            ..Groups::default()
        };
        let expected = Usage {
            cpu: Some(Duration::from_micros(1500)),
            memory: Some(4000),
            memory_peak: Some(6000),
            io: Some(IoUsage { read: 100, written: 12 }),
            throttling: Some(Throttling { periods: 10, throttled: 4, time: Duration::from_millis(7) }),
            oom_kills: Some(2),
            ..Usage::default()
        };
        assert_eq!(groups.usage(), expected);
    }

    #[test]
    fn what_cannot_be_seen_is_not_zero() {
        assert_eq!(Groups::default().usage(), Usage::default());
        let empty = group(&[]);
        let groups = Groups { unified: Some(empty.path().to_owned()), ..Groups::default() };
        assert_eq!(groups.usage(), Usage::default());
    }
}
