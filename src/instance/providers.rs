//! Every provider of this process, by the word that chooses it.

use std::sync::Arc;

use super::external::ExternalProvider;
use super::{InstanceId, Provider, ProviderError, Workload};

#[derive(Clone)]
pub struct Providers {
    external: Arc<dyn Provider>,
    process: Option<Arc<dyn Provider>>,
    docker: Option<Arc<dyn Provider>>,
}

impl Providers {
    /// Those that need nothing.
    pub fn none() -> Self {
        Self { external: Arc::<ExternalProvider>::default(), process: None, docker: None }
    }

    #[must_use]
    pub fn with_process(self, provider: Arc<dyn Provider>) -> Self {
        Self { process: Some(provider), ..self }
    }

    #[must_use]
    pub fn with_docker(self, provider: Arc<dyn Provider>) -> Self {
        Self { docker: Some(provider), ..self }
    }

    pub fn of(&self, workload: &Workload) -> Result<&Arc<dyn Provider>, ProviderError> {
        let (found, provider) = match workload {
            Workload::External(_) => (Some(&self.external), "external"),
            Workload::Process(_) => (self.process.as_ref(), "process"),
            Workload::Docker(_) => (self.docker.as_ref(), "docker"),
        };
        let message = "it needs a store on disk; set `state.store`";
        found.ok_or_else(|| ProviderError::Unavailable { provider, message: message.to_owned() })
    }

    /// Every instance that was made and not destroyed, with who made it. What does not answer is left out.
    pub async fn list(&self) -> Vec<(InstanceId, Arc<dyn Provider>)> {
        let mut found = Vec::new();
        for provider in [&self.process, &self.docker].into_iter().flatten() {
            match provider.list().await {
                Ok(ids) => found.extend(ids.into_iter().map(|id| (id, Arc::clone(provider)))),
                Err(ProviderError::Unavailable { .. }) => {}
                Err(error) => tracing::warn!(%error, "what runs here is not known"),
            }
        }
        found
    }
}
