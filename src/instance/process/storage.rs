//! The data directory of an instance: a volume of a fixed size where one can be had, else a folder that is watched.
//!
//! The volume is a file with an ext4 file system in it, mounted on the folder, so that an instance which writes
//! without end fills its own disk and not Segue's. The file takes its blocks when it is made: a file system that
//! finds none later is damaged. It grows while it is in use and never shrinks, for that would have to stop the
//! instance.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::folder::Folder;
use super::tool;
use crate::config::ByteSize;

/// The unit of `st_blocks`, whatever the file system's own is.
const BLOCK: u64 = 512;

/// What ext4 needs for itself: a sixteenth, and 8 MiB for its journal, which has 4 in a small one.
const OVERHEAD_PART: u64 = 16;
const OVERHEAD: ByteSize = ByteSize::mib(8);

/// Why there can be no volumes here, if so.
pub fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can mount a volume");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices");
    }
    let missing =
        ["mkfs.ext4", "resize2fs", "losetup", "mount"].into_iter().any(|name| !tool::is_there(name));
    missing.then_some("e2fsprogs or mount is not installed")
}

/// Mounts a volume on the data directory, making it if there is none. Nothing of the instance runs. `false`: none can be
/// had, and the folder is used as it is.
pub fn prepare(folder: &Folder, size: ByteSize) -> io::Result<bool> {
    let (data, image) = (folder.data(), folder.image());
    if is_volume(&data) {
        if fs::metadata(&image)?.len() >= whole(size) {
            return Ok(true);
        }
        remove(folder)?;
    }
    let is_new = !image.exists();
    if is_new {
        // What was there before there could be a volume stays to be seen.
        let is_used = fs::read_dir(&data)?.next().is_some();
        if obstacle().is_some() || is_used {
            return Ok(false);
        }
        make(&image, size)?;
    } else if fs::metadata(&image)?.len() < whole(size) {
        reserve(&OpenOptions::new().write(true).open(&image)?, whole(size))?;
        // It may have repaired something, which is not an error, and if there is one the next command says so.
        let _ = tool::run("e2fsck", &["-f".as_ref(), "-p".as_ref(), image.as_os_str()]);
        tool::run("resize2fs", &[&image])?;
    }
    let mounted =
        tool::run("mount", &["-o".as_ref(), "loop,nodev".as_ref(), image.as_os_str(), data.as_os_str()]);
    if let Err(error) = mounted {
        // One that has data in it stays, and then this is an error that counts.
        return if is_new { fs::remove_file(&image).and(Err(error)) } else { Err(error) };
    }
    // Programs that want an empty folder want this one to be empty too.
    let _ = fs::remove_dir(data.join("lost+found"));
    Ok(true)
}

/// What is granted by now, while it runs: never less than before, and no more where the kernel lets nobody grow a volume
/// that is in use (it asks for `CAP_SYS_RESOURCE`); the next start does. `None`: there is no volume.
pub fn grow(folder: &Folder, size: ByteSize) -> io::Result<Option<ByteSize>> {
    let (data, image) = (folder.data(), folder.image());
    if !is_volume(&data) {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).open(&image)?;
    let has = file.metadata()?.len();
    if has >= whole(size) {
        return Ok(Some(size.max(granted(has))));
    }
    let of_image = ["-n".as_ref(), "-O".as_ref(), "NAME".as_ref(), "-j".as_ref(), image.as_os_str()];
    let listed = tool::said("losetup", &of_image)?;
    let device = listed.lines().next().unwrap_or_default().trim();
    let blocks = || statvfs(&data).map(|disk| disk.f_blocks);
    let before = blocks()?;
    reserve(&file, whole(size))?;
    let grown = tool::run("losetup", &["-c", device]).and_then(|()| tool::run("resize2fs", &[device]));
    if let Err(error) = grown {
        // Half grown, it needs all of its file.
        if blocks()? != before {
            return Err(error);
        }
        tracing::warn!(volume = %image.display(), %error, "the volume grows when its instance is started again");
        file.set_len(has)?;
        tool::run("losetup", &["-c", device])?;
        return Ok(Some(granted(has)));
    }
    Ok(Some(size))
}

/// Of the instance's folder before that is removed.
pub fn remove(folder: &Folder) -> io::Result<()> {
    let data = folder.data();
    while is_volume(&data) {
        // Somebody else may look around in it; they keep what they have open.
        tool::run("umount", &[data.as_os_str()])
            .or_else(|_| tool::run("umount", &["-l".as_ref(), data.as_os_str()]))?;
    }
    Ok(())
}

/// Whether something is mounted on it.
pub fn is_volume(data: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev()).ok();
    data.exists() && device(data) != data.parent().and_then(device)
}

/// Bytes that everything below `folder` takes on its disk. What is removed while it is looked at is not counted, and
/// links are not followed.
pub fn used(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let Ok(about) = entry.metadata() else { continue };
            total += about.blocks() * BLOCK;
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

/// Beside, then in place: what has the name is a whole file system.
fn make(image: &Path, size: ByteSize) -> io::Result<()> {
    let beside = image.with_extension("new");
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    reserve(&file, whole(size))?;
    tool::run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), beside.as_os_str()])?;
    file.sync_all()?;
    fs::rename(&beside, image)
}

fn reserve(file: &fs::File, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(length),
        reserved => reserved.map_err(io::Error::from),
    }
}

/// Of the file, in whole MiB.
fn whole(size: ByteSize) -> u64 {
    let bytes = size.bytes();
    bytes
        .saturating_add(bytes / OVERHEAD_PART)
        .saturating_add(OVERHEAD.bytes())
        .checked_next_multiple_of(ByteSize::mib(1).bytes())
        .unwrap_or(u64::MAX)
}

/// The other way round, less than a MiB more than was asked for.
fn granted(whole: u64) -> ByteSize {
    let bytes = whole.saturating_sub(OVERHEAD.bytes());
    ByteSize(bytes - bytes / (OVERHEAD_PART + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_counts_and_links_do_not() {
        let at = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("large"), vec![1; 1 << 20]).unwrap();
        let below = at.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), below.join("link")).unwrap();
        let before = used(at.path());
        fs::write(below.join("data"), vec![1; 256 * 1024]).unwrap();
        let grown = used(at.path()) - before;
        assert!((256 * 1024..512 * 1024).contains(&grown), "{grown}");
        assert_eq!(used(Path::new("/no/such/folder")), 0);
    }

    #[test]
    fn a_file_is_large_enough_for_what_it_grants() {
        for size in [0, 1, 16 << 20, (1 << 30) + 12345] {
            let granted = granted(whole(ByteSize(size))).bytes();
            assert!((size..size + (1 << 20) + 1).contains(&granted), "{size}: {granted}");
        }
        assert_eq!(whole(ByteSize(u64::MAX)), u64::MAX);
    }
}
