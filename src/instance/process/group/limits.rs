//! What the kernel holds an instance to: a quota of CPU, and memory that shrinks only to what is not in use.
//!
//! A limit of memory below what is in use ends the instance: v2 kills at once, v1 refuses and kills at the next
//! page. So a smaller one is approached from above. The kernel is asked to take back what it can (`memory.high`, or
//! v1's soft limit), the limit follows what is in use by then, and where that is more than was asked for, it is
//! what is granted.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Groups;
use crate::config::ByteSize;
use crate::instance::{Allocation, Millicores};

/// The scheduler's period; the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// How often, and for how long in all (1 s), the kernel is given the time to take memory back.
const ATTEMPTS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(50);

/// Kept above what is in use when memory shrinks: a twentieth, and at least 4 MiB, since every CPU charges pages in
/// batches of 256 KiB and requests in flight need some.
const LEAST_MARGIN: ByteSize = ByteSize::mib(4);
const MARGIN_PART: u64 = 20;

/// What came of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub cpu_enforced: bool,
    /// The limit that is in force; `None`: none can be set.
    pub memory: Option<ByteSize>,
}

/// The file of the limit and those around it, by version.
struct MemoryFiles {
    group: PathBuf,
    unified: bool,
}

// === impl Groups ===

impl Groups {
    /// Of an instance in which nothing runs: outright.
    pub fn set(&self, to: &Allocation) -> io::Result<Granted> {
        let cpu_enforced = self.set_cpu(to.cpu)?;
        let memory = self.memory_files();
        if let Some(files) = &memory {
            files.keep_from_swap();
            files.write(to.memory)?;
        }
        Ok(Granted { cpu_enforced, memory: memory.map(|_| to.memory) })
    }

    /// Of one that runs. Takes up to a second when memory shrinks.
    pub async fn resize(&self, to: &Allocation) -> io::Result<Granted> {
        let cpu_enforced = self.set_cpu(to.cpu)?;
        let memory = match self.memory_files() {
            None => None,
            Some(files) => Some(files.approach(to.memory).await?),
        };
        Ok(Granted { cpu_enforced, memory })
    }

    fn set_cpu(&self, cpu: Millicores) -> io::Result<bool> {
        let quota = u64::from(cpu.0) * PERIOD_US / 1000;
        if let Some(group) = &self.cpu {
            fs::write(group.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
            return Ok(true);
        }
        let file = self.unified.as_ref().map(|group| group.join("cpu.max")).filter(|file| file.exists());
        let Some(file) = file else { return Ok(false) };
        fs::write(file, format!("{quota} {PERIOD_US}"))?;
        Ok(true)
    }

    fn memory_files(&self) -> Option<MemoryFiles> {
        if let Some(group) = &self.memory {
            return Some(MemoryFiles { group: group.clone(), unified: false });
        }
        let group = self.unified.clone().filter(|group| group.join("memory.max").exists())?;
        Some(MemoryFiles { group, unified: true })
    }
}

// === impl MemoryFiles ===

impl MemoryFiles {
    fn at(&self, v1: &str, v2: &str) -> PathBuf {
        self.group.join(if self.unified { v2 } else { v1 })
    }

    /// An instance that swaps is neither measured nor judged rightly.
    fn keep_from_swap(&self) {
        let file = self.at("memory.swappiness", "memory.swap.max");
        // Without swap there is no such file, nor need for it.
        let _ = if file.exists() { fs::write(file, "0") } else { Ok(()) };
    }

    fn write(&self, to: ByteSize) -> io::Result<()> {
        fs::write(self.at("memory.limit_in_bytes", "memory.max"), to.bytes().to_string())
    }

    /// `None`: there is no limit.
    fn limit(&self) -> io::Result<Option<ByteSize>> {
        let text = fs::read_to_string(self.at("memory.limit_in_bytes", "memory.max"))?;
        Ok(text.trim().parse().ok().map(ByteSize))
    }

