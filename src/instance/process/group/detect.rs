//! Where this machine keeps its cgroups, and where in them groups for instances can be made. Reads files, makes
//! nothing.
//!
//! Three layouts are in use: one tree with all controllers (v2); one tree for each controller (v1); and both at
//! once (hybrid), where the v2 tree has no controllers and yet can freeze, kill and tell of pressure.
//!
//! A group at the root of its tree comes first, below Segue's own only where the root cannot be written: a service
//! manager that stops or restarts Segue ends everything below Segue's group, and instances have to outlive it; and
//! what is granted to an instance is no part of what is granted to Segue.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The controllers that anything here reads or writes.
const WANTED: [&str; 5] = ["cpu", "cpuacct", "memory", "freezer", "blkio"];

/// One mounted tree of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Of v1; empty for v2.
    pub controllers: Vec<String>,
    pub unified: bool,
    pub mount: PathBuf,
    /// Segue's own group in it.
    pub own: PathBuf,
}

/// Of each tree, the group that instances' groups can be made below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    pub cpu: Option<PathBuf>,
    pub accounting: Option<PathBuf>,
    pub memory: Option<PathBuf>,
    pub freezer: Option<PathBuf>,
    pub blkio: Option<PathBuf>,
    pub unified: Option<PathBuf>,
    /// Trees that are there and in which nothing can be made.
    pub closed: Vec<PathBuf>,
}

/// The trees that `/proc/self/mountinfo` and `/proc/self/cgroup` tell of, the unified one among them.
pub fn trees(mountinfo: &str, own: &str) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::new();
    for mount in mountinfo.lines().filter_map(Mount::parse) {
        let unified = mount.kind == "cgroup2";
        let mut controllers: Vec<String> = Vec::new();
        if !unified {
            let names = mount.options.split(',').filter(|name| WANTED.contains(name));
            controllers.extend(names.map(String::from));
        }
        let known = trees.iter().any(|tree| tree.unified == unified && tree.controllers == controllers);
        if known || !unified && controllers.is_empty() {
            continue;
        }
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let same = match controllers.first() {
                None => names.is_empty(),
                Some(first) => names.split(',').any(|name| name == first),
            };
            same.then_some(path)
        });
        // A mount may show a part of the tree; a group outside of that part cannot be named through it.
        let below = path.and_then(|path| Path::new(path).strip_prefix(&mount.root).ok());
        let own = mount.point.join(below.unwrap_or(Path::new("")));
        trees.push(Tree { controllers, unified, mount: mount.point, own });
    }
    trees
}

struct Mount<'a> {
    root: String,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        if kind != "cgroup" && kind != "cgroup2" {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        Some(Self { root: plain(before.next()?), point: plain(before.next()?).into(), kind, options })
    }
}

/// Without the escapes of mountinfo: space, tab, line feed and backslash are written in octal.
fn plain(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

// === impl Site ===

impl Site {
    /// Of this machine.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::among(&trees(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")))
    }

    pub fn among(trees: &[Tree]) -> Self {
        let mut site = Self::default();
        for tree in trees {
            let place = [&tree.mount, &tree.own].into_iter().find(|group| is_open(group, tree.unified));
            let Some(place) = place else {
                site.closed.push(tree.mount.clone());
                continue;
            };
            if tree.unified {
                site.unified = Some(place.clone());
            }
            for controller in &tree.controllers {
                let at = match controller.as_str() {
                    "cpu" => &mut site.cpu,
                    "cpuacct" => &mut site.accounting,
                    "memory" => &mut site.memory,
                    "freezer" => &mut site.freezer,
                    "blkio" => &mut site.blkio,
                    _ => continue,
                };
                *at = Some(place.clone());
            }
        }
        site
    }

    /// Whether an instance can be held to a limit of CPU.
    pub fn limits_cpu(&self) -> bool {
        self.cpu.is_some() || self.unified.as_deref().is_some_and(|group| offers(group, "cpu"))
    }

    /// Whether an instance can be held to a limit of memory.
    pub fn limits_memory(&self) -> bool {
        self.memory.is_some() || self.unified.as_deref().is_some_and(|group| offers(group, "memory"))
    }
}

/// Whether `group`, of a v2 tree, can hand `controller` on to groups below it.
fn offers(group: &Path, controller: &str) -> bool {
    let lists = |file: &str| {
        let text = fs::read_to_string(group.join(file)).unwrap_or_default();
        text.split_whitespace().any(|name| name == controller)
    };
    // But for the root, a group that has processes of its own cannot begin to hand a controller on.
    let is_root = !group.join("cgroup.type").exists();
    let is_empty = || fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty());
    lists("cgroup.subtree_control") || lists("cgroup.controllers") && (is_root || is_empty())
}

fn is_open(group: &Path, unified: bool) -> bool {
    let may = |path: &Path| access(path, Access::WRITE_OK).is_ok();
    may(group) && may(&group.join("cgroup.procs")) && (!unified || may(&group.join("cgroup.subtree_control")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(controllers: &[&str], unified: bool, mount: &str, own: &str) -> Tree {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        Tree { controllers, unified, mount: mount.into(), own: own.into() }
    }

    #[test]
    fn each_layout_is_recognised() {
        let v2 = "25 1 0:2 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            trees(v2, "0::/system.slice/segue.service\n"),
            [tree(&[], true, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/segue.service")]
        );

        let hybrid = "30 1 0:9 / / rw - ext4 /dev/vda rw\n\
             31 2 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             32 2 0:4 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             33 2 0:5 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             34 2 0:6 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let own = "5:memory:/a/b\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n0::/a\n";
        assert_eq!(
            trees(hybrid, own),
            [
                tree(&[], true, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/a"),
                tree(
                    &["cpu", "cpuacct"],
                    false,
                    "/sys/fs/cgroup/cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct/a"
                ),
                tree(&["memory"], false, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b"),
            ]
        );
    }

    #[test]
    fn a_container_sees_a_part_of_a_tree() {
        let mounts = "33 2 0:5 /docker/7f /sys/fs/cg\\040roup ro - cgroup cgroup rw,memory\n";
        let found = trees(mounts, "5:memory:/docker/7f/app\n");
        assert_eq!(found, [tree(&["memory"], false, "/sys/fs/cg roup", "/sys/fs/cg roup/app")]);
        // One that does not show Segue's own group at all.
        let found = trees(mounts, "5:memory:/elsewhere\n");
        assert_eq!(found, [tree(&["memory"], false, "/sys/fs/cg roup", "/sys/fs/cg roup")]);
        assert_eq!(trees("nonsense\n- cgroup\n1 2 3 - cgroup2\n", "x\n"), []);
    }

    #[test]
    fn a_group_with_processes_hands_no_controller_on() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("cgroup.procs", "12\n");
        write("cgroup.type", "domain\n");
        write("cgroup.controllers", "cpu memory\n");
        write("cgroup.subtree_control", "cpu\n");
        let mount = folder.path().to_owned();
        let site = Site::among(&[Tree { controllers: Vec::new(), unified: true, own: mount.clone(), mount }]);
        assert!(site.unified.is_some() && site.limits_cpu() && !site.limits_memory());
        write("cgroup.procs", "");
        assert!(site.limits_memory());
    }

    #[test]
    fn trees_that_are_not_there_are_closed() {
        let site = Site::among(&[tree(&["memory"], false, "/nowhere/memory", "/nowhere/memory/a")]);
        assert_eq!(site, Site { closed: vec!["/nowhere/memory".into()], ..Site::default() });
        assert!(!site.limits_cpu() && !site.limits_memory());
    }
}
