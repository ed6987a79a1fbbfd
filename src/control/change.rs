//! What can be changed while callers are served: settings, the tee, and which instance is active.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rustls_pki_types::UnixTime;
use serde::Deserialize;

use super::Control;
use super::build::{self, BuildError};
use super::services::{ServiceControl, Services, StartAt};
use super::slots::Slots;
use super::turns::NotNow;
use crate::config::{self, InstanceName, Park, Percent, Settings};
use crate::migrate::switchover::{self, Ended, HandOver, Mode, NothingToHandOver, Orders, Refused};
use crate::proxy::listener::tls::{self, TlsError};
use crate::proxy::worker::Order;
use crate::store::{Fingerprint, StoreError};
use crate::tee::session::InvalidKeyName;
use crate::upstream::health;

/// Why a reload was rejected; the running settings are untouched then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("these changes need a restart:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<config::Refusal>),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("service `{0}` is switching over; try again when that is over")]
    Switching(Arc<str>),
    #[error(
        "service `{service}` is being moved by migration {migration}, so its instances have to stay in the settings as they \
         are; wait for its end, or cancel it"
    )]
    Migrating { service: String, migration: u64 },
    /// Requests under way know the instances by their names.
    #[error(
        "service `{service}`: the endpoints that serve now are the `{}` of the running settings and the `{}` of the \
         new ones; restart Segue to change the names round",
        running.as_str(),
        running.other().as_str()
    )]
    Renamed { service: Arc<str>, running: InstanceName },
}

#[derive(Debug, thiserror::Error)]
pub enum TeeError {
    #[error("there is no service `{0}`")]
    NoService(String),
    #[error("`percent` is {0}; it has to be between 0 and 100")]
    NoPercent(f64),
    #[error(
        "{0} is over 5 %, which is more than a shadow should see by accident; \
         send `\"allow_above_5_percent\": true` with it if you mean it"
    )]
    Above(Percent),
    #[error(transparent)]
    SessionKey(#[from] InvalidKeyName),
}

/// A live change of a tee; what is absent stays.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeeChange {
    pub percent: Option<f64>,
    #[serde(default)]
    pub allow_above_5_percent: bool,
}

/// What a switchover is asked to do; what is absent comes from the service's settings.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRequest {
    pub mode: Option<Mode>,
    pub park: Option<Park>,
    pub park_timeout_ms: Option<u64>,
    pub drain_timeout_ms: Option<u64>,
    pub on_drain_deadline: Option<config::DrainPolicy>,
}

impl Control {
    /// Takes over new settings, or says why not and changes nothing.
    pub async fn reload(&self, next: Settings) -> Result<(), ReloadError> {
        let one_at_a_time = self.reloading.lock().await;
        self.keeps_what_migrates(&next).await?;
        self.adopt(next, |effective| effective).await?;
        drop(one_at_a_time);
        // SIGHUP is also how log rotation says that the file has moved away.
        if let Some(log) = &self.access_log {
            log.reopen();
        }
        Ok(())
    }

    /// A migration rests on what its service's instances are.
    async fn keeps_what_migrates(&self, next: &Settings) -> Result<(), ReloadError> {
        let running = self.settings();
        for row in self.store().migrations(0).await?.into_iter().filter(|row| !row.over) {
            let instances = |of: &Settings| {
                of.services.get(&row.service).map(|of| (of.source.clone(), of.shadow.clone()))
            };
            if instances(&running) != instances(next) {
                return Err(ReloadError::Migrating { service: row.service, migration: row.id });
            }
        }
        Ok(())
    }

