//! Everything of ours on the engine, and its removal. Found by label and not by what a spec says: what a create that
//! was cut short has left is found as well.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::query_parameters::{
    ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions,
};

use super::engine::Failure;
use super::{DockerProvider, INSTANCE};
use crate::instance::{InstanceId, ProviderError};

/// How often a removal that somebody else has begun is looked at.
const LOOK: Duration = Duration::from_millis(100);

impl DockerProvider {
    pub(super) async fn remove(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let client = self.client()?;
        self.remove_containers(&client, id).await?;
        self.remove_volumes(&client, id).await?;
        self.remove_networks(&client, id).await
    }

    async fn remove_containers(&self, client: &Client, id: &InstanceId) -> Result<(), ProviderError> {
        for key in self.containers(client, Some(id)).await.map_err(|failure| failure.about(id))? {
            // Also the volumes without a name, which the image asks for.
            let options = RemoveContainerOptions { force: true, v: true, link: false };
            match self.engine.ask(client.remove_container(&key.0, Some(options))).await {
                Ok(()) => {}
                Err(failure) if failure.is_absence() => {}
                Err(failure) if failure.is_conflict() => self.await_removal(client, id, &key.0).await?,
                Err(failure) => return Err(failure.about(id)),
            }
        }
        Ok(())
    }

    /// Somebody has begun to remove it, such as a Segue that then died.
    async fn await_removal(&self, client: &Client, id: &InstanceId, key: &str) -> Result<(), ProviderError> {
        let gone = async {
            loop {
                match self.engine.ask(client.inspect_container(key, None)).await {
                    Ok(_) => tokio::time::sleep(LOOK).await,
                    Err(failure) if failure.is_absence() => return Ok(()),
                    Err(failure) => return Err(failure),
                }
            }
        };
        let within = tokio::time::timeout(self.engine.patience, gone).await;
        let late =
            || Failure::Silent("the engine does not finish removing a container; restart it".to_owned());
        within.unwrap_or_else(|_| Err(late())).map_err(|failure| failure.about(id))
    }

    async fn remove_volumes(&self, client: &Client, id: &InstanceId) -> Result<(), ProviderError> {
        let volumes = self.volumes(client, Some(id)).await.map_err(|failure| failure.about(id))?;
        for (volume, _) in volumes {
            let removed = self.engine.ask(client.remove_volume(&volume, None::<RemoveVolumeOptions>)).await;
            match removed {
                Ok(()) => {}
                Err(failure) if failure.is_absence() => {}
                // It is data, and another container has come to rely on it. Listed until its last user is gone.
                Err(failure) if failure.is_conflict() => {
                    tracing::warn!(instance = %id, volume, "a volume is kept: {}", failure.into_message());
                }
                Err(failure) => return Err(failure.about(id)),
            }
        }
        Ok(())
    }

    async fn remove_networks(&self, client: &Client, id: &InstanceId) -> Result<(), ProviderError> {
        for (key, _) in self.networks(client, Some(id)).await.map_err(|failure| failure.about(id))? {
            match self.engine.ask(client.remove_network(&key)).await {
                Ok(()) => {}
                Err(failure) if failure.is_absence() => {}
                Err(failure) => return Err(failure.about(id)),
            }
        }
        Ok(())
    }

    pub(super) async fn everything(&self) -> Result<Vec<InstanceId>, ProviderError> {
        let client = self.client()?;
        let mut found = self.containers(&client, None).await.map_err(Failure::anywhere)?;
        found.extend(self.volumes(&client, None).await.map_err(Failure::anywhere)?);
        found.extend(self.networks(&client, None).await.map_err(Failure::anywhere)?);
        let ids: BTreeSet<_> = found.into_iter().filter_map(|(_, id)| InstanceId::new(id?).ok()).collect();
        Ok(ids.into_iter().collect())
    }

    async fn containers(&self, client: &Client, id: Option<&InstanceId>) -> Result<Vec<Named>, Failure> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.mine(id)),
            ..ListContainersOptions::default()
        };
        let found = self.engine.ask(client.list_containers(Some(options))).await?;
        let named = |labels: Option<std::collections::HashMap<String, String>>| labels?.remove(INSTANCE);
        Ok(found.into_iter().filter_map(|one| Some((one.id?, named(one.labels)))).collect())
    }

    async fn volumes(&self, client: &Client, id: Option<&InstanceId>) -> Result<Vec<Named>, Failure> {
        let options = ListVolumesOptions { filters: Some(self.mine(id)) };
        let found = self.engine.ask(client.list_volumes(Some(options))).await?.volumes.unwrap_or_default();
        Ok(found.into_iter().map(|mut one| (one.name, one.labels.remove(INSTANCE))).collect())
    }

    async fn networks(&self, client: &Client, id: Option<&InstanceId>) -> Result<Vec<Named>, Failure> {
        let options = ListNetworksOptions { filters: Some(self.mine(id)) };
        let found = self.engine.ask(client.list_networks(Some(options))).await?;
        Ok(found.into_iter().filter_map(|one| Some((one.id?, one.labels?.remove(INSTANCE)))).collect())
    }
}

/// By what the engine knows a thing, and the instance that its label names.
type Named = (String, Option<String>);
