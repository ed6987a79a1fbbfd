//! The gates of all services, as the control plane sees them: each service's [`Controller`] and the
//! members it talks to.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::crew::Crew;
use super::gate::controller::{Controller, MemberId, OutOfTurn, Phase};
use super::gate::local::Blocker;
use super::gate::member::{Command, Generation};
use super::worker::{Order, Told};
use crate::config::{InstanceName, Park};

/// A predecessor that does not answer is not waited for any longer; a worker of it would have answered
/// with its loop's next turn.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(1);

pub struct Gates {
    crew: Arc<Crew>,
    inner: Mutex<Inner>,
    /// Services that somebody is switching over.
    turns: Mutex<HashSet<Arc<str>>>,
    /// Grows with everything a member says, so that waiting needs no polling.
    heard: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    controllers: HashMap<Arc<str>, Controller>,
    /// The process that this one took over from, while it still has exchanges.
    predecessor: Option<Predecessor>,
    /// Set once another process holds the controllers: what members tell goes there.
    successor: Option<mpsc::UnboundedSender<Told>>,
}

/// Another process's workers, which obey the same orders as this one's.
struct Predecessor {
    members: Range<MemberId>,
    services: HashSet<Arc<str>>,
    orders: mpsc::UnboundedSender<Order>,
    gone: bool,
}

/// A service's gate at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateState {
    pub generation: Generation,
    pub active: InstanceName,
    pub phase: Phase,
}

/// The right to switch a service over, given back when dropped.
pub struct Turn {
    gates: Arc<Gates>,
    service: Arc<str>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gates.turns().remove(&self.service);
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("there is no service `{0}`")]
    NoService(Arc<str>),
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
}

impl Gates {
    pub fn new(crew: Arc<Crew>) -> Arc<Self> {
        Arc::new(Self { crew, inner: Mutex::default(), turns: Mutex::default(), heard: watch::channel(0).0 })
    }

    /// Takes a service in, or out again when it is no longer configured.
    pub fn add(&self, service: &Arc<str>, generation: Generation, active: InstanceName) {
        let Inner { controllers, predecessor, .. } = &mut *self.lock();
        controllers.entry(Arc::clone(service)).or_insert_with(|| {
            let mut controller = Controller::new(generation, active);
            let elsewhere = predecessor.as_ref().filter(|of| !of.gone && of.services.contains(service));
            let elsewhere = elsewhere.map_or(0..0, |of| of.members.clone());
            for member in (0..self.crew.len() as MemberId).chain(elsewhere) {
                // A new controller is open, so nobody is turned away.
                let _ = controller.join(member);
            }
            controller
        });
    }

    pub fn remove(&self, service: &str) {
        self.lock().controllers.remove(service);
    }

    /// Takes in the workers of a predecessor, which are members of these services' gates. Gives the
    /// first one's number and the orders for all of them. Before callers or switchovers come.
    pub fn join_predecessor(
        &self,
        workers: MemberId,
        services: impl IntoIterator<Item = Arc<str>>,
    ) -> (MemberId, mpsc::UnboundedReceiver<Order>) {
        let first = self.crew.len() as MemberId;
        let members = first..first.saturating_add(workers);
        let services: HashSet<_> = services.into_iter().collect();
        let (orders, inbox) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        for (_, controller) in inner.controllers.iter_mut().filter(|(name, _)| services.contains(*name)) {
            for member in members.clone() {
                let _ = controller.join(member);
            }
        }
        inner.predecessor = Some(Predecessor { members, services, orders, gone: false });
        (first, inbox)
    }

    /// The predecessor's process has ended. A gate that is waiting for it goes on waiting until the
    /// switchover is given up: nobody has said that what it had in flight is over.
    pub fn part_from_predecessor(&self) {
        let Inner { controllers, predecessor, .. } = &mut *self.lock();
        let Some(of) = predecessor else { return };
        of.gone = true;
        let waiting = |phase| matches!(phase, Phase::Closing | Phase::Draining);
        for controller in controllers.values_mut().filter(|controller| !waiting(controller.phase())) {
            of.leave(controller);
        }
        self.heard.send_modify(|count| *count += 1);
    }

    pub fn has_predecessor(&self) -> bool {
        self.lock().predecessor.as_ref().is_some_and(|of| !of.gone)
    }

    /// Lets another process hold the controllers: what members tell comes out here.
    pub fn follow(&self) -> mpsc::UnboundedReceiver<Told> {
        let (successor, told) = mpsc::unbounded_channel();
        self.lock().successor = Some(successor);
        told
    }

    /// Holds the controllers again; nothing has happened meanwhile.
    pub fn lead(&self) {
        self.lock().successor = None;
    }

    /// Hands on a command of the process that holds the controllers.
    pub fn relay(&self, service: &Arc<str>, command: Command) {
        self.crew.order(|| Order::Gate { service: Arc::clone(service), command });
    }