    /// The same settings with what is in the slots now; tees stay as they were set while running.
    pub(super) async fn refresh(&self) -> Result<(), ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let running = self.services.load_full();
        let keep_tees = |mut effective: Settings| {
            for (name, service) in &mut effective.services {
                if let Some(running) = running.get(name) {
                    service.tee = running.settings.tee.clone();
                }
            }
            effective
        };
        self.adopt((*self.settings()).clone(), keep_tees).await
    }

    async fn adopt(
        &self,
        next: Settings,
        adjust: impl FnOnce(Settings) -> Settings,
    ) -> Result<(), ReloadError> {
        let running = self.settings.load_full();
        let refusals = config::refusals(&running, &next);
        if !refusals.is_empty() {
            return Err(ReloadError::Refused(refusals));
        }
        // Everything that can fail comes before the first thing that changes.
        let mut prepared = Vec::new();
        let sockets = self.sockets();
        for entrance in sockets.entrances() {
            let listener = next.listeners.iter().find(|listener| listener.address == entrance.address);
            if let (Some(tls), Some(settings)) =
                (&entrance.tls, listener.and_then(|listener| listener.tls.as_ref()))
            {
                prepared.push((tls, tls::prepare(settings, UnixTime::now())?));
            }
        }
        let old = self.services.load_full();
        let store = self.store();
        let recorded = store.all_active().await?;
        let effective = adjust(Slots::load(&store).await?.overlay(&next, &recorded));
        let services = Services::build(&effective, Some(&old), &recorded, &self.memory, self.seed).await?;
        for service in services.iter() {
            let Some(gate) = self.gates.state(&service.name) else { continue };
            if gate.active != service.start.active {
                let service = Arc::clone(&service.name);
                return Err(match gate.phase {
                    GATE_OPEN => ReloadError::Renamed { service, running: gate.active },
                    _ => ReloadError::Switching(service),
                });
            }
        }
        for gone in old.iter().filter(|service| services.get(&service.name).is_none()) {
            if self.gates.state(&gone.name).is_some_and(|gate| gate.phase != GATE_OPEN) {
                return Err(ReloadError::Switching(Arc::clone(&gone.name)));
            }
        }
        for (listener, prepared) in prepared {
            listener.install(prepared);
        }
        self.publish(services, next);
        Ok(())
    }

    fn publish(&self, services: Services, settings: Settings) {
        let old = self.services.load_full();
        for service in services.iter() {
            self.gates.add(&service.name, service.start.generation, service.start.active);
        }
        let at = |service: &ServiceControl| match self.gates.state(&service.name) {
            Some(gate) => StartAt { generation: gate.generation, active: gate.active },
            None => service.start,
        };
        let plan = Arc::new(services.plan(&settings, &self.tees_stopped, self.access_log.as_ref(), at));
        self.crew.order(|| Order::Plan(Arc::clone(&plan)));
        for gone in old.iter().filter(|service| services.get(&service.name).is_none()) {
            self.gates.remove(&gone.name);
        }
        self.services.store(Arc::new(services));
        self.settings.store(Arc::new(settings));
    }

    /// Changes a tee for the requests that come from now on. The change lasts until the settings are
    /// loaded again.
    pub fn change_tee(&self, name: &str, change: TeeChange) -> Result<(), TeeError> {
        let services = self.services.load_full();
        let service = services.get(name).ok_or_else(|| TeeError::NoService(name.to_owned()))?;
        let Some(percent) = change.percent else { return Ok(()) };
        let percent = Percent::new(percent).ok_or(TeeError::NoPercent(percent))?;
        if percent > LARGEST_BY_DEFAULT && !change.allow_above_5_percent {
            return Err(TeeError::Above(percent));
        }
        let mut settings = service.settings.clone();
        settings.tee.percent = percent;
        let tee = build::tee_plan(
            &service.name,
            &settings.tee,
            &service.records,
            &self.memory,
            self.seed,
            service.tee.source.clone(),
            service.tee.shadow.clone(),
        )?;
        self.crew.order(|| Order::Tee { service: Arc::clone(&service.name), tee: Arc::clone(&tee) });
        let changed = ServiceControl {
            name: Arc::clone(&service.name),
            settings,
            classifier: Arc::clone(&service.classifier),
            source: Arc::clone(&service.source),
            shadow: service.shadow.clone(),
            records: Arc::clone(&service.records),
            tee,
            parked: Arc::clone(&service.parked),
            start: service.start,
        };
        self.services.store(Arc::new(services.with(changed)));
        Ok(())
    }

    /// Moves all traffic of a service to its other instance. It goes on to its end even if whoever
    /// asked stops waiting.
    pub async fn switchover(
        self: &Arc<Self>,
        name: &str,
        request: SwitchoverRequest,
    ) -> Result<Ended, Refused> {
        let active = self.active_of(name)?;
        self.not_migrating(name).await?;
        self.go_to(name, active.other(), request, Arc::new(NothingToHandOver)).await
    }

    /// Back to the configured source.
    pub async fn rollback(
        self: &Arc<Self>,
        name: &str,
        request: SwitchoverRequest,
    ) -> Result<Ended, Refused> {
        self.not_migrating(name).await?;
        self.go_to(name, InstanceName::Source, request, Arc::new(NothingToHandOver)).await
    }

    /// An operator's switchover in the middle of a migration would take away the ground that its next step stands on.
    async fn not_migrating(&self, name: &str) -> Result<(), Refused> {
        let under_way = self.store().migrations(0).await?;
        match under_way.into_iter().find(|row| row.service == name && !row.over) {
            Some(row) => Err(Refused::Migrating(row.id)),
            None => Ok(()),
        }
    }

    /// One switchover, with what else changes hands in it.
    pub(super) async fn go_to(
        self: &Arc<Self>,
        name: &str,
        to: InstanceName,
        request: SwitchoverRequest,
        over: Arc<dyn HandOver>,
    ) -> Result<Ended, Refused> {
        let allowed = self.turns.switchover().map_err(|NotNow| Refused::Ending)?;
        let service = self.services.load().get(name).ok_or_else(|| Refused::NoService(name.into()))?;
        let instance = service.instance(to).ok_or(Refused::NoShadow)?;
        let turn = self.gates.take_turn(&service.name)?;
        let timeout = service.settings.upstream.connect_timeout;
        health::reachable(instance, timeout)
            .await
            .map_err(|error| Refused::NotReachable { to, why: error.to_string() })?;
        let settings = &service.settings.switchover;
        let millis = |millis: Option<u64>, default| millis.map_or(default, Duration::from_millis);
        let orders = Orders {
            service: Arc::clone(&service.name),
            to,
            mode: request.mode.unwrap_or(Mode::Pause),
            park: request.park.unwrap_or(settings.park),
            // The gates hold a request no longer than the settings say, so neither may the drain count on it.
            park_timeout: millis(request.park_timeout_ms, settings.park_timeout).min(settings.park_timeout),
            drain_timeout: millis(request.drain_timeout_ms, settings.drain_timeout),
            on_drain_deadline: request.on_drain_deadline.unwrap_or(settings.on_drain_deadline),
            fingerprint: Fingerprint::of(service.endpoints(to).unwrap_or_default()),
        };
        let in_flight = self.service(name).await.map_or(0, |status| status.in_flight);
        let control = Arc::clone(self);
        let run = async move {
            let _until_it_is_over = (allowed, turn);
            let (gates, store, name) = (&control.gates, control.store(), Arc::clone(&orders.service));
            let running = switchover::run(gates, &store, orders, in_flight, over.as_ref());
            let Ok(ended) = AssertUnwindSafe(running).catch_unwind().await else {
                tracing::error!(service = &*name, "a switchover panicked");
                control.mend(&name, to, over.as_ref()).await;
                return Err(Refused::Busy);
            };
            let ended = ended?;
            control.past.count(&name, &ended);
            Ok(ended)
        };
        tokio::spawn(run).await.unwrap_or(Err(Refused::Busy))
    }

    /// A panic has left the gate as it was, and callers wait at it. The store says who is active.
    async fn mend(&self, service: &Arc<str>, to: InstanceName, over: &dyn HandOver) {
        let Some(before) = self.gates.state(service) else { return };
        let active = loop {
            match self.store().active(service).await {
                Ok(record) => break record.map_or(before.active, |record| record.instance),
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, %service, "who is active cannot be read; trying again");
                    tokio::time::sleep(MEND_AGAIN).await;
                }
            }
        };
        if active == to {
            over.settle().await;
        } else {
            over.take_back(Duration::ZERO).await;
        }
        if before.phase != GATE_OPEN
            && let Err(error) = self.gates.resume(service, active)
        {
            tracing::error!(%error, %service, "the gate could not be opened again");
        }
    }

    fn active_of(&self, name: &str) -> Result<InstanceName, Refused> {
        self.gates.state(name).map(|gate| gate.active).ok_or_else(|| Refused::NoService(name.into()))
    }
}

/// What a shadow may see without anybody having said so twice.
const LARGEST_BY_DEFAULT: Percent = Percent::FIVE;
const MEND_AGAIN: Duration = Duration::from_millis(100);
const GATE_OPEN: crate::proxy::gate::controller::Phase = crate::proxy::gate::controller::Phase::Open;
