//! What an instance is granted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::ByteSize;

/// Thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Millicores(pub u32);

/// CPU, memory and storage of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    pub cpu: Millicores,
    pub memory: ByteSize,
    pub storage: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    #[error(
        "{0:?} is no amount of CPU; write cores such as \"0.5\" or \"2\", or thousandths such as \"500m\""
    )]
    Cpu(String),
}

/// Less than this and the kernel's scheduler gives nothing at all (a quota is at least 1 ms of a period).
const LEAST: u32 = 10;
/// More than any machine has.
const MOST: u32 = 4_096_000;

/// A number of cores, or a text as in [`Millicores::from_str`].
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Cores(f64),
    Text(String),
}

impl Millicores {
    pub fn from_cores(cores: f64) -> Option<Self> {
        let thousandths = (cores * 1000.0).round();
        (f64::from(LEAST)..=f64::from(MOST)).contains(&thousandths).then_some(Self(thousandths as u32))
    }

    pub fn as_cores(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

impl FromStr for Millicores {
    type Err = AllocationError;

    fn from_str(text: &str) -> Result<Self, AllocationError> {
        let wrong = || AllocationError::Cpu(text.to_owned());
        let cores = match text.strip_suffix('m') {
            Some(thousandths) => f64::from(thousandths.parse::<u32>().map_err(|_| wrong())?) / 1000.0,
            None => text.parse::<f64>().map_err(|_| wrong())?,
        };
        Self::from_cores(cores).ok_or_else(wrong)
    }
}

impl TryFrom<Written> for Millicores {
    type Error = AllocationError;

    fn try_from(written: Written) -> Result<Self, AllocationError> {
        match written {
            Written::Cores(cores) => {
                Self::from_cores(cores).ok_or_else(|| AllocationError::Cpu(cores.to_string()))
            }
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Millicores> for String {
    fn from(cpu: Millicores) -> Self {
        cpu.to_string()
    }
}

/// What a shadow starts with: a quarter to a half of what the source has.
///
/// Half, unless the source is known to use less (`used`, its average over a day): then what it uses, as a
/// share, but never below a quarter. Memory is not less than what the source needed to start. Storage is what
/// the source has: data is as large on both sides.
pub fn starting(source: Allocation, used: Option<Used>) -> Allocation {
    let share = |of: f64| of.clamp(0.25, 0.5);
    let of = |granted: u64, used: Option<u64>| {
        let used = used.filter(|_| granted > 0).map_or(0.5, |used| used as f64 / granted as f64);
        (granted as f64 * share(used)).ceil() as u64
    };
    let cpu = of(source.cpu.0.into(), used.map(|used| used.cpu.0.into()));
    let memory = of(source.memory.0, used.map(|used| used.memory.0));
    let floor = used.map_or(0, |used| used.start_up_memory.0).min(source.memory.0);
    Allocation {
        cpu: Millicores(u32::try_from(cpu).unwrap_or(source.cpu.0).max(LEAST)),
        memory: ByteSize(memory.max(floor)),
        storage: source.storage,
    }
}

/// What an instance has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// On average.
    pub cpu: Millicores,
    pub memory: ByteSize,
    /// The most that it held before it answered its first request.
    pub start_up_memory: ByteSize,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPU, {} memory, {} storage", self.cpu, self.memory, self.storage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_written_in_cores_or_thousandths() {
        for (text, thousandths) in [("0.5", 500), ("2", 2000), ("250m", 250), ("1.25", 1250), ("10m", 10)] {
            assert_eq!(text.parse(), Ok(Millicores(thousandths)), "{text}");
        }
        for text in ["", "m", "-1", "0", "9m", "two", "1e9", "NaN", "5 m", "1.5m"] {
            assert_eq!(text.parse::<Millicores>(), Err(AllocationError::Cpu(text.to_owned())), "{text}");
        }
        assert_eq!(serde_json::from_str::<Millicores>("0.5").unwrap(), Millicores(500));
        assert_eq!(serde_json::from_str::<Millicores>("\"750m\"").unwrap(), Millicores(750));
        assert!(serde_json::from_str::<Millicores>("0").is_err());
    }

    #[test]
    fn a_shadow_starts_with_a_quarter_to_a_half() {
        let source =
            Allocation { cpu: Millicores(2000), memory: ByteSize::mib(1000), storage: ByteSize::mib(7) };
        let used = |cpu, memory, start_up| Used {
            cpu: Millicores(cpu),
            memory: ByteSize::mib(memory),
            start_up_memory: ByteSize::mib(start_up),
        };
        for (history, cpu, memory) in [
            (None, 1000, 500),
            (Some(used(10, 10, 0)), 500, 250),
            (Some(used(600, 400, 0)), 600, 400),
            (Some(used(1900, 900, 0)), 1000, 500),
            (Some(used(10, 10, 800)), 500, 800),
            (Some(used(10, 10, 5000)), 500, 1000),
        ] {
            let start = starting(source, history);
            assert_eq!((start.cpu, start.memory), (Millicores(cpu), ByteSize::mib(memory)), "{history:?}");
            assert_eq!(start.storage, source.storage);
        }
    }

    #[test]
    fn what_is_stored_is_what_was_granted() {
        let granted =
            Allocation { cpu: Millicores(1250), memory: ByteSize::mib(300), storage: ByteSize(1_000_001) };
        let text = serde_json::to_string(&granted).unwrap();
        assert_eq!(serde_json::from_str::<Allocation>(&text).unwrap(), granted, "{text}");
    }
}
