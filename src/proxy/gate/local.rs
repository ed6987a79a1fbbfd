//! The gate of one service on one worker: a [`Member`] in plain cells, the exchanges it has let
//! through, and the requests it holds.
//!
//! Whatever can call back in here, that is a waker, a `tell`, the drop of a guard, runs while nothing
//! is borrowed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use tokio::sync::oneshot;

pub use super::flight::{Blocker, Signal, Stage};
use super::flight::{Cut, Flight};
use super::line::{Line, Place, Waiting};
use super::member::{Admitted, Command, Event, Events, Generation, Member};
use crate::config::InstanceName;
use crate::proxy::classify::Class;
use crate::proxy::forward::upload::UploadState;

/// The runtime's timer resolves a millisecond, so this is how often parked requests can go.
const TICKS_PER_SECOND: u32 = 1000;

pub struct Gate {
    member: RefCell<Member>,
    flight: RefCell<Flight>,
    line: RefCell<Line>,
    /// A task lets the line go.
    releasing: Cell<bool>,
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
            flight: RefCell::default(),
            line: RefCell::default(),
            releasing: Cell::new(false),
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
        self.line.borrow().len()
    }

    /// Nothing is in flight and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.flight.borrow().is_empty() && self.parked() == 0
    }

    /// Lets a request through, now or when the gate opens again. `now` may be coarse: how old the exchange is counts from
    /// [`Guard::begins`]. `waits` is told before it has to wait.
    pub async fn admit(
        self: &Rc<Self>,
        class: Class,
        path: Option<&PathAndQuery>,
        now: Instant,
        waits: impl FnOnce(),
    ) -> Result<Admission, Refused> {
        if let Some(guard) = self.try_admit(class, path, now) {
            return Ok(Admission { guard, held: None });
        }
        waits();
        // Boxed: waiting is rare and large, and every request would carry the room for it.
        Box::pin(self.wait(class, path)).await
    }

    async fn wait(self: &Rc<Self>, class: Class, path: Option<&PathAndQuery>) -> Result<Admission, Refused> {
        let since = Instant::now();
        let limits = self.limits.get();
        let _place = Place::take(&self.parked_everywhere, limits.max_parked).ok_or(Refused::TooManyParked)?;
        let (go, admitted) = oneshot::channel();
        let waiting = Waiting { path: path.cloned(), go };
        let ticket = self.line.borrow_mut().join(class, waiting);
        let _turn = Turn { gate: self, class, ticket };
        match tokio::time::timeout(limits.timeout, admitted).await {
            Ok(Ok(guard)) => Ok(Admission { guard, held: Some(since.elapsed()) }),
            // The sender is in the line for as long as `_turn` lives, so only time can have ended this.
            Ok(Err(_)) | Err(_) => Err(Refused::ParkedTooLong),
        }
    }

    fn try_admit(self: &Rc<Self>, class: Class, path: Option<&PathAndQuery>, now: Instant) -> Option<Guard> {
        let admitted = self.member.borrow_mut().admit(class)?;
        let key = self.flight.borrow_mut().begin(admitted, path.cloned(), now);
        Some(Guard { gate: Rc::clone(self), key, admitted })
    }

    /// Must run in the worker's runtime: a gate that opens lets its line go from a task of its own.
    pub fn obey(self: &Rc<Self>, command: Command) {
        let events = self.member.borrow_mut().obey(command);
        self.tell_all(events);
        if self.parked() > 0 && !self.releasing.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).release());
        }
    }

    /// Lets parked requests go a few at a time: all at once they would hit the instance as the burst
    /// that the pause saved up. Ends when nobody is left who may go.
    async fn release(self: Rc<Self>) {
        let per_second = self.limits.get().release_per_second.max(1);
        let batch = per_second.div_ceil(TICKS_PER_SECOND);
        let mut tick = tokio::time::interval(Duration::from_secs(1) * batch / per_second);
        // A worker that stood still does not make up for it with a burst.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let mut released = 0;
            while released < batch {
                let next = self.line.borrow_mut().next(|class| !self.member.borrow().parks(class));
                let Some((class, waiting)) = next else {
                    self.releasing.set(false);
                    return;
                };
                let Some(guard) = self.try_admit(class, waiting.path.as_ref(), Instant::now()) else {
                    continue;
                };
                // One that just left takes no place in the batch; its guard comes back and is dropped.
                released += u32::from(waiting.go.send(guard).is_ok());
            }
        }
    }

    /// Ends what is still in flight of `generation` and before; of a closed gate, only what it waits
    /// for. Counts what it ended.
    pub fn cut(&self, generation: Generation) -> usize {
        let cut = {
            let member = self.member.borrow();
            self.flight.borrow_mut().cut(|of| of.generation <= generation && member.waits_for(of.class))
        };
        let Cut { signalled, left, wakers } = cut;
        for admitted in left {
            self.count_out(admitted);
        }
        wakers.into_iter().for_each(Waker::wake);
        signalled
    }

    /// Applies the timeouts. Called by the worker's sweep instead of a timer for each request.
    pub fn sweep(&self, now: Instant, answer_timeout: Duration, stall_timeout: Duration) {
        let wakers = self.flight.borrow_mut().sweep(now, answer_timeout, stall_timeout);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The oldest exchanges of `generation` and before; of a closed gate, only those it waits for.
    pub fn blockers(&self, generation: Generation, now: Instant, limit: usize) -> Vec<Blocker> {
        let member = self.member.borrow();
        let meant = |of: Admitted| of.generation <= generation && member.waits_for(of.class);
        self.flight.borrow().blockers(meant, now, limit)
    }

    fn count_out(&self, admitted: Admitted) {
        let events = self.member.borrow_mut().leave(admitted);
        self.tell_all(events);
    }

    fn tell_all(&self, events: Events) {
        events.into_iter().flatten().for_each(|event| (self.tell)(event));
    }
}

