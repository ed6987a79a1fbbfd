//! Instances that are commands of this machine: the embedded provider.
//!
//! An instance belongs to its folder, not to the Segue that started it: it leads a session of its own, holds the
//! lock of the folder as long as a process of it lives, and everything that has to be known of it is in files
//! (see [`folder`]). So a Segue that was killed leaves its instances running, and the next one finds them. This
//! provider keeps nothing in memory that a folder could contradict.
//!
//! An application that puts itself into the background ends, as far as can be seen: run it in the foreground.

mod ending;
mod folder;
mod group;
pub mod launch;
mod logs;
mod members;
mod port;
mod preflight;
mod stamp;
mod stand_in;
mod storage;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::folder::{Folder, LOGS};
use self::group::{Granted, Groups, Site};
use self::members::Members;
use super::{
    Allocation, Finding, InstanceId, Process, Provider, ProviderError, Resized, Running, ServiceProtocol,
    Spec, State, Usage, Workload,
};
use crate::config::{Endpoint, Scheme, Target};

/// Runs instances as processes of this machine.
pub struct ProcessProvider {
    folder: PathBuf,
    launcher: PathBuf,
    site: Site,
    /// The cgroup that all groups of instances are made in, below the places of `site`.
    group: PathBuf,
    /// Tells the groups of this folder's instances from those of another Segue's, whose names may be the same.
    mark: String,
    /// Calls for one instance take turns; those for several do not wait for each other.
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
}

/// What only tests and unusual installations choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// A Segue that has the verb [`launch::VERB`].
    pub launcher: PathBuf,
    /// The name of the cgroup that groups of instances are made in; `None`: no cgroups, so limits are advice.
    pub group: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        // This program, whatever has become of its file since.
        Self { launcher: "/proc/self/exe".into(), group: Some("segue".into()) }
    }
}

/// How long a child that has ended may stay unnoticed by the thread that waits for it.
const NOTICED: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

// === impl ProcessProvider ===

