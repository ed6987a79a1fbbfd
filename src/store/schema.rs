//! The file: how it is opened, and how an older one becomes a current one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::error::Failure;

/// `SEGU`, so that nobody else's database is taken for a store and upgraded.
const APPLICATION_ID: i64 = 0x5345_4755;

/// How long a write waits for a database shell that an operator may have open on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One step each from schema n to n + 1. Published steps are never edited; new ones are added at the end.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE active (
         service     TEXT PRIMARY KEY NOT NULL,
         instance    TEXT NOT NULL CHECK (instance IN ('source', 'shadow')),
         generation  INTEGER NOT NULL CHECK (generation >= 0),
         fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
         changed_at  INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;",
    "CREATE TABLE journal (
         id      INTEGER PRIMARY KEY AUTOINCREMENT,
         service TEXT NOT NULL,
         kind    TEXT NOT NULL,
         step    TEXT NOT NULL,
         phase   TEXT NOT NULL CHECK (phase IN ('intent', 'outcome')),
         detail  TEXT NOT NULL CHECK (json_valid(detail)),
         at      INTEGER NOT NULL
     ) STRICT;
     CREATE INDEX journal_by_service ON journal (service, id);",
    "CREATE TABLE migration (
         id         INTEGER PRIMARY KEY AUTOINCREMENT,
         service    TEXT NOT NULL,
         record     TEXT NOT NULL CHECK (json_valid(record)),
         over       INTEGER NOT NULL CHECK (over IN (0, 1)),
         created_at INTEGER NOT NULL
     ) STRICT;
     CREATE UNIQUE INDEX migration_under_way ON migration (service) WHERE over = 0;
     ALTER TABLE journal ADD COLUMN migration INTEGER REFERENCES migration (id);
     CREATE INDEX journal_by_migration ON journal (migration, id) WHERE migration IS NOT NULL;
     CREATE TABLE slot (
         service  TEXT NOT NULL,
         instance TEXT NOT NULL CHECK (instance IN ('source', 'shadow')),
         record   TEXT NOT NULL CHECK (json_valid(record)),
         PRIMARY KEY (service, instance)
     ) STRICT, WITHOUT ROWID;",
    "CREATE TABLE usage (
         service  TEXT NOT NULL,
         instance TEXT NOT NULL,
         at       INTEGER NOT NULL,
         record   TEXT NOT NULL CHECK (json_valid(record))
     ) STRICT;
     CREATE INDEX usage_by_instance ON usage (instance, at);
     CREATE INDEX usage_by_age ON usage (at);",
];

pub(super) fn open(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    prepare(connection, MIGRATIONS)
}

pub(super) fn open_in_memory() -> Result<Connection, Failure> {
    prepare(Connection::open_in_memory()?, MIGRATIONS)
}

fn prepare(mut connection: Connection, migrations: &[&str]) -> Result<Connection, Failure> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Before anything is written: a file that is not ours must stay as it is.
    check(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate(&mut connection, migrations)?;
    Ok(connection)
}

/// Damage is looked for at start, while an operator watches, rather than found in the middle of a switchover.
fn check(connection: &Connection) -> Result<(), Failure> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Failure::Damaged(verdict));
    }
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == APPLICATION_ID || objects == 0 {
        Ok(())
    } else {
        Err(Failure::Damaged("it belongs to another application".to_owned()))
    }
}

/// All steps in one transaction: a file is at the old schema or at the new one.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Failure> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let Some(pending) = usize::try_from(found).ok().and_then(|done| migrations.get(done..)) else {
        return Err(Failure::TooNew { found, known });
    };
    if pending.is_empty() {
        return Ok(());
    }
    for step in pending {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_schema(path: &Path, steps: usize) -> Connection {
        prepare(Connection::open(path).unwrap(), &MIGRATIONS[..steps]).unwrap()
    }

    #[test]
    fn an_older_file_is_upgraded_and_keeps_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        let old = at_schema(&path, 1);
        old.execute("INSERT INTO active VALUES ('web', 'shadow', 7, zeroblob(32), 1)", []).unwrap();
        assert!(old.prepare("SELECT * FROM journal").is_err());
        drop(old);

        let new = open(&path).unwrap();
        let kept: i64 = new.query_row("SELECT generation FROM active", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 7);
        new.prepare("SELECT * FROM journal").unwrap();
        let version: i64 = new.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(usize::try_from(version), Ok(MIGRATIONS.len()));
    }

    #[test]
    fn a_failing_upgrade_leaves_the_old_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        drop(at_schema(&path, 1));
        let steps = [MIGRATIONS[0], "CREATE TABLE half (x INTEGER);", "this is not SQL"];
        prepare(Connection::open(&path).unwrap(), &steps).unwrap_err();

        let after = Connection::open(&path).unwrap();
        assert!(after.prepare("SELECT * FROM half").is_err(), "a step was kept");
        let version: i64 = after.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 1);
    }

    #[test]
    fn a_newer_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.db");
        open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused, Failure::TooNew { found: 99, .. }), "{refused:?}");
    }

    #[test]
    fn another_applications_database_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path), Err(Failure::Damaged(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn commits_are_synced() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open(&dir.path().join("segue.db")).unwrap();
        let level: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!((level, mode.as_str()), (2, "wal"));
    }
}
