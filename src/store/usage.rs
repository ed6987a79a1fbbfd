//! What instances used, a row a minute: what a new one's allocation is sized by.

use rusqlite::params;
use serde_json::Value;

use super::active::{signed, unsigned};
use super::error::Failure;
use super::{Store, StoreError};

/// Two weeks and a day, so that a forecast always has two whole weeks.
const KEPT_MILLIS: u64 = 15 * 24 * 3_600_000;

/// One minute of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRow {
    /// Unix time in milliseconds.
    pub at: u64,
    pub record: Value,
}

impl Store {
    /// Adds a row, and drops what is too old to be asked for.
    pub async fn add_usage(&self, service: &str, instance: &str, row: UsageRow) -> Result<(), StoreError> {
        let (service, instance) = (service.to_owned(), instance.to_owned());
        self.call(move |connection| {
            connection.execute(
                "INSERT INTO usage (service, instance, at, record) VALUES (?1, ?2, ?3, ?4)",
                params![service, instance, signed(row.at)?, row.record.to_string()],
            )?;
            let oldest = row.at.saturating_sub(KEPT_MILLIS);
            connection.execute("DELETE FROM usage WHERE at < ?1", [signed(oldest)?])?;
            Ok(())
        })
        .await
    }

    /// What an instance used since `since`, the oldest first.
    pub async fn usage(&self, instance: &str, since: u64) -> Result<Vec<UsageRow>, StoreError> {
        let instance = instance.to_owned();
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT at, record FROM usage WHERE instance = ?1 AND at >= ?2 ORDER BY at",
            )?;
            let mut rows = statement.query(params![instance, signed(since)?])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let record: String = row.get(1)?;
                let record = serde_json::from_str(&record)
                    .map_err(|error| Failure::Damaged(format!("a row of usage is not JSON: {error}")))?;
                found.push(UsageRow { at: unsigned(row.get(0)?)?, record });
            }
            Ok(found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_instances_usage_is_kept_for_two_weeks() {
        let store = Store::in_memory().unwrap();
        let day = 24 * 3_600_000;
        for (instance, at) in [("a", day), ("a", 10 * day), ("b", 10 * day), ("a", 17 * day)] {
            store.add_usage("web", instance, UsageRow { at, record: json!(at / day) }).await.unwrap();
        }
        let days = async |since| {
            let rows = store.usage("a", since).await.unwrap();
            rows.iter().map(|row| row.record.as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(days(0).await, [10, 17]);
        assert_eq!(days(11 * day).await, [17]);
    }
}
