//! A new allocation: a larger volume while the machine runs, another type while it does not.
//!
//! ```text
//! volume ──► larger        never smaller: EC2 cannot
//! type   ──► stop ── modify ── start ── wait for the application      only where another type is the smallest
//! ```
//!
//! Each step looks at what is so, so that one that was broken off anywhere is finished by doing it again.

use std::time::{Duration, Instant};

use super::call::Call;
use super::machine::{Machine, Status, TYPES};
use super::size::{Kind, from_gib, smallest, volume_gib};
use super::{Ec2Provider, NAME};
use crate::config::ByteSize;
use crate::instance::{Allocation, InstanceId, ProviderError, Resized};

/// For the shadow to shut down before it is switched off: what it does is a copy of what its source does.
const GRACE: Duration = Duration::from_mins(1);

impl Ec2Provider {
    pub(super) async fn regrant(&self, id: &InstanceId, to: Allocation) -> Result<Resized, ProviderError> {
        let machine = self.find(id).await?;
        let types = machine.listed(TYPES);
        let kinds = self.kinds(&types).await.map_err(|failure| failure.about(id))?;
        let architecture = machine.architecture.as_deref().unwrap_or_default();
        let kind = smallest(&kinds, &types, architecture, &to).ok_or_else(|| ProviderError::Refused {
            id: id.clone(),
            message: format!(
                "none of its types for {architecture} ({}) has {} CPU and {} memory",
                types.join(", "),
                to.cpu,
                to.memory
            ),
        })?;
        let storage = self.grow(id, &machine, to.storage).await?;
        self.become_of(id, machine, kind).await?;
        Ok(Resized {
            // No type is smaller: what it is judged with is what it will serve with, though it has more.
            to: Allocation { cpu: to.cpu, memory: kind.memory, storage },
            cpu_enforced: kind.cpu() == to.cpu,
            memory_enforced: true,
            storage_enforced: true,
        })
    }

    /// The size that it has then.
    async fn grow(
        &self,
        id: &InstanceId,
        machine: &Machine,
        to: ByteSize,
    ) -> Result<ByteSize, ProviderError> {
        // One that boots from a disk of its host has none.
        let Some(volume) = &machine.volume else { return Ok(ByteSize(0)) };
        let wanted = volume_gib(to, 0);
        let mut now = self.gib(id, volume).await?;
        if now >= wanted {
            return Ok(from_gib(now));
        }
        let call = Call::new("ModifyVolume").with("VolumeId", volume).with("Size", wanted);
        match self.client.ask(&call, |_| ()).await {
            Ok(()) => {}
            // It grows already.
            Err(failure) if failure.is("IncorrectModificationState") => {}
            Err(failure) => return Err(failure.about(id)),
        }
        let began = Instant::now();
        loop {
            now = self.gib(id, volume).await?;
            if now >= wanted {
                return Ok(from_gib(now));
            }
            if began.elapsed() >= self.client.patience.change {
                let message = format!("the volume of instance `{id}` has not grown to {wanted} GiB yet");
                return Err(ProviderError::Unavailable { provider: NAME, message });
            }
            tokio::time::sleep(self.client.patience.look).await;
        }
    }

    async fn gib(&self, id: &InstanceId, volume: &str) -> Result<u64, ProviderError> {
        let call = Call::new("DescribeVolumes").list("VolumeId", [volume]);
        let size = self.ask(id, &call, |answer| answer.items("volumeSet").next()?.text("size")?.parse().ok());
        Ok(size.await?.unwrap_or(0))
    }

    async fn become_of(
        &self,
        id: &InstanceId,
        mut machine: Machine,
        kind: &Kind,
    ) -> Result<(), ProviderError> {
        // Told to stop, or in the middle of what is done here.
        let stands_still = matches!(machine.status, Status::Stopped | Status::Stopping);
        let is_to_run = !stands_still || machine.is_to_run();
        if machine.kind != kind.name {
            machine = self.halt(id, machine, GRACE).await?;
            let call = Call::new("ModifyInstanceAttribute").with("InstanceId", &machine.key);
            self.change(id, &call.with("InstanceType.Value", &kind.name)).await?;
        }
        if !is_to_run {
            return Ok(());
        }
        let machine = self.run(id, machine).await?;
        // Copies that are sent before would count as the application's failures.
        self.await_application(&machine).await.map_err(|why| {
            let message = format!("after its type was changed {why}");
            ProviderError::Refused { id: id.clone(), message }
        })
    }
}
