//! What an instance is granted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ByteSize;

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
pub const LEAST_CPU: u32 = 10;
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
        (f64::from(LEAST_CPU)..=f64::from(MOST)).contains(&thousandths).then_some(Self(thousandths as u32))
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
            // What an instance is stored with that nobody grants anything.
            Written::Text(text) if text == Self(0).to_string() => Ok(Self(0)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Millicores> for String {
    fn from(cpu: Millicores) -> Self {
        cpu.to_string()
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of an instance that somebody else runs.
        if self.cpu.0 == 0 && self.memory.0 == 0 && self.storage.0 == 0 {
            return f.write_str("no limits of Segue's");
        }
        write!(f, "{} CPU, {} memory, {} storage", self.cpu, self.memory, self.storage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_limits_is_not_called_nothing() {
        let of = |cpu| Allocation { cpu: Millicores(cpu), memory: ByteSize(0), storage: ByteSize(0) };
        assert_eq!(of(0).to_string(), "no limits of Segue's");
        assert!(of(250).to_string().starts_with("250m CPU"));
    }

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
    fn what_is_stored_is_what_was_granted() {
        let granted =
            Allocation { cpu: Millicores(1250), memory: ByteSize::mib(300), storage: ByteSize(1_000_001) };
        let text = serde_json::to_string(&granted).unwrap();
        assert_eq!(serde_json::from_str::<Allocation>(&text).unwrap(), granted, "{text}");
        let nothing = Allocation { cpu: Millicores(0), memory: ByteSize(0), storage: ByteSize(0) };
        let text = serde_json::to_string(&nothing).unwrap();
        assert_eq!(serde_json::from_str::<Allocation>(&text).unwrap(), nothing, "{text}");
    }
}