    /// With all that the kernel could give up.
    fn charged(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.at("memory.usage_in_bytes", "memory.current"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    fn in_use(&self) -> io::Result<u64> {
        let stat = fs::read_to_string(self.group.join("memory.stat"))?;
        let inactive = super::readings::inactive_file(&stat, self.unified);
        Ok(self.charged()?.saturating_sub(inactive))
    }

    async fn approach(&self, asked: ByteSize) -> io::Result<ByteSize> {
        let limit = self.limit()?;
        if limit.is_none_or(|limit| limit <= asked) {
            self.write(asked)?;
            self.press(None)?;
            return Ok(asked);
        }
        for _ in 0..ATTEMPTS {
            let target = above(asked, self.in_use()?);
            if limit.is_some_and(|limit| target >= limit) {
                break;
            }
            self.press(Some(target))?;
            if self.lower(target).await? {
                self.press(None)?;
                return Ok(target);
            }
            tokio::time::sleep(BETWEEN).await;
        }
        self.press(None)?;
        Ok(limit.unwrap_or(asked))
    }

    /// Has the kernel take back what is over `target`, without harm to whoever needs it.
    fn press(&self, target: Option<ByteSize>) -> io::Result<()> {
        let text = match (target, self.unified) {
            (Some(target), _) => target.bytes().to_string(),
            (None, true) => "max".to_owned(),
            (None, false) => "-1".to_owned(),
        };
        fs::write(self.at("memory.soft_limit_in_bytes", "memory.high"), text)
    }

    /// `false`: too much is in use just now.
    async fn lower(&self, target: ByteSize) -> io::Result<bool> {
        if self.unified && self.charged()? > target.bytes() {
            return Ok(false);
        }
        let file = self.at("memory.limit_in_bytes", "memory.max");
        // The kernel takes memory back within the call.
        let written = tokio::task::spawn_blocking(move || fs::write(file, target.bytes().to_string()));
        match written.await.map_err(io::Error::other)? {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            written => written.map(|()| true),
        }
    }
}

/// What was asked for, or what is in use and a margin, in whole MiB: pages are larger on some machines.
fn above(asked: ByteSize, in_use: u64) -> ByteSize {
    let margin = (in_use / MARGIN_PART).max(LEAST_MARGIN.bytes());
    asked.max(ByteSize(in_use.saturating_add(margin).next_multiple_of(ByteSize::mib(1).bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A v2 group as files that do what they are told.
    fn unified(current: u64, inactive: u64, max: &str) -> (tempfile::TempDir, Groups) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.max", "max 100000".to_owned()),
            ("memory.max", max.to_owned()),
            ("memory.high", "max".to_owned()),
            ("memory.current", current.to_string()),
            ("memory.stat", format!("anon 1\ninactive_file {inactive}\n")),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let groups = Groups { unified: Some(folder.path().to_owned()), ..Groups::default() };
        (folder, groups)
    }

    fn to(memory: ByteSize) -> Allocation {
        Allocation { cpu: Millicores(250), memory, storage: ByteSize(0) }
    }

    fn resize(groups: &Groups, to: &Allocation) -> Granted {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(groups.resize(to)).unwrap()
    }

    #[test]
    fn memory_in_use_is_never_taken() {
        let in_use = ByteSize::mib(200);
        let (folder, groups) = unified(in_use.bytes(), 0, &ByteSize::mib(400).bytes().to_string());
        let granted = resize(&groups, &to(ByteSize::mib(100)));
        assert_eq!(granted.memory, Some(ByteSize::mib(210)), "200 MiB in use and a twentieth");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("memory.max"), ByteSize::mib(210).bytes().to_string());
        assert_eq!(read("memory.high"), "max", "it is not throttled for ever");
        assert_eq!(read("cpu.max"), "25000 100000");
    }

    #[test]
    fn cache_that_is_not_given_up_in_time_keeps_the_limit() {
        let limit = ByteSize::mib(400);
        // 350 MiB are charged, 300 of them cache, and nobody takes any back here.
        let charged = ByteSize::mib(350);
        let (folder, groups) =
            unified(charged.bytes(), ByteSize::mib(300).bytes(), &limit.bytes().to_string());
        assert_eq!(resize(&groups, &to(ByteSize::mib(100))).memory, Some(limit));
        assert_eq!(fs::read_to_string(folder.path().join("memory.max")).unwrap(), limit.bytes().to_string());
    }

    #[test]
    fn more_is_granted_at_once_and_a_first_limit_too() {
        for before in ["104857600", "max"] {
            let (_folder, groups) = unified(1, 0, before);
            assert_eq!(resize(&groups, &to(ByteSize::mib(300))).memory, Some(ByteSize::mib(300)), "{before}");
        }
    }

    #[test]
    fn without_controllers_nothing_is_enforced() {
        let folder = tempfile::tempdir().unwrap();
        let hybrid = Groups { unified: Some(folder.path().to_owned()), ..Groups::default() };
        for groups in [Groups::default(), hybrid] {
            let nothing = Granted { cpu_enforced: false, memory: None };
            assert_eq!(groups.set(&to(ByteSize::mib(1))).unwrap(), nothing);
            assert_eq!(resize(&groups, &to(ByteSize::mib(1))), nothing);
        }
    }
}
