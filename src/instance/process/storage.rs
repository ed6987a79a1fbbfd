//! What an instance has on disk. It is watched, not enforced.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The unit of `st_blocks`, whatever the file system's own is.
const BLOCK: u64 = 512;

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
}
