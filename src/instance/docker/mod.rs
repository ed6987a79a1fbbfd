//! Containers of a Docker engine.
//!
//! The engine is the only memory: whatever is made carries the labels below, so a Segue that starts again finds
//! its own by asking, and leaves alone what another Segue, or a person, has on the same engine.
//!
//! ```text
//! network segue-ID ── container segue-ID ── volumes       all with  segue.owner = OWNER
//! (no way out)        segue-ID.stopped                              segue.instance = ID
//!                     once it was told to stop
//!                        │
//!                     the engine's default network, once it is active
//! ```
//!
//! The engine tells no difference between a container that ended and one that was stopped, and labels cannot
//! change; a name can, so the name says it.
//!
//! **Who restarts a container.** Only Segue, until it is active. An engine that restarts a shadow would hide that it
//! crashed or ran out of memory, which is what a migration has to see; and one that restarts a fenced source (a pause
//! does not survive the engine) would make a second writer. An active instance has to come back with the engine, as
//! callers depend on it: [`DockerProvider::promote`] has the engine see to that, and a fence ends it.

mod body;
mod engine;
mod life;
mod make;
mod network;
mod preflight;
mod remove;
mod resize;
mod usage;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::models::ContainerInspectResponse;
use futures_util::future::BoxFuture;

use super::{
    Allocation, Docker, Finding, InstanceId, Provider, ProviderError, Resized, Running, Sight, Spec, State,
    Usage, Workload,
};
use engine::{Engine, Failure};

/// As in a [`Workload`] and in errors.
const NAME: &str = "docker";

const OWNER: &str = "segue.owner";
const INSTANCE: &str = "segue.instance";
const SERVICE: &str = "segue.service";
const ROLE: &str = "segue.role";
/// For want of memory, perhaps: the engine hears of that by another event than of the end, which may come later.
const KILLED: State = State::Ended { code: Some(137), out_of_memory: false };
/// How often, and after how long, one that was killed is looked at again for the reason.
const REASON_LOOKS: u32 = 3;
const REASON_PERIOD: Duration = Duration::from_millis(100);
/// What has it stays confined when it becomes active.
const KEPT: &str = "segue.keep_egress";

/// Runs instances as containers of one engine.
#[derive(Debug)]
pub struct DockerProvider {
    engine: Engine,
    /// Which Segue this is, among those that share the engine.
    owner: String,
}

/// A container of ours, as it was a moment ago.
struct Found {
    /// The engine's own id, which stays when the name changes.
    key: String,
    /// It bears the name of one that was told to stop.
    stopped: bool,
    seen: ContainerInspectResponse,
}

// === impl DockerProvider ===

impl DockerProvider {
    /// The engine at `DOCKER_HOST`, else at `/var/run/docker.sock`. Nothing is connected yet: an engine that is not
    /// there makes calls fail, as [`ProviderError::Unavailable`]. `owner` tells this Segue from others on the same
    /// engine, and has to be the same after a restart.
    pub fn connect(owner: &str) -> Self {
        Self { engine: Engine::from_environment(), owner: owner.to_owned() }
    }

    /// The engine at this Unix socket; one that takes longer than `patience` for a step is given up.
    pub fn at(owner: &str, socket: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { engine: Engine::at(socket.into(), patience), owner: owner.to_owned() }
    }

    fn client(&self) -> Result<Client, ProviderError> {
        self.engine.client().map_err(Failure::anywhere)
    }

    async fn ask<T>(
        &self,
        id: &InstanceId,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, ProviderError> {
        self.engine.ask(call).await.map_err(|failure| failure.about(id))
    }

    async fn find(&self, client: &Client, id: &InstanceId) -> Result<Found, ProviderError> {
        self.look(client, id).await?.ok_or_else(|| ProviderError::Absent(id.clone()))
    }

    /// A container of that name which is not ours does not exist for us.
    async fn look(&self, client: &Client, id: &InstanceId) -> Result<Option<Found>, ProviderError> {
        for (name, stopped) in [(name(id), false), (stopped_name(id), true)] {
            let seen = match self.engine.ask(client.inspect_container(&name, None)).await {
                Ok(seen) => seen,
                Err(failure) if failure.is_absence() => continue,
                Err(failure) => return Err(failure.about(id)),
            };
            let Some(key) = seen.id.clone() else { continue };
            let found = Found { key, stopped, seen };
            if found.label(OWNER) == Some(&self.owner) && found.label(INSTANCE) == Some(id.as_str()) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What a list is filtered by: everything of ours, or what is ours of one instance.
    fn mine(&self, id: Option<&InstanceId>) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{OWNER}={}", self.owner)];
        labels.extend(id.map(|id| format!("{INSTANCE}={id}")));
        HashMap::from([("label".to_owned(), labels)])
    }

    fn labels(&self, spec: &Spec) -> HashMap<String, String> {
        let pairs = [
            (OWNER, self.owner.as_str()),
            (INSTANCE, spec.id.as_str()),
            (SERVICE, &spec.service),
            (ROLE, spec.role.as_str()),
        ];
        let kept = matches!(&spec.workload, Workload::Docker(docker) if docker.keep_egress);
        pairs
            .into_iter()
            .chain(kept.then_some((KEPT, "true")))
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Provider for DockerProvider {
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.findings(spec))
    }

    fn create<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.make(spec))
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running, ProviderError>> {
        Box::pin(self.set_going(spec))
    }

    fn state<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<State, ProviderError>> {
        Box::pin(async move {
            let client = self.client()?;
            let mut state = State::Absent;
            for look in 0..=REASON_LOOKS {
                if look > 0 {
                    tokio::time::sleep(REASON_PERIOD).await;
                }
                state = self.look(&client, id).await?.map_or(State::Absent, |found| found.state());
                if state != KILLED {
                    break;
                }
            }
            Ok(state)
        })
    }

    fn resize<'a>(
        &'a self,
        id: &'a InstanceId,
        to: Allocation,
    ) -> BoxFuture<'a, Result<Resized, ProviderError>> {
        Box::pin(self.regrant(id, to))
    }

    fn sight<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Option<Sight>, ProviderError>> {
        Box::pin(async move { Ok(self.find(&self.client()?, id).await?.sight()) })
    }

    fn usage<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Usage, ProviderError>> {
        Box::pin(async move {
            let client = self.client()?;
            let found = self.find(&client, id).await?;
            self.measure(&client, id, &found).await
        })
    }

    fn fence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async move { self.freeze(id).await.map(|()| true) })
    }

    fn unfence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.thaw(id))
    }

    /// From now on the engine brings it back after it crashed, and after the engine itself restarted, which
    /// [`fence`](Provider::fence) takes back; and it has a way out.
    fn promote<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async {
            let client = self.client()?;
            let found = self.find(&client, id).await?;
            self.restart_by_engine(&client, id, &found, true).await?;
            self.let_out(&client, id, &found).await
        })
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.end(id, grace))
    }

    fn destroy<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.remove(id))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceId>, ProviderError>> {
        Box::pin(self.everything())
    }

    fn tail<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, String> {
        Box::pin(self.last_lines(id))
    }
}

fn name(id: &InstanceId) -> String {
    format!("segue-{id}")
}

/// No id has a dot, so this is nobody's name.
fn stopped_name(id: &InstanceId) -> String {
    format!("segue-{id}.stopped")
}

fn workload(spec: &Spec) -> Result<&Docker, ProviderError> {
    match &spec.workload {
        Workload::Docker(docker) => Ok(docker),
        other => {
            Err(ProviderError::WrongProvider { id: spec.id.clone(), wanted: other.provider(), asked: NAME })
        }
    }
}
