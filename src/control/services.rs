//! The control plane's side of each service, and the plan that the workers are given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::build::{self, BuildError};
use crate::config::{self, InstanceName, Settings};
use crate::proxy::access::AccessLog;
use crate::proxy::gate::member::Generation;
use crate::proxy::plan::{Plan, ServicePlan, TeePlan};
use crate::proxy::route::Router;
use crate::store::ActiveRecord;
use crate::tee::budget::Memory;
use crate::tee::shadow::ShadowRecords;
use crate::upstream::Instance;

/// All services of the running settings.
pub struct Services(BTreeMap<Arc<str>, Arc<ServiceControl>>);

/// One service.
pub struct ServiceControl {
    pub name: Arc<str>,
    pub settings: config::Service,
    pub classifier: Arc<crate::proxy::classify::Classifier>,
    pub source: Arc<Instance>,
    pub shadow: Option<Arc<Instance>>,
    pub records: Arc<ShadowRecords>,
    pub tee: Arc<TeePlan>,
    pub parked: Arc<AtomicUsize>,
    /// Where its gates start.
    pub start: StartAt,
}

#[derive(Clone, Copy, Debug)]
pub struct StartAt {
    pub generation: Generation,
    pub active: InstanceName,
}

impl Services {
    /// Builds every service or none. `old` lends what did not change.
    pub(super) async fn build(
        settings: &Settings,
        old: Option<&Self>,
        recorded: &[(String, ActiveRecord)],
        memory: &Arc<Memory>,
        seed: u64,
    ) -> Result<Self, BuildError> {
        let mut services = BTreeMap::new();
        for (name, service) in &settings.services {
            let old = old.and_then(|old| old.get(name));
            let record = recorded.iter().find(|(of, _)| of == name).map(|(_, record)| record);
            let built = build::service(name, service, old.as_deref(), record, memory, seed).await?;
            services.insert(Arc::clone(&built.name), Arc::new(built));
        }
        Ok(Self(services))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServiceControl>> {
        self.0.values()
    }

    pub fn get(&self, name: &str) -> Option<Arc<ServiceControl>> {
        self.0.get(name).map(Arc::clone)
    }

    /// The same services with one of them replaced.
    pub(super) fn with(&self, service: ServiceControl) -> Self {
        let mut services = self.0.clone();
        services.insert(Arc::clone(&service.name), Arc::new(service));
        Self(services)
    }

    pub(super) fn plan(
        &self,
        settings: &Settings,
        tees_stopped: &Arc<AtomicBool>,
        access_log: Option<&AccessLog>,
        at: impl Fn(&ServiceControl) -> StartAt,
    ) -> Plan {
        let routed = self.iter().map(|of| (of.settings.hosts.as_slice(), of.settings.paths.as_slice()));
        let services = self.iter().map(|of| {
            let start = at(of);
            Arc::new(ServicePlan {
                name: Arc::clone(&of.name),
                upstream: of.settings.upstream.clone(),
                switchover: of.settings.switchover.clone(),
                classifier: Arc::clone(&of.classifier),
                source: Arc::clone(&of.source),
                shadow: of.shadow.clone(),
                tee: Arc::clone(&of.tee),
                parked: Arc::clone(&of.parked),
                generation: start.generation,
                active: start.active,
            })
        });
        Plan {
            callers: settings.callers.clone(),
            router: Router::new(routed),
            services: services.collect(),
            tees_stopped: Arc::clone(tees_stopped),
            access_log: access_log.cloned(),
        }
    }
}

impl ServiceControl {
    pub fn instance(&self, name: InstanceName) -> Option<&Arc<Instance>> {
        match name {
            // One that was retired has no endpoints.
            InstanceName::Source => Some(&self.source).filter(|_| !self.settings.source.endpoints.is_empty()),
            InstanceName::Shadow => self.shadow.as_ref(),
        }
    }

    pub fn endpoints(&self, name: InstanceName) -> Option<&[config::Endpoint]> {
        match name {
            InstanceName::Source => Some(&self.settings.source.endpoints),
            InstanceName::Shadow => self.settings.shadow.as_ref().map(|of| of.endpoints.as_slice()),
        }
    }
}
