//! What instances wrote: the end of it for whoever asks why one does not come up, and all of it for a while after
//! the instance is gone.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::folder::{Folder, LOGS};
use crate::instance::InstanceId;

/// Of instances that are gone: enough to look back on a day of attempts.
const KEPT: usize = 20;

/// A screenful.
const TAIL_LINES: usize = 20;
/// Nobody reads longer lines than this would give.
const TAIL_BYTES: u64 = 8 * 1024;

/// Moves the log of an instance to those of the gone, in place of one of the same name, and drops the oldest.
pub fn keep(instances: &Path, id: &InstanceId) -> io::Result<()> {
    let logs = instances.join(LOGS);
    fs::create_dir_all(&logs)?;
    match fs::rename(Folder::of(instances, id).log(), kept(instances, id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        moved => moved?,
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(&logs)? {
        let entry = entry?;
        all.push((entry.metadata()?.modified()?, entry.path()));
    }
    all.sort_unstable();
    let surplus = all.len().saturating_sub(KEPT);
    all.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// The last lines of an instance that is there or gone; empty if it never wrote any.
pub fn tail(instances: &Path, id: &InstanceId) -> String {
    let there = Folder::of(instances, id).log();
    last_lines(&there).or_else(|_| last_lines(&kept(instances, id))).unwrap_or_default()
}

fn kept(instances: &Path, id: &InstanceId) -> PathBuf {
    instances.join(LOGS).join(format!("{id}.log"))
}

fn last_lines(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines.get(from..).unwrap_or_default().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(instances: &Path, name: &str, log: &str) -> InstanceId {
        let id = InstanceId::new(name).unwrap();
        let folder = Folder::of(instances, &id);
        fs::create_dir_all(folder.path()).unwrap();
        fs::write(folder.log(), log).unwrap();
        id
    }

    #[test]
    fn the_end_of_a_log_is_told_before_and_after() {
        let at = tempfile::tempdir().unwrap();
        let text = (0..5000).fold(String::new(), |text, n| text + &format!("line {n}\n"));
        let id = instance(at.path(), "web-1", &text);
        let told = tail(at.path(), &id);
        assert!(told.starts_with("line 4980\n") && told.ends_with("line 4999"), "{told}");
        keep(at.path(), &id).unwrap();
        keep(at.path(), &id).unwrap();
        assert_eq!(tail(at.path(), &id), told);
        assert_eq!(tail(at.path(), &InstanceId::new("other").unwrap()), "");
    }

    #[test]
    fn the_newest_are_kept() {
        let at = tempfile::tempdir().unwrap();
        for n in 0..KEPT + 3 {
            let id = instance(at.path(), &format!("web-{n}"), "x");
            let log = File::options().write(true).open(Folder::of(at.path(), &id).log()).unwrap();
            log.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(n as u64)).unwrap();
            keep(at.path(), &id).unwrap();
        }
        let kept = |n: usize| at.path().join(format!("logs/web-{n}.log")).exists();
        assert!(!kept(2) && kept(3) && kept(KEPT + 2));
    }
}
