//! The gates of all services, as the control plane sees them: each service's [`Controller`] and the
//! members it talks to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::crew::Crew;
use super::gate::controller::{Controller, MemberId, OutOfTurn, Phase};
use super::gate::local::Blocker;
use super::gate::member::{Command, Generation};
use super::worker::{Order, Told};
use crate::config::{InstanceName, Park};

pub struct Gates {
    crew: Arc<Crew>,
    controllers: Mutex<HashMap<Arc<str>, Controller>>,
    /// Services that somebody is switching over.
    turns: Mutex<HashSet<Arc<str>>>,
    /// Grows with everything a member says, so that waiting needs no polling.
    heard: watch::Sender<u64>,
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
        Arc::new(Self {
            crew,
            controllers: Mutex::default(),
            turns: Mutex::default(),
            heard: watch::channel(0).0,
        })
    }

    /// Takes a service in, or out again when it is no longer configured.
    pub fn add(&self, service: &Arc<str>, generation: Generation, active: InstanceName) {
        let mut controllers = self.lock();
        controllers.entry(Arc::clone(service)).or_insert_with(|| {
            let mut controller = Controller::new(generation, active);
            for member in 0..self.crew.len() {
                // A new controller is open, so nobody is turned away.
                let _ = controller.join(member as MemberId);
            }
            controller
        });
    }

    pub fn remove(&self, service: &str) {
        self.lock().remove(service);
    }

    /// Hears the members for as long as the process lives.
    pub async fn listen(self: Arc<Self>, mut told: mpsc::UnboundedReceiver<Told>) {
        while let Some(Told { member, service, event }) = told.recv().await {
            if let Some(of) = self.lock().get_mut(&service) {
                of.hear(member, event);
            }
            self.heard.send_modify(|count| *count += 1);
        }
    }

    pub fn state(&self, service: &str) -> Option<GateState> {
        let controllers = self.lock();
        let controller = controllers.get(service)?;
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
        self.lock().get(service).is_none_or(Controller::past_is_over)
    }

    /// How long requests may be held from now on, until the settings are loaded again.
    pub fn hold_for(&self, service: &Arc<str>, timeout: Duration) {
        self.crew.order(|| Order::HoldFor { service: Arc::clone(service), timeout });
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
        let command = {
            let mut controllers = self.lock();
            let of = controllers.get_mut(service).ok_or_else(|| GateError::NoService(Arc::clone(service)))?;
            decide(of)?
        };
        self.crew.order(|| Order::Gate { service: Arc::clone(service), command });
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
        let cut = self.crew.ask(|done| Order::Cut { service: Arc::clone(service), generation, done });
        cut.await.into_iter().sum()
    }

    /// What keeps a drain from ending, the oldest first.
    pub async fn blockers(&self, service: &Arc<str>, generation: Generation) -> Vec<Blocker> {
        let ask = |found| Order::Blockers { service: Arc::clone(service), generation, found };
        let mut all: Vec<Blocker> = self.crew.ask(ask).await.into_iter().flatten().collect();
        all.sort_by_key(|blocker| std::cmp::Reverse(blocker.age_ms));
        all.truncate(super::report::BLOCKERS);
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Controller>> {
        // A controller changes in one step, so a panic elsewhere leaves it whole.
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
