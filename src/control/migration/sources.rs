//! Sources that Segue runs itself: started with it, unless a migration has retired them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::{InstanceName, Run, Service, Settings};
use crate::control::slots::{Slot, Slots};
use crate::instance::{
    InstanceId, InvalidId, ProviderError, Providers, Role, Spec, State, takes_connections,
};
use crate::store::{Store, StoreError};

/// For a source to take its first connection; callers are accepted only then.
const START_UP: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the source of `{service}`: {error}")]
    Provider { service: String, error: ProviderError },
    #[error("the source of `{service}`: {error}")]
    Name { service: String, error: InvalidId },
    #[error("the source of `{service}` did not come up: {why}; it wrote: {said}")]
    Silent { service: String, why: String, said: String },
}

/// Starts each source that is Segue's to run and that no slot knows yet. What runs already is found again.
pub async fn start_sources(
    settings: &Settings,
    store: &Store,
    providers: &Providers,
) -> Result<(), SourceError> {
    let slots = Slots::load(store).await?;
    for (name, service) in &settings.services {
        let Some(run) = &service.source.run else { continue };
        if let Some(slot) = slots.get(name, InstanceName::Source) {
            let ours = slot.spec.as_ref().map(|spec| &spec.id) == source_id(name).ok().as_ref();
            if slot.is_of(service, InstanceName::Source) || !ours {
                // A migration has filled or emptied it; what the settings say was there before.
                continue;
            }
        }
        start(name, service, run, store, providers).await?;
    }
    Ok(())
}

/// Starts again what slots hold and Segue runs: after a restart of the machine nothing runs any more. An instance that
/// does not start is not waited for.
pub async fn start_again(store: &Store, providers: &Providers) -> Result<(), SourceError> {
    for (service, name, slot) in Slots::load(store).await?.iter() {
        bring_up(store, providers, (service, name), slot).await?;
    }
    Ok(())
}

/// Starts what is in a slot, or finds it running, and writes down where. Says whether it has moved: a new address or
/// port may be what a start comes to, also one by whoever else looks after it.
pub async fn bring_up(
    store: &Store,
    providers: &Providers,
    (service, name): (&str, InstanceName),
    slot: &Slot,
) -> Result<bool, SourceError> {
    let Some(spec) = &slot.spec else { return Ok(false) };
    let Ok(provider) = providers.of(&spec.workload) else { return Ok(false) };
    match tokio::time::timeout(START_UP, provider.start(spec)).await {
        Ok(Ok(running)) => {
            let endpoints: Vec<_> = running.endpoints.iter().map(ToString::to_string).collect();
            if endpoints == slot.endpoints {
                return Ok(false);
            }
            // Starting takes a while, in which its migration may have gone on.
            let now = Slots::load(store).await?;
            let Some(slot) = now.get(service, name).filter(|slot| slot.holds(&spec.id)) else {
                return Ok(false);
            };
            tracing::warn!(instance = %spec.id, endpoints = endpoints.join(", "), "it has moved");
            store.set_slot(service, name, Some(json!(slot.clone().at(endpoints)))).await?;
            return Ok(true);
        }
        Ok(Err(error)) => tracing::error!(%error, instance = %spec.id, "an instance cannot be started again"),
        Err(_) => tracing::error!(instance = %spec.id, "an instance did not start within {START_UP:?}"),
    }
    Ok(false)
}

async fn start(
    name: &str,
    service: &Service,
    run: &Run,
    store: &Store,
    providers: &Providers,
) -> Result<(), SourceError> {
    let failed = |error| SourceError::Provider { service: name.to_owned(), error };
    let id = source_id(name).map_err(|error| SourceError::Name { service: name.to_owned(), error })?;
    let spec = Spec {
        id,
        service: name.to_owned(),
        role: Role::Active,
        allocation: run.allocation,
        workload: run.workload.clone(),
    };
    let provider = providers.of(&spec.workload).map_err(failed)?;
    provider.create(&spec).await.map_err(failed)?;
    let running = provider.start(&spec).await.map_err(failed)?;
    let began = Instant::now();
    while let Err(why) = takes_connections(&running.endpoints).await {
        let ended = matches!(provider.state(&spec.id).await, Ok(State::Ended { .. }));
        if ended || began.elapsed() >= START_UP {
            let said = provider.tail(&spec.id).await;
            return Err(SourceError::Silent { service: name.to_owned(), why, said });
        }
        tokio::time::sleep(LOOK).await;
    }
    tracing::info!(service = name, instance = %spec.id, "its source runs");
    let slot = Slot::new(&running.endpoints, Some(spec), service, InstanceName::Source);
    Ok(store.set_slot(name, InstanceName::Source, Some(json!(slot))).await?)
}

/// The same after every start, so that a source that runs is found.
fn source_id(service: &str) -> Result<InstanceId, InvalidId> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let digest = blake3::hash(service.as_bytes()).to_hex();
    let name: String = service.chars().take(36).map(plain).collect();
    InstanceId::new(format!("s-{name}-source-{}", digest.get(..8).unwrap_or_default()))
}
