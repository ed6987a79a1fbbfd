//! Whether somebody reaches the source without passing Segue, while a migration is judged or waits to be
//! approved.
//!
//! Seen by connections to it that are not Segue's, and by what it says itself of how many requests it has had. It is a
//! warning and no gate: health checks of an orchestrator, and an operator's own look, are connections too.

mod excess;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::excess::{Excess, STRETCH, Sent};
use super::{Asked, Control, Wish, lock};
use crate::config::{self, Endpoint, Metrics, RequestCounter, Scheme};
use crate::instance::{Finding, bypass};
use crate::migrate::counter::Counter;
use crate::migrate::record::{Bypass, Record};
use crate::upstream::Address;

/// Between two looks: each reads the kernel's whole table of sockets.
const EVERY: Duration = Duration::from_secs(2);

/// The last look at a migration's source.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    at: Instant,
    /// `None`: it cannot be seen from here.
    pub connections: Option<u64>,
    /// That it has counted and Segue has not sent, lately. `None`: nobody has said where it counts, or not yet.
    pub requests: Option<u64>,
    /// Why its count is not known.
    trouble: Option<String>,
    excess: Excess,
    /// Since the first look.
    began: Instant,
    pages: u64,
    /// What is in the journal.
    noted: Bypass,
}

impl Control {
    /// Looks again, unless it did a moment ago.
    pub(super) async fn look_for_bypass(&self, id: u64, record: &Record) {
        let before = self.migrations.bypass(id);
        if before.as_ref().is_some_and(|seen| seen.at.elapsed() < EVERY) {
            return;
        }
        let mut seen = before.unwrap_or_else(|| Seen::nothing(record));
        seen.connections = self.bypassing(record).await;
        self.count_requests(&mut seen, record).await;
        seen.at = Instant::now();
        let news = seen.now().beyond(seen.noted);
        if news.is_any() {
            tracing::warn!(migration = id, service = record.spec.service, "{}", message(news));
            seen.noted = seen.noted.most(news);
            let (heard, _) = oneshot::channel();
            if let Some(driver) = lock(&self.migrations.drivers).get(&id) {
                // Its journal is written by the driver alone; one that has just ended has no more use for it.
                let _ = driver.wishes.send(Asked { wish: Wish::Note(news), heard });
            }
        }
        lock(&self.migrations.bypasses).insert(id, seen);
    }

    /// What the source counts, against what Segue has sent it.
    async fn count_requests(&self, seen: &mut Seen, record: &Record) {
        let service = &record.spec.service;
        let settings = self.settings();
        let Some(settings) = settings.services.get(service) else { return };
        // What a predecessor still sends is not in this process's counts.
        let counter = settings.migration.bypass.as_ref().filter(|_| !self.gates.has_predecessor());
        let Some(counter) = counter else {
            (seen.requests, seen.trouble, seen.excess) = (None, None, Excess::default());
            return;
        };
        let Some(running) = self.services.load().get(service) else { return };
        let endpoints = running.endpoints(record.slot.other()).unwrap_or_default().to_vec();
        let before = self.sent(record, seen, settings, endpoints.len()).await;
        let counted = match read(counter, settings, &endpoints).await {
            Ok(counted) => counted,
            Err(trouble) => {
                seen.trouble = Some(trouble);
                return;
            }
        };
        seen.trouble = None;
        seen.pages += counted.pages;
        let after = self.sent(record, seen, settings, endpoints.len()).await;
        if let Some((before, after)) = before.zip(after) {
            let sent = Sent { least: before.least, most: after.most };
            seen.excess.look(Instant::now(), counted.requests, sent);
        }
        seen.requests = seen.excess.requests();
    }

