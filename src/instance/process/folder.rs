//! What is on disk of an instance, and the only memory that this provider has: a Segue that starts again finds
//! everything here.
//!
//! ```text
//! instances/
//!   web-2/spec.json   as it was asked for last; there once everything else is made
//!         groups      the directories of its cgroups, written before they are made
//!         network     of its own, if what it may reach is restricted; written before it is made
//!         port        that it listens on
//!         lock        held by its processes and inherited by their children
//!         pid         which process it is, written by that process before it becomes the application
//!         ended       with which code it ended, when whoever started it saw that
//!         data/       the application's own, mounted from data.img where its size is enforced
//!         log         what it wrote
//!   logs/web-1.log    of those that are gone
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::group::Groups;
use super::network::Network;
use super::stamp::Stamp;
use crate::instance::{InstanceId, Spec};

/// Beside the instances, so it can be no instance's name.
pub const LOGS: &str = "logs";

/// One start of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    #[serde(flatten)]
    pub stamp: Stamp,
    /// What the count of its cgroup was: those processes were killed before.
    pub oom_kills: u64,
}

/// How a start ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    #[serde(flatten)]
    pub stamp: Stamp,
    /// As a shell would say it: 128 and the signal's number for one that was killed.
    pub code: i32,
}

/// The folder of one instance, whether or not it is there.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

// === impl Folder ===

impl Folder {
    pub fn of(instances: &Path, id: &InstanceId) -> Self {
        Self(instances.join(id.as_str()))
    }

    /// As the command line of the launcher names it.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Of the volume that is mounted on the data directory, if one is.
    pub fn image(&self) -> PathBuf {
        self.0.join("data.img")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub fn spec(&self) -> io::Result<Option<Spec>> {
        self.read("spec.json")
    }

    pub fn write_spec(&self, spec: &Spec) -> io::Result<()> {
        self.write("spec.json", spec)
    }

    pub fn groups(&self) -> io::Result<Option<Groups>> {
        self.read("groups")
    }

    pub fn write_groups(&self, groups: &Groups) -> io::Result<()> {
        self.write("groups", groups)
    }

    /// `None`: it shares the machine's.
    pub fn network(&self) -> io::Result<Option<Network>> {
        self.read("network")
    }

    pub fn write_network(&self, network: &Network) -> io::Result<()> {
        self.write("network", network)
    }

    pub fn forget_network(&self) -> io::Result<()> {
        remove(&self.0.join("network"))
    }

    pub fn port(&self) -> io::Result<Option<u16>> {
        self.read("port")
    }

    pub fn write_port(&self, port: u16) -> io::Result<()> {
        self.write("port", &port)
    }

    /// `None`: it was never started, or stopped.
    pub fn run(&self) -> io::Result<Option<Run>> {
        self.read("pid")
    }

    pub fn write_run(&self, run: &Run) -> io::Result<()> {
        self.write("pid", run)
    }

    pub fn ended(&self) -> io::Result<Option<Ended>> {
        self.read("ended")
    }

    pub fn write_ended(&self, ended: &Ended) -> io::Result<()> {
        self.write("ended", ended)
    }

    /// From now on it counts as stopped.
    pub fn forget_run(&self) -> io::Result<()> {
        remove(&self.0.join("pid"))?;
        remove(&self.0.join("ended"))
    }

    /// The lock, for as long as the file or a copy of its descriptor is open anywhere; `None`: somebody has it.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.lock())?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether a process of the instance lives, or is about to.
    pub fn is_locked(&self) -> io::Result<bool> {
        match self.try_lock() {
            Ok(Some(file)) => file.unlock().map(|()| false),
            Ok(None) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Everything but its log, which [`logs::keep`](super::logs::keep) has moved away by then.
    pub fn remove(&self) -> io::Result<()> {
        // First, so that what is half removed is no instance any more.
        remove(&self.0.join("spec.json"))?;
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.0.join(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let damaged = |error| io::Error::other(format!("{} is damaged: {error}", path.display()));
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }

    /// Whole or not at all, and for good: it is read after the machine lost its power.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        let beside = self.0.join(format!("{name}.new"));
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&beside, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_what_is_damaged_is_said() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(at.path());
        assert_eq!((folder.port().unwrap(), folder.run().unwrap()), (None, None));
        let run = Run { stamp: Stamp::of(std::process::id().cast_signed()).unwrap(), oom_kills: 3 };
        folder.write_port(3000).unwrap();
        folder.write_run(&run).unwrap();
        assert_eq!((folder.port().unwrap(), folder.run().unwrap()), (Some(3000), Some(run)));
        folder.forget_run().unwrap();
        folder.forget_run().unwrap();
        assert_eq!(folder.run().unwrap(), None);
        fs::write(at.path().join("pid"), "{\"pid\":").unwrap();
        assert!(folder.run().unwrap_err().to_string().contains("pid is damaged"));
    }

    #[test]
    fn one_holds_the_lock() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(at.path());
        assert!(!folder.is_locked().unwrap());
        let held = folder.try_lock().unwrap().unwrap();
        assert!(folder.is_locked().unwrap() && folder.try_lock().unwrap().is_none());
        drop(held);
        assert!(!folder.is_locked().unwrap());
        assert!(!Folder::at(Path::new("/nowhere")).is_locked().unwrap());
    }
}