    /// Hears the members for as long as the process lives.
    pub async fn listen(self: Arc<Self>, mut told: mpsc::UnboundedReceiver<Told>) {
        while let Some(told) = told.recv().await {
            self.hear(told);
        }
        // Nothing more will be told.
        self.lock().successor = None;
    }

    pub fn hear(&self, told: Told) {
        let mut inner = self.lock();
        if let Some(successor) = &inner.successor {
            // One that is gone has no gates that wait.
            let _ = successor.send(told);
            return;
        }
        if let Some(of) = inner.controllers.get_mut(&told.service) {
            of.hear(told.member, told.event);
        }
        drop(inner);
        self.heard.send_modify(|count| *count += 1);
    }

    pub fn state(&self, service: &str) -> Option<GateState> {
        let inner = self.lock();
        let controller = inner.controllers.get(service)?;
        Some(GateState {
            generation: controller.generation(),
            active: controller.active(),
            phase: controller.phase(),
        })
    }

    /// A service is switched over by one at a time. The phase of its gate alone cannot see to that: to
    /// overlap, the swap is made durable while the gate is still open.
    pub fn take_turn(self: &Arc<Self>, service: &Arc<str>) -> Result<Turn, GateError> {
        if !self.turns().insert(Arc::clone(service)) {
            return Err(OutOfTurn::Busy.into());
        }
        Ok(Turn { gates: Arc::clone(self), service: Arc::clone(service) })
    }

    fn turns(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn past_is_over(&self, service: &str) -> bool {
        self.lock().controllers.get(service).is_none_or(Controller::past_is_over)
    }

    /// How long requests may be held from now on, until the settings are loaded again.
    pub fn hold_for(&self, service: &Arc<str>, timeout: Duration) {
        let order = || Order::HoldFor { service: Arc::clone(service), timeout };
        if let Some(predecessor) = &self.lock().predecessor {
            let _ = predecessor.orders.send(order());
        }
        self.crew.order(order);
    }

    pub fn close(&self, service: &Arc<str>, park: Park) -> Result<(), GateError> {
        self.command(service, |controller| controller.close(park))
    }

    pub fn resume(&self, service: &Arc<str>, active: InstanceName) -> Result<(), GateError> {
        self.command(service, |controller| controller.resume(active))
    }

    pub fn resume_after_cut(&self, service: &Arc<str>, active: InstanceName) -> Result<(), GateError> {
        self.command(service, |controller| controller.resume_after_cut(active))
    }

    pub fn overlap(&self, service: &Arc<str>, active: InstanceName) -> Result<(), GateError> {
        self.command(service, |controller| controller.overlap(active))
    }

    fn command(
        &self,
        service: &Arc<str>,
        decide: impl FnOnce(&mut Controller) -> Result<Command, OutOfTurn>,
    ) -> Result<(), GateError> {
        let Inner { controllers, predecessor, .. } = &mut *self.lock();
        let of = controllers.get_mut(service).ok_or_else(|| GateError::NoService(Arc::clone(service)))?;
        let command = decide(of)?;
        let order = || Order::Gate { service: Arc::clone(service), command };
        if let Some(predecessor) = predecessor {
            if predecessor.gone && matches!(command, Command::Resume { .. }) {
                predecessor.leave(of);
            }
            let _ = predecessor.orders.send(order());
        }
        self.crew.order(order);
        Ok(())
    }

    /// Waits until `reached` holds; `false` when it did not in time.
    pub async fn wait(&self, limit: Duration, reached: impl Fn(&Self) -> bool) -> bool {
        let mut heard = self.heard.subscribe();
        let wait = async {
            while !reached(self) {
                if heard.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Ends what is in flight of `generation` and before; says how much that was.
    pub async fn cut(&self, service: &Arc<str>, generation: Generation) -> usize {
        let cut = self.ask(|done| Order::Cut { service: Arc::clone(service), generation, done });
        cut.await.into_iter().sum()
    }

    /// What keeps a drain from ending, the oldest first.
    pub async fn blockers(&self, service: &Arc<str>, generation: Generation) -> Vec<Blocker> {
        let ask = |found| Order::Blockers { service: Arc::clone(service), generation, found };
        let mut all: Vec<Blocker> = self.ask(ask).await.into_iter().flatten().collect();
        all.sort_by_key(|blocker| std::cmp::Reverse(blocker.age_ms));
        all.truncate(super::report::BLOCKERS);
        all
    }

    /// Asks every member, wherever it runs.
    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        let elsewhere = self.lock().predecessor.as_ref().map(|of| {
            let (reply, answer) = oneshot::channel();
            // One that has gone drops the question, which ends the wait for the answer.
            let _ = of.orders.send(question(reply));
            answer
        });
        let mut answers = self.crew.ask(&question).await;
        if let Some(answer) = elsewhere {
            let answer = tokio::time::timeout(PREDECESSOR_PATIENCE, answer).await;
            answers.extend(answer.into_iter().flatten());
        }
        answers
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A controller changes in one step, so a panic elsewhere leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Predecessor {
    fn leave(&self, controller: &mut Controller) {
        self.members.clone().for_each(|member| controller.leave(member));
    }
}
