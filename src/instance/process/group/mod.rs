//! The cgroups of one instance, in whichever trees this machine has: made, joined, frozen, killed, removed.
//!
//! Which directories these are is written down beside the instance before they are made. A Segue that starts again
//! may find itself in another group, or another layout after a reboot, and must still find what it made.

mod detect;
mod limits;
mod readings;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use detect::Site;
pub use limits::Granted;

/// Directories, by what is done in them. In a v1 layout several may be one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    #[serde(default)]
    cpu: Option<PathBuf>,
    #[serde(default)]
    accounting: Option<PathBuf>,
    #[serde(default)]
    memory: Option<PathBuf>,
    #[serde(default)]
    freezer: Option<PathBuf>,
    #[serde(default)]
    blkio: Option<PathBuf>,
    #[serde(default)]
    unified: Option<PathBuf>,
}

/// What a v2 tree has to be asked to hand on.
const CONTROLLERS: [&str; 3] = ["+cpu", "+memory", "+io"];

/// Somebody else's cleaning up may remove the parent between its making and its child's.
const ATTEMPTS: usize = 5;

// === impl Groups ===

impl Groups {
    /// The groups `name`, a path of two parts, below the places of `site`. Makes nothing.
    pub fn planned(site: &Site, name: &Path) -> Self {
        let below = |place: &Option<PathBuf>| place.as_ref().map(|place| place.join(name));
        Self {
            cpu: below(&site.cpu),
            accounting: below(&site.accounting),
            memory: below(&site.memory),
            freezer: below(&site.freezer),
            blkio: below(&site.blkio),
            unified: below(&site.unified),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Makes them, and returns those that could be made with what was said of the others.
    pub fn make(&self) -> (Self, Vec<(PathBuf, io::Error)>) {
        let mut refused = Vec::new();
        for group in self.all() {
            if let Err(error) = make(&group, self.unified.as_ref() == Some(&group)) {
                refused.push((group, error));
            }
        }
        let made = |group: &Option<PathBuf>| {
            group.clone().filter(|group| !refused.iter().any(|(at, _)| at == group))
        };
        let groups = Self {
            cpu: made(&self.cpu),
            accounting: made(&self.accounting),
            memory: made(&self.memory),
            freezer: made(&self.freezer),
            blkio: made(&self.blkio),
            unified: made(&self.unified),
        };
        (groups, refused)
    }

    /// Moves a process into all of them.
    pub fn join(&self, pid: u32) -> io::Result<()> {
        self.all().iter().try_for_each(|group| fs::write(group.join("cgroup.procs"), pid.to_string()))
    }

    /// The processes in them; `None` where there are no groups to ask.
    pub fn processes(&self) -> Option<BTreeSet<i32>> {
        let group = [&self.unified, &self.freezer, &self.memory, &self.cpu, &self.accounting, &self.blkio];
        let group = group.into_iter().flatten().next()?;
        let mut pids = BTreeSet::new();
        for group in with_descendants(group) {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            // A zero is a process of another pid namespace.
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
        Some(pids)
    }

    /// Whether [`freeze`](Self::freeze) does anything.
    pub fn can_freeze(&self) -> bool {
        self.freezing().is_some()
    }

    /// Asks the kernel to freeze or thaw all of them, which takes it a moment. `false`: there is nothing to ask.
    pub fn freeze(&self, frozen: bool) -> io::Result<bool> {
        let Some((file, unified)) = self.freezing() else { return Ok(false) };
        let text = match (unified, frozen) {
            (true, true) => "1",
            (true, false) => "0",
            (false, true) => "FROZEN",
            (false, false) => "THAWED",
        };
        fs::write(file, text).map(|()| true)
    }

    /// Whether every process in them is frozen by now.
    pub fn is_frozen(&self) -> bool {
        let Some((file, unified)) = self.freezing() else { return false };
        if unified {
            let events = file.with_file_name("cgroup.events");
            return fs::read_to_string(events).is_ok_and(|text| readings::keyed(&text, "frozen") == Some(1));
        }
        fs::read_to_string(file).is_ok_and(|text| text.trim() == "FROZEN")
    }

    /// Has the kernel kill all of them at once, if it can.
    pub fn kill(&self) -> bool {
        let file = self.unified.as_ref().map(|group| group.join("cgroup.kill"));
        file.is_some_and(|file| file.exists() && fs::write(file, "1").is_ok())
    }

    /// Removes them, and the directory that they share with other instances once it is empty. What is gone is no
    /// error; what still has processes in it is.
    pub fn remove(&self) -> io::Result<()> {
        for group in self.all() {
            let mut below = with_descendants(&group);
            below.reverse();
            for group in below {
                match fs::remove_dir(&group) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            let _others_may_be_in_it = group.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    fn freezing(&self) -> Option<(PathBuf, bool)> {
        let at = |group: &Option<PathBuf>, file: &str| {
            group.as_ref().map(|group| group.join(file)).filter(|file| file.exists())
        };
        let unified = at(&self.unified, "cgroup.freeze").map(|file| (file, true));
        unified.or_else(|| at(&self.freezer, "freezer.state").map(|file| (file, false)))
    }

    fn all(&self) -> BTreeSet<PathBuf> {
        let all = [&self.cpu, &self.accounting, &self.memory, &self.freezer, &self.blkio, &self.unified];
        all.into_iter().flatten().cloned().collect()
    }
}

fn make(group: &Path, unified: bool) -> io::Result<()> {
    let mut attempts = 1..=ATTEMPTS;
    loop {
        let last = attempts.next().is_none_or(|attempt| attempt == ATTEMPTS);
        match fs::create_dir_all(group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !last => {}
            made => break made?,
        }
    }
    if !unified {
        return Ok(());
    }
    // From the top down: a group hands on what it was handed. One that cannot be had is found out by its files.
    let above: Vec<&Path> = group.ancestors().skip(1).take(2).collect();
    for group in above.into_iter().rev() {
        for controller in CONTROLLERS {
            let _may_not_be_had = fs::write(group.join("cgroup.subtree_control"), controller);
        }
    }
    Ok(())
}

/// A group and those below it, which its processes may have made; parents first.
fn with_descendants(group: &Path) -> Vec<PathBuf> {
    let mut found = vec![group.to_owned()];
    let mut at = 0;
    while let Some(group) = found.get(at) {
        let entries = fs::read_dir(group).into_iter().flatten().filter_map(Result::ok);
        let below: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        at += 1;
    }
    found
}
