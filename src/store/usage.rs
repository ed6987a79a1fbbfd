//! What instances used, a row a minute: what a new one's allocation is sized by.
//!
//! Rows have the order in which they were added, whatever their times say: a clock that is set reorders nothing, and
//! takes nothing away at once.

use rusqlite::params;
use serde_json::Value;

use super::active::{signed, unsigned};
use super::error::Failure;
use super::{Store, StoreError};

/// Two weeks and a day, so that a forecast always has two whole weeks.
const KEPT_MILLIS: u64 = 15 * 24 * 3_600_000;

/// Dropped at most for each row that is added. More than one, so that a surplus goes away; few, so that an hour of a
/// wrong clock costs the oldest two hours and not the whole history.
const DROPPED: i64 = 2;

/// Never dropped, whatever the clock says: a day of seven instances, in about a megabyte.
const NEWEST: i64 = 10_000;

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
            let (past, future) = (row.at.saturating_sub(KEPT_MILLIS), row.at.saturating_add(KEPT_MILLIS));
            // One from the future was added by a clock that has been put right since.
            connection.execute(
                "DELETE FROM usage WHERE rowid IN (SELECT rowid FROM usage ORDER BY rowid LIMIT ?1) \
                 AND rowid <= (SELECT max(rowid) FROM usage) - ?2 AND (at < ?3 OR at > ?4)",
                params![DROPPED, NEWEST, signed(past)?, signed(future)?],
            )?;
            Ok(())
        })
        .await
    }

    /// The newest `limit` rows of an instance, in the order in which they were added.
    pub async fn usage(&self, instance: &str, limit: usize) -> Result<Vec<UsageRow>, StoreError> {
        let instance = instance.to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT at, record FROM usage WHERE instance = ?1 ORDER BY rowid DESC LIMIT ?2",
            )?;
            let mut rows = statement.query(params![instance, limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let record: String = row.get(1)?;
                let record = serde_json::from_str(&record)
                    .map_err(|error| Failure::Damaged(format!("a row of usage is not JSON: {error}")))?;
                found.push(UsageRow { at: unsigned(row.get(0)?)?, record });
            }
            found.reverse();
            Ok(found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    /// 2026 and 2100.
    const NOW: u64 = 20_600 * DAY;
    const FAR: u64 = 47_482 * DAY;

    async fn add(store: &Store, instance: &str, at: u64, record: u64) {
        store.add_usage("web", instance, UsageRow { at, record: json!(record) }).await.unwrap();
    }

    /// So many others after those there are.
    async fn crowd(store: &Store, at: u64) {
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
                    INSERT INTO usage SELECT 'web', 'other', ?2, '0' FROM n";
        let filled =
            store.call(move |connection| Ok(connection.execute(fill, params![NEWEST, signed(at)?])?));
        assert_eq!(filled.await.unwrap(), 10_000);
    }

    async fn records(store: &Store, instance: &str) -> Vec<u64> {
        let rows = store.usage(instance, 1000).await.unwrap();
        rows.iter().map(|row| row.record.as_u64().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_instances_usage_is_kept_for_two_weeks() {
        let store = Store::in_memory().unwrap();
        for day in [1, 2, 10] {
            add(&store, "a", day * DAY, day).await;
        }
        assert_eq!(store.usage("a", 2).await.unwrap().len(), 2);
        crowd(&store, 10 * DAY).await;
        add(&store, "b", 17 * DAY, 17).await;
        assert_eq!(records(&store, "a").await, [2, 10]);
        add(&store, "b", 18 * DAY, 18).await;
        assert_eq!((records(&store, "a").await, records(&store, "b").await), (vec![10], vec![17, 18]));
    }

    #[tokio::test]
    async fn a_clock_that_is_set_reorders_nothing_and_takes_little_away() {
        for step in [NOW - HOUR, NOW + HOUR, 0, FAR] {
            let store = Store::in_memory().unwrap();
            for minute in 0..100 {
                add(&store, "a", NOW + minute, minute).await;
            }
            for minute in 100..110 {
                add(&store, "a", step + minute, minute).await;
            }
            assert_eq!(records(&store, "a").await, (0..110).collect::<Vec<_>>(), "{step}: all are new");
            crowd(&store, NOW).await;
            for minute in 110..120 {
                add(&store, "a", step + minute, minute).await;
            }
            let dropped = if step.abs_diff(NOW) > KEPT_MILLIS { 20 } else { 0 };
            assert_eq!(records(&store, "a").await, (dropped..120).collect::<Vec<_>>(), "{step}");
        }
    }

    #[tokio::test]
    async fn what_a_wrong_clock_has_added_goes_away_in_its_turn() {
        for wrong in [0, FAR] {
            let store = Store::in_memory().unwrap();
            for minute in 0..10 {
                add(&store, "a", wrong + minute, minute).await;
            }
            crowd(&store, NOW).await;
            for minute in 10..20 {
                add(&store, "a", NOW + minute, minute).await;
            }
            assert_eq!(records(&store, "a").await, (10..20).collect::<Vec<_>>());
        }
    }
}
