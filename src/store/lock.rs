//! One process at a time.
//!
//! `SQLite` would let two processes take turns, and each would believe that it alone decides which instance is active. A
//! lock on a file of its own is released by the kernel when its holder dies, however it dies. The file is
//! never removed: a process that locked a removed file would hold nothing.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::StoreError;

const FILE: &str = "segue.lock";

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

// === impl Lock ===

impl Lock {
    pub(super) fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory { path: dir.to_owned(), source };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(dir.join(FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // A holder that has not written its number yet is still a holder.
                let mut text = String::new();
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Held { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    /// Takes the number back first, so that it never names a process that has let go.
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        let _ = self.file.seek(SeekFrom::Start(0));
        let _ = self.file.unlock();
    }
}
