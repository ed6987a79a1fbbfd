//! Which writes an application has taken, so that a lost or doubled one can be told.
//!
//! In memory, or in a file that several instances share: then an instance holds nothing that the
//! others do not see, like a stateless application in front of a common database. The file has one
//! line a write (`KEY INSTANCE`), is only appended to, and is locked (`flock`) around each append, so
//! that the sequence number in the answer is the one of this write.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

/// Writes per key.
pub type Counts = BTreeMap<String, u64>;

/// Bytes read at once when catching up with the other instances.
const READ_AT_ONCE: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub(super) enum Ledger {
    Memory(Arc<Mutex<Counts>>),
    File(Arc<Mutex<Shared>>),
}

#[derive(Debug)]
pub(super) struct Shared {
    file: File,
    /// Ends every line that this instance appends.
    instance: String,
    /// `fdatasync` before a write is answered.
    sync: bool,
    counts: Counts,
    /// Up to here the file is in `counts`; always the start of a line.
    counted_to: u64,
    buffer: Vec<u8>,
}

impl Ledger {
    pub fn in_memory() -> Self {
        Self::Memory(Arc::default())
    }

    pub fn open(path: &Path, instance: &str, sync: bool) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let instance = if instance.is_empty() { "-" } else { instance };
        let instance = instance.to_owned();
        let buffer = vec![0; READ_AT_ONCE];
        let shared = Shared { file, instance, sync, counts: Counts::new(), counted_to: 0, buffer };
        Ok(Self::File(Arc::new(Mutex::new(shared))))
    }

    /// Takes a write and says how many this key has had, with it. `key` is a path segment: it holds
    /// neither space nor line break. May block on the disk and on other instances.
    pub fn append(&self, key: &str) -> io::Result<u64> {
        match self {
            Self::Memory(counts) => {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let count = counts.entry(key.to_owned()).or_default();
                *count += 1;
                Ok(*count)
            }
            Self::File(shared) => shared.lock().unwrap_or_else(PoisonError::into_inner).append(key),
        }
    }

    /// Writes that this key has had.
    pub fn count(&self, key: &str) -> io::Result<u64> {
        self.with_counts(|counts| counts.get(key).copied().unwrap_or(0))
    }

    pub fn counts(&self) -> io::Result<Counts> {
        self.with_counts(Counts::clone)
    }

    /// Whether using it may block for long: then it is no work for a runtime's own thread.
    pub fn blocks(&self) -> bool {
        matches!(self, Self::File(_))
    }

    fn with_counts<T>(&self, look: impl FnOnce(&Counts) -> T) -> io::Result<T> {
        match self {
            Self::Memory(counts) => Ok(look(&counts.lock().unwrap_or_else(PoisonError::into_inner))),
            Self::File(shared) => {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.catch_up()?;
                Ok(look(&shared.counts))
            }
        }
    }
}

impl Shared {
    fn append(&mut self, key: &str) -> io::Result<u64> {
        flock(&self.file, FlockOperation::LockExclusive)?;
        let appended = self.append_locked(key);
        flock(&self.file, FlockOperation::Unlock)?;
        appended
    }

    fn append_locked(&mut self, key: &str) -> io::Result<u64> {
        let torn = self.catch_up()?;
        // A line that its writer did not live to finish is closed, so that it cannot swallow this one.
        let before = if torn { "\n" } else { "" };
        self.file.write_all(format!("{before}{key} {}\n", self.instance).as_bytes())?;
        if self.sync {
            self.file.sync_data()?;
        }
        self.catch_up()?;
        Ok(self.counts.get(key).copied().unwrap_or(0))
    }

    /// Counts what was appended since the last time; whether an unfinished line is left over.
    fn catch_up(&mut self) -> io::Result<bool> {
        let mut pending = Vec::new();
        loop {
            let read = self.file.read_at(&mut self.buffer, self.counted_to + pending.len() as u64)?;
            pending.extend_from_slice(self.buffer.get(..read).unwrap_or_default());
            let whole = pending.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            for line in pending.drain(..whole).as_slice().split(|&byte| byte == b'\n') {
                // Without an instance the line was torn: its write was never answered.
                if let Some((key, _instance)) =
                    str::from_utf8(line).ok().and_then(|line| line.split_once(' '))
                {
                    *self.counts.entry(key.to_owned()).or_default() += 1;
                }
            }
            self.counted_to += whole as u64;
            if read == 0 {
                return Ok(!pending.is_empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_counts_once_and_is_numbered() {
        let ledger = Ledger::in_memory();
        assert_eq!(ledger.append("a").unwrap(), 1);
        assert_eq!(ledger.append("a").unwrap(), 2);
        assert_eq!(ledger.append("b").unwrap(), 1);
        assert_eq!(ledger.counts().unwrap(), Counts::from([("a".into(), 2), ("b".into(), 1)]));
    }

    #[test]
    fn instances_that_share_a_file_see_each_others_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let blue = Ledger::open(&path, "blue", false).unwrap();
        let green = Ledger::open(&path, "green", true).unwrap();
        assert_eq!(blue.append("k").unwrap(), 1);
        assert_eq!(green.append("k").unwrap(), 2);
        assert_eq!(blue.count("k").unwrap(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "k blue\nk green\n");
    }

    #[test]
    fn writers_on_many_threads_get_distinct_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let ledger = Ledger::open(&path, "", false).unwrap();
                std::thread::spawn(move || (0..50).map(|_| ledger.append("k").unwrap()).collect::<Vec<_>>())
            })
            .collect();
        let mut numbers: Vec<u64> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    }

    #[test]
    fn a_torn_line_neither_counts_nor_swallows_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        std::fs::write(&path, "a blue\nb").unwrap();
        let ledger = Ledger::open(&path, "green", false).unwrap();
        assert_eq!(ledger.append("c").unwrap(), 1);
        assert_eq!(ledger.counts().unwrap(), Counts::from([("a".into(), 1), ("c".into(), 1)]));
    }
}
