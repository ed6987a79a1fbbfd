//! From made to running, frozen, and ended.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerUpdateBody, EndpointSettings,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{LogsOptions, RenameContainerOptions, StopContainerOptions};
use futures_util::StreamExt;

use super::{DockerProvider, Found, NAME, ROLE, body, name, stopped_name, workload};
use crate::config::{Endpoint, Scheme, Target};
use crate::instance::{InstanceId, ProviderError, Role, Running, ServiceProtocol, Sight, Spec, State};

/// What one looks at to see why something does not come up.
const TAIL_LINES: &str = "20";
/// A line may have any length; a report may not.
const TAIL_BYTES: usize = 8 * 1024;

// === impl DockerProvider ===

impl DockerProvider {
    pub(super) async fn set_going(&self, spec: &Spec) -> Result<Running, ProviderError> {
        let docker = workload(spec)?;
        let client = self.client()?;
        let mut found = self.find(&client, &spec.id).await?;
        if !found.is_alive() {
            if found.stopped {
                self.rename(&client, &spec.id, &found, name(&spec.id)).await?;
            }
            if !spec.is_confined() {
                // It became active and nobody came to say so to the engine.
                self.let_out(&client, &spec.id, &found).await?;
            }
            self.ask(&spec.id, client.start_container(&found.key, None)).await?;
            found = self.find(&client, &spec.id).await?;
        }
        let refused = |message| Err(ProviderError::Refused { id: spec.id.clone(), message });
        if found.status() == Status::RESTARTING {
            let message = format!("the engine is about to restart `{}` after a crash", name(&spec.id));
            return Err(ProviderError::Unavailable { provider: NAME, message });
        }
        if !found.is_alive() {
            let said = self.last_lines(&spec.id).await;
            let code = found.code().map_or_else(String::new, |code| format!(" with exit code {code}"));
            return refused(format!(
                "the container ended at once{code}; its last words: {}",
                said.trim_end()
            ));
        }
        let Some(ip) = address(&found.seen) else {
            return refused("the container has no address on its network; give it another `network`".into());
        };
        let scheme = match docker.protocol {
            ServiceProtocol::Http => Scheme::Http,
            ServiceProtocol::H2c => Scheme::H2c,
        };
        let target = Target::Host { name: ip.to_string(), port: docker.port };
        Ok(Running { endpoints: vec![Endpoint { scheme, target }] })
    }

    pub(super) async fn freeze(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let client = self.client()?;
        let mut found = self.find(&client, id).await?;
        // First: an engine that restarts would start it again, and not paused.
        self.restart_by_engine(&client, id, &found, false).await?;
        if found.status() == Status::RESTARTING {
            // Between two lives, where it cannot be paused; stopping it ends the waiting for the next.
            self.ask_to_stop(&client, id, &found, Duration::ZERO).await?;
            found = self.find(&client, id).await?;
        }
        if found.status() != Status::RUNNING {
            return Ok(());
        }
        match self.engine.ask(client.pause_container(&found.key)).await {
            Ok(()) => Ok(()),
            // It has ended, or been paused, since it was looked at: either way it takes no writes.
            Err(_) if self.find(&client, id).await?.status() != Status::RUNNING => Ok(()),
            Err(failure) => Err(failure.about(id)),
        }
    }

    pub(super) async fn thaw(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let client = self.client()?;
        let found = self.find(&client, id).await?;
        if found.status() == Status::PAUSED {
            match self.engine.ask(client.unpause_container(&found.key)).await {
                Ok(()) => {}
                Err(_) if self.find(&client, id).await?.status() != Status::PAUSED => {}
                Err(failure) => return Err(failure.about(id)),
            }
        }
        if found.label(ROLE) == Some(Role::Active.as_str()) {
            self.restart_by_engine(&client, id, &found, true).await?;
        }
        Ok(())
    }

    pub(super) async fn end(&self, id: &InstanceId, grace: Duration) -> Result<(), ProviderError> {
        let client = self.client()?;
        let found = self.find(&client, id).await?;
        // One that never started, and one that ended by itself, stay what they are.
        if matches!(found.status(), Status::CREATED | Status::EXITED | Status::DEAD) {
            return Ok(());
        }
        // Before it ends: a Segue that dies in between finds it running under this name, and stops it again.
        if !found.stopped {
            self.rename(&client, id, &found, stopped_name(id)).await?;
        }
        self.ask_to_stop(&client, id, &found, grace).await
    }

    /// A paused one hears the signal first and is thawed then: it does not go on with what it was frozen in as if
    /// nothing had been.
    async fn ask_to_stop(
        &self,
        client: &Client,
        id: &InstanceId,
        found: &Found,
        grace: Duration,
    ) -> Result<(), ProviderError> {
        // The engine counts whole seconds.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = StopContainerOptions { t: i32::try_from(seconds).ok(), signal: None };
        let limit = grace.saturating_add(self.engine.patience);
        let stopped = self.engine.ask_within(limit, client.stop_container(&found.key, Some(options))).await;
        stopped.map_err(|failure| failure.about(id))
    }

