//! What a new instance is granted before anything is known about it.

use serde::{Deserialize, Serialize};

use crate::config::{Allocation, ByteSize, LEAST_CPU, Millicores};

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
        cpu: Millicores(u32::try_from(cpu).unwrap_or(source.cpu.0).max(LEAST_CPU)),
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
