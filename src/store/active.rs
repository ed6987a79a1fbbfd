//! Which instance is active: the one fact that a restart must not get wrong.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::{Store, StoreError};
use crate::config::{Endpoint, InstanceName, Scheme, Target};

/// The active instance of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRecord {
    pub instance: InstanceName,
    /// Rises with every change, never falls.
    pub generation: u64,
    /// Of the active instance's endpoints when it became active. If the configuration now says otherwise, the names
    /// `source` and `shadow` no longer mean what they meant.
    pub fingerprint: Fingerprint,
    /// Unix time in milliseconds.
    pub changed_at: u64,
}

/// Identifies a set of endpoints, whatever their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint([u8; 32]);

// === impl Fingerprint ===

impl Fingerprint {
    /// Stored, so the text that is hashed must stay as it is.
    pub fn of(endpoints: &[Endpoint]) -> Self {
        let mut lines: Vec<String> = endpoints.iter().map(canonical).collect();
        lines.sort_unstable();
        lines.dedup();
        Self(*blake3::hash(lines.join("\n").as_bytes()).as_bytes())
    }
}

fn canonical(endpoint: &Endpoint) -> String {
    let scheme = match endpoint.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
        Scheme::H2c => "h2c",
    };
    match &endpoint.target {
        Target::Host { name, port } => format!("{scheme} {} {port}", name.to_ascii_lowercase()),
        Target::Unix(path) => format!("{scheme} unix {}", path.display()),
    }
}

// === impl Store ===

impl Store {
    /// The active instance of `service`; `None` if none was ever set.
    pub async fn active(&self, service: &str) -> Result<Option<ActiveRecord>, StoreError> {
        let service = service.to_owned();
        self.call(move |connection| read(connection, &service)).await
    }

    /// The active instance of every service that has one, by name.
    pub async fn all_active(&self) -> Result<Vec<(String, ActiveRecord)>, StoreError> {
        self.call(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT instance, generation, fingerprint, changed_at, service FROM active ORDER BY service",
            )?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push((row.get(4)?, decode(row)?));
            }
            Ok(all)
        })
        .await
    }

    /// Makes `record` the active one if the current generation is still `expected` (`None`: no record yet).
    /// Durable when it returns. A refusal ([`Conflict`](StoreError::Conflict), [`NotNewer`](StoreError::NotNewer))
    /// changed nothing; after a failure of the disk itself, read it again.
    pub async fn set_active(
        &self,
        service: &str,
        record: ActiveRecord,
        expected: Option<u64>,
    ) -> Result<(), StoreError> {
        let service = service.to_owned();
        self.call(move |connection| compare_and_swap(connection, &service, &record, expected)).await
    }
}

fn compare_and_swap(
    connection: &mut Connection,
    service: &str,
    record: &ActiveRecord,
    expected: Option<u64>,
) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = read(&transaction, service)?.map(|current| current.generation);
    if found != expected {
        return Err(StoreError::Conflict { service: service.to_owned(), expected, found }.into());
    }
    if let Some(current) = found.filter(|current| record.generation <= *current) {
        let (service, next) = (service.to_owned(), record.generation);
        return Err(StoreError::NotNewer { service, current, next }.into());
    }
    transaction.execute(
        "INSERT INTO active (service, instance, generation, fingerprint, changed_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (service) DO UPDATE SET instance = excluded.instance, generation = excluded.generation,
             fingerprint = excluded.fingerprint, changed_at = excluded.changed_at",
        params![
            service,
            record.instance.as_str(),
            signed(record.generation)?,
            record.fingerprint.0.as_slice(),
            signed(record.changed_at)?
        ],
    )?;
    Ok(transaction.commit()?)
}

fn read(connection: &Connection, service: &str) -> Result<Option<ActiveRecord>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT instance, generation, fingerprint, changed_at FROM active WHERE service = ?1",
    )?;
    statement.query_row([service], |row| Ok(decode(row))).optional()?.transpose()
}

fn decode(row: &Row<'_>) -> Result<ActiveRecord, Failure> {
    let instance: String = row.get(0)?;
    let instance = InstanceName::parse(&instance)
        .ok_or_else(|| Failure::Damaged(format!("`{instance}` is not an instance")))?;
    Ok(ActiveRecord {
        instance,
        generation: unsigned(row.get(1)?)?,
        fingerprint: Fingerprint(row.get(2)?),
        changed_at: unsigned(row.get(3)?)?,
    })
}

/// `SQLite`'s integers are signed.
pub(super) fn signed(number: u64) -> Result<i64, Failure> {
    i64::try_from(number).map_err(|_| StoreError::OutOfRange { number }.into())
}

pub(super) fn unsigned(number: i64) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| Failure::Damaged(format!("{number} is negative")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn host(name: &str, port: u16) -> Endpoint {
        Endpoint { scheme: Scheme::Http, target: Target::Host { name: name.to_owned(), port } }
    }

    #[test]
    fn a_fingerprint_depends_on_the_endpoints_and_not_on_their_order() {
        let (a, b) = (host("a", 80), host("b", 80));
        let both = Fingerprint::of(&[a.clone(), b.clone()]);
        assert_eq!(both, Fingerprint::of(&[b, a.clone(), host("A", 80)]));
        assert_ne!(both, Fingerprint::of(&[a.clone(), host("b", 81)]));
        assert_ne!(
            Fingerprint::of(&[a]),
            Fingerprint::of(&[Endpoint { scheme: Scheme::H2c, ..host("a", 80) }])
        );
    }

    /// Stored fingerprints are compared with ones computed by later versions.
    #[test]
    fn the_fingerprint_of_known_endpoints_stays_the_same() {
        let unix = Endpoint { scheme: Scheme::Http, target: Target::Unix(PathBuf::from("/run/app.sock")) };
        let hex = blake3::Hash::from_bytes(Fingerprint::of(&[host("app", 3000), unix]).0).to_hex();
        assert_eq!(hex.as_str(), blake3::hash(b"http app 3000\nhttp unix /run/app.sock").to_hex().as_str());
    }
}