    /// To the instance that serves, since this process began; its own looks and checks since the first look.
    async fn sent(
        &self,
        record: &Record,
        seen: &Seen,
        settings: &config::Service,
        endpoints: usize,
    ) -> Option<Sent> {
        let status = self.service(&record.spec.service).await?;
        let serving = record.slot.other();
        let answered = status.requests.iter().filter(|row| row.instance == serving).map(|row| row.count);
        let answered: u64 = answered.sum();
        // Any of these may have reached it.
        let failed: u64 = status.refused.values().sum();
        let lost = failed + status.retries + status.caller_left + status.abandoned;
        let checks = settings.upstream.health.as_ref().map_or(0, |health| {
            let rounds = seen.began.elapsed().as_secs_f64() / health.interval.as_secs_f64();
            rounds as u64 * endpoints as u64
        });
        let least = answered + lost + checks + seen.pages;
        Some(Sent { least, most: least + status.in_flight as u64 + endpoints as u64 })
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

async fn read(
    counter: &RequestCounter,
    settings: &config::Service,
    endpoints: &[Endpoint],
) -> Result<crate::migrate::counter::Counted, String> {
    let is_tls = |endpoint: &Endpoint| endpoint.scheme == Scheme::Https;
    let tls = match &counter.metrics {
        Metrics::OfInstance(_) => endpoints.iter().any(is_tls),
        Metrics::At(endpoint, _) => is_tls(endpoint),
    };
    let counter = Counter::new(counter, settings, tls).map_err(|error| error.to_string())?;
    counter.read(endpoints).await.map_err(|error| error.to_string())
}

impl Seen {
    fn nothing(record: &Record) -> Self {
        let now = Instant::now();
        Self {
            at: now,
            connections: None,
            requests: None,
            trouble: None,
            excess: Excess::default(),
            began: now,
            pages: 0,
            noted: record.bypass.unwrap_or_default(),
        }
    }

    fn now(&self) -> Bypass {
        Bypass { connections: self.connections.unwrap_or(0), requests: self.requests.unwrap_or(0) }
    }

    /// What the last look comes to, if it is worth a word.
    pub fn findings(&self) -> impl Iterator<Item = Finding> {
        let warning = self.now().is_any().then(|| Finding::warning(SUBJECT, message(self.now())));
        let trouble = self.trouble.as_ref().map(|why| {
            let message = format!("how many requests the source has had is not known: {why}");
            Finding::not_known(SUBJECT, message)
        });
        warning.into_iter().chain(trouble)
    }
}

const SUBJECT: &str = "bypass";

/// What the journal has, once nobody looks any more.
pub(super) fn noted(bypass: Option<Bypass>) -> Option<Finding> {
    let bypass = bypass.filter(|bypass| bypass.is_any())?;
    Some(Finding::warning(SUBJECT, format!("when it was seen first, {}", message(bypass))))
}

pub(super) fn message(bypass: Bypass) -> String {
    let Bypass { connections, requests } = bypass;
    let connections = match connections {
        0 => None,
        1 => Some("1 connection reaches the source".to_owned()),
        all => Some(format!("{all} connections reach the source")),
    };
    let requests = (requests > 0).then(|| {
        let whose = if connections.is_some() { "it" } else { "the source" };
        format!("{whose} has counted {requests} requests more than it was sent in {} s", STRETCH.as_secs())
    });
    let both: Vec<_> = connections.into_iter().chain(requests).collect();
    format!(
        "{} without passing Segue; what they write during the switch is refused where the source can be fenced, and lost \
         otherwise",
        both.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Gravity;

    #[test]
    fn a_warning_counts_and_nothing_is_no_warning() {
        let bypass = |connections, requests| Bypass { connections, requests };
        assert_eq!(noted(None), None);
        assert_eq!(noted(Some(bypass(0, 0))), None);
        for (seen, begins) in [
            (bypass(1, 0), "1 connection reaches the source without"),
            (bypass(3, 0), "3 connections reach the source without"),
            (bypass(0, 40), "the source has counted 40 requests more than it was sent in 10 s without"),
            (
                bypass(1, 40),
                "1 connection reaches the source and it has counted 40 requests more than it was sent in",
            ),
        ] {
            assert!(message(seen).starts_with(begins), "{}", message(seen));
            assert_eq!(noted(Some(seen)).unwrap().gravity, Gravity::Warning);
        }
    }
}
