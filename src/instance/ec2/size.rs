//! Which instance type an allocation gets, and how large a volume. Pure.

use super::answer::Part;
use crate::config::{ByteSize, Millicores};
use crate::instance::Allocation;

const GIB: u64 = 1 << 30;

/// An instance type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub name: String,
    /// Threads of a core, mostly.
    pub cpus: u32,
    pub memory: ByteSize,
    pub architectures: Vec<String>,
    /// It has its whole CPU only now and then.
    pub is_burstable: bool,
}

/// Of an answer that describes types.
pub(super) fn kinds(answer: Part<'_>) -> Vec<Kind> {
    answer.items("instanceTypeSet").filter_map(Kind::read).collect()
}

impl Kind {
    fn read(part: Part<'_>) -> Option<Self> {
        let architectures = part.child("processorInfo")?.texts("supportedArchitectures");
        Some(Self {
            name: part.owned("instanceType")?,
            cpus: part.child("vCpuInfo")?.text("defaultVCpus")?.parse().ok()?,
            memory: ByteSize::mib(part.child("memoryInfo")?.text("sizeInMiB")?.parse().ok()?),
            architectures: architectures.map(str::to_owned).collect(),
            is_burstable: part.text("burstablePerformanceSupported") == Some("true"),
        })
    }

    pub fn runs(&self, architecture: &str) -> bool {
        self.architectures.iter().any(|known| known == architecture)
    }

    fn has(&self, wanted: &Allocation) -> bool {
        self.cpu() >= wanted.cpu && self.memory >= wanted.memory
    }

    pub fn cpu(&self) -> Millicores {
        Millicores(self.cpus.saturating_mul(1000))
    }
}

/// The one with the fewest CPUs that has what is wanted, of those the one with the least memory, of those the one that
/// is `listed` first. `None`: none is large enough.
pub(super) fn smallest<'k>(
    kinds: &'k [Kind],
    listed: &[impl AsRef<str>],
    architecture: &str,
    wanted: &Allocation,
) -> Option<&'k Kind> {
    let place = |kind: &Kind| listed.iter().position(|name| name.as_ref() == kind.name);
    let fit = kinds.iter().filter(|kind| kind.runs(architecture) && kind.has(wanted));
    fit.filter(|kind| place(kind).is_some()).min_by_key(|kind| (kind.cpus, kind.memory, place(kind)))
}

/// Volumes come in whole GiB, and are no smaller than what the image brings.
pub(super) fn volume_gib(wanted: ByteSize, of_image: u64) -> u64 {
    wanted.0.div_ceil(GIB).max(of_image).max(1)
}

pub(super) fn from_gib(gib: u64) -> ByteSize {
    ByteSize(gib.saturating_mul(GIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, cpus: u32, gib: u64, architecture: &str) -> Kind {
        let architectures = vec![architecture.to_owned()];
        Kind { name: name.into(), cpus, memory: from_gib(gib), architectures, is_burstable: false }
    }

    #[test]
    fn an_allocation_gets_the_smallest_type_that_has_it() {
        let kinds = [
            kind("big", 8, 16, "x86_64"),
            kind("wide", 4, 8, "x86_64"),
            kind("fat", 2, 16, "x86_64"),
            kind("small", 2, 4, "x86_64"),
            kind("twin", 2, 4, "x86_64"),
            kind("arm", 1, 4, "arm64"),
            kind("unlisted", 1, 4, "x86_64"),
        ];
        let listed = ["twin", "small", "big", "fat", "wide", "arm"];
        let of = |cpu, gib| {
            let wanted = Allocation { cpu: Millicores(cpu), memory: from_gib(gib), storage: ByteSize(0) };
            smallest(&kinds, &listed, "x86_64", &wanted).map(|kind| kind.name.as_str())
        };
        for (cpu, gib, name) in [
            (100, 1, Some("twin")),
            (2000, 4, Some("twin")),
            (2000, 5, Some("fat")),
            (2001, 5, Some("wide")),
            (2001, 9, Some("big")),
            (8001, 1, None),
            (100, 17, None),
        ] {
            assert_eq!(of(cpu, gib), name, "{cpu} {gib}");
        }
    }

    #[test]
    fn volumes_are_whole_and_hold_the_image() {
        assert_eq!(volume_gib(ByteSize(0), 0), 1);
        assert_eq!(volume_gib(ByteSize(GIB + 1), 1), 2);
        assert_eq!(volume_gib(ByteSize(GIB), 8), 8);
        assert_eq!(volume_gib(ByteSize(u64::MAX), 8), 1 << 34);
    }
}
