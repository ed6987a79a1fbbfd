//! What each step does. Each may have been done before by a process that did not live to say so.

mod judge;
mod make;
mod retire;
mod switch;
mod warm;

pub(super) use make::START_UP;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::driver::Clock;
use super::{Control, Live};
use crate::config::{Endpoint, InstanceName};
use crate::control::slots::{Slot, Slots};
use crate::instance::{InstanceId, Provider, ProviderError, Spec, State, places, takes_connections};
use crate::migrate::phase::{Came, Cause, Step};
use crate::migrate::record::Record;

/// How often a step that waits looks again.
const LOOK: Duration = Duration::from_millis(250);
/// What a provider could not do at once is tried this often, a second apart.
const TRIES: u32 = 5;

/// Why a step goes no further.
pub(super) struct Stop(Came, String);

type Result<T = ()> = std::result::Result<T, Stop>;

impl Stop {
    fn failed(reason: impl Into<String>) -> Self {
        Self(Came::Undone(Cause::Failed), reason.into())
    }
}

impl From<ProviderError> for Stop {
    fn from(error: ProviderError) -> Self {
        Self::failed(error.to_string())
    }
}

impl Control {
    /// Carries out a step; what there is to say about it goes into the record.
    pub(super) async fn perform(
        self: &Arc<Self>,
        id: u64,
        record: &mut Record,
        step: Step,
        (clock, repeated): (Clock, bool),
    ) -> Came {
        let work = Work { control: self, id, clock, repeated };
        work.follow(record).await;
        let result = match step {
            Step::Check => work.check(record).await,
            Step::Create => work.create(record).await,
            Step::Start => work.start(record).await,
            Step::AwaitHealthy => work.await_healthy(record).await,
            Step::Attach => work.attach(record).await,
            // Nothing is configured that could be replicated.
            Step::Replicate => Ok(()),
            Step::Observe => work.observe(record).await,
            Step::Resize => work.resize(record).await,
            Step::Warm => work.warm(record).await,
            Step::Forget => work.forget(record).await,
            Step::Judge => work.judge(record).await,
            Step::Approve => work.approve(record).await,
            Step::Switch => work.switch(record).await,
            Step::Watch => work.watch(record).await,
            Step::Grace => work.grace(record).await,
            Step::Vacate => work.vacate(record).await,
            Step::StopSource => work.end(record.source.as_ref(), false).await,
            Step::DestroySource => work.end(record.source.as_ref(), true).await,
            Step::SwitchBack => work.switch_back(record).await,
            Step::Detach => work.detach(record).await,
            Step::StopShadow => work.end(Some(&record.spec), false).await,
            Step::DestroyShadow => work.end(Some(&record.spec), true).await,
        };
        match result {
            Ok(()) => Came::Done,
            Err(Stop(came, reason)) => {
                tracing::warn!(migration = id, step = step.as_str(), reason, "a step came to nothing");
                record.reason = Some(reason);
                came
            }
        }
    }
}

pub(super) struct Work<'c> {
    pub control: &'c Arc<Control>,
    pub id: u64,
    clock: Clock,
    /// Another process began the step, and nobody knows how far it came.
    repeated: bool,
}

