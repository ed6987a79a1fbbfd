//! Making an instance: network, volumes, container, in this order. The container comes last, so where it is,
//! everything is.

use bollard::Docker as Client;
use bollard::models::{ContainerCreateBody, SystemInfo, VolumeCreateRequest};
use bollard::query_parameters::CreateContainerOptions;

use super::body::{self, Limits};
use super::engine::Failure;
use super::{DockerProvider, name, network, workload};
use crate::instance::{Docker, ProviderError, Spec};

impl DockerProvider {
    pub(super) async fn make(&self, spec: &Spec) -> Result<(), ProviderError> {
        let docker = workload(spec)?;
        let client = self.client()?;
        if self.look(&client, &spec.id).await?.is_some() {
            return Ok(());
        }
        let info = self.ask(&spec.id, client.info()).await?;
        let network = match &docker.network {
            Some(network) => network.clone(),
            None if spec.is_confined() => self.own_network(&client, spec).await?,
            None => network::DEFAULT.to_owned(),
        };
        self.make_volumes(&client, spec, docker).await?;
        self.make_container(&client, spec, docker, &network, &info).await
    }

    async fn make_volumes(&self, client: &Client, spec: &Spec, docker: &Docker) -> Result<(), ProviderError> {
        for volume in docker.volumes.iter().filter(|volume| !body::is_path(volume)) {
            match self.engine.ask(client.inspect_volume(&volume.source)).await {
                Ok(_) => {}
                Err(failure) if failure.is_absence() => {
                    let wanted = VolumeCreateRequest {
                        name: Some(volume.source.clone()),
                        // What says that it goes when the instance goes.
                        labels: Some(self.labels(spec)),
                        ..VolumeCreateRequest::default()
                    };
                    self.ask(&spec.id, client.create_volume(wanted)).await?;
                }
                Err(failure) => return Err(failure.about(&spec.id)),
            }
        }
        Ok(())
    }

    async fn make_container(
        &self,
        client: &Client,
        spec: &Spec,
        docker: &Docker,
        network: &str,
        info: &SystemInfo,
    ) -> Result<(), ProviderError> {
        let wanted = |limits: Limits| body::of(spec, docker, network, self.labels(spec), info, limits);
        let limits = Limits::of(info);
        let mut made = self.submit(client, spec, wanted(limits)).await;
        if limits.storage && matches!(&made, Err(failure) if speaks_of_storage(failure)) {
            made = self.submit(client, spec, wanted(Limits { storage: false, ..limits })).await;
        }
        let message = match made {
            Ok(()) => return Ok(()),
            Err(failure) if failure.is_conflict() && self.look(client, &spec.id).await?.is_some() => {
                return Ok(());
            }
            Err(failure) if failure.is_conflict() => format!(
                "the engine has a container `{}` that is not this Segue's; remove or rename it",
                name(&spec.id)
            ),
            Err(Failure::Refused { status: 404, message }) if message.contains("No such image") => {
                format!("the engine has no image `{0}`; get it with `docker pull {0}`", docker.image)
            }
            Err(failure) => return Err(failure.about(&spec.id)),
        };
        Err(ProviderError::Refused { id: spec.id.clone(), message })
    }

    async fn submit(&self, client: &Client, spec: &Spec, wanted: ContainerCreateBody) -> Result<(), Failure> {
        let options = CreateContainerOptions { name: Some(name(&spec.id)), ..Default::default() };
        self.engine.ask(client.create_container(Some(options), wanted)).await.map(|_| ())
    }
}

/// Whether an engine's refusal is about the size of the file system.
fn speaks_of_storage(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { message, .. }
        if ["storage-opt", "storage opt", "quota"].iter().any(|word| message.contains(word)))
}
