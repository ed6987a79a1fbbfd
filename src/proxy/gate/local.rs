//! The gate of one service on one worker: a [`Member`] in plain cells, the exchanges it has let
//! through, and the requests it holds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use slab::Slab;
use tokio::sync::oneshot;

use super::member::{Admitted, Command, Event, Events, Generation, Member};
use crate::config::InstanceName;
use crate::proxy::classify::Class;
use crate::proxy::forward::upload::UploadState;

/// Parked requests go in batches of this interval's worth: the finest the runtime's timer resolves.
const RELEASE_TICK: Duration = Duration::from_millis(1);

pub struct Gate {
    member: RefCell<Member>,
    exchanges: RefCell<Slab<Exchange>>,
    parked: RefCell<VecDeque<oneshot::Sender<()>>>,
    limits: Cell<ParkLimits>,
    /// Requests of this service that all workers hold together; touched only when one parks.
    parked_everywhere: Arc<AtomicUsize>,
    tell: Box<dyn Fn(Event)>,
}

#[derive(Clone, Copy, Debug)]
pub struct ParkLimits {
    pub timeout: Duration,
    /// Over all workers.
    pub max_parked: usize,
    /// Of this worker.
    pub release_per_second: u32,
}

/// A request was let through, perhaps after a wait.
pub struct Admission {
    pub guard: Guard,
    /// How long it was parked; `None` = not at all.
    pub held: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("too many requests are waiting for the switchover to end")]
    TooManyParked,
    #[error("the switchover did not end in time")]
    ParkedTooLong,
}

/// Held from before the first byte goes to an instance until its answer has ended.
pub struct Guard {
    gate: Rc<Gate>,
    key: usize,
    pub admitted: Admitted,
}

/// Where an exchange stands; decides which timeout applies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for a connection to the instance; the pool has its own timeouts.
    Connecting,
    /// The request is on its way, or out; no head yet.
    Awaiting,
    Answering,
    Tunnel,
}

/// Why an exchange has to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The drain deadline passed and the policy is `cut`.
    Cut,
    /// The instance did not answer in time.
    AnswerTimeout,
    /// The caller stopped sending its body.
    CallerStalled,
}

struct Exchange {
    admitted: Admitted,
    path: Option<PathAndQuery>,
    started: Instant,
    stage: Stage,
    upload: Option<Rc<UploadState>>,
    progress: Instant,
    bytes: u64,
    signal: Option<Signal>,
    waker: Option<Waker>,
    /// Counted out before its guard was dropped.
    left: bool,
}

/// An exchange that keeps a drain from ending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    pub path: String,
    pub class: String,
    pub stage: Stage,
    pub age_ms: u64,
    pub bytes: u64,
}

// === impl Gate ===

impl Gate {
    pub fn new(
        generation: Generation,
        active: InstanceName,
        limits: ParkLimits,
        parked_everywhere: Arc<AtomicUsize>,
        tell: Box<dyn Fn(Event)>,
    ) -> Rc<Self> {
        Rc::new(Self {
            member: RefCell::new(Member::new(generation, active)),
            exchanges: RefCell::default(),
            parked: RefCell::default(),
            limits: Cell::new(limits),
            parked_everywhere,
            tell,
        })
    }

    pub fn set_limits(&self, limits: ParkLimits) {
        self.limits.set(limits);
    }

    /// Changes the timeout alone.
    pub fn hold_for(&self, timeout: Duration) {
        self.limits.set(ParkLimits { timeout, ..self.limits.get() });
    }

    pub fn generation(&self) -> Generation {
        self.member.borrow().generation()
    }

    pub fn active(&self) -> InstanceName {
        self.member.borrow().active()
    }

    pub fn in_flight(&self) -> usize {
        self.member.borrow().in_flight()
    }

    pub fn parked(&self) -> usize {
        self.parked.borrow().iter().filter(|waiting| !waiting.is_closed()).count()
    }

    /// Lets a request through, now or when the gate opens again.
    pub async fn admit(
        self: &Rc<Self>,
        class: Class,
        path: Option<&PathAndQuery>,
        now: Instant,
    ) -> Result<Admission, Refused> {
        if let Some(guard) = self.try_admit(class, path, now) {
            return Ok(Admission { guard, held: None });
        }
        let limits = self.limits.get();
        let _place = Place::take(&self.parked_everywhere, limits.max_parked)?;
        let deadline = tokio::time::Instant::from_std(now + limits.timeout);
        loop {
            let (release, released) = oneshot::channel();
            self.parked.borrow_mut().push_back(release);
            match tokio::time::timeout_at(deadline, released).await {
                Err(_) => return Err(Refused::ParkedTooLong),
                Ok(_) => {
                    let admitted_at = Instant::now();
                    // Closed again in the meantime: wait again, the deadline stays.
                    if let Some(guard) = self.try_admit(class, path, admitted_at) {
                        let held = admitted_at.saturating_duration_since(now);
                        return Ok(Admission { guard, held: Some(held) });
                    }
                }
            }
        }
    }

    fn try_admit(self: &Rc<Self>, class: Class, path: Option<&PathAndQuery>, now: Instant) -> Option<Guard> {
        let admitted = self.member.borrow_mut().admit(class)?;
        let key = self.exchanges.borrow_mut().insert(Exchange {
            admitted,
            path: path.cloned(),
            started: now,
            stage: Stage::Connecting,
            upload: None,
            progress: now,
            bytes: 0,
            signal: None,
            waker: None,
            left: false,
        });
        Some(Guard { gate: Rc::clone(self), key, admitted })
    }

