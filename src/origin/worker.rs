//! A worker: one thread, one current-thread runtime, its share of the connections.
//!
//! All workers accept from one socket. A worker leaves new connections to the others while it has
//! more than a few above the least loaded one, so that long-lived connections spread evenly.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, mem};

use http::HeaderValue;
use slab::Slab;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, oneshot, watch};

use super::OriginError;
use super::burn::Burn;
use super::connection::serve;
use super::delay::Delay;
use super::fault::{Fault, FaultKind, Faults};
use super::ledger::Ledger;
use super::seen::{self, Counters, Seen};
use super::socket::{Bound, Listener, Stream};

/// Connections that a worker may be ahead of the least loaded one.
const AHEAD: usize = 4;
/// How long a worker that is ahead, or that could not accept, waits before it looks again.
const BACK_OFF: Duration = Duration::from_millis(1);

/// What the workers of one instance share. Only [`Shared::loads`] is written while serving, once per
/// connection.
pub(super) struct Shared {
    pub bound: Bound,
    pub ledger: Ledger,
    pub faults: Faults,
    pub delay: Delay,
    pub burn: Option<Burn>,
    pub keep_alive_requests: Option<NonZeroU64>,
    pub name: Option<String>,
    pub seed: u64,
    /// One for each worker.
    pub counters: Vec<Arc<Counters>>,
    /// Open connections of each worker.
    pub loads: Vec<AtomicUsize>,
    pub signal: watch::Sender<Signal>,
    /// Held, not used: what the instance weighs.
    pub _ballast: Vec<u8>,
}

/// What the workers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal {
    pub phase: Phase,
    pub listening: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serve,
    /// Accept nothing more, finish what is in flight.
    Drain,
    /// End at once.
    Kill,
}

impl Shared {
    pub fn seen(&self) -> Seen {
        seen::sum(self.counters.iter().map(Arc::as_ref))
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: &[Fault]) -> io::Result<()> {
        let listen = !faults.iter().any(|fault| fault.kind == FaultKind::Refuse);
        self.faults.set(faults);
        let mut changed = Ok(());
        // The change happens under the channel's lock, so that two callers cannot interleave.
        self.signal.send_if_modified(|signal| {
            if signal.listening == listen || signal.phase != Phase::Serve {
                return false;
            }
            changed = if listen { self.bound.listen_again() } else { self.bound.refuse() };
            signal.listening = listen;
            true
        });
        changed
    }

    /// Begins to end. From here on new connections are refused, instead of waiting for nobody.
    pub fn end(&self, phase: Phase) {
        self.signal.send_if_modified(|signal| {
            if signal.listening {
                // If it cannot be refused now, it will be when the last worker has closed it.
                let _ = self.bound.refuse();
                signal.listening = false;
            }
            mem::replace(&mut signal.phase, phase) != phase
        });
    }

    fn load(&self, worker: usize) -> usize {
        self.loads.get(worker).map_or(0, |load| load.load(Ordering::Relaxed))
    }

    fn may_accept(&self, worker: usize) -> bool {
        let least = (0..self.loads.len()).map(|other| self.load(other)).min().unwrap_or(0);
        self.load(worker) <= least + AHEAD
    }
}

/// What the connections of one worker share.
pub(super) struct Site {
    pub shared: Arc<Shared>,
    pub worker: usize,
    pub counters: Arc<Counters>,
    /// A copy of the worker's own: cloning one that is shared would bounce its reference count.
    pub name: Option<HeaderValue>,
    random: RefCell<fastrand::Rng>,
    /// Tells each connection to finish.
    open: RefCell<Slab<Option<oneshot::Sender<()>>>>,
    none_open: Notify,
}

impl Site {
    pub fn sample_delay(&self) -> Duration {
        match self.shared.delay {
            Delay::None => Duration::ZERO,
            ref delay => delay.sample(&mut self.random.borrow_mut()),
        }
    }