impl Work<'_> {
    /// Two names for one instance would end in its own end.
    async fn is_another(&self, record: &Record) -> Result {
        let running = self.control.services.load().get(&record.spec.service);
        let active = running.as_ref().and_then(|of| of.endpoints(record.slot.other())).unwrap_or_default();
        let serving = places(active).await;
        match places(&endpoints(record)).await.intersection(&serving).next() {
            Some(same) => Err(Stop::failed(format!("{same} is the instance that serves already"))),
            None => Ok(()),
        }
    }

    /// An instance that was started again may have come up elsewhere; its slot knows where.
    async fn follow(&self, record: &mut Record) {
        let Ok(slots) = Slots::load(&self.control.store()).await else { return };
        let slot = slots.get(&record.spec.service, record.slot);
        if let Some(slot) = slot.filter(|slot| slot.holds(&record.spec.id))
            && slot.endpoints != record.endpoints
        {
            record.endpoints.clone_from(&slot.endpoints);
        }
    }

    /// What the proxy has in the slot is this migration's instance.
    fn is_attached(&self, record: &Record) -> Result {
        let running = self.control.services.load().get(&record.spec.service);
        let there = running.as_ref().and_then(|of| of.endpoints(record.slot)).unwrap_or_default();
        if there == endpoints(record) {
            return Ok(());
        }
        let what = "the settings name another instance in its place; put them back and start again";
        Err(Stop::failed(what))
    }

    /// It runs and takes connections.
    async fn is_there(&self, record: &Record) -> std::result::Result<(), String> {
        self.is_alive(record).await.map_err(|Stop(_, why)| why)?;
        takes_connections(&endpoints(record)).await
    }

    /// Puts an instance into a slot, durable and in the running proxy.
    async fn fill(
        &self,
        record: &Record,
        slot: InstanceName,
        endpoints: &[Endpoint],
        spec: Option<Spec>,
    ) -> Result {
        let service = &record.spec.service;
        let settings = self.control.settings();
        let configured = settings
            .services
            .get(service)
            .ok_or_else(|| Stop::failed(format!("service `{service}` is no longer in the settings")))?;
        let same = |of: &crate::config::Instance| of.endpoints == endpoints;
        // What the settings say already needs no slot; they go on deciding.
        if !(slot == InstanceName::Shadow && configured.shadow.as_ref().is_some_and(same)) {
            let value = json!(Slot::new(endpoints, spec, configured, slot));
            let store = self.control.store();
            store
                .set_slot(service, slot, Some(value))
                .await
                .map_err(|error| Stop::failed(error.to_string()))?;
        }
        self.control.refresh().await.map_err(|error| Stop::failed(error.to_string()))
    }

    /// Takes connections and passes the service's checks.
    async fn passes_checks(&self, record: &Record) -> std::result::Result<(), String> {
        takes_connections(&endpoints(record)).await?;
        match self.control.check(self.id, record).await {
            Some(health) if health.good_in_a_row == 0 => Err(health.last_failure.unwrap_or_default()),
            _ => Ok(()),
        }
    }

    fn provider(&self, record: &Record) -> std::result::Result<&Arc<dyn Provider>, ProviderError> {
        self.control.providers().of(&record.spec.workload)
    }

    fn active(&self, service: &str) -> Result<InstanceName> {
        let gate = self.control.gates.state(service);
        gate.map(|gate| gate.active)
            .ok_or_else(|| Stop::failed(format!("service `{service}` is no longer in the settings")))
    }

    /// An instance that has ended is not waited for.
    async fn is_alive(&self, record: &Record) -> Result {
        let provider = self.provider(record)?;
        match provider.state(&record.spec.id).await {
            Ok(State::Ended { code, out_of_memory }) => {
                let how = how_it_ended(provider, &record.spec.id, code, out_of_memory).await;
                Err(Stop::failed(format!("the new instance is gone: {how}")))
            }
            Ok(State::Absent | State::Made) => {
                Err(Stop::failed("the new instance is gone: it does not run any more"))
            }
            // What cannot be seen now may be seen a little later.
            Ok(State::Running | State::Fenced) | Err(_) => Ok(()),
        }
    }

    /// Says what is missing and looks again a little later, unless the deadline has passed.
    async fn wait_for(&self, record: &Record, what: String) -> Result {
        let patience = record.options.deadline;
        if record.spent + self.clock.since_lap() >= patience {
            return Err(Stop::failed(format!(
                "its deadline of {patience:?} has passed; it was waiting for {what}"
            )));
        }
        let live = Live { waits_for: Some(what), gates: record.gates.clone(), ..Live::default() };
        self.control.migrations.see(self.id, live);
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    fn in_step(&self, record: &Record) -> Duration {
        record.spent_in_step + self.clock.since_lap()
    }

    async fn look_again(&self, what: String) {
        self.control.migrations.see(self.id, Live { waits_for: Some(what), ..Live::default() });
        tokio::time::sleep(LOOK).await;
    }
}

/// In words, with the last ones of its own.
pub(super) async fn how_it_ended(
    provider: &Arc<dyn Provider>,
    id: &InstanceId,
    code: Option<i32>,
    out_of_memory: bool,
) -> String {
    format!("{}; it wrote: {}", ending(code, out_of_memory), provider.tail(id).await)
}

pub(super) fn ending(code: Option<i32>, out_of_memory: bool) -> String {
    match (out_of_memory, code) {
        (true, _) => "it was killed for want of memory".to_owned(),
        (_, Some(code)) => format!("it ended with code {code}"),
        (_, None) => "it ended".to_owned(),
    }
}

/// What does not answer is asked again.
pub(super) async fn again<'a, T>(
    call: impl Fn() -> futures_util::future::BoxFuture<'a, std::result::Result<T, ProviderError>>,
) -> std::result::Result<T, ProviderError> {
    let mut tries = 1;
    loop {
        match call().await {
            Err(error) if error.is_transient() && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            other => return other,
        }
    }
}

fn endpoints(record: &Record) -> Vec<Endpoint> {
    record.endpoints.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Every slot's instance that Segue runs itself.
pub(super) fn specs(slots: &Slots) -> impl Iterator<Item = &Spec> {
    slots.iter().filter_map(|(.., slot)| slot.spec.as_ref())
}