    async fn rename(
        &self,
        client: &Client,
        id: &InstanceId,
        found: &Found,
        name: String,
    ) -> Result<(), ProviderError> {
        self.ask(id, client.rename_container(&found.key, RenameContainerOptions { name })).await
    }

    pub(super) async fn restart_by_engine(
        &self,
        client: &Client,
        id: &InstanceId,
        found: &Found,
        wanted: bool,
    ) -> Result<(), ProviderError> {
        if found.is_restarted() == wanted {
            return Ok(());
        }
        let update = ContainerUpdateBody {
            restart_policy: Some(body::restart(wanted)),
            ..ContainerUpdateBody::default()
        };
        self.ask(id, client.update_container(&found.key, update)).await
    }

    pub(super) async fn last_lines(&self, id: &InstanceId) -> String {
        let read = async {
            let client = self.client()?;
            let found = self.find(&client, id).await?;
            let options = LogsOptions {
                stdout: true,
                stderr: true,
                tail: TAIL_LINES.to_owned(),
                ..LogsOptions::default()
            };
            let mut lines = std::pin::pin!(client.logs(&found.key, Some(options)));
            let collect = async {
                let mut text = Vec::new();
                while let Some(line) = lines.next().await {
                    text.extend_from_slice(&line?.into_bytes());
                }
                Ok(text)
            };
            self.ask(id, collect).await
        };
        match read.await {
            Ok(text) => {
                let from = text.len().saturating_sub(TAIL_BYTES);
                String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
            }
            Err(error) => format!("(its log cannot be read: {error})"),
        }
    }
}

// === impl Found ===

impl Found {
    pub fn status(&self) -> Status {
        self.seen.state.as_ref().and_then(|state| state.status).unwrap_or(Status::EMPTY)
    }

    /// It has processes, though they may be frozen.
    pub fn is_alive(&self) -> bool {
        matches!(self.status(), Status::RUNNING | Status::PAUSED)
    }

    pub fn state(&self) -> State {
        match self.status() {
            Status::RUNNING => State::Running,
            Status::PAUSED => State::Fenced,
            Status::CREATED => State::Made,
            Status::REMOVING => State::Absent,
            _ if self.stopped => State::Made,
            _ => State::Ended {
                code: self.code(),
                out_of_memory: self.seen.state.as_ref().and_then(|state| state.oom_killed) == Some(true),
            },
        }
    }

    /// By the first process of it, which is this machine's as the engine is; `None` where that may not be looked at.
    pub fn sight(&self) -> Option<Sight> {
        let pid = self.seen.state.as_ref()?.pid.filter(|pid| *pid > 0)?;
        let of = PathBuf::from(format!("/proc/{pid}"));
        // Where this process counts processes otherwise than the engine, the number is somebody else's.
        let groups = std::fs::read_to_string(of.join("cgroup")).ok()?;
        groups.contains(&self.key).then_some(())?;
        Sight::open(Some(&of.join("ns/net")), &of.join("root")).ok()
    }

    fn code(&self) -> Option<i32> {
        i32::try_from(self.seen.state.as_ref()?.exit_code?).ok()
    }

    pub fn label(&self, label: &str) -> Option<&str> {
        self.seen.config.as_ref()?.labels.as_ref()?.get(label).map(String::as_str)
    }

    /// Whether it is on the network of this name.
    pub fn is_on(&self, network: &str) -> bool {
        let networks = self.seen.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        networks.is_some_and(|networks| networks.contains_key(network))
    }

    /// Whether the engine starts it again by itself.
    fn is_restarted(&self) -> bool {
        let policy = self.seen.host_config.as_ref().and_then(|config| config.restart_policy.as_ref());
        let none = [RestartPolicyNameEnum::NO, RestartPolicyNameEnum::EMPTY];
        policy.and_then(|policy| policy.name).is_some_and(|name| !none.contains(&name))
    }
}

/// Where this host reaches it.
fn address(seen: &ContainerInspectResponse) -> Option<IpAddr> {
    if seen.host_config.as_ref()?.network_mode.as_deref() == Some("host") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let networks = seen.network_settings.as_ref()?.networks.as_ref()?;
    // By the network that it was made with, which others may have come beside.
    let first = |(name, endpoint): (&String, &EndpointSettings)| {
        let made_with = seen.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
        made_with.is_some() && [Some(name.as_str()), endpoint.network_id.as_deref()].contains(&made_with)
    };
    let mut endpoints: Vec<_> = networks.iter().collect();
    endpoints.sort_by_key(|of| !first(*of));
    endpoints.into_iter().find_map(|(_, endpoint)| {
        let addresses = [endpoint.ip_address.as_deref(), endpoint.global_ipv6_address.as_deref()];
        addresses.into_iter().flatten().find_map(|text| text.parse().ok())
    })
}
