//! What each call does, one instance at a time.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::folder::{Folder, LOGS};
use super::group::{Granted, Groups};
use super::members::Members;
use super::network::{self, Network};
use super::{ProcessProvider, ending, launch, logs, port, preflight, storage};
use crate::config::{Endpoint, Scheme, Target};
use crate::instance::{
    Allocation, Finding, InstanceId, Process, ProviderError, Resized, Role, Running, ServiceProtocol, Sight,
    Spec, State, Usage, Workload,
};

/// How long a child that has ended may stay unnoticed by the thread that waits for it.
const NOTICED: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

impl ProcessProvider {
    fn of(&self, id: &InstanceId) -> Folder {
        Folder::of(&self.folder, id)
    }

    pub(super) async fn preflight_now(&self, spec: &Spec) -> io::Result<Vec<Finding>> {
        let process = match process_of(spec) {
            Ok(process) => process.clone(),
            Err(error) => return Ok(vec![Finding::fault("provider", error.to_string())]),
        };
        let (allocation, role, site, volumes) = (spec.allocation, spec.role, self.site.clone(), self.volumes);
        let data = self.of(&spec.id).data();
        blocking(move || Ok(preflight::findings(&process, &allocation, role, &data, &site, volumes))).await
    }

    /// The folder of an instance that was made.
    pub(super) fn made(&self, id: &InstanceId) -> Result<(Folder, Spec), ProviderError> {
        let folder = self.of(id);
        let spec = folder.spec().map_err(failed(id, "read the folder"))?;
        spec.map(|spec| (folder, spec)).ok_or_else(|| ProviderError::Absent(id.clone()))
    }

    fn is_running(folder: &Folder) -> io::Result<bool> {
        Ok(folder.run()?.is_some_and(|run| run.stamp.is_alive()))
    }

    /// Groups with the limits of `spec`, of an instance in which nothing runs.
    fn ready_groups(&self, folder: &Folder, spec: &Spec) -> io::Result<()> {
        let planned = Groups::planned(&self.site, &self.group.join(self.unique(&spec.id)));
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

    /// A network of its own if what it may reach is restricted, of an instance in which nothing runs.
    async fn ready_network(&self, folder: &Folder, spec: &Spec, port: u16) -> io::Result<()> {
        let Workload::Process(Process { egress, .. }) = &spec.workload else { return Ok(()) };
        let (folder, egress) = (folder.clone(), egress.clone().filter(|_| spec.is_confined()));
        let unique = self.unique(&spec.id);
        blocking(move || {
            let earlier = folder.network()?;
            let Some(list) = egress else {
                earlier.map_or(Ok(()), |network| network.remove())?;
                return folder.forget_network();
            };
            let allowed = network::allowed(&list).map_err(io::Error::other)?;
            let network = earlier.map_or_else(|| Network::plan(&unique), Ok)?;
            folder.write_network(&network)?;
            network.make(port, &allowed)
        })
        .await
    }

    async fn ready_storage(&self, folder: &Folder, spec: &Spec) -> io::Result<()> {
        if !self.volumes {
            return Ok(());
        }
        let (folder, id, size) = (folder.clone(), spec.id.clone(), spec.allocation.storage);
        blocking(move || match storage::prepare(&folder, size) {
            // Only what it was to be held to is missing: the folder is there.
            Err(error) if !storage::is_volume(&folder.data()) && !folder.image().exists() => {
                tracing::warn!(instance = %id, %error, "no volume can be made; its size is advice");
                Ok(())
            }
            prepared => prepared.map(drop),
        })
        .await
    }

    /// Its name wherever those of another Segue's instances could be the same.
    fn unique(&self, id: &InstanceId) -> String {
        format!("{id}.{}", self.mark)
    }

    fn ready_port(folder: &Folder) -> io::Result<u16> {
        if let Some(port) = folder.port()?.filter(|port| port::is_free(*port)) {
            return Ok(port);
        }
        let port = port::pick()?;
        folder.write_port(port)?;
        Ok(port)
    }

    pub(super) async fn create_now(&self, spec: &Spec) -> Result<(), ProviderError> {
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
            self.ready_storage(&folder, spec).await.map_err(failed(id, "make the volume"))?;
            let port = Self::ready_port(&folder).map_err(failed(id, "pick the port"))?;
            self.ready_groups(&folder, spec).map_err(failed(id, "make the cgroups"))?;
            self.ready_network(&folder, spec, port).await.map_err(failed(id, "make the network"))?;
            folder.write_spec(spec).map_err(failed(id, "write the folder"))?;
        }
        Ok(())
    }

    pub(super) async fn start_now(&self, spec: &Spec) -> Result<Running, ProviderError> {
        let process = process_of(spec)?;
        let id = &spec.id;
        let (folder, _) = self.made(id)?;
        if Self::is_running(&folder).map_err(failed(id, "read the folder"))? {
            return running(&folder, process.protocol).map_err(failed(id, "read the folder"));
        }
        // Children that outlived an earlier start, or one that a Segue which is gone had just begun.
        ending::end(&folder, Duration::ZERO).await.map_err(failed(id, "end what is left"))?;
        let lock = folder.try_lock().map_err(failed(id, "take the lock"))?;
        let Some(lock) = lock else {
            let message =
                format!("somebody holds {}; it is being started elsewhere", folder.lock().display());
            return Err(ProviderError::Refused { id: id.clone(), message });
        };
        self.ready_storage(&folder, spec).await.map_err(failed(id, "mount the volume"))?;
        let port = Self::ready_port(&folder).map_err(failed(id, "pick the port"))?;
        self.ready_groups(&folder, spec).map_err(failed(id, "set the limits"))?;
        self.ready_network(&folder, spec, port).await.map_err(failed(id, "make the network"))?;
        folder.write_spec(spec).map_err(failed(id, "write the folder"))?;
        let launcher = self.launcher.clone();
        let at = folder.clone();
        let launched = blocking(move || launch::spawn(&launcher, &at, lock).and_then(launch::outcome)).await;
        let said = launched.map_err(failed(id, "start the process"))?;
        if said.is_empty() {
            return running(&folder, process.protocol).map_err(failed(id, "read the folder"));
        }
        ending::await_end(&folder).await.map_err(failed(id, "see the end"))?;
        Err(ProviderError::Refused { id: id.clone(), message: said })
    }

