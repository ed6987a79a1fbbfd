//! The switchover: one transaction that ends on the new instance or back on the old one.
//!
//! ```text
//!  preflight ─► park ─► drain ─► hand over ─► swap, durable ─► resume on the new instance ─► completed
//!      │          │       │          │              │
//!   refused    ◄──┴───────┴──────────┴── take back, resume on the old instance: aborted
//! ```
//!
//! Until the swap is durable the way out is back; after it, forward: a restart finds the new instance in
//! the store. Nothing here is undone by a caller that stops waiting; whoever starts a switchover runs it
//! in a task of its own.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::failpoint::{self, Inner};
use crate::config::{DrainPolicy, InstanceName, Park};
use crate::proxy::gate::controller::{OutOfTurn, Phase};
use crate::proxy::gate::local::Blocker;
use crate::proxy::gates::{GateError, GateState, Gates};
use crate::store::{self, ActiveRecord, Fingerprint, NewEntry, Store, StoreError};

/// Members answer a close with the next turn of their loop; one that takes this long is stuck.
const PARK_PATIENCE: Duration = Duration::from_secs(1);
/// Cut exchanges end when their task is polled next.
const CUT_PATIENCE: Duration = Duration::from_secs(1);
/// A drain ends early enough that the requests parked meanwhile do not run into their own timeout:
/// within this share of it.
const DRAIN_SHARE: (u32, u32) = (9, 10);

/// The same of taking back what was handed over: callers are let go well before the first of them is turned away, also
/// where the machine is busy and timers are late.
const BACK_SHARE: (u32, u32) = (17, 20);

/// What else changes hands while nobody writes: after the drain, before the swap. To overlap, nothing does.
pub trait HandOver: Send + Sync {
    /// Fences the old side, carries over what is left, promotes the new side. It ends within `limit`.
    fn hand_over(&self, limit: Duration) -> BoxFuture<'_, Result<(), String>>;

    /// The old side serves after all. It may be called without a hand-over before it. Callers are held meanwhile, so
    /// it ends within `limit`; what takes longer goes on without being waited for.
    fn take_back(&self, limit: Duration) -> BoxFuture<'_, ()>;

    /// The new side serves.
    fn settle(&self) -> BoxFuture<'_, ()>;
}

/// Instances that share everything but their callers.
pub struct NothingToHandOver;

