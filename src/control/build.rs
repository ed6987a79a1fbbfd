//! Settings of one service → everything that runs it. Nothing is published here, so a fault leaves the
//! running service untouched.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use rustls_pki_types::UnixTime;

use super::services::{ServiceControl, StartAt};
use crate::config::{self, InstanceName, Scheme};
use crate::proxy::classify::{Classifier, ClassifyError};
use crate::proxy::plan::TeePlan;
use crate::store::{ActiveRecord, Fingerprint};
use crate::tee::breaker::Breaker;
use crate::tee::budget::{Budget, Memory};
use crate::tee::lane::LaneService;
use crate::tee::sample::Selection;
use crate::tee::session::InvalidKeyName;
use crate::tee::shadow::ShadowRecords;
use crate::upstream::tls::{ClientTls, UpstreamTlsError};
use crate::upstream::{Instance, Limits, health, resolve};

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("service `{service}`: {error}")]
    Classify { service: String, error: ClassifyError },
    #[error("service `{service}`: reading the descriptor set: {error}")]
    Descriptors { service: String, error: std::io::Error },
    #[error("service `{service}`: {error}")]
    Tls { service: String, error: UpstreamTlsError },
    #[error("service `{service}`: {error}")]
    SessionKey { service: String, error: InvalidKeyName },
    #[error(
        "service `{service}`: `{}` is active by the store, but the settings name no such instance; \
         put the endpoints that serve now under `source`, and no shadow, to go on from there",
        active.as_str()
    )]
    ActiveIsGone { service: String, active: InstanceName },
}

/// Tells the two samplers of one service apart.
const BODY_SEED: u64 = 0x626f_6479;

pub(super) async fn service(
    name: &str,
    settings: &config::Service,
    old: Option<&ServiceControl>,
    record: Option<&ActiveRecord>,
    memory: &Arc<Memory>,
    seed: u64,
) -> Result<ServiceControl, BuildError> {
    let of = || name.to_owned();
    let start = start_at(name, settings, record)?;
    let descriptors = match &settings.classify.grpc_descriptor_set {
        None => None,
        Some(path) => {
            Some(std::fs::read(path).map_err(|error| BuildError::Descriptors { service: of(), error })?)
        }
    };
    let classifier = Classifier::new(&settings.classify, descriptors.as_deref())
        .map_err(|error| BuildError::Classify { service: of(), error })?;
    let tls = client_tls(settings).map_err(|error| BuildError::Tls { service: of(), error })?;

    // An instance that is reached as before keeps its connections and what is known of its endpoints.
    let same_upstream = old.filter(|old| tls.is_none() && old.settings.upstream == settings.upstream);
    let same_source = same_upstream.filter(|old| old.settings.source == settings.source);
    let same_shadow = same_upstream.filter(|old| old.settings.shadow == settings.shadow);
    let callers = Limits::of_callers(&settings.upstream);
    let source = match same_source {
        Some(old) => Arc::clone(&old.source),
        None => {
            instance(InstanceName::Source, &settings.source, settings, callers.clone(), tls.as_ref(), true)
                .await
        }
    };
    let shadow = match (&settings.shadow, same_shadow) {
        (None, _) => None,
        (Some(_), Some(old)) if old.shadow.is_some() => old.shadow.clone(),
        (Some(shadow), _) => {
            Some(instance(InstanceName::Shadow, shadow, settings, callers, tls.as_ref(), true).await)
        }
    };
    let lane_limits = Limits::of_lane(&settings.upstream, &settings.tee);
    let same_lane = |same: Option<&'_ ServiceControl>| {
        same.is_some_and(|old| {
            old.settings.tee.max_connections == settings.tee.max_connections
                && old.settings.tee.connect_timeout == settings.tee.connect_timeout
        })
    };
    let lane_source = match same_source.filter(|_| same_lane(same_source)) {
        Some(old) => old.tee.source.clone(),
        None if settings.source.endpoints.is_empty() => None,
        None => Some(
            instance(
                InstanceName::Source,
                &settings.source,
                settings,
                lane_limits.clone(),
                tls.as_ref(),
                false,
            )
            .await,
        ),
    };
    let lane_shadow = match (&settings.shadow, same_shadow.filter(|_| same_lane(same_shadow))) {
        (None, _) => None,
        (Some(_), Some(old)) if old.tee.shadow.is_some() => old.tee.shadow.clone(),
        (Some(shadow), _) => {
            Some(instance(InstanceName::Shadow, shadow, settings, lane_limits, tls.as_ref(), false).await)
        }
    };
    let name: Arc<str> = old.map_or_else(|| name.into(), |old| Arc::clone(&old.name));
    let records = old.map_or_else(Arc::<ShadowRecords>::default, |old| Arc::clone(&old.records));
    records.lock().recent.keep(settings.migration.warm.as_ref().map_or(0, |warm| warm.recent));
    let same_tee =
        old.filter(|old| old.settings.tee == settings.tee && same_source.is_some() && same_shadow.is_some());
    let tee = match same_tee {
        Some(old) => Arc::clone(&old.tee),
        None => tee_plan(&name, &settings.tee, &records, memory, seed, lane_source, lane_shadow)
            .map_err(|error| BuildError::SessionKey { service: name.to_string(), error })?,
    };
    Ok(ServiceControl {
        settings: settings.clone(),
        classifier: Arc::new(classifier),
        source,
        shadow,
        records,
        tee,
        parked: old.map_or_else(Arc::<AtomicUsize>::default, |old| Arc::clone(&old.parked)),
        start,
        name,
    })
}