    fn admit(self: &Rc<Self>, stream: Stream) {
        let (finish, finished) = oneshot::channel();
        let key = self.open.borrow_mut().insert(Some(finish));
        if let Some(load) = self.shared.loads.get(self.worker) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        let place = Rc::new(Place { site: Rc::clone(self), key });
        tokio::task::spawn_local(serve(Rc::clone(self), stream, place, finished));
    }
}

/// A connection's entry in its worker's books, struck out when the connection is gone.
pub(super) struct Place {
    site: Rc<Site>,
    key: usize,
}

impl Place {
    /// Ends the connection once what is in flight on it is done.
    pub fn finish(&self) {
        if let Some(finish) = self.site.open.borrow_mut().get_mut(self.key).and_then(Option::take) {
            // It fails only if the connection is finishing already.
            let _ = finish.send(());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.site.open.borrow_mut();
        open.try_remove(self.key);
        if open.is_empty() {
            self.site.none_open.notify_one();
        }
        if let Some(load) = self.site.shared.loads.get(self.site.worker) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs on the worker's own thread, to its end. `started` learns whether it could begin.
pub(super) fn run(
    shared: Arc<Shared>,
    worker: usize,
    grace: Duration,
    started: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let Some(counters) = shared.counters.get(worker).map(Arc::clone) else { return };
    let signal = shared.signal.subscribe();
    let name = shared.name.as_deref().and_then(|name| HeaderValue::try_from(name).ok());
    let random = RefCell::new(fastrand::Rng::with_seed(shared.seed.wrapping_add(worker as u64)));
    let site =
        Site { shared, worker, counters, name, random, open: RefCell::default(), none_open: Notify::new() };
    let _ = started.send(Ok(()));
    runtime.block_on(work(Rc::new(site), signal, grace));
    // What is still open ends with the runtime.
}

async fn work(site: Rc<Site>, mut signal: watch::Receiver<Signal>, grace: Duration) {
    loop {
        let now = *signal.borrow_and_update();
        if now.phase != Phase::Serve {
            break;
        }
        // Registered afresh at each turn: once it was shut down, a registration stays "ready" for good.
        let listener = if now.listening { site.shared.bound.register().ok() } else { None };
        tokio::select! {
            biased;
            changed = signal.changed() => if changed.is_err() { return },
            () = accept_all(&site, listener) => {}
        }
    }
    if signal.borrow().phase == Phase::Drain {
        for finish in site.open.borrow_mut().iter_mut().filter_map(|(_, finish)| finish.take()) {
            let _ = finish.send(());
        }
        tokio::select! {
            () = all_gone(&site) => {}
            () = tokio::time::sleep(grace) => {}
            _ = signal.wait_for(|signal| signal.phase == Phase::Kill) => {}
        }
    }
}

/// Accepts until it is dropped.
async fn accept_all(site: &Rc<Site>, listener: Option<Listener>) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        if !site.shared.may_accept(site.worker) {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        }
        match listener.accept().await {
            Ok(stream) => site.admit(stream),
            // Out of descriptors, or a connection that was gone already: neither ends the listener.
            Err(_) => tokio::time::sleep(BACK_OFF).await,
        }
    }
}

async fn all_gone(site: &Site) {
    while !site.open.borrow().is_empty() {
        site.none_open.notified().await;
    }
}

/// Starts all workers of an instance.
pub(super) fn start(
    shared: &Arc<Shared>,
    grace: Duration,
) -> Result<Vec<std::thread::JoinHandle<()>>, OriginError> {
    let (started, begun) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for worker in 0..shared.loads.len() {
        let (shared, started) = (Arc::clone(shared), started.clone());
        let thread = std::thread::Builder::new().name(format!("origin-{worker}"));
        let thread = thread.spawn(move || run(shared, worker, grace, &started));
        threads.push(thread.map_err(OriginError::Worker)?);
    }
    drop(started);
    for begun in begun.iter().take(threads.len()) {
        begun.map_err(OriginError::Worker)?;
    }
    Ok(threads)
}
