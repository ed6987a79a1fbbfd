//! Looks at the instances that Segue runs, for as long as it runs: their history is what new ones are sized by.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::json;

use super::sources::bring_up;
use super::steps::{how_it_ended, specs};
use super::{Control, lock, unix_millis};
use crate::config::InstanceName;
use crate::control::slots::{Slot, Slots};
use crate::instance::{Gathering, InstanceId, Minute, Spec, State, Used, average};
use crate::proxy::gate::controller::Phase;
use crate::store::{StoreError, UsageRow};

/// Whether they still run.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two samples of usage.
const SAMPLE_EVERY: u64 = 10;
/// What becomes one row.
const STRETCH: Duration = Duration::from_mins(1);
/// What an average is taken over: a day of stretches has all hours in it. Counted, as clocks are set.
const DAY: usize = 24 * 60;

/// Samples, and starts again what has ended, until the process does.
pub(super) async fn follow(control: Weak<Control>) {
    let mut gathered: HashMap<InstanceId, Gathering> = HashMap::new();
    for look in 0_u64.. {
        tokio::time::sleep(LOOK).await;
        let Some(control) = control.upgrade() else { return };
        let slots = match Slots::load(&control.store()).await {
            Ok(slots) => slots,
            // A successor has it.
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "usage cannot be sampled");
                continue;
            }
        };
        gathered.retain(|id, _| specs(&slots).any(|spec| spec.id == *id));
        for (service, name, slot) in slots.iter() {
            let Some(spec) = &slot.spec else { continue };
            control.keep_running((service, name), slot, spec).await;
            if look.is_multiple_of(SAMPLE_EVERY) {
                control.sample(spec, &mut gathered).await;
            }
        }
    }
}

impl Control {
    async fn keep_running(self: &Arc<Self>, (service, name): (&str, InstanceName), slot: &Slot, spec: &Spec) {
        let Ok(provider) = self.providers().of(&spec.workload) else { return };
        let Some(gate) = self.gates.state(service) else { return };
        let serves = gate.active == name;
        match provider.state(&spec.id).await {
            // A pause that was broken off may have left it so.
            Ok(State::Fenced) if gate.phase == Phase::Open => {
                tracing::warn!(instance = %spec.id, "an instance is frozen outside of a switchover; it is thawed");
                if let Err(error) = provider.unfence(&spec.id).await {
                    tracing::error!(%error, instance = %spec.id, "it cannot be thawed");
                }
            }
            // Whoever else looks after it, such as a container engine, may have started it again elsewhere.
            Ok(State::Running) => self.find_again((service, name), slot).await,
            Ok(State::Ended { code, out_of_memory }) if serves || !self.is_migrating(&spec.id) => {
                // It may have been retired since these slots were read.
                let now = Slots::load(&self.store()).await.ok();
                let there = now.as_ref().and_then(|slots| slots.get(service, name)?.spec.as_ref());
                if there != Some(spec) {
                    return;
                }
                tracing::error!(instance = %spec.id, "an instance has ended by itself; it is started again");
                if self.is_migrating(&spec.id) {
                    let how = how_it_ended(provider, &spec.id, code, out_of_memory).await;
                    lock(&self.migrations.ends).insert(spec.id.clone(), how);
                }
                self.find_again((service, name), slot).await;
            }
            _ => {}
        }
    }

    /// Starts what does not run, and lets the proxy know where it is if that has changed.
    async fn find_again(self: &Arc<Self>, of: (&str, InstanceName), slot: &Slot) {
        let moved = match bring_up(&self.store(), self.providers(), of, slot).await {
            Ok(moved) => moved,
            Err(error) => {
                return tracing::error!(%error, service = of.0, "an instance cannot be kept running");
            }
        };
        if moved && let Err(error) = self.refresh().await {
            tracing::error!(%error, service = of.0, "where an instance runs now is not known to the proxy");
        }
    }

    async fn sample(&self, spec: &Spec, gathered: &mut HashMap<InstanceId, Gathering>) {
        let Ok(provider) = self.providers().of(&spec.workload) else { return };
        let Ok(usage) = provider.usage(&spec.id).await else { return };
        let now = Instant::now();
        let gathering = gathered.entry(spec.id.clone()).or_insert_with(|| Gathering::new(now, usage));
        gathering.look(usage);
        if gathering.age(now) < STRETCH {
            return;
        }
        let row = UsageRow { at: unix_millis(), record: json!(gathering.minute(now)) };
        *gathering = Gathering::new(now, usage);
        if let Err(error) = self.store().add_usage(&spec.service, spec.id.as_str(), row).await {
            tracing::warn!(%error, instance = %spec.id, "its usage was not kept");
        }
    }

    /// What an instance has used over the last day; `None` while nothing is known.
    pub(super) async fn used(&self, spec: &Spec) -> Result<Option<Used>, StoreError> {
        Ok(summary(self.store().usage(spec.id.as_str(), DAY).await?))
    }
}

/// Of rows in the order in which they were added.
fn summary(rows: Vec<UsageRow>) -> Option<Used> {
    let minutes: Vec<Minute> =
        rows.into_iter().filter_map(|row| serde_json::from_value(row.record).ok()).collect();
    // The first minute has the start in it.
    let start_up = minutes.first().and_then(|minute| minute.memory_peak).unwrap_or(0);
    average(&minutes, start_up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Millicores};
    use crate::store::Store;

    /// 2026, 2100 and 1970, in Unix time in milliseconds.
    const NOW: u64 = 1_780_000_000_000;
    const FAR: u64 = 4_102_444_800_000;

    /// One that took 900 bytes to start and 100 since then, minute by minute at `times`.
    async fn used(times: impl IntoIterator<Item = u64>) -> Option<Used> {
        let store = Store::in_memory().unwrap();
        for (n, at) in times.into_iter().enumerate() {
            let peak = if n == 0 { 900 } else { 100 };
            let minute = Minute { cpu: Some(250), memory: Some(100), memory_peak: Some(peak), storage: None };
            store.add_usage("web", "a", UsageRow { at, record: json!(minute) }).await.unwrap();
        }
        summary(store.usage("a", DAY).await.unwrap())
    }

    #[tokio::test]
    async fn a_clock_that_is_set_changes_neither_the_average_nor_the_peak_of_the_start() {
        let expected =
            Some(Used { cpu: Millicores(250), memory: ByteSize(100), start_up_memory: ByteSize(900) });
        let hour = 3_600_000;
        for step in [NOW - hour, NOW + hour, 0, FAR] {
            assert_eq!(used([NOW, step]).await, expected, "{step}");
            assert_eq!(used([NOW, step, NOW + 60_000]).await, expected, "{step} and back");
        }
    }
}
