//! Every provider of this process, by the word that chooses it.

use std::sync::Arc;

use super::external::ExternalProvider;
use super::{InstanceId, Provider, ProviderError, Workload};

#[derive(Clone)]
pub struct Providers {
    external: Arc<dyn Provider>,
    process: Option<Arc<dyn Provider>>,
    docker: Option<Arc<dyn Provider>>,
    ec2: Option<Arc<dyn Provider>>,
}

impl Providers {
    /// Those that need nothing.
    pub fn none() -> Self {
        Self { external: Arc::<ExternalProvider>::default(), process: None, docker: None, ec2: None }
    }

    #[must_use]
    pub fn with_process(self, provider: Arc<dyn Provider>) -> Self {
        Self { process: Some(provider), ..self }
    }

    #[must_use]
    pub fn with_docker(self, provider: Arc<dyn Provider>) -> Self {
        Self { docker: Some(provider), ..self }
    }

    #[must_use]
    pub fn with_ec2(self, provider: Arc<dyn Provider>) -> Self {
        Self { ec2: Some(provider), ..self }
    }

    pub fn of(&self, workload: &Workload) -> Result<&Arc<dyn Provider>, ProviderError> {
        let (found, provider) = match workload {
            Workload::External(_) => (Some(&self.external), "external"),
            Workload::Process(_) => (self.process.as_ref(), "process"),
            Workload::Docker(_) => (self.docker.as_ref(), "docker"),
            Workload::Ec2(_) => (self.ec2.as_ref(), "ec2"),
        };
        let message = match workload {
            Workload::Ec2(_) if !cfg!(feature = "ec2") => {
                "this Segue was built without it; build one with `cargo build --release --features ec2`"
            }
            Workload::Ec2(_) => "it needs `[ec2]` in the settings, and a store on disk; set `state.store`",
            _ => "it needs a store on disk; set `state.store`",
        };
        found.ok_or_else(|| ProviderError::Unavailable { provider, message: message.to_owned() })
    }

    /// Every instance that was made and not destroyed, with who made it. What does not answer is left out.
    pub async fn list(&self) -> Vec<(InstanceId, Arc<dyn Provider>)> {
        let mut found = Vec::new();
        for provider in [&self.process, &self.docker, &self.ec2].into_iter().flatten() {
            match provider.list().await {
                Ok(ids) => found.extend(ids.into_iter().map(|id| (id, Arc::clone(provider)))),
                Err(ProviderError::Unavailable { .. }) => {}
                Err(error) => tracing::warn!(%error, "what runs here is not known"),
            }
        }
        found
    }
}
