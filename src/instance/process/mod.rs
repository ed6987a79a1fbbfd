//! Instances that are commands of this machine: the embedded provider.
//!
//! An instance belongs to its folder, not to the Segue that started it: it leads a session of its own, holds the
//! lock of the folder as long as a process of it lives, and everything that has to be known of it is in files
//! (see [`folder`]). So a Segue that was killed leaves its instances running, and the next one finds them. This
//! provider keeps nothing in memory that a folder could contradict.
//!
//! An application that puts itself into the background ends, as far as can be seen: run it in the foreground.

mod calls;
mod ending;
mod folder;
mod group;
pub mod launch;
mod logs;
mod members;
mod network;
mod port;
mod preflight;
mod stamp;
mod storage;
mod tool;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::calls::failed;
use self::group::Site;
use super::{
    Allocation, Finding, InstanceId, Provider, ProviderError, Resized, Running, Sight, Spec, State, Usage,
};

/// Runs instances as processes of this machine.
pub struct ProcessProvider {
    folder: PathBuf,
    launcher: PathBuf,
    site: Site,
    volumes: bool,
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
    /// Whether data directories are volumes of a fixed size where these can be had.
    pub volumes: bool,
}

impl Default for Options {
    fn default() -> Self {
        // This program, whatever has become of its file since.
        Self { launcher: "/proc/self/exe".into(), group: Some("segue".into()), volumes: true }
    }
}

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
            volumes: options.volumes,
            site: if options.group.is_some() { Site::here() } else { Site::default() },
            group: options.group.unwrap_or_default().into(),
            mark: mark.as_str().chars().take(8).collect(),
            folder,
            turns: Mutex::default(),
        })
    }

    async fn turn(&self, id: &InstanceId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(id.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

impl Provider for ProcessProvider {
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async move {
            self.preflight_now(spec)
                .await
                .unwrap_or_else(|error| vec![Finding::fault("provider", format!("cannot look: {error}"))])
        })
    }

    fn create<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(&spec.id).await;
            self.create_now(spec).await
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

    fn sight<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Option<Sight>, ProviderError>> {
        Box::pin(async move { self.sight_now(id).map(Some) })
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

    /// From now on its network lets it out.
    fn promote<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let _turn = self.turn(id).await;
            self.promote_now(id).await
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
