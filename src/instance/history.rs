//! Usage over a minute, from looks at an instance: pure arithmetic on counters that may begin anew.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Usage, Used};
use crate::config::{ByteSize, Millicores};

/// What one instance used in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Average, in thousandths of a core.
    pub cpu: Option<u32>,
    /// Average and most, in bytes.
    pub memory: Option<u64>,
    pub memory_peak: Option<u64>,
    pub storage: Option<u64>,
}

/// Looks that have not become a minute yet.
#[derive(Clone, Copy, Debug)]
pub struct Gathering {
    began: Instant,
    first: Usage,
    last: Usage,
    memory_sum: u64,
    memory_most: u64,
    looks: u64,
}

impl Gathering {
    pub fn new(now: Instant, usage: Usage) -> Self {
        let mut gathering =
            Self { began: now, first: usage, last: usage, memory_sum: 0, memory_most: 0, looks: 0 };
        gathering.look(usage);
        gathering
    }

    pub fn look(&mut self, usage: Usage) {
        self.last = usage;
        if let Some(memory) = usage.memory {
            self.memory_sum += memory;
            self.memory_most = self.memory_most.max(memory);
            self.looks += 1;
        }
    }

    /// How long it has been gathered.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    pub fn minute(&self, now: Instant) -> Minute {
        let seconds = self.age(now).as_secs_f64();
        let cpu = match (self.first.cpu, self.last.cpu) {
            // A counter that has fallen belongs to another process.
            (Some(first), Some(last)) if last >= first && seconds > 0.0 => {
                Some((last.saturating_sub(first).as_secs_f64() / seconds * 1000.0).round() as u32)
            }
            _ => None,
        };
        let seen = self.looks > 0;
        Minute {
            cpu,
            memory: seen.then(|| self.memory_sum / self.looks),
            memory_peak: seen.then_some(self.memory_most),
            storage: self.last.storage,
        }
    }
}

/// The average of many minutes; `None` while nothing is known.
pub fn average(minutes: &[Minute], start_up_memory: u64) -> Option<Used> {
    let mean = |of: Vec<u64>| (!of.is_empty()).then(|| of.iter().sum::<u64>() / of.len() as u64);
    let cpu = mean(minutes.iter().filter_map(|minute| minute.cpu.map(u64::from)).collect())?;
    let memory = mean(minutes.iter().filter_map(|minute| minute.memory).collect())?;
    Some(Used {
        cpu: Millicores(u32::try_from(cpu).unwrap_or(u32::MAX)),
        memory: ByteSize(memory),
        start_up_memory: ByteSize(start_up_memory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_ms: u64, memory: u64) -> Usage {
        Usage { cpu: Some(Duration::from_millis(cpu_ms)), memory: Some(memory), ..Usage::default() }
    }

    #[test]
    fn a_minute_is_the_rise_of_counters_and_the_mean_of_levels() {
        let now = Instant::now();
        let mut gathering = Gathering::new(now, usage(1000, 100));
        gathering.look(usage(5000, 500));
        gathering.look(usage(31_000, 300));
        let minute = gathering.minute(now + Duration::from_mins(1));
        assert_eq!((minute.cpu, minute.memory, minute.memory_peak), (Some(500), Some(300), Some(500)));
    }

    #[test]
    fn a_counter_that_begins_anew_says_nothing() {
        let now = Instant::now();
        let mut gathering = Gathering::new(now, usage(9000, 100));
        gathering.look(usage(10, 100));
        assert_eq!(gathering.minute(now + Duration::from_mins(1)).cpu, None);
        assert_eq!(average(&[], 0), None);
        let blind = Gathering::new(now, Usage::default()).minute(now + Duration::from_mins(1));
        assert_eq!(blind, Minute::default());
        assert_eq!(average(&[blind], 7), None, "what was not seen is not zero");
    }
}
