//! A new allocation for a container that runs.

use bollard::models::ContainerUpdateBody;

use super::body::{self, Limits};
use super::{DockerProvider, Found};
use crate::config::ByteSize;
use crate::instance::{Allocation, InstanceId, ProviderError, Resized};

/// Above what is in use, for what is allocated while the limit moves: a sixteenth, and no less than this.
const HEADROOM: u64 = 4 << 20;

impl DockerProvider {
    pub(super) async fn regrant(&self, id: &InstanceId, to: Allocation) -> Result<Resized, ProviderError> {
        let client = self.client()?;
        let found = self.find(&client, id).await?;
        let limits = Limits::of(&self.ask(id, client.info()).await?);
        let memory = if found.is_alive() {
            let in_use = self.measure(&client, id, &found).await?.memory;
            // Not knowing what is in use, it is not lowered.
            to.memory.0.max(in_use.map_or_else(|| found.granted_memory(), with_headroom))
        } else {
            to.memory.0
        };
        let granted = limits.memory.then(|| body::bytes(memory));
        let update = ContainerUpdateBody {
            nano_cpus: limits.cpu.then(|| body::nanos(to.cpu)),
            memory: granted,
            memory_swap: granted,
            ..ContainerUpdateBody::default()
        };
        self.ask(id, client.update_container(&found.key, update)).await?;
        let found = self.find(&client, id).await?;
        let storage = found.enforced_storage();
        Ok(Resized {
            to: Allocation {
                cpu: to.cpu,
                memory: ByteSize(memory),
                // Fixed when it was made, where it is enforced at all.
                storage: storage.map_or(to.storage, ByteSize),
            },
            cpu_enforced: found.granted_nanos() == body::nanos(to.cpu),
            memory_enforced: found.granted_memory() == memory,
            storage_enforced: storage.is_some(),
        })
    }
}

// === impl Found ===

impl Found {
    fn granted_nanos(&self) -> i64 {
        self.seen.host_config.as_ref().and_then(|config| config.nano_cpus).unwrap_or(0)
    }

    /// Zero: no limit.
    fn granted_memory(&self) -> u64 {
        let memory = self.seen.host_config.as_ref().and_then(|config| config.memory);
        memory.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
    }

    /// `None` as well where it can write to a volume, which the engine's limit does not count.
    fn enforced_storage(&self) -> Option<u64> {
        let config = self.seen.host_config.as_ref()?;
        let writes_elsewhere = config.mounts.iter().flatten().any(|mount| mount.read_only != Some(true));
        let size = config.storage_opt.as_ref()?.get("size")?.parse().ok()?;
        (!writes_elsewhere).then_some(size)
    }
}

fn with_headroom(in_use: u64) -> u64 {
    in_use.saturating_add((in_use / 16).max(HEADROOM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_stays_above_what_is_in_use() {
        assert_eq!(with_headroom(0), 4 << 20);
        assert_eq!(with_headroom(160 << 20), 170 << 20);
        assert_eq!(with_headroom(u64::MAX), u64::MAX);
    }
}
