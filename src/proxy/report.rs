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
    /// Since the last report: these are handed over, not copied.
    pub interval: Option<Interval>,
    pub held: Vec<Duration>,
}

pub fn of(worker: &Worker) -> Report {
    let table = worker.table();
    let services = table.services().iter().map(|service| {
        let mut counts = service.counts.borrow_mut();
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
            interval: counts.recorder.take_interval(),
            held: std::mem::take(&mut counts.held),
        }
    });
    Report {
        worker: worker.number,
        connections: worker.connections(),
        resting: worker.resting(),
        rejects: worker.rejects.borrow().clone(),
        ends: worker.ends.borrow().clone(),
        services: services.collect(),
    }
}
