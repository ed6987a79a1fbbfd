//! What all threads know about an instance: where its endpoints are and which of them can be used.
//!
//! Workers only read it on the hot path. They write when an endpoint fails, or on the first success
//! after a failure.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;

use super::connect::ReadAhead;
use super::tls::ClientTls;
use crate::config::{InstanceName, Scheme};

/// One running copy of the application, as the proxy reaches it.
pub struct Instance {
    pub name: InstanceName,
    pub limits: Limits,
    /// Set when an endpoint of this instance speaks TLS.
    pub tls: Option<Arc<ClientTls>>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Grows with every change of `endpoints`, so that a worker's check is one load.
    version: AtomicU64,
    pub(super) budget: Budget,
    /// The zero of `Endpoint::ejected_until`.
    epoch: Instant,
}

/// How far a client of an instance may go.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub max_connections: usize,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub queue_timeout: Duration,
    pub eject_after: u32,
    pub eject_for: Duration,
    pub read_ahead: ReadAhead,
}

impl Limits {
    /// For callers' requests.
    pub fn of_callers(upstream: &crate::config::Upstream) -> Self {
        Self {
            max_connections: upstream.max_connections,
            connect_timeout: upstream.connect_timeout,
            idle_timeout: upstream.idle_timeout,
            queue_timeout: upstream.queue_timeout,
            eject_after: upstream.eject_after,
            eject_for: upstream.eject_for,
            read_ahead: ReadAhead::GENEROUS,
        }
    }

    /// For the shadow's lane: its own budget, and no ejection, because the breaker judges there.
    pub fn of_lane(upstream: &crate::config::Upstream, tee: &crate::config::Tee) -> Self {
        Self {
            max_connections: tee.max_connections,
            connect_timeout: tee.connect_timeout,
            idle_timeout: upstream.idle_timeout,
            queue_timeout: tee.connect_timeout,
            eject_after: 0,
            eject_for: Duration::ZERO,
            read_ahead: ReadAhead::SPARING,
        }
    }
}

/// Connections to one instance, counted over all threads.
pub(super) struct Budget {
    pub permits: Arc<Semaphore>,
    /// Requests that found no permit. While there are any, a thread closes a connection rather than
    /// let it rest, or a busy thread could starve behind an idle one's pool.
    pub waiting: AtomicUsize,
}

/// One address of an instance.
pub struct Endpoint {
    pub scheme: Scheme,
    pub address: Address,
    /// What `Host` says when a caller sent none.
    pub authority: http::HeaderValue,
    pub server_name: Option<ServerName<'static>>,
    /// The verdict of the active health check.
    healthy: AtomicBool,
    /// Failures in a row.
    failures: AtomicU32,
    /// Milliseconds since the instance's epoch; 0 = not ejected.
    ejected_until: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Instance ===

impl Instance {
    pub fn new(name: InstanceName, limits: Limits, tls: Option<Arc<ClientTls>>, now: Instant) -> Self {
        Self {
            name,
            budget: Budget {
                permits: Arc::new(Semaphore::new(limits.max_connections)),
                waiting: AtomicUsize::new(0),
            },
            limits,
            tls,
            endpoints: ArcSwap::default(),
            version: AtomicU64::new(1),
            epoch: now,
        }
    }

    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// All of it is reached in clear over HTTP/1.1.
    pub fn is_plain(&self) -> bool {
        self.endpoints.load().iter().all(|endpoint| endpoint.scheme == Scheme::Http)
    }

    /// Replaces the endpoints. One that stays keeps its health and its failures.
    pub fn set_endpoints(&self, fresh: Vec<Endpoint>) {
        let old = self.endpoints();
        let merged: Vec<_> = fresh
            .into_iter()
            .map(|endpoint| match old.iter().find(|known| known.is_same(&endpoint)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(endpoint),
            })
            .collect();
        let unchanged =
            merged.len() == old.len() && merged.iter().zip(old.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
        if !unchanged {
            self.endpoints.store(Arc::new(merged));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn is_usable(&self, endpoint: &Endpoint, now: Instant) -> bool {
        if !endpoint.healthy.load(Ordering::Relaxed) {
            return false;
        }
        let until = endpoint.ejected_until.load(Ordering::Relaxed);
        until == 0 || self.millis(now) >= until
    }

    /// An exchange with `endpoint` ended well.
    pub fn succeeded(&self, endpoint: &Endpoint) {
        if endpoint.failures.load(Ordering::Relaxed) != 0 {
            endpoint.failures.store(0, Ordering::Relaxed);
            endpoint.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// An exchange with `endpoint` failed; enough of them in a row eject it.
    pub fn failed(&self, endpoint: &Endpoint, now: Instant) {
        let in_a_row = endpoint.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.limits.eject_after != 0 && in_a_row >= self.limits.eject_after {
            let until = self.millis(now + self.limits.eject_for);
            endpoint.ejected_until.store(until.max(1), Ordering::Relaxed);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub fn new(
        scheme: Scheme,
        address: Address,
        authority: http::HeaderValue,
        server_name: Option<ServerName<'static>>,
    ) -> Self {
        Self {
            scheme,
            address,
            authority,
            server_name,
            healthy: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.address == other.address
            && self.authority == other.authority
            && self.server_name == other.server_name
    }
}