/// A tee with fresh limits and fresh tickets.
pub(super) fn tee_plan(
    name: &Arc<str>,
    tee: &config::Tee,
    records: &Arc<ShadowRecords>,
    memory: &Arc<Memory>,
    seed: u64,
    source: Option<Arc<Instance>>,
    shadow: Option<Arc<Instance>>,
) -> Result<Arc<TeePlan>, InvalidKeyName> {
    let now = Instant::now();
    let lane = Arc::new(LaneService {
        name: Arc::clone(name),
        tee: tee.clone(),
        budget: Budget::new(tee, Arc::clone(memory), now),
        breaker: Breaker::new(tee, now),
        records: Arc::clone(records),
    });
    Ok(Arc::new(TeePlan {
        lane,
        selection: Selection::new(tee, seed)?,
        body_selection: Selection::new(tee, seed ^ BODY_SEED)?,
        source,
        shadow,
    }))
}

fn client_tls(settings: &config::Service) -> Result<Option<Arc<ClientTls>>, UpstreamTlsError> {
    let shadow = settings.shadow.iter().flat_map(|shadow| &shadow.endpoints);
    let mut endpoints = settings.source.endpoints.iter().chain(shadow);
    if !endpoints.any(|endpoint| endpoint.scheme == Scheme::Https) {
        return Ok(None);
    }
    let tls = ClientTls::new(&settings.upstream.tls, UnixTime::now())?;
    for warning in &tls.warnings {
        tracing::warn!("{warning}");
    }
    Ok(Some(Arc::new(tls)))
}

async fn instance(
    name: InstanceName,
    of: &config::Instance,
    service: &config::Service,
    limits: Limits,
    tls: Option<&Arc<ClientTls>>,
    checked: bool,
) -> Arc<Instance> {
    let instance = Arc::new(Instance::new(name, limits, tls.cloned(), Instant::now()));
    resolve::follow(&instance, of.endpoints.clone(), service.upstream.dns_interval).await;
    if checked && let Some(check) = &service.upstream.health {
        tokio::task::spawn_local(health::follow(Arc::downgrade(&instance), check.clone()));
    }
    instance
}

/// Which instance is active: what the store says, by the endpoints it meant. The names may have been
/// changed round in the settings since, as one does once a migration is over.
fn start_at(
    name: &str,
    settings: &config::Service,
    record: Option<&ActiveRecord>,
) -> Result<StartAt, BuildError> {
    let Some(record) = record else { return Ok(StartAt { generation: 1, active: InstanceName::Source }) };
    let is = |endpoints: &[config::Endpoint]| Fingerprint::of(endpoints) == record.fingerprint;
    let shadow_is = settings.shadow.as_ref().is_some_and(|shadow| is(&shadow.endpoints));
    // Where both have the same endpoints, the name decides.
    let active = if shadow_is && record.instance == InstanceName::Shadow {
        InstanceName::Shadow
    } else if is(&settings.source.endpoints) {
        InstanceName::Source
    } else if shadow_is {
        InstanceName::Shadow
    } else if record.instance == InstanceName::Source || settings.shadow.is_some() {
        tracing::warn!(
            service = name,
            active = record.instance.as_str(),
            "the active instance has other endpoints than when it became active"
        );
        record.instance
    } else {
        return Err(BuildError::ActiveIsGone { service: name.to_owned(), active: record.instance });
    };
    Ok(StartAt { generation: record.generation, active })
}
