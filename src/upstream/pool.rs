//! A thread's own connections to one instance.
//!
//! Nothing here is shared between threads but the connection budget and the endpoints' state, so a
//! request that finds a rested connection touches no lock and no foreign cache line.
//!
//! ```text
//!  checkout ── rested connection? ──► lease ── answer ended ──► rests again, or goes to a waiter
//!      └────── permit free? ── open ──► lease ── broken, or dropped early ──► closes, permit returns
//!      └────── wait for either, at most `queue_timeout`
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Body;
use hyper::client::conn::http2;
use tokio::sync::oneshot;

use super::connect::{self, ConnectError, Sender};
use super::endpoint::{Endpoint, Instance};
use super::lease::Lease;
use crate::http1::client;

/// Streams on one HTTP/2 connection before another one is opened: what most servers allow.
const H2_STREAMS: usize = 100;
/// Endpoints tried before a connect failure becomes the caller's.
const CONNECT_ATTEMPTS: usize = 3;

/// A connection that rests longer than this gives its buffers back.
const KEEPS_BUFFERS: Duration = Duration::from_secs(1);

/// One thread's connections to one instance.
pub struct Pool<B> {
    instance: Arc<Instance>,
    seen_version: Cell<u64>,
    slots: RefCell<Vec<Rc<Slot<B>>>>,
    /// Requests that wait for a connection of this thread to come back.
    waiters: RefCell<VecDeque<oneshot::Sender<Lease<B>>>>,
    random: RefCell<fastrand::Rng>,
}

/// The connections to one endpoint.
pub(super) struct Slot<B> {
    pub(super) endpoint: Arc<Endpoint>,
    rested: RefCell<Vec<Rested>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed<B>>>>,
    pub(super) outstanding: Cell<usize>,
}

struct Rested {
    connection: Rc<client::Connection>,
    since: Instant,
}

pub(super) struct Multiplexed<B> {
    pub(super) sender: http2::SendRequest<B>,
    pub(super) streams: Cell<usize>,
    pub(super) used: Cell<Instant>,
}

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want {
    /// Take a rested connection only if it rested less than this, for requests that must not meet one
    /// that the instance is about to close.
    pub fresh_within: Option<Duration>,
    /// The request asks for an upgrade, which HTTP/2 cannot carry.
    pub http1: bool,
}

pub(super) enum Line<B> {
    H1(Rc<client::Connection>),
    H2(Rc<Multiplexed<B>>),
    /// Given back or closed.
    Gone,
}

