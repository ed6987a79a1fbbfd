//! What the control plane tells the workers to do: one immutable plan, published whole. A worker
//! builds its own table from it and keeps what belongs to services that stay (gates, pools, counts).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::access::AccessLog;
use super::classify::Classifier;
use super::gate::member::Generation;
use super::route::Router;
use crate::config::{self, InstanceName, Switchover, Upstream};
use crate::tee::lane::LaneService;
use crate::tee::sample::Selection;
use crate::upstream::Instance;

/// Everything that workers need to know of the settings.
pub struct Plan {
    pub callers: config::Callers,
    pub router: Router,
    pub services: Vec<Arc<ServicePlan>>,
    /// The one switch that stops all tees; read by workers, flipped by the admin API.
    pub tees_stopped: Arc<AtomicBool>,
    pub access_log: Option<AccessLog>,
}

pub struct ServicePlan {
    pub name: Arc<str>,
    pub upstream: Upstream,
    pub switchover: Switchover,
    pub classifier: Arc<Classifier>,
    pub source: Arc<Instance>,
    pub shadow: Option<Arc<Instance>>,
    pub tee: Arc<TeePlan>,
    /// Requests parked over all workers.
    pub parked: Arc<AtomicUsize>,
    /// Where a worker that does not know the service yet starts from.
    pub generation: Generation,
    pub active: InstanceName,
}

/// A service's tee; replaced as a whole when its percentage changes.
pub struct TeePlan {
    pub lane: Arc<LaneService>,
    pub selection: Selection,
    /// Reads that are known only from their body have their own tickets, so that their rate can be
    /// told apart.
    pub body_selection: Selection,
    /// The same two instances, as the lane reaches them: other limits, other connections. `None`: that
    /// instance is gone, or never was.
    pub source: Option<Arc<Instance>>,
    pub shadow: Option<Arc<Instance>>,
}

impl ServicePlan {
    pub fn instance(&self, name: InstanceName) -> Option<&Arc<Instance>> {
        match name {
            InstanceName::Source => Some(&self.source),
            InstanceName::Shadow => self.shadow.as_ref(),
        }
    }
}

impl TeePlan {
    /// The instance that sees copies while `active` serves callers.
    pub fn target(&self, active: InstanceName) -> Option<&Arc<Instance>> {
        match active {
            InstanceName::Source => self.shadow.as_ref(),
            InstanceName::Shadow => self.source.as_ref(),
        }
    }
}
