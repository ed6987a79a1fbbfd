//! Whether somebody reaches the source without passing Segue, while a migration is judged or waits to be
//! approved.
//!
//! It is a warning and no gate: health checks of an orchestrator, and an operator's own look, are connections too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Control, lock};
use crate::instance::{Finding, Gravity, bypass};
use crate::migrate::record::Record;
use crate::upstream::Address;

/// Between two looks: each reads the kernel's whole table of sockets.
const EVERY: Duration = Duration::from_secs(2);

/// The last look at a migration's source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    at: Instant,
    /// `None`: it cannot be seen from here.
    pub connections: Option<u64>,
    warned: bool,
}

impl Control {
    /// Looks again, unless it did a moment ago.
    pub(super) async fn look_for_bypass(&self, id: u64, record: &Record) {
        let before = self.migrations.bypass(id);
        if before.is_some_and(|seen| seen.at.elapsed() < EVERY) {
            return;
        }
        let connections = self.bypassing(record).await;
        let warns = connections.filter(|count| *count > 0);
        let warned = before.is_some_and(|seen| seen.warned);
        if let Some(count) = warns.filter(|_| !warned) {
            tracing::warn!(migration = id, service = record.spec.service, "{}", message(count));
        }
        let seen = Seen { at: Instant::now(), connections, warned: warned || warns.is_some() };
        lock(&self.migrations.bypasses).insert(id, seen);
    }

    async fn bypassing(&self, record: &Record) -> Option<u64> {
        // Its connections are Segue's too, and it is not known which they are.
        if self.gates.has_predecessor() {
            return None;
        }
        let service = self.services.load().get(&record.spec.service)?;
        let source = service.instance(record.slot.other())?.endpoints();
        let addresses = source.iter().map(|endpoint| match endpoint.address {
            Address::Tcp(address) => Some(address),
            // Its ends have no addresses to be told apart by.
            Address::Unix(_) => None,
        });
        let addresses: Option<Vec<SocketAddr>> = addresses.collect();
        let addresses = addresses?;
        let looking = tokio::task::spawn_blocking(move || bypass::count(&addresses, &[std::process::id()]));
        match looking.await {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => {
                tracing::debug!(%error, "connections that bypass Segue cannot be counted");
                None
            }
            Err(_) => None,
        }
    }
}

/// What the last look comes to, if it is worth a warning.
pub(super) fn finding(connections: Option<u64>) -> Option<Finding> {
    let count = connections.filter(|count| *count > 0)?;
    Some(Finding::new(Gravity::Warning, "bypass", message(count)))
}

fn message(count: u64) -> String {
    let connections = if count == 1 { "1 connection reaches" } else { &format!("{count} connections reach") };
    format!(
        "{connections} the source without passing Segue; what they write during the switch is refused where the source \
         can be fenced, and lost otherwise"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_counts_and_nothing_is_no_warning() {
        assert_eq!(finding(None), None);
        assert_eq!(finding(Some(0)), None);
        for (count, begins) in [(1, "1 connection reaches the source"), (3, "3 connections reach the source")]
        {
            let found = finding(Some(count)).unwrap();
            assert!(found.message.starts_with(begins), "{}", found.message);
            assert_eq!(found.gravity, Gravity::Warning);
        }
    }
}