/// A request's turn in the line. One that stops waiting, for whatever reason, leaves nothing behind.
struct Turn<'a> {
    gate: &'a Gate,
    class: Class,
    ticket: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let waiting = self.gate.line.borrow_mut().leave(self.class, self.ticket);
        drop(waiting);
    }
}

// === impl Guard ===

impl Guard {
    /// The exchange begins. Its age predicts how long a drain takes, and a clock that is told the time a few times a second
    /// would make a request of a millisecond the oldest one.
    pub fn begins(&self, now: Instant) {
        self.gate.flight.borrow_mut().begins(self.key, now);
    }

    /// Moves the exchange to its next stage.
    pub fn enter(&self, stage: Stage, now: Instant) {
        let leaves = self.gate.flight.borrow_mut().enter(self.key, stage, now);
        if leaves {
            self.gate.count_out(self.admitted);
        }
    }

    /// The request has a body, which says by itself how far it is.
    pub fn attach(&self, upload: Rc<UploadState>) {
        self.gate.flight.borrow_mut().attach(self.key, upload);
    }

    /// Bytes of the answer. Says whether the exchange has to end early.
    pub fn took(&self, bytes: u64) -> Option<Signal> {
        self.gate.flight.borrow_mut().took(self.key, bytes)
    }

    /// Ready when the exchange has to end early; otherwise the task is woken when that changes.
    pub fn poll_signal(&self, cx: &Context<'_>) -> Poll<Signal> {
        let flight = &self.gate.flight;
        if let Some(signal) = flight.borrow().signal(self.key) {
            return Poll::Ready(signal);
        }
        let known = flight.borrow().is_woken_by(self.key, cx.waker());
        if !known {
            let waker = cx.waker().clone();
            let before = flight.borrow_mut().wake_by(self.key, waker);
            drop(before);
        }
        Poll::Pending
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let exchange = self.gate.flight.borrow_mut().end(self.key);
        if exchange.is_some_and(|exchange| !exchange.left) {
            self.gate.count_out(self.admitted);
        }
    }
}

#[cfg(test)]
mod tests;