    pub(super) async fn state_now(&self, id: &InstanceId) -> io::Result<State> {
        let folder = self.of(id);
        if folder.spec()?.is_none() {
            return Ok(State::Absent);
        }
        let members = Members::of(&folder)?;
        let Some(run) = &members.run else { return Ok(State::Made) };
        let deadline = tokio::time::Instant::now() + NOTICED;
        let segue = std::process::id().cast_signed();
        // One look answers all questions: it may end between two.
        while let Some(stat) = run.stamp.look() {
            if !stat.is_dead() {
                return Ok(if members.are_fenced() { State::Fenced } else { State::Running });
            }
            // A child of this process: its code is about to be written down.
            if stat.parent != segue || tokio::time::Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let ended = folder.ended()?.filter(|ended| ended.stamp == run.stamp);
        let out_of_memory = members.groups.oom_kills().is_some_and(|kills| kills > run.oom_kills);
        Ok(State::Ended { code: ended.map(|ended| ended.code), out_of_memory })
    }

    pub(super) async fn resize_now(&self, id: &InstanceId, to: Allocation) -> Result<Resized, ProviderError> {
        let (folder, mut spec) = self.made(id)?;
        let members = Members::of(&folder).map_err(failed(id, "read the folder"))?;
        let running = Self::is_running(&folder).map_err(failed(id, "read the folder"))?;
        let granted = if running { members.groups.resize(&to).await } else { members.groups.set(&to) };
        let Granted { cpu_enforced, memory } = granted.map_err(failed(id, "change the limits"))?;
        let at = folder.clone();
        let grown = blocking(move || storage::grow(&at, to.storage)).await;
        let storage = grown.map_err(failed(id, "grow the volume"))?;
        let to =
            Allocation { memory: memory.unwrap_or(to.memory), storage: storage.unwrap_or(to.storage), ..to };
        spec.allocation = to;
        folder.write_spec(&spec).map_err(failed(id, "write the folder"))?;
        Ok(Resized {
            to,
            cpu_enforced,
            memory_enforced: memory.is_some(),
            storage_enforced: storage.is_some(),
        })
    }

    pub(super) fn sight_now(&self, id: &InstanceId) -> Result<Sight, ProviderError> {
        let (folder, _) = self.made(id)?;
        let network = folder.network().map_err(failed(id, "read the folder"))?;
        let place = network.map(|network| network.place());
        Sight::open(place.as_deref(), Path::new("/")).map_err(failed(id, "see the network"))
    }

    pub(super) async fn usage_now(&self, id: &InstanceId) -> Result<Usage, ProviderError> {
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

    pub(super) async fn promote_now(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let (folder, spec) = self.made(id)?;
        if (Spec { role: Role::Active, ..spec }).is_confined() {
            return Ok(());
        }
        let network = folder.network().map_err(failed(id, "read the folder"))?;
        let opened = blocking(move || network.map_or(Ok(()), |network| network.open())).await;
        opened.map_err(failed(id, "open the network"))
    }

    pub(super) async fn destroy_now(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let folder = self.of(id);
        if !folder.path().exists() {
            return Ok(());
        }
        ending::end(&folder, Duration::ZERO).await.map_err(failed(id, "end the processes"))?;
        let groups = folder.groups().map_err(failed(id, "read the folder"))?.unwrap_or_default();
        ending::remove(&groups).await.map_err(failed(id, "remove the cgroups"))?;
        let network = folder.network().map_err(failed(id, "read the folder"))?;
        let unmade = blocking(move || network.map_or(Ok(()), |network| network.remove())).await;
        unmade.map_err(failed(id, "remove the network"))?;
        let (instances, gone) = (self.folder.clone(), id.clone());
        let removed = blocking(move || {
            storage::remove(&folder)?;
            logs::keep(&instances, &gone)?;
            folder.remove()
        });
        removed.await.map_err(failed(id, "remove the folder"))
    }

    pub(super) fn listed(&self) -> io::Result<Vec<InstanceId>> {
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

/// Where an instance that runs is reached.
fn running(folder: &Folder, protocol: ServiceProtocol) -> io::Result<Running> {
    let scheme = match protocol {
        ServiceProtocol::Http => Scheme::Http,
        ServiceProtocol::H2c => Scheme::H2c,
    };
    let port = folder.port()?.ok_or_else(|| io::Error::other("its port is not written down"))?;
    let at = folder.network()?.map_or(Ipv4Addr::LOCALHOST, |network| network.instance);
    let target = Target::Host { name: at.to_string(), port };
    Ok(Running { endpoints: vec![Endpoint { scheme, target }] })
}

pub(super) fn failed(id: &InstanceId, what: &'static str) -> impl FnOnce(io::Error) -> ProviderError {
    let id = id.clone();
    move |error| ProviderError::Io { id, what, error }
}

/// Work that may wait for a disk or for another process.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