impl ProcessProvider {
    /// `folder` is made if it is missing, and belongs to this provider.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Self::with(folder, Options::default())
    }

    pub fn with(folder: &Path, options: Options) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let mark = blake3::hash(folder.as_os_str().as_encoded_bytes()).to_hex();
        Ok(Self {
            launcher: options.launcher,
            site: if options.group.is_some() { Site::here() } else { Site::default() },
            group: options.group.unwrap_or_default().into(),
            mark: mark.as_str().chars().take(8).collect(),
            folder,
            turns: Mutex::default(),
        })
    }

    fn of(&self, id: &InstanceId) -> Folder {
        Folder::of(&self.folder, id)
    }

    async fn turn(&self, id: &InstanceId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(id.clone()).or_default())
        };
        turn.lock_owned().await
    }

    /// The folder of an instance that was made.
    fn made(&self, id: &InstanceId) -> Result<(Folder, Spec), ProviderError> {
        let folder = self.of(id);
        let spec = folder.spec().map_err(failed(id, "read the folder"))?;
        spec.map(|spec| (folder, spec)).ok_or_else(|| ProviderError::Absent(id.clone()))
    }

    fn is_running(folder: &Folder) -> io::Result<bool> {
        Ok(folder.run()?.is_some_and(|run| run.stamp.is_alive()))
    }

    /// Groups with the limits of `spec`, of an instance in which nothing runs.
    fn ready_groups(&self, folder: &Folder, spec: &Spec) -> io::Result<()> {
        let planned = Groups::planned(&self.site, &self.group.join(format!("{}.{}", spec.id, self.mark)));
        if let Some(earlier) = folder.groups()?.filter(|earlier| *earlier != planned) {
            // Of before a reboot into another layout, or of a Segue that might write elsewhere.
            earlier.remove()?;
        }
        folder.write_groups(&planned)?;
        let (groups, refused) = planned.make();
        for (place, error) in &refused {
            tracing::warn!(instance = %spec.id, place = %place.display(), %error, "no cgroup can be made; limits are advice");
        }
        if !refused.is_empty() {
            folder.write_groups(&groups)?;
        }
        // Frozen ones would freeze the launcher.
        groups.freeze(false)?;
        groups.set(&spec.allocation).map(drop)
    }

    fn ready_port(folder: &Folder) -> io::Result<u16> {
        if let Some(port) = folder.port()?.filter(|port| port::is_free(*port)) {
            return Ok(port);
        }
        let port = port::pick()?;
        folder.write_port(port)?;
        Ok(port)
    }

    fn create_now(&self, spec: &Spec) -> Result<(), ProviderError> {
        process_of(spec)?;
        let id = &spec.id;
        if id.as_str() == LOGS {
            let message = format!("`{LOGS}` is where the logs of instances are kept; choose another name");
            return Err(ProviderError::Refused { id: id.clone(), message });
        }
        let folder = self.of(id);
        fs::create_dir_all(folder.data()).map_err(failed(id, "make the data directory"))?;
        if Members::of(&folder)
            .and_then(|members| members.are_gone())
            .map_err(failed(id, "look for processes"))?
        {
            Self::ready_port(&folder).map_err(failed(id, "pick the port"))?;
            self.ready_groups(&folder, spec).map_err(failed(id, "make the cgroups"))?;
            folder.write_spec(spec).map_err(failed(id, "write the folder"))?;
        }
        Ok(())
    }

    async fn start_now(&self, spec: &Spec) -> Result<Running, ProviderError> {
        let process = process_of(spec)?;
        let id = &spec.id;
        let (folder, _) = self.made(id)?;
        if Self::is_running(&folder).map_err(failed(id, "read the folder"))? {
            let port = folder.port().map_err(failed(id, "read the port"))?.unwrap_or_default();
            return Ok(Running { endpoints: vec![endpoint(process.protocol, port)] });
        }
        // Children that outlived an earlier start, or one that a Segue which is gone had just begun.
        ending::end(&folder, Duration::ZERO).await.map_err(failed(id, "end what is left"))?;
        let lock = folder.try_lock().map_err(failed(id, "take the lock"))?;
        let Some(lock) = lock else {
            let message =
                format!("somebody holds {}; it is being started elsewhere", folder.lock().display());
            return Err(ProviderError::Refused { id: id.clone(), message });
        };
        let port = Self::ready_port(&folder).map_err(failed(id, "pick the port"))?;
        self.ready_groups(&folder, spec).map_err(failed(id, "set the limits"))?;
        folder.write_spec(spec).map_err(failed(id, "write the folder"))?;
        let launcher = self.launcher.clone();
        let at = folder.clone();
        let launched = blocking(move || launch::spawn(&launcher, &at, lock).and_then(launch::outcome)).await;
        let said = launched.map_err(failed(id, "start the process"))?;
        if said.is_empty() {
            return Ok(Running { endpoints: vec![endpoint(process.protocol, port)] });
        }
        ending::await_end(&folder).await.map_err(failed(id, "see the end"))?;
        Err(ProviderError::Refused { id: id.clone(), message: said })
    }

    async fn state_now(&self, id: &InstanceId) -> io::Result<State> {
        let folder = self.of(id);
        if folder.spec()?.is_none() {
            return Ok(State::Absent);
        }
        let members = Members::of(&folder)?;
        let Some(run) = &members.run else { return Ok(State::Made) };
        let deadline = tokio::time::Instant::now() + NOTICED;
        // A child of this process that has ended: its code is about to be written down.
        while run
            .stamp
            .look()
            .is_some_and(|stat| stat.is_dead() && stat.parent == std::process::id().cast_signed())
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(LOOK).await;
        }
        if run.stamp.is_alive() {
            return Ok(if members.are_fenced() { State::Fenced } else { State::Running });
        }
        let ended = folder.ended()?.filter(|ended| ended.stamp == run.stamp);
        let out_of_memory = members.groups.oom_kills().is_some_and(|kills| kills > run.oom_kills);
        Ok(State::Ended { code: ended.map(|ended| ended.code), out_of_memory })
    }

    async fn resize_now(&self, id: &InstanceId, to: Allocation) -> Result<Resized, ProviderError> {
        let (folder, mut spec) = self.made(id)?;
        let members = Members::of(&folder).map_err(failed(id, "read the folder"))?;
        let running = Self::is_running(&folder).map_err(failed(id, "read the folder"))?;
        let granted = if running { members.groups.resize(&to).await } else { members.groups.set(&to) };
        let Granted { cpu_enforced, memory } = granted.map_err(failed(id, "change the limits"))?;
        let to = Allocation { memory: memory.unwrap_or(to.memory), ..to };
        spec.allocation = to;
        folder.write_spec(&spec).map_err(failed(id, "write the folder"))?;
        Ok(Resized { to, cpu_enforced, memory_enforced: memory.is_some(), storage_enforced: false })
    }

    async fn usage_now(&self, id: &InstanceId) -> Result<Usage, ProviderError> {
        let (folder, _) = self.made(id)?;
        let looked = blocking(move || {
            let members = Members::of(&folder)?;
            let mut usage = members.groups.usage();
            if usage.cpu.is_none() || usage.memory.is_none() {
                let seen = members.consume();
                usage.cpu = usage.cpu.or(Some(seen.cpu));
                usage.memory = usage.memory.or(Some(seen.memory));
            }
            usage.storage = Some(storage::used(&folder.data()));
            Ok(usage)
        });
        looked.await.map_err(failed(id, "read the usage"))
    }

    async fn destroy_now(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let folder = self.of(id);
        if !folder.path().exists() {
            return Ok(());
        }
        ending::end(&folder, Duration::ZERO).await.map_err(failed(id, "end the processes"))?;
        let groups = folder.groups().map_err(failed(id, "read the folder"))?.unwrap_or_default();
        ending::remove(&groups).await.map_err(failed(id, "remove the cgroups"))?;
        let (instances, gone) = (self.folder.clone(), id.clone());
        let removed = blocking(move || {
            logs::keep(&instances, &gone)?;
            folder.remove()
        });
        removed.await.map_err(failed(id, "remove the folder"))
    }

    fn listed(&self) -> io::Result<Vec<InstanceId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| InstanceId::new(name).ok());
            ids.extend(id.filter(|id| id.as_str() != LOGS));
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

