//! Migrations as they stand, and the instances that they put into a service's slots.
//!
//! A migration's record and the journal entry that explains its change are one transaction, so the record is
//! always what the journal says. What is in a record is the migration's own business; here it is JSON.

use rusqlite::{ErrorCode, OptionalExtension, Row, TransactionBehavior, params};
use serde_json::Value;

use super::active::{signed, unsigned};
use super::error::Failure;
use super::journal::append;
use super::{NewEntry, Store, StoreError};
use crate::config::InstanceName;

/// A migration as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationRow {
    /// Rises with time over all services.
    pub id: u64,
    pub service: String,
    pub record: Value,
    pub over: bool,
    /// Unix time in milliseconds.
    pub created_at: u64,
}

/// What is in a slot, whatever the configuration says.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotRow {
    pub service: String,
    pub instance: InstanceName,
    pub record: Value,
}

impl Store {
    /// Enters a migration with its first journal entry; `None` if one of this service is under way.
    pub async fn begin_migration(
        &self,
        service: &str,
        record: Value,
        entry: NewEntry,
    ) -> Result<Option<u64>, StoreError> {
        let service = service.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let inserted = transaction.execute(
                "INSERT INTO migration (service, record, over, created_at) VALUES (?1, ?2, 0, ?3)",
                params![service, record.to_string(), signed(entry.at)?],
            );
            match inserted {
                Err(rusqlite::Error::SqliteFailure(error, _))
                    if error.code == ErrorCode::ConstraintViolation =>
                {
                    return Ok(None);
                }
                other => other?,
            };
            let id = unsigned(transaction.last_insert_rowid())?;
            append(&transaction, &service, Some(id), &entry)?;
            transaction.commit()?;
            Ok(Some(id))
        })
        .await
    }

    /// Replaces a migration's record and says in the journal why. Durable when it returns, both or neither.
    pub async fn advance_migration(
        &self,
        id: u64,
        record: Value,
        over: bool,
        entry: NewEntry,
    ) -> Result<(), StoreError> {
        self.call(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let service: String = transaction.query_row(
                "SELECT service FROM migration WHERE id = ?1",
                [signed(id)?],
                |row| row.get(0),
            )?;
            transaction.execute(
                "UPDATE migration SET record = ?2, over = ?3 WHERE id = ?1",
                params![signed(id)?, record.to_string(), over],
            )?;
            append(&transaction, &service, Some(id), &entry)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// The newest `limit` migrations, newest first; those that are under way are always among them.
    pub async fn migrations(&self, limit: usize) -> Result<Vec<MigrationRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, service, record, over, created_at FROM migration \
                 WHERE over = 0 OR id IN (SELECT id FROM migration ORDER BY id DESC LIMIT ?1) ORDER BY id DESC",
            )?;
            let mut rows = statement.query([limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(migration(row)?);
            }
            Ok(found)
        })
        .await
    }

    pub async fn migration(&self, id: u64) -> Result<Option<MigrationRow>, StoreError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, service, record, over, created_at FROM migration WHERE id = ?1",
            )?;
            // An id that is no row number is no migration.
            let Ok(id) = signed(id) else { return Ok(None) };
            statement.query_row([id], |row| Ok(migration(row))).optional()?.transpose()
        })
        .await
    }

    /// Every slot that a migration has filled or emptied.
    pub async fn slots(&self) -> Result<Vec<SlotRow>, StoreError> {
        self.call(|connection| {
            let mut statement = connection.prepare_cached("SELECT service, instance, record FROM slot")?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let instance: String = row.get(1)?;
                let instance = InstanceName::parse(&instance)
                    .ok_or_else(|| Failure::Damaged(format!("`{instance}` is not an instance")))?;
                found.push(SlotRow {
                    service: row.get(0)?,
                    instance,
                    record: json(&row.get::<_, String>(2)?)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Fills a slot, or gives it back to the configuration. Durable when it returns.
    pub async fn set_slot(
        &self,
        service: &str,
        instance: InstanceName,
        record: Option<Value>,
    ) -> Result<(), StoreError> {
        let service = service.to_owned();
        self.call(move |connection| {
            match record {
                Some(record) => connection.execute(
                    "INSERT INTO slot (service, instance, record) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (service, instance) DO UPDATE SET record = excluded.record",
                    params![service, instance.as_str(), record.to_string()],
                )?,
                None => connection.execute(
                    "DELETE FROM slot WHERE service = ?1 AND instance = ?2",
                    params![service, instance.as_str()],
                )?,
            };
            Ok(())
        })
        .await
    }
}

fn migration(row: &Row<'_>) -> Result<MigrationRow, Failure> {
    Ok(MigrationRow {
        id: unsigned(row.get(0)?)?,
        service: row.get(1)?,
        record: json(&row.get::<_, String>(2)?)?,
        over: row.get(3)?,
        created_at: unsigned(row.get(4)?)?,
    })
}

fn json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Damaged(format!("a record is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Phase;

    fn entry(step: &str, at: u64) -> NewEntry {
        let kind = "migration".to_owned();
        NewEntry { kind, step: step.to_owned(), phase: Phase::Outcome, detail: Value::Null, at }
    }

    #[tokio::test]
    async fn one_migration_of_a_service_is_under_way_at_a_time() {
        let store = Store::in_memory().unwrap();
        let begin = async |service: &str, at| {
            store.begin_migration(service, json!({ "at": at }), entry("requested", at)).await.unwrap()
        };
        let first = begin("web", 1).await.unwrap();
        assert_eq!(begin("web", 2).await, None);
        let other = begin("api", 3).await.unwrap();
        store.advance_migration(first, json!({ "end": 1 }), true, entry("done", 4)).await.unwrap();
        let second = begin("web", 5).await.unwrap();

        let ids = |rows: Vec<MigrationRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(ids(store.migrations(10).await.unwrap()), [second, other, first]);
        assert_eq!(
            ids(store.migrations(1).await.unwrap()),
            [second, other],
            "what is under way is always listed"
        );
        let ended = store.migration(first).await.unwrap().unwrap();
        assert_eq!((ended.record, ended.over, ended.created_at), (json!({ "end": 1 }), true, 1));
        assert_eq!(store.migration(u64::MAX).await.unwrap(), None);
        let steps: Vec<_> =
            store.journal_of(first, 0).await.unwrap().into_iter().map(|of| of.entry.step).collect();
        assert_eq!(steps, ["requested", "done"], "what was refused left no trace");
    }

    #[tokio::test]
    async fn a_slot_is_filled_emptied_and_given_back() {
        let store = Store::in_memory().unwrap();
        let set = async |record| store.set_slot("web", InstanceName::Shadow, record).await.unwrap();
        set(Some(json!(1))).await;
        set(Some(json!(2))).await;
        let slots = store.slots().await.unwrap();
        let expected =
            SlotRow { service: "web".to_owned(), instance: InstanceName::Shadow, record: json!(2) };
        assert_eq!(slots, [expected]);
        set(None).await;
        assert_eq!(store.slots().await.unwrap(), []);
    }
}