impl HandOver for NothingToHandOver {
    fn hand_over(&self, _: Duration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn take_back(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// How to go about it.
#[derive(Clone, Debug)]
pub struct Orders {
    pub service: Arc<str>,
    pub to: InstanceName,
    pub mode: Mode,
    pub park: Park,
    pub park_timeout: Duration,
    pub drain_timeout: Duration,
    pub on_drain_deadline: DrainPolicy,
    /// Of the new instance's endpoints, for the store.
    pub fingerprint: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Hold, drain, swap, release.
    Pause,
    /// Swap first, let the old side finish: for instances that share their state.
    Overlap,
}

/// How it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    pub outcome: Outcome,
    pub mode: Mode,
    pub from: InstanceName,
    /// The instance that serves callers now.
    pub active: InstanceName,
    pub generation: u64,
    /// From the moment that requests were held to the one that they were let go.
    pub pause_ms: f64,
    pub drain_ms: f64,
    /// Fence, final sync and promotion, within the pause.
    pub hand_over_ms: f64,
    /// Making the swap durable, within the pause.
    pub swap_ms: f64,
    /// Exchanges that were in flight when requests were held, and ended by themselves.
    pub drained: usize,
    pub cut: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed,
    /// Nothing changed; the old instance serves.
    Aborted,
}

/// It could not start; nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("there is no service `{0}`")]
    NoService(Arc<str>),
    #[error("`{}` is already the active instance", .0.as_str())]
    AlreadyActive(InstanceName),
    #[error("the service has no shadow; name one in its settings")]
    NoShadow,
    /// Its driver alone moves the traffic then.
    #[error("migration {0} of this service is under way; approve it, roll it back or cancel it instead")]
    Migrating(u64),
    #[error("a switchover of this service is already under way")]
    Busy,
    #[error("Segue is being upgraded or is ending; try again when that is over")]
    Ending,
    #[error("`{}` cannot take over: {why}", to.as_str())]
    NotReachable { to: InstanceName, why: String },
    #[error("the store does not answer, so the swap could not be made durable: {0}")]
    Store(#[from] StoreError),
}

/// Carries a switchover out. `in_flight` is how many exchanges the service has at this moment.
pub async fn run(
    gates: &Gates,
    store: &Store,
    orders: Orders,
    in_flight: usize,
    over: &dyn HandOver,
) -> Result<Ended, Refused> {
    let service = &orders.service;
    let before = gates.state(service).ok_or_else(|| Refused::NoService(Arc::clone(service)))?;
    if before.active == orders.to {
        return Err(Refused::AlreadyActive(orders.to));
    }
    note(store, &orders, store::Phase::Intent, serde_json::json!({ "from": before.active })).await?;
    let ended = match orders.mode {
        Mode::Pause => pause(gates, store, &orders, before, in_flight, over).await,
        Mode::Overlap => overlap(gates, store, &orders, before).await,
    }?;
    let detail = serde_json::to_value(&ended).unwrap_or_default();
    if let Err(error) = note(store, &orders, store::Phase::Outcome, detail).await {
        // The swap itself is durable or undone; only its history misses a line.
        tracing::warn!(%error, %service, "the outcome of a switchover is not in the journal");
    }
    Ok(ended)
}

async fn pause(
    gates: &Gates,
    store: &Store,
    orders: &Orders,
    before: GateState,
    in_flight: usize,
    over: &dyn HandOver,
) -> Result<Ended, Refused> {
    let service = &orders.service;
    let phase = |gates: &Gates| gates.state(service).map(|state| state.phase);
    gates.hold_for(service, orders.park_timeout);
    let held = Instant::now();
    gates.close(service, orders.park).map_err(Refused::from)?;
    let end = |outcome, active, drain: Duration, swap: Duration, reason| Ended {
        outcome,
        mode: Mode::Pause,
        from: before.active,
        active,
        generation: gates.state(service).map_or(before.generation, |state| state.generation),
        pause_ms: millis(held.elapsed()),
        drain_ms: millis(drain),
        hand_over_ms: 0.0,
        swap_ms: millis(swap),
        drained: in_flight,
        cut: 0,
        reason,
        blockers: Vec::new(),
    };

    let parked = gates.wait(PARK_PATIENCE, |gates| phase(gates) != Some(Phase::Closing)).await;
    if !parked {
        give_up(gates, service, before.active).await;
        let reason = format!("a worker did not hold its requests within {PARK_PATIENCE:?}");
        return Ok(end(Outcome::Aborted, before.active, held.elapsed(), Duration::ZERO, Some(reason)));
    }
    let deadline = drain_limit(orders);
    let mut drained = gates.wait(deadline, |gates| phase(gates) == Some(Phase::Drained)).await;
    let mut cut = 0;
    if !drained {
        let blockers = gates.blockers(service, before.generation).await;
        if orders.on_drain_deadline == DrainPolicy::Abort {
            give_up(gates, service, before.active).await;
            let reason = format!("{} exchanges were still in flight after {deadline:?}", blockers.len());
            let ended = end(Outcome::Aborted, before.active, held.elapsed(), Duration::ZERO, Some(reason));
            return Ok(Ended { drained: in_flight.saturating_sub(blockers.len()), blockers, ..ended });
        }
        cut = gates.cut(service, before.generation).await;
        drained = gates.wait(CUT_PATIENCE, |gates| phase(gates) == Some(Phase::Drained)).await;
    }
    if !drained {
        give_up(gates, service, before.active).await;
        let reason = format!("{cut} exchanges were cut and did not end");
        let ended = end(Outcome::Aborted, before.active, held.elapsed(), Duration::ZERO, Some(reason));
        return Ok(Ended { cut, drained: in_flight.saturating_sub(cut), ..ended });
    }
    let drain = held.elapsed();
    failpoint::reach(Inner::Drained);

    let handing = Instant::now();
    let limit = (orders.park_timeout * DRAIN_SHARE.0 / DRAIN_SHARE.1).saturating_sub(drain);
    let left =
        |held: Instant| (orders.park_timeout * BACK_SHARE.0 / BACK_SHARE.1).saturating_sub(held.elapsed());
    let handed = tokio::time::timeout(limit, over.hand_over(limit)).await;
    let hand_over_ms = millis(handing.elapsed());
    if let Err(reason) = handed.unwrap_or_else(|_| Err(format!("it was not over after {limit:?}"))) {
        over.take_back(left(held)).await;
        give_up(gates, service, before.active).await;
        let reason = format!("the hand-over failed: {reason}");
        let ended = end(Outcome::Aborted, before.active, drain, Duration::ZERO, Some(reason));
        return Ok(Ended { hand_over_ms, cut, ..ended });
    }
    failpoint::reach(Inner::HandedOver);

    let swapping = Instant::now();
    if let Err(error) = make_durable(store, orders, before).await
        && !is_durable(store, orders, before).await
    {
        over.take_back(left(held)).await;
        give_up(gates, service, before.active).await;
        let reason = format!("the swap could not be made durable: {error}");
        return Ok(end(Outcome::Aborted, before.active, drain, swapping.elapsed(), Some(reason)));
    }
    let swap = swapping.elapsed();
    failpoint::reach(Inner::Swapped);
    gates.resume(service, orders.to).map_err(Refused::from)?;
    // They were told; waiting only makes the measured pause end where the last of them has let go.
    gates.wait(PARK_PATIENCE, |gates| phase(gates) == Some(Phase::Open)).await;
    over.settle().await;
    let ended = end(Outcome::Completed, orders.to, drain, swap, None);
    Ok(Ended { hand_over_ms, cut, drained: in_flight.saturating_sub(cut), ..ended })
}

async fn overlap(gates: &Gates, store: &Store, orders: &Orders, before: GateState) -> Result<Ended, Refused> {
    let service = &orders.service;
    let started = Instant::now();
    if before.phase != Phase::Open {
        return Err(Refused::Busy);
    }
    let swapping = Instant::now();
    if let Err(error) = make_durable(store, orders, before).await
        && !is_durable(store, orders, before).await
    {
        return Err(error.into());
    }
    let swap = swapping.elapsed();
    gates.overlap(service, orders.to).map_err(Refused::from)?;
    let over = gates.wait(orders.drain_timeout, |gates| gates.past_is_over(service)).await;
    let blockers = if over { Vec::new() } else { gates.blockers(service, before.generation).await };
    let cut = match orders.on_drain_deadline {
        DrainPolicy::Cut if !over => gates.cut(service, before.generation).await,
        _ => 0,
    };
    Ok(Ended {
        outcome: Outcome::Completed,
        mode: Mode::Overlap,
        from: before.active,
        active: orders.to,
        generation: gates.state(service).map_or(before.generation, |state| state.generation),
        pause_ms: 0.0,
        drain_ms: millis(started.elapsed()),
        hand_over_ms: 0.0,
        swap_ms: millis(swap),
        drained: 0,
        cut,
        reason: (!over).then(|| "the old side is still answering".to_owned()),
        blockers,
    })
}

/// Back to the old instance. It is allowed at any time before the swap, so it cannot be refused.
async fn give_up(gates: &Gates, service: &Arc<str>, active: InstanceName) {
    if let Err(error) = gates.resume(service, active) {
        tracing::error!(%error, %service, "the gate could not be opened again");
    }
    let open = |gates: &Gates| gates.state(service).is_none_or(|state| state.phase == Phase::Open);
    gates.wait(PARK_PATIENCE, open).await;
}

async fn make_durable(store: &Store, orders: &Orders, before: GateState) -> Result<(), StoreError> {
    let recorded = store.active(&orders.service).await?.map(|record| record.generation);
    let record = ActiveRecord {
        instance: orders.to,
        generation: before.generation + 1,
        fingerprint: orders.fingerprint,
        changed_at: unix_millis(),
    };
    store.set_active(&orders.service, record, recorded).await
}

/// Whether the swap is on the disk after all: an error of the disk says nothing about that, and a restart
/// will believe the disk.
async fn is_durable(store: &Store, orders: &Orders, before: GateState) -> bool {
    let recorded = store.active(&orders.service).await;
    recorded.is_ok_and(|record| {
        record.is_some_and(|of| of.instance == orders.to && of.generation == before.generation + 1)
    })
}

async fn note(
    store: &Store,
    orders: &Orders,
    phase: store::Phase,
    detail: serde_json::Value,
) -> Result<(), StoreError> {
    let entry = NewEntry {
        kind: "switchover".to_owned(),
        step: format!("to_{}", orders.to.as_str()),
        phase,
        detail,
        at: unix_millis(),
    };
    store.journal_append(&orders.service, entry).await.map(drop)
}

fn drain_limit(orders: &Orders) -> Duration {
    match orders.mode {
        Mode::Pause => orders.drain_timeout.min(orders.park_timeout * DRAIN_SHARE.0 / DRAIN_SHARE.1),
        Mode::Overlap => orders.drain_timeout,
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl From<GateError> for Refused {
    fn from(error: GateError) -> Self {
        match error {
            GateError::NoService(service) => Self::NoService(service),
            GateError::OutOfTurn(OutOfTurn::Busy | OutOfTurn::NotDrained) => Self::Busy,
        }
    }
}
