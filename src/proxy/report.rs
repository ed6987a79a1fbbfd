//! What a worker knows about itself, copied out for the control plane.

use std::sync::Arc;
use std::time::Duration;

use super::service::Requests;
use super::worker::Worker;
use crate::config::InstanceName;
use crate::proxy::gate::member::Generation;
use crate::record::Interval;
use crate::tee::skip::TeeCounts;

/// Exchanges named when a drain takes too long, for each worker.
pub const BLOCKERS: usize = 20;

/// Labelled counts, since the worker began.
pub type Tally = Vec<(&'static str, u64)>;

#[derive(Debug)]
pub struct Report {
    pub worker: usize,
    pub connections: usize,
    pub resting: usize,
    pub rejects: Tally,
    pub ends: Tally,
    pub services: Vec<ServiceReport>,
    pub gathered: Vec<Gathered>,
}

#[derive(Debug)]
pub struct ServiceReport {
    pub name: Arc<str>,
    pub generation: Generation,
    pub active: InstanceName,
    pub in_flight: usize,
    pub parked_now: usize,
    pub requests: Requests,
    pub tee: TeeCounts,
    pub tee_by_body: TeeCounts,
    pub reasons: Tally,
    pub rejects: Tally,
    pub suspects: Tally,
    pub parked: u64,
    pub retries: u64,
    pub informational: u64,
    pub cut: u64,
    pub abandoned: u64,
    pub caller_left: u64,
}

/// What came together for a service since it was last asked for: handed over, not copied.
#[derive(Debug)]
pub struct Gathered {
    pub service: Arc<str>,
    pub interval: Option<Interval>,
    /// How long parked requests were held.
    pub held: Vec<Duration>,
}

/// Of the services that have something.
pub fn gather(worker: &Worker) -> Vec<Gathered> {
    let table = worker.table();
    let gathered = table.services().iter().filter_map(|service| {
        let mut counts = service.counts.borrow_mut();
        let (interval, held) = (counts.recorder.take_interval(), std::mem::take(&mut counts.held));
        let any = interval.is_some() || !held.is_empty();
        any.then(|| Gathered { service: Arc::clone(&service.plan.name), interval, held })
    });
    gathered.collect()
}

pub fn of(worker: &Worker) -> Report {
    let table = worker.table();
    let services = table.services().iter().map(|service| {
        let counts = service.counts.borrow();
        ServiceReport {
            name: Arc::clone(&service.plan.name),
            generation: service.gate.generation(),
            active: service.gate.active(),
            in_flight: service.gate.in_flight(),
            parked_now: service.gate.parked(),
            requests: counts.requests.clone(),
            tee: counts.tee,
            tee_by_body: counts.tee_by_body,
            reasons: counts.reasons.clone(),
            rejects: counts.rejects.clone(),
            suspects: counts.suspects.clone(),
            parked: counts.parked,
            retries: counts.retries,
            informational: counts.informational,
            cut: counts.cut,
            abandoned: counts.abandoned,
            caller_left: counts.caller_left,
        }
    });
    Report {
        worker: worker.number,
        connections: worker.connections(),
        resting: worker.resting(),
        rejects: worker.rejects.borrow().clone(),
        ends: worker.ends.borrow().clone(),
        services: services.collect(),
        gathered: gather(worker),
    }
}
