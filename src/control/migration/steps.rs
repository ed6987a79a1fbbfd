//! What each step does. Each may have been done before by a process that did not live to say so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::driver::Clock;
use super::evidence::Answered;
use super::handover::{Hands, clear_up};
use super::{Control, Live, unix_millis};
use crate::config::{DrainPolicy, Endpoint, InstanceName, Policy, Window};
use crate::control::SwitchoverRequest;
use crate::control::slots::{Slot, Slots};
use crate::instance::{Gravity, Provider, ProviderError, Role, State, takes_connections};
use crate::migrate::gate::{self, Gate, GateVerdict, Verdict};
use crate::migrate::phase::{Came, Cause, Step};
use crate::migrate::record::Record;
use crate::migrate::switchover::{Outcome, Refused};
use crate::migrate::window;

/// How often a step that waits looks again.
const LOOK: Duration = Duration::from_millis(250);
/// For the new instance to answer for the first time.
const START_UP: Duration = Duration::from_mins(2);
/// What a provider could not do at once is tried this often, a second apart.
const TRIES: u32 = 5;
/// For an instance to end by itself.
const END_GRACE: Duration = Duration::from_secs(10);
/// Pairs that show that the shadow works at all: too few to judge it, enough to size it.
const FIRST_PAIRS: u64 = 20;
/// For the source to take connections again, where it has to take over again.
const SOURCE_BACK: Duration = Duration::from_secs(30);
/// Switchovers that may give up before the migration does.
const SWITCHES: u32 = 3;

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
    async fn check(&self, record: &mut Record) -> Result {
        record.report = self.provider(record)?.preflight(&record.spec).await;
        let faults = record.report.iter().filter(|finding| finding.gravity == Gravity::Fault);
        let faults: Vec<_> = faults.map(|of| format!("{}: {}", of.subject, of.message)).collect();
        if faults.is_empty() { Ok(()) } else { Err(Stop::failed(faults.join("; "))) }
    }

    async fn create(&self, record: &mut Record) -> Result {
        let provider = self.provider(record)?;
        Ok(again(|| provider.create(&record.spec)).await?)
    }

    async fn start(&self, record: &mut Record) -> Result {
        let provider = self.provider(record)?;
        let running = again(|| provider.start(&record.spec)).await?;
        record.endpoints = running.endpoints.iter().map(ToString::to_string).collect();
        self.is_another(record)
    }

    async fn await_healthy(&self, record: &mut Record) -> Result {
        let began = Instant::now();
        loop {
            self.is_alive(record).await?;
            match self.passes_checks(record).await {
                Ok(()) => return Ok(()),
                Err(why) if began.elapsed() >= START_UP => {
                    let said = self.provider(record)?.tail(&record.spec.id).await;
                    let reason = format!("it did not come up within {START_UP:?}: {why}; it wrote: {said}");
                    return Err(Stop::failed(reason));
                }
                Err(why) => self.wait_for(record, format!("the new instance to come up: {why}")).await?,
            }
        }
    }

    async fn attach(&self, record: &mut Record) -> Result {
        let endpoints = endpoints(record);
        self.fill(record, record.slot, &endpoints, Some(record.spec.clone())).await?;
        self.control.mark(&record.spec.service).await;
        Ok(())
    }

    async fn observe(&self, record: &mut Record) -> Result {
        let wanted = FIRST_PAIRS.min(record.options.min_pairs);
        loop {
            self.is_alive(record).await?;
            let pairs = self.control.pairs_since_mark(&record.spec.service, record.slot);
            if pairs >= wanted {
                return Ok(());
            }
            let what = format!("{} more pairs, to see that the new instance works at all", wanted - pairs);
            self.wait_for(record, what).await?;
        }
    }

    async fn resize(&self, record: &mut Record) -> Result {
        let provider = self.provider(record)?;
        let resized = again(|| provider.resize(&record.spec.id, record.wanted)).await?;
        record.granted = Some(resized);
        // Whoever starts it again, or sizes its successor, goes by what it has now.
        let spec = crate::instance::Spec { allocation: resized.to, ..record.spec.clone() };
        self.fill(record, record.slot, &endpoints(record), Some(spec)).await
    }

    async fn forget(&self, record: &mut Record) -> Result {
        self.control.migrations.forget_checks(self.id);
        self.control.mark(&record.spec.service).await;
        record.gates.clear();
        Ok(())
    }

    async fn judge(&self, record: &mut Record) -> Result {
        loop {
            self.is_alive(record).await?;
            self.is_attached(record)?;
            self.control.look_for_bypass(self.id, record).await;
            let Some(closed) = self.closed_gates(record).await? else { return Ok(()) };
            self.wait_for(record, closed).await?;
        }
    }

    /// What keeps the gates closed; a gate that has failed for good ends the migration.
    async fn closed_gates(&self, record: &mut Record) -> Result<Option<String>> {
        let verdicts = self.control.judge(self.id, record).await;
        record.gates = verdicts.iter().map(|verdict| json!(verdict)).collect();
        let failed = verdicts
            .iter()
            .find(|judged| judged.verdict == Verdict::Fail && is_final(judged, record.options.min_pairs));
        if let Some(failed) = failed {
            return Err(Stop::failed(format!("the gate `{}` failed: {}", failed.gate, failed.reason)));
        }
        if gate::all_open(&verdicts) {
            return Ok(None);
        }
        let closed = verdicts.iter().filter(|judged| !judged.verdict.is_open());
        let closed: Vec<_> = closed.map(|judged| format!("{} {}", judged.gate, judged.verdict)).collect();
        Ok(Some(format!("its gates: {}", closed.join(", "))))
    }

    async fn approve(&self, record: &mut Record) -> Result {
        loop {
            self.is_alive(record).await?;
            // Whoever approves it should know.
            self.control.look_for_bypass(self.id, record).await;
            let approved = record.approved || self.control.migrations.is_approved(self.id);
            record.approved = approved;
            if record.options.policy == Policy::Manual && !approved {
                self.wait_for(record, "an approval: `segue migrate approve`".to_owned()).await?;
                continue;
            }
            let windows = self.windows(&record.spec.service);
            let now = unix_millis() / 1000;
            if window::is_open(&windows, now) {
                // What was so when it became ready may have been long ago.
                self.is_attached(record)?;
                if let Some(closed) = self.closed_gates(record).await? {
                    self.wait_for(record, closed).await?;
                    continue;
                }
                // In the journal before the swap, so that a restart after it still knows.
                let service = &record.spec.service;
                record.baseline = Some(self.control.baseline(service, record.slot.other()).await);
                return Ok(());
            }
            let left = Duration::from_secs(window::next_opening(&windows, now).saturating_sub(now));
            self.wait_for(record, format!("a maintenance window, which opens in {left:?}")).await?;
        }
    }

    async fn switch(&self, record: &mut Record) -> Result {
        let service = &record.spec.service;
        clear_up(self.control, record).await;
        if self.active(service)? == record.slot {
            // The swap was made, and the process that made it is gone.
            return self.promoted(record).await;
        }
        self.is_attached(record)?;
        let hands = Hands::of(self.control, record).map_err(Stop::failed)?;
        if self.repeated {
            // Hooks may have been told of a switch that did not happen, and the evidence is from before.
            hands.untell().await;
            return Err(Stop(Came::Aborted, "Segue was restarted before the switch".to_owned()));
        }
        let ended = loop {
            let asked = self.control.go_to(
                service,
                record.slot,
                SwitchoverRequest::default(),
                Arc::new(hands.clone()),
            );
            match asked.await {
                Ok(ended) => break ended,
                Err(Refused::Busy | Refused::Ending) => {
                    self.wait_for(record, "another switchover or an upgrade to end".to_owned()).await?;
                }
                Err(error) => return Err(Stop::failed(error.to_string())),
            }
        };
        record.switchover = Some(json!(ended));
        match ended.outcome {
            Outcome::Completed => {
                record.reason = None;
                self.promoted(record).await
            }
            Outcome::Aborted => {
                record.aborted += 1;
                let why = ended.reason.unwrap_or_default();
                let reason = format!("the switchover gave up for the {}. time: {why}", record.aborted);
                let came =
                    if record.aborted < SWITCHES { Came::Aborted } else { Came::Undone(Cause::Failed) };
                Err(Stop(came, reason))
            }
        }
    }

    async fn watch(&self, record: &mut Record) -> Result {
        self.control.mark(&record.spec.service).await;
        let mut progress = Answered::none_yet();
        loop {
            let fault = match self.is_alive(record).await {
                Err(Stop(_, reason)) => Some(reason),
                Ok(()) => self.control.regression(record, &mut progress).await,
            };
            match fault {
                Some(reason) if !record.no_way_back => {
                    return Err(Stop(Came::Undone(Cause::RolledBack), reason));
                }
                None if self.in_step(record) >= record.options.watch => {
                    match self.passes_checks(record).await {
                        Ok(()) => return Ok(()),
                        Err(why) => self.look_again(format!("its checks to pass: {why}")).await,
                    }
                }
                fault => {
                    let left = record.options.watch.saturating_sub(self.in_step(record));
                    let what = fault.unwrap_or_else(|| format!("{} s of real answers", left.as_secs() + 1));
                    self.look_again(what).await;
                }
            }
        }
    }

    async fn grace(&self, record: &mut Record) -> Result {
        loop {
            let what = match self.is_there(record).await {
                Err(why) => format!("the new instance to answer before the source is given up: {why}"),
                Ok(()) if self.in_step(record) >= record.options.grace => return Ok(()),
                Ok(()) => "the source's grace period to end".to_owned(),
            };
            self.look_again(what).await;
        }
    }

    async fn vacate(&self, record: &mut Record) -> Result {
        loop {
            let emptied = match self.is_there(record).await {
                Ok(()) => self.fill(record, record.slot.other(), &[], None).await.map_err(|Stop(_, why)| why),
                Err(why) => Err(why),
            };
            match emptied {
                Ok(()) => return Ok(()),
                Err(why) => self.look_again(why).await,
            }
        }
    }

    async fn switch_back(&self, record: &mut Record) -> Result {
        let service = &record.spec.service;
        clear_up(self.control, record).await;
        let mut request = SwitchoverRequest::default();
        let began = Instant::now();
        while self.active(service)? == record.slot {
            let hands = Hands::of(self.control, record).map_err(Stop::failed)?.reversed();
            let to = record.slot.other();
            let why = match self.control.go_to(service, to, request, Arc::new(hands)).await {
                Ok(ended) if ended.outcome == Outcome::Completed => break,
                Ok(ended) => {
                    // What the new instance does not end by itself is no reason to stay with it.
                    request.on_drain_deadline = Some(DrainPolicy::Cut);
                    ended.reason.unwrap_or_default()
                }
                Err(error @ (Refused::Busy | Refused::Ending | Refused::Store(_))) => error.to_string(),
                Err(error) if began.elapsed() < SOURCE_BACK => {
                    if let Some(source) = &record.source
                        && let Ok(provider) = self.control.providers().of(&source.workload)
                        && let Err(error) = provider.start(source).await
                    {
                        tracing::warn!(%error, migration = self.id, "the source does not come back");
                    }
                    error.to_string()
                }
                Err(error) => {
                    let before = record.reason.take().unwrap_or_default();
                    return Err(Stop(
                        Came::NoWayBack,
                        format!("{before}; it cannot be rolled back: {error}"),
                    ));
                }
            };
            self.look_again(format!("the way back: {why}")).await;
        }
        Ok(())
    }

    async fn detach(&self, record: &mut Record) -> Result {
        loop {
            let store = self.control.store();
            let before = record.slot_before.clone();
            let given_back = store.set_slot(&record.spec.service, record.slot, before).await;
            let refreshed = self.control.refresh().await;
            match (given_back, refreshed) {
                (Ok(()), Ok(())) => return Ok(()),
                (Err(error), _) => self.look_again(error.to_string()).await,
                (_, Err(error)) => self.look_again(error.to_string()).await,
            }
        }
    }

    /// The new instance is active from here on, also for whoever starts it again.
    async fn promoted(&self, record: &mut Record) -> Result {
        let allocation = record.granted.map_or(record.spec.allocation, |granted| granted.to);
        let spec = crate::instance::Spec { role: Role::Active, allocation, ..record.spec.clone() };
        let provider = self.provider(record)?;
        if let Err(error) = again(|| provider.promote(&record.spec.id)).await {
            tracing::warn!(%error, migration = self.id, "the provider was not told that its instance is active");
        }
        // The swap is made, so that nothing may be undone for want of this.
        while let Err(Stop(_, why)) =
            self.fill(record, record.slot, &endpoints(record), Some(spec.clone())).await
        {
            self.look_again(why).await;
        }
        Ok(())
    }

    /// Two names for one instance would end in its own end.
    fn is_another(&self, record: &Record) -> Result {
        let running = self.control.services.load().get(&record.spec.service);
        let active = running.as_ref().and_then(|of| of.endpoints(record.slot.other())).unwrap_or_default();
        match endpoints(record).iter().find(|endpoint| active.contains(endpoint)) {
            Some(same) => Err(Stop::failed(format!("{same} is the instance that serves already"))),
            None => Ok(()),
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

    /// Ends an instance that Segue runs; one that is gone has ended.
    async fn end(&self, spec: Option<&crate::instance::Spec>, destroy: bool) -> Result {
        let Some(spec) = spec else { return Ok(()) };
        let Ok(provider) = self.control.providers().of(&spec.workload) else { return Ok(()) };
        loop {
            let ended = if destroy {
                provider.destroy(&spec.id).await
            } else {
                provider.stop(&spec.id, END_GRACE).await
            };
            match ended {
                Ok(()) | Err(ProviderError::Absent(_)) => return Ok(()),
                // Leaving it behind is no way out.
                Err(error) => self.look_again(error.to_string()).await,
            }
        }
    }

    /// Puts an instance into a slot, durable and in the running proxy.
    async fn fill(
        &self,
        record: &Record,
        slot: InstanceName,
        endpoints: &[Endpoint],
        spec: Option<crate::instance::Spec>,
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

    fn windows(&self, service: &str) -> Vec<Window> {
        let settings = self.control.settings();
        settings.services.get(service).map(|of| of.migration.windows.clone()).unwrap_or_default()
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
                let said = provider.tail(&record.spec.id).await;
                let how = match (out_of_memory, code) {
                    (true, _) => "it was killed for want of memory".to_owned(),
                    (_, Some(code)) => format!("it ended with code {code}"),
                    (_, None) => "it ended".to_owned(),
                };
                Err(Stop::failed(format!("the new instance is gone: {how}; it wrote: {said}")))
            }
            Ok(State::Absent | State::Made) => Err(Stop::failed("the new instance does not run any more")),
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

/// Of the least number of pairs: what a gate without a stated confidence has to go on failing for.
const STUBBORN: u64 = 4;

/// A busy moment closes the pause's gate and may fail a quantile, checks may fail once; such a gate has to go on failing.
fn is_final(judged: &GateVerdict, min_pairs: u64) -> bool {
    let number = |name| judged.numbers.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    match judged.gate {
        Gate::Pause | Gate::Sizing | Gate::Warm | Gate::Health | Gate::Replication => false,
        Gate::Latency => number("pairs") >= STUBBORN * min_pairs,
        Gate::Comparison | Gate::Errors => true,
    }
}

/// What does not answer is asked again.
async fn again<'a, T>(
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
pub(super) fn specs(slots: &Slots) -> impl Iterator<Item = &crate::instance::Spec> {
    slots.iter().filter_map(|(.., slot)| slot.spec.as_ref())
}
