//! One service on one worker: gate, pools, counters and recorder, all in plain cells.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::classify::{Class, Classifier};
use super::forward::upload::Upload;
use super::gate::local::ParkLimits;
use super::gate::{Event, Gate};
use super::plan::{ServicePlan, TeePlan};
use crate::config::InstanceName;
use crate::record::Recorder;
use crate::tee::skip::TeeCounts;
use crate::upstream::Pool;

pub struct Service {
    pub plan: Arc<ServicePlan>,
    /// A clone of its own, because regexes lock the scratch memory that their clones share.
    pub classifier: Classifier,
    pub gate: Rc<Gate>,
    source: Rc<Pool<Upload>>,
    shadow: Option<Rc<Pool<Upload>>>,
    pub tee: RefCell<Arc<TeePlan>>,
    pub counts: Rc<RefCell<Counts>>,
    /// The sweep looks after it.
    active: Cell<bool>,
}

/// What one worker has counted for one service, ever.
#[derive(Debug, Default)]
pub struct Counts {
    pub recorder: Recorder,
    pub requests: Requests,
    pub tee: TeeCounts,
    /// Reads that are known only from their body.
    pub tee_by_body: TeeCounts,
    /// Writes and reads by the reason of their class.
    pub reasons: Vec<(&'static str, u64)>,
    pub rejects: Vec<(&'static str, u64)>,
    pub suspects: Vec<(&'static str, u64)>,
    /// How long parked requests were held, in the interval.
    pub held: Vec<Duration>,
    pub parked: u64,
    pub retries: u64,
    /// Answers before the final one, such as 103, which are not passed on.
    pub informational: u64,
    pub cut: u64,
    pub abandoned: u64,
    pub caller_left: u64,
}

/// Requests by instance, class and status code: a handful of combinations, so a list that is searched
/// beats a map.
#[derive(Debug, Default, Clone)]
pub struct Requests(Vec<(RequestKey, u64)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    pub instance: InstanceName,
    pub class: Class,
    pub code: u16,
}

impl Requests {
    pub fn count(&mut self, key: RequestKey) {
        self.add(key, 1);
    }

    pub fn add(&mut self, key: RequestKey, count: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known += count,
            None => self.0.push((key, count)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &(RequestKey, u64)> {
        self.0.iter()
    }
}

/// Adds to a short list of labelled counts.
pub fn count(list: &mut Vec<(&'static str, u64)>, label: &'static str, by: u64) {
    match list.iter_mut().find(|(known, _)| *known == label) {
        Some((_, count)) => *count += by,
        None => list.push((label, by)),
    }
}

impl Service {
    /// `old` is this service under the previous plan: its gate and counts go on, and its pools where
    /// the instance is the same.
    pub fn new(
        plan: Arc<ServicePlan>,
        workers: usize,
        old: Option<&Self>,
        tell: impl FnOnce() -> Box<dyn Fn(Event)>,
    ) -> Self {
        let limits = ParkLimits {
            timeout: plan.switchover.park_timeout,
            max_parked: plan.switchover.max_parked,
            release_per_second: (plan.switchover.release_per_second / workers.max(1) as u32).max(1),
        };
        let gate = match old {
            Some(old) => {
                old.gate.set_limits(limits);
                Rc::clone(&old.gate)
            }
            None => Gate::new(plan.generation, plan.active, limits, Arc::clone(&plan.parked), tell()),
        };
        let pool = |instance: &Arc<crate::upstream::Instance>, old: Option<&Rc<Pool<Upload>>>| match old {
            Some(old) if Arc::ptr_eq(old.instance(), instance) => Rc::clone(old),
            _ => Pool::new(Arc::clone(instance)),
        };
        let source = pool(&plan.source, old.map(|old| &old.source));
        let shadow = plan.shadow.as_ref().map(|shadow| pool(shadow, old.and_then(|old| old.shadow.as_ref())));
        Self {
            gate,
            classifier: plan.classifier.as_ref().clone(),
            source,
            shadow,
            tee: RefCell::new(Arc::clone(&plan.tee)),
            counts: old.map_or_else(Rc::default, |old| Rc::clone(&old.counts)),
            plan,
            active: Cell::new(false),
        }
    }

    /// The pool of an instance. The gate never says `Shadow` where none is configured; should it all
    /// the same, the source is the one that certainly exists.
    pub fn pool(&self, instance: InstanceName) -> &Rc<Pool<Upload>> {
        match (instance, &self.shadow) {
            (InstanceName::Shadow, Some(shadow)) => shadow,
            _ => &self.source,
        }
    }

    /// Whether it was at rest so far.
    pub fn becomes_active(&self) -> bool {
        !self.active.replace(true)
    }

    /// Applies the timeouts; `false` = nothing is left that time could change, until the next request.
    pub fn sweep(&self, now: Instant, stall_timeout: Duration) -> bool {
        self.gate.sweep(now, self.plan.upstream.answer_timeout, stall_timeout);
        let mut is_active = !self.gate.is_empty();
        for pool in [Some(&self.source), self.shadow.as_ref()].into_iter().flatten() {
            pool.sweep(now);
            is_active |= !pool.is_empty();
        }
        self.active.set(is_active);
        is_active
    }

    pub fn count_request(&self, instance: InstanceName, class: Class, status: StatusCode) {
        let key = RequestKey { instance, class, code: status.as_u16() };
        self.counts.borrow_mut().requests.count(key);
    }
}

/// A time that many things on a worker read and one thing sets: good enough for ages and timeouts,
/// and free, where asking the kernel costs 25 ns.
#[derive(Debug)]
pub struct CoarseClock(Cell<Instant>);

impl CoarseClock {
    pub fn new(now: Instant) -> Self {
        Self(Cell::new(now))
    }

    pub fn set(&self, now: Instant) {
        self.0.set(now);
    }

    pub fn now(&self) -> Instant {
        self.0.get()
    }
}