// === impl Pool ===

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    pub fn new(instance: Arc<Instance>) -> Rc<Self> {
        Rc::new(Self {
            instance,
            seen_version: Cell::new(0),
            slots: RefCell::default(),
            waiters: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
        })
    }

    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// A connection for one request.
    pub async fn checkout(self: &Rc<Self>, now: Instant, want: Want) -> Result<Lease<B>, ConnectError> {
        self.refresh();
        let slot = self.choose(now).ok_or(ConnectError::NoEndpoint)?;
        if let Some(lease) = self.rested(&slot, now, want) {
            return Ok(lease);
        }
        // Boxed: connecting is rare and large, and every request would carry the room for it.
        Box::pin(self.open(slot, now, want)).await
    }

    fn refresh(&self) {
        let version = self.instance.version();
        if self.seen_version.replace(version) == version {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let old = std::mem::take(&mut *slots);
        *slots = self
            .instance
            .endpoints()
            .iter()
            .map(|endpoint| match old.iter().find(|slot| Arc::ptr_eq(&slot.endpoint, endpoint)) {
                Some(slot) => Rc::clone(slot),
                None => Rc::new(Slot::new(Arc::clone(endpoint))),
            })
            .collect();
    }

    /// Two choices, the one with fewer of this thread's requests outstanding. When no endpoint is
    /// usable all are: a wrong verdict about all of them must not take the service down.
    fn choose(&self, now: Instant) -> Option<Rc<Slot<B>>> {
        let slots = self.slots.borrow();
        if let [only] = slots.as_slice() {
            return Some(Rc::clone(only));
        }
        let usable = slots.iter().filter(|slot| self.instance.is_usable(&slot.endpoint, now)).count();
        let pick = |n: usize| -> Option<&Rc<Slot<B>>> {
            if usable == 0 {
                slots.get(n)
            } else {
                slots.iter().filter(|slot| self.instance.is_usable(&slot.endpoint, now)).nth(n)
            }
        };
        let candidates = if usable == 0 { slots.len() } else { usable };
        if candidates == 0 {
            return None;
        }
        let mut random = self.random.borrow_mut();
        let first = random.usize(..candidates);
        let second =
            if candidates == 1 { first } else { (first + 1 + random.usize(..candidates - 1)) % candidates };
        let (first, second) = (pick(first)?, pick(second)?);
        let better = if second.outstanding.get() < first.outstanding.get() { second } else { first };
        Some(Rc::clone(better))
    }

    fn rested(self: &Rc<Self>, slot: &Rc<Slot<B>>, now: Instant, want: Want) -> Option<Lease<B>> {
        let longest = want.fresh_within.unwrap_or(self.instance.limits.idle_timeout);
        let mut rested = slot.rested.borrow_mut();
        let mut at = rested.len();
        // The most recently used first: the others grow old together and are swept.
        while at > 0 {
            at -= 1;
            let Some(candidate) = rested.get(at) else { break };
            let since = now.saturating_duration_since(candidate.since);
            if since > longest {
                // All below have rested at least as long.
                break;
            }
            let Rested { connection, .. } = rested.remove(at);
            if connection.is_open() {
                drop(rested);
                return Some(self.lease(slot, Line::H1(connection), Some(since), None));
            }
        }
        drop(rested);
        if want.http1 {
            return None;
        }
        let mut multiplexed = slot.multiplexed.borrow_mut();
        multiplexed.retain(|connection| !connection.sender.is_closed());
        let free = multiplexed.iter().find(|connection| {
            connection.streams.get() < H2_STREAMS
                && (connection.streams.get() > 0
                    || now.saturating_duration_since(connection.used.get()) <= longest)
        })?;
        let free = Rc::clone(free);
        drop(multiplexed);
        let since = now.saturating_duration_since(free.used.get());
        Some(self.lease(slot, Line::H2(free), Some(since), None))
    }

    async fn open(
        self: &Rc<Self>,
        mut slot: Rc<Slot<B>>,
        now: Instant,
        want: Want,
    ) -> Result<Lease<B>, ConnectError> {
        let permit = match Arc::clone(&self.instance.budget.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match self.wait_for_room(want).await? {
                Room::Lease(lease) => return Ok(lease),
                Room::Permit(permit) => permit,
            },
        };
        let mut permit = Some(permit);
        let mut attempt = 1;
        loop {
            let permit_now = match permit.take() {
                Some(permit) => permit,
                None => match self.wait_for_room(want).await? {
                    Room::Lease(lease) => return Ok(lease),
                    Room::Permit(permit) => permit,
                },
            };
            let limits = &self.instance.limits;
            let tls = self.instance.tls.as_deref();
            let (timeout, ahead) = (limits.connect_timeout, limits.read_ahead);
            match connect::open(&slot.endpoint, tls, want.http1, timeout, ahead, Some(permit_now)).await {
                Ok(opened) => {
                    let line = match opened.sender {
                        Sender::H1(connection) => Line::H1(connection),
                        Sender::H2(sender) => {
                            let connection =
                                Rc::new(Multiplexed { sender, streams: Cell::new(0), used: Cell::new(now) });
                            slot.multiplexed.borrow_mut().push(Rc::clone(&connection));
                            Line::H2(connection)
                        }
                    };
                    return Ok(self.lease(&slot, line, None, Some(opened.took)));
                }
                Err(error) => {
                    let now = Instant::now();
                    self.instance.failed(&slot.endpoint, now);
                    let others = self.slots.borrow().len() > 1;
                    if attempt >= CONNECT_ATTEMPTS || !others {
                        return Err(error);
                    }
                    attempt += 1;
                    slot = self.another(&slot, now).ok_or(error)?;
                }
            }
        }
    }

    /// An endpoint other than the one that just failed.
    fn another(&self, failed: &Rc<Slot<B>>, now: Instant) -> Option<Rc<Slot<B>>> {
        let slots = self.slots.borrow();
        let usable = |slot: &&Rc<Slot<B>>| self.instance.is_usable(&slot.endpoint, now);
        let others = || slots.iter().filter(|slot| !Rc::ptr_eq(slot, failed));
        others().find(usable).or_else(|| others().next()).cloned()
    }

    async fn wait_for_room(&self, want: Want) -> Result<Room<B>, ConnectError> {
        let (waiter, returned) = oneshot::channel();
        // What comes back may be an HTTP/2 stream.
        if !want.http1 {
            self.waiters.borrow_mut().push_back(waiter);
        }
        self.instance.budget.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.instance);
        let permit = Arc::clone(&self.instance.budget.permits).acquire_owned();
        let either = async {
            tokio::select! {
                biased;
                Ok(lease) = returned => Some(Room::Lease(lease)),
                permit = permit => permit.ok().map(Room::Permit),
            }
        };
        match tokio::time::timeout(self.instance.limits.queue_timeout, either).await {
            Ok(Some(room)) => Ok(room),
            Ok(None) | Err(_) => Err(ConnectError::Busy(self.instance.limits.max_connections)),
        }
    }

    fn lease(
        self: &Rc<Self>,
        slot: &Rc<Slot<B>>,
        line: Line<B>,
        rested: Option<Duration>,
        connect: Option<Duration>,
    ) -> Lease<B> {
        if let Line::H2(connection) = &line {
            connection.streams.set(connection.streams.get() + 1);
        }
        slot.outstanding.set(slot.outstanding.get() + 1);
        Lease { pool: Rc::clone(self), slot: Rc::clone(slot), line, rested, connect }
    }

    /// No connection rests here, and nobody waits for one.
    pub fn is_empty(&self) -> bool {
        self.waiters.borrow().is_empty()
            && self.slots.borrow().iter().all(|slot| {
                slot.rested.borrow().is_empty()
                    && slot.multiplexed.borrow().is_empty()
                    && slot.outstanding.get() == 0
            })
    }

    /// Closes what rested too long or was closed by the instance.
    pub fn sweep(&self, now: Instant) {
        self.waiters.borrow_mut().retain(|waiter| !waiter.is_closed());
        let longest = self.instance.limits.idle_timeout;
        for slot in self.slots.borrow().iter() {
            slot.rested.borrow_mut().retain(|rested| {
                let since = now.saturating_duration_since(rested.since);
                if since > KEEPS_BUFFERS {
                    rested.connection.release();
                }
                since < longest && rested.connection.is_open()
            });
            slot.multiplexed.borrow_mut().retain(|connection| {
                !connection.sender.is_closed()
                    && (connection.streams.get() > 0
                        || now.saturating_duration_since(connection.used.get()) < longest)
            });
        }
    }

    /// Gives a line to the first request that waits for one; comes back if there is none.
    pub(super) fn offer(self: &Rc<Self>, slot: &Rc<Slot<B>>, mut line: Line<B>) -> Option<Line<B>> {
        loop {
            let waiter = self.waiters.borrow_mut().pop_front();
            let Some(waiter) = waiter else { return Some(line) };
            if waiter.is_closed() {
                continue;
            }
            match waiter.send(self.lease(slot, line, Some(Duration::ZERO), None)) {
                Ok(()) => return None,
                // The waiter left in between: take the line out again, so that it is not closed.
                Err(mut lease) => line = lease.disarm(),
            }
        }
    }

    pub(super) fn take_back(
        self: &Rc<Self>,
        slot: &Rc<Slot<B>>,
        connection: Rc<client::Connection>,
        now: Instant,
    ) {
        if !connection.is_reusable() {
            return;
        }
        let Some(Line::H1(connection)) = self.offer(slot, Line::H1(connection)) else { return };
        if self.instance.budget.waiting.load(Ordering::Relaxed) == 0 {
            slot.rested.borrow_mut().push(Rested { connection, since: now });
        }
    }
}

enum Room<B> {
    Lease(Lease<B>),
    Permit(tokio::sync::OwnedSemaphorePermit),
}

/// Counts one request that waits for room.
struct Waiting<'a>(&'a Instance);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.budget.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B> Slot<B> {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            rested: RefCell::default(),
            multiplexed: RefCell::default(),
            outstanding: Cell::new(0),
        }
    }
}
