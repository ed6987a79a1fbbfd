//! The journal: what was about to be done, and what came of it.
//!
//! An intent is durable before its step begins, so after a crash the last intent without an outcome is the step that may
//! or may not have happened. Entries are added, never changed.

use rusqlite::{Connection, Row, params};

use super::active::{signed, unsigned};
use super::error::Failure;
use super::{Store, StoreError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Intent,
    Outcome,
}

/// An entry to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    /// What is being done, such as `switchover`.
    pub kind: String,
    /// Which part of it, such as `park`.
    pub step: String,
    pub phase: Phase,
    /// Whatever the step needs to be repeated or understood.
    pub detail: serde_json::Value,
    /// Unix time in milliseconds.
    pub at: u64,
}

/// An entry as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Rises with time over all services; gaps are possible.
    pub id: u64,
    pub entry: NewEntry,
}

// === impl Phase ===

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Intent, Self::Outcome].into_iter().find(|phase| phase.as_str() == text)
    }
}

// === impl Store ===

impl Store {
    /// Adds an entry, durable when this returns, and gives its id.
    pub async fn journal_append(&self, service: &str, entry: NewEntry) -> Result<u64, StoreError> {
        let service = service.to_owned();
        self.call(move |connection| append(connection, &service, None, &entry)).await
    }

    /// The newest `limit` entries of `service`, oldest of them first.
    pub async fn journal(&self, service: &str, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let service = service.to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, kind, step, phase, detail, at FROM journal WHERE service = ?1 ORDER BY id DESC LIMIT ?2",
            )?;
            let mut entries = read(statement.query(params![service, limit])?)?;
            entries.reverse();
            Ok(entries)
        })
        .await
    }

    /// What was journalled about one migration after the entry `after` (0: from the start), oldest first.
    pub async fn journal_of(&self, migration: u64, after: u64) -> Result<Vec<Entry>, StoreError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, kind, step, phase, detail, at FROM journal WHERE migration = ?1 AND id > ?2 ORDER BY id",
            )?;
            read(statement.query(params![signed(migration)?, signed(after)?])?)
        })
        .await
    }
}

/// Adds an entry within whatever transaction there is.
pub(super) fn append(
    connection: &Connection,
    service: &str,
    migration: Option<u64>,
    entry: &NewEntry,
) -> Result<u64, Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO journal (service, kind, step, phase, detail, at, migration) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let migration = migration.map(signed).transpose()?;
    let id = statement.insert(params![
        service,
        entry.kind,
        entry.step,
        entry.phase.as_str(),
        entry.detail.to_string(),
        signed(entry.at)?,
        migration
    ])?;
    unsigned(id)
}

fn read(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(decode(row)?);
    }
    Ok(entries)
}

fn decode(row: &Row<'_>) -> Result<Entry, Failure> {
    let (phase, detail): (String, String) = (row.get(3)?, row.get(4)?);
    let phase = Phase::parse(&phase)
        .ok_or_else(|| Failure::Damaged(format!("`{phase}` is not a phase of a journal entry")))?;
    let detail = serde_json::from_str(&detail)
        .map_err(|error| Failure::Damaged(format!("a journal entry is not JSON: {error}")))?;
    let (kind, step, at) = (row.get(1)?, row.get(2)?, unsigned(row.get(5)?)?);
    Ok(Entry { id: unsigned(row.get(0)?)?, entry: NewEntry { kind, step, phase, detail, at } })
}
