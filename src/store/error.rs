//! What can go wrong with the store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use {} as the store's directory: {source}; set `[state] store` to one that segue may write to", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Another process, or another handle in this one, has the store open.
    #[error(
        "the store in {} is held by {}; stop that process first, replace it with `segue run --upgrade`, or give this one a store of \
         its own",
        dir.display(), holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held { dir: PathBuf, holder: Option<u32> },
    #[error("cannot start the store's thread: {0}")]
    Thread(#[source] io::Error),
    #[error("the store is closed")]
    Closed,
    #[error(
        "{} is damaged or not a segue store ({detail}); restore it from a backup, or move it away and state by hand \
         which instance is active",
        path.display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "{} was written by a newer segue (schema {found}, this one knows up to {known}); start that version again",
        path.display()
    )]
    TooNew { path: PathBuf, found: i64, known: i64 },
    #[error("no space left for {}; free some and try again, nothing that was acknowledged is lost", path.display())]
    Full { path: PathBuf },
    #[error("{} cannot be written; check its owner, its mode and whether its file system is read-only", path.display())]
    ReadOnly { path: PathBuf },
    #[error("{} is locked by another program, such as a database shell; close it and try again", path.display())]
    Busy { path: PathBuf },
    /// Somebody else changed it first. `None` stands for *no record yet*.
    #[error(
        "the active instance of `{service}` is at {} and not at {}; read it again before changing it",
        generation(*found), generation(*expected)
    )]
    Conflict { service: String, expected: Option<u64>, found: Option<u64> },
    #[error("generation {next} of `{service}` does not follow generation {current}; generations only rise")]
    NotNewer { service: String, current: u64, next: u64 },
    #[error("{number} does not fit into the store; numbers end at 2^63 - 1")]
    OutOfRange { number: u64 },
    #[error("cannot use {}: {source}", path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
}

fn generation(generation: Option<u64>) -> String {
    generation.map_or_else(|| "no generation yet".to_owned(), |number| format!("generation {number}"))
}

/// A failure of work on a connection, which does not know where its file is.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Damaged(String),
    TooNew {
        found: i64,
        known: i64,
    },
    /// Complete as it is.
    Other(StoreError),
}

// === impl Failure ===

impl Failure {
    /// Puts the failure in its place and says what it means for an operator.
    pub(super) fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        let source = match self {
            Self::Sqlite(source) => source,
            Self::Damaged(detail) => return StoreError::Damaged { path, detail },
            Self::TooNew { found, known } => return StoreError::TooNew { path, found, known },
            Self::Other(error) => return error,
        };
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged { path, detail: source.to_string() }
            }
            Some(ErrorCode::DiskFull) => StoreError::Full { path },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
            _ => StoreError::Database { path, source },
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}