    pub fn obey(self: &Rc<Self>, command: Command) {
        let events = self.member.borrow_mut().obey(command);
        self.tell_all(events);
        if matches!(command, Command::Resume { .. }) && !self.parked.borrow().is_empty() {
            tokio::task::spawn_local(Rc::clone(self).release());
        }
    }

    /// Lets parked requests go a batch at a time: all at once they would hit the instance as the
    /// burst that the pause saved up.
    async fn release(self: Rc<Self>) {
        let per_tick = (f64::from(self.limits.get().release_per_second) * RELEASE_TICK.as_secs_f64()).ceil();
        let per_tick = (per_tick as usize).max(1);
        let mut tick = tokio::time::interval(RELEASE_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut released = 0;
            while released < per_tick {
                let Some(waiting) = self.parked.borrow_mut().pop_front() else { return };
                // One that left while parked takes no place in the batch.
                released += usize::from(waiting.send(()).is_ok());
            }
        }
    }

    /// Ends what is still in flight of `generation` and before. Counts what it ended.
    pub fn cut(&self, generation: Generation) -> usize {
        let mut wakers = Vec::new();
        let mut events = Vec::new();
        let mut cut = 0;
        for (_, exchange) in self.exchanges.borrow_mut().iter_mut() {
            if exchange.admitted.generation > generation || exchange.signal.is_some() {
                continue;
            }
            exchange.signal = Some(Signal::Cut);
            cut += 1;
            // An answer that its caller does not take is not polled; it must not hold the drain.
            if exchange.stage == Stage::Answering && !exchange.left {
                exchange.left = true;
                events.push(self.member.borrow_mut().leave(exchange.admitted));
            }
            wakers.extend(exchange.waker.take());
        }
        wakers.into_iter().for_each(Waker::wake);
        events.into_iter().for_each(|events| self.tell_all(events));
        cut
    }

    /// Applies the timeouts. Called by the worker's sweep instead of a timer for each request.
    pub fn sweep(&self, now: Instant, answer_timeout: Duration, stall_timeout: Duration) {
        let mut wakers = Vec::new();
        for (_, exchange) in self.exchanges.borrow_mut().iter_mut() {
            if exchange.stage != Stage::Awaiting || exchange.signal.is_some() {
                continue;
            }
            let uploading = exchange.upload.as_deref().filter(|upload| !upload.ended.get());
            let (since, patience, signal) = match (uploading, exchange.upload.as_deref()) {
                (Some(upload), _) => (upload.progress.get(), stall_timeout, Signal::CallerStalled),
                (None, Some(upload)) => (upload.progress.get(), answer_timeout, Signal::AnswerTimeout),
                (None, None) => (exchange.progress, answer_timeout, Signal::AnswerTimeout),
            };
            if now.saturating_duration_since(since) >= patience {
                exchange.signal = Some(signal);
                wakers.extend(exchange.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The oldest exchanges of `generation` and before.
    pub fn blockers(&self, generation: Generation, now: Instant, limit: usize) -> Vec<Blocker> {
        let exchanges = self.exchanges.borrow();
        let mut blockers: Vec<_> = exchanges
            .iter()
            .map(|(_, exchange)| exchange)
            .filter(|exchange| exchange.admitted.generation <= generation && !exchange.left)
            .map(|exchange| Blocker {
                path: exchange.path.as_ref().map_or_else(String::new, |path| path.path().to_owned()),
                class: exchange.admitted.class.as_str().to_owned(),
                stage: exchange.stage,
                age_ms: u64::try_from(now.saturating_duration_since(exchange.started).as_millis())
                    .unwrap_or(u64::MAX),
                bytes: exchange.bytes + exchange.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
            })
            .collect();
        blockers.sort_by_key(|blocker| std::cmp::Reverse(blocker.age_ms));
        blockers.truncate(limit);
        blockers
    }

    fn tell_all(&self, events: Events) {
        events.into_iter().flatten().for_each(|event| (self.tell)(event));
    }
}

/// One request's share of `max_parked`.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(everywhere: &'a AtomicUsize, max: usize) -> Result<Self, Refused> {
        let place = Self(everywhere);
        let before = everywhere.fetch_add(1, Ordering::Relaxed);
        // Dropping `place` gives the refused one back.
        if before >= max { Err(Refused::TooManyParked) } else { Ok(place) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Guard ===

impl Guard {
    /// Moves the exchange to its next stage.
    pub fn enter(&self, stage: Stage, now: Instant) {
        self.with(|exchange| {
            exchange.stage = stage;
            exchange.progress = now;
        });
    }

    /// The request has a body, which says by itself how far it is.
    pub fn attach(&self, upload: Rc<UploadState>) {
        self.with(|exchange| exchange.upload = Some(upload));
    }

    /// Bytes of the answer. Says whether the exchange has to end early.
    pub fn took(&self, bytes: u64) -> Option<Signal> {
        self.with(|exchange| {
            exchange.bytes += bytes;
            exchange.signal
        })
        .flatten()
    }

    /// Ready when the exchange has to end early; otherwise the task is woken when that changes.
    pub fn poll_signal(&self, cx: &Context<'_>) -> Poll<Signal> {
        self.with(|exchange| match exchange.signal {
            Some(signal) => Poll::Ready(signal),
            None => {
                match &mut exchange.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        })
        .unwrap_or(Poll::Pending)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Exchange) -> T) -> Option<T> {
        self.gate.exchanges.borrow_mut().get_mut(self.key).map(act)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let exchange = self.gate.exchanges.borrow_mut().try_remove(self.key);
        if exchange.is_some_and(|exchange| !exchange.left) {
            let events = self.gate.member.borrow_mut().leave(self.admitted);
            self.gate.tell_all(events);
        }
    }
}