impl Provider for ProcessProvider {
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async move {
            match process_of(spec) {
                Ok(process) => {
                    let data = self.of(&spec.id).data();
                    preflight::findings(process, &spec.allocation, spec.role, &data, &self.site)
                }
                Err(error) => vec![Finding::new(super::Gravity::Fault, "provider", error.to_string())],
            }
        })
    }

    fn create<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(&spec.id).await;
            self.create_now(spec)
        })
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running, ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(&spec.id).await;
            self.start_now(spec).await
        })
    }

    fn state<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<State, ProviderError>> {
        Box::pin(async move { self.state_now(id).await.map_err(failed(id, "read the state")) })
    }

    fn resize<'a>(
        &'a self,
        id: &'a InstanceId,
        to: Allocation,
    ) -> BoxFuture<'a, Result<Resized, ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(id).await;
            self.resize_now(id, to).await
        })
    }

    fn usage<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Usage, ProviderError>> {
        Box::pin(self.usage_now(id))
    }

    fn fence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(id).await;
            let (folder, _) = self.made(id)?;
            ending::fence(&folder).await.map(|()| true).map_err(failed(id, "freeze the processes"))
        })
    }

    fn unfence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(id).await;
            let (folder, _) = self.made(id)?;
            ending::unfence(&folder).await.map_err(failed(id, "thaw the processes"))
        })
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(id).await;
            let (folder, _) = self.made(id)?;
            ending::end(&folder, grace).await.map_err(failed(id, "end the processes"))
        })
    }

    fn destroy<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(id).await;
            self.destroy_now(id).await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceId>, ProviderError>> {
        Box::pin(async move {
            let unreadable = |error| ProviderError::Unavailable {
                provider: "process",
                message: format!("cannot read {}: {error}", self.folder.display()),
            };
            self.listed().map_err(unreadable)
        })
    }

    fn tail<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, String> {
        Box::pin(async move { logs::tail(&self.folder, id) })
    }
}

fn process_of(spec: &Spec) -> Result<&Process, ProviderError> {
    match &spec.workload {
        Workload::Process(process) => Ok(process),
        other => Err(ProviderError::WrongProvider {
            id: spec.id.clone(),
            wanted: other.provider(),
            asked: "process",
        }),
    }
}

fn endpoint(protocol: ServiceProtocol, port: u16) -> Endpoint {
    let scheme = match protocol {
        ServiceProtocol::Http => Scheme::Http,
        ServiceProtocol::H2c => Scheme::H2c,
    };
    Endpoint { scheme, target: Target::Host { name: "127.0.0.1".into(), port } }
}

fn failed(id: &InstanceId, what: &'static str) -> impl FnOnce(io::Error) -> ProviderError {
    let id = id.clone();
    move |error| ProviderError::Io { id, what, error }
}

/// Work that may wait for a disk or for another process.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
