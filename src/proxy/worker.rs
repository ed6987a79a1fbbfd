//! A worker: one thread, one runtime, its own connections, pools, gates and counters.
//!
//! Everything a request touches is in here or in the immutable [`Plan`]; other threads reach a worker
//! only by [`Order`], so nothing on the path needs a lock.

mod ebb;
mod sweep;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use self::ebb::Ebb;
use super::access::Lines;
use super::connection::resting::{self, Resting};
use super::connection::{self, Link, Phase, Signal};
use super::gate::controller::MemberId;
use super::gate::local::Blocker;
use super::gate::member::Generation;
use super::gate::{Command, Event};
use super::listener::Entrance;
use super::loads::{Counted, Load, Loads};
use super::plan::{Plan, TeePlan};
use super::report::{self, Gathered, Report};
use super::service::{CoarseClock, Service, count};
use crate::net::{Detached, Listening, Stream};
use crate::tee::lane::{LaneHandle, LocalLane};

/// After running out of descriptors accepting is pointless for a moment.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// From the control plane to a worker.
pub enum Order {
    Plan(Arc<Plan>),
    /// Accept here from now on.
    Accept(Arc<Entrance>),
    StopAccepting,
    /// A connection that another worker accepted and passes on.
    Take {
        stream: Detached,
        peer: Option<SocketAddr>,
        entrance: Arc<Entrance>,
    },
    Gate {
        service: Arc<str>,
        command: Command,
    },
    /// Hold requests no longer than this from now on.
    HoldFor {
        service: Arc<str>,
        timeout: Duration,
    },
    /// End what is in flight of this generation and before; answers how much that was.
    Cut {
        service: Arc<str>,
        generation: Generation,
        done: oneshot::Sender<usize>,
    },
    Blockers {
        service: Arc<str>,
        generation: Generation,
        found: oneshot::Sender<Vec<Blocker>>,
    },
    Tee {
        service: Arc<str>,
        tee: Arc<TeePlan>,
    },
    Report(oneshot::Sender<Report>),
    Gather(oneshot::Sender<Vec<Gathered>>),
    /// Close resting connections at once and the others as they finish. HTTP/2 callers, who open one
    /// connection for everything, are told spread over `stagger`.
    Close {
        stagger: Duration,
    },
    /// The same without closing a connection under a caller who may be speaking at this moment: each
    /// ends with its next answer, or when it has been quiet for a while.
    Leave {
        stagger: Duration,
    },
    /// Close whatever is still open.
    CutAll,
    Stop,
}

/// From a worker to whoever holds the gates' controllers.
#[derive(Clone, Debug)]
pub struct Told {
    pub member: MemberId,
    pub service: Arc<str>,
    pub event: Event,
}

/// What a worker makes of a plan.
pub struct Table {
    pub plan: Arc<Plan>,
    services: Vec<Rc<Service>>,
}

impl Table {
    pub fn find(&self, host: &str, path: &str) -> Option<Rc<Service>> {
        let index = self.plan.router.find(host, path)?;
        self.services.get(index).map(Rc::clone)
    }

    pub fn services(&self) -> &[Rc<Service>] {
        &self.services
    }

    fn named(&self, name: &str) -> Option<&Rc<Service>> {
        self.services.iter().find(|service| &*service.plan.name == name)
    }
}

pub struct Worker {
    pub number: usize,
    pub clock: CoarseClock,
    pub lane: Rc<LocalLane>,
    /// Refusals that belong to no service.
    pub rejects: RefCell<Vec<(&'static str, u64)>>,
    /// Connections by how they ended, where that was not in order.
    pub ends: RefCell<Vec<(&'static str, u64)>>,
    pub lines: Lines,
    table: RefCell<Rc<Table>>,
    /// Connections with a task; the others are resting.
    links: RefCell<Slab<Rc<Link>>>,
    pub(super) resting: Resting,
    /// Services that the sweep has something to do for; those without traffic cost nothing.
    active: RefCell<Vec<Rc<Service>>>,
    loads: Arc<Loads>,
    load: Arc<Load>,
    closing: Cell<bool>,
    ebb: RefCell<Ebb>,
    told: mpsc::UnboundedSender<Told>,
    peers: Vec<mpsc::UnboundedSender<Order>>,
}

/// Counts a connection that ended badly.
pub fn count_end(worker: &Worker, kind: &'static str) {
    count(&mut worker.ends.borrow_mut(), kind, 1);
}

/// What a worker is made with.
pub struct Start {
    pub number: usize,
    /// The orders of all workers, this one's included.
    pub peers: Vec<mpsc::UnboundedSender<Order>>,
    pub plan: Arc<Plan>,
    pub lane: LaneHandle,
    pub loads: Arc<Loads>,
    pub told: mpsc::UnboundedSender<Told>,
    pub orders: mpsc::UnboundedReceiver<Order>,
}

impl Worker {
    fn new(start: Start, now: Instant) -> (Rc<Self>, mpsc::UnboundedReceiver<Order>) {
        let worker = Rc::new(Self {
            number: start.number,
            clock: CoarseClock::new(now),
            lane: LocalLane::new(start.lane),
            rejects: RefCell::default(),
            ends: RefCell::default(),
            lines: Lines::default(),
            table: RefCell::new(Rc::new(Table { plan: Arc::clone(&start.plan), services: Vec::new() })),
            links: RefCell::default(),
            resting: Resting::open(),
            load: start.loads.of(start.number),
            active: RefCell::default(),
            loads: start.loads,
            closing: Cell::new(false),
            ebb: RefCell::new(Ebb::new(now)),
            told: start.told,
            peers: start.peers,
        });
        worker.adopt(start.plan);
        (worker, start.orders)
    }

    /// Requests that are under way keep the table they began with.
    pub fn table(&self) -> Rc<Table> {
        Rc::clone(&self.table.borrow())
    }

    pub fn tees_stopped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.table.borrow().plan.tees_stopped)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub fn connections(&self) -> usize {
        self.links.borrow().len() + self.resting.count()
    }

    /// Connections of which only the socket is in use, in the set or out of it.
    pub fn resting(&self) -> usize {
        self.links.borrow().iter().filter(|(_, link)| link.phase() == Phase::Resting).count()
            + self.resting.count()
    }

    /// Counts a connection, for as long as what it gives is kept.
    pub(super) fn count_in(&self) -> Counted {
        Counted::new(&self.load)
    }

    pub(super) fn enter(&self, link: Rc<Link>) -> usize {
        self.links.borrow_mut().insert(link)
    }

    /// A connection has given up what it held.
    pub(super) fn freed(&self) {
        self.ebb.borrow_mut().on_freed();
    }

    pub(super) fn leave(&self, key: usize) {
        self.freed();
        self.links.borrow_mut().try_remove(key);
    }

    /// The sweep looks after `service` from now on, until it is at rest.
    pub fn look_after(&self, service: &Rc<Service>) {
        if service.becomes_active() {
            self.active.borrow_mut().push(Rc::clone(service));
        }
    }

    /// Builds the table of a new plan; services that stay keep their gates, pools and counts.
    fn adopt(self: &Rc<Self>, plan: Arc<Plan>) {
        let before = self.table();
        let before: HashMap<&str, &Service> =
            before.services.iter().map(|service| (&*service.plan.name, &**service)).collect();
        let services = plan.services.iter().map(|service| {
            let told = self.told.clone();
            let (member, name) = (self.number as MemberId, Arc::clone(&service.name));
            let tell = move || -> Box<dyn Fn(Event)> {
                Box::new(move |event| {
                    // Nobody listens any more when the process ends.
                    let _ = told.send(Told { member, service: Arc::clone(&name), event });
                })
            };
            let old = before.get(&*service.name).copied();
            Rc::new(Service::new(Arc::clone(service), self.peers.len(), old, tell))
        });
        let services: Vec<_> = services.collect();
        // What a service had under the old plan it has under this one.
        self.active.borrow_mut().clear();
        for service in &services {
            self.look_after(service);
        }
        *self.table.borrow_mut() = Rc::new(Table { plan, services });
    }

    fn close(&self, stagger: Duration) {
        self.closing.set(true);
        self.resting.clear();
        for (_, link) in self.links.borrow().iter() {
            if link.is_multiplexed() && link.phase() == Phase::Busy && !stagger.is_zero() {
                close_later(Rc::clone(link), stagger);
            } else {
                link.send(Signal::Close);
            }
        }
    }

    fn leave_callers(&self, stagger: Duration) {
        self.closing.set(true);
        // GOAWAY names what is still answered, so it may come at any time.
        for (_, link) in self.links.borrow().iter().filter(|(_, link)| link.is_multiplexed()) {
            close_later(Rc::clone(link), stagger);
        }
    }

    fn cut_all(&self) {
        self.resting.clear();
        for (_, link) in self.links.borrow().iter() {
            link.send(Signal::Cut);
        }
    }
}

/// Closes a connection at some moment within `within`.
fn close_later(link: Rc<Link>, within: Duration) {
    let delay = within.mul_f64(fastrand::f64());
    tokio::task::spawn_local(async move {
        tokio::time::sleep(delay).await;
        link.send(Signal::Close);
    });
}

/// Runs a worker until it is told to stop. `ready` is called once it can take orders.
pub fn run(start: Start, ready: impl FnOnce()) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let (worker, orders) = Worker::new(start, Instant::now());
        ready();
        serve(worker, orders).await;
    });
    Ok(())
}

async fn serve(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) {
    tokio::task::spawn_local(sweep::run(Rc::clone(&worker)));
    tokio::task::spawn_local(resting::watch(Rc::clone(&worker)));
    let mut accepting = Vec::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Plan(plan) => worker.adopt(plan),
            Order::Accept(entrance) => {
                accepting.push(tokio::task::spawn_local(accept(Rc::clone(&worker), entrance)));
            }
            Order::Take { stream, peer, entrance } => match stream.attach() {
                Ok(stream) => connection::begin(&worker, stream, peer, entrance),
                Err(error) => tracing::warn!(%error, "a connection that was passed on is lost"),
            },
            Order::StopAccepting => accepting.drain(..).for_each(|task| task.abort()),
            Order::Gate { service, command } => {
                if let Some(service) = worker.table().named(&service) {
                    service.gate.obey(command);
                }
            }
            Order::HoldFor { service, timeout } => {
                if let Some(service) = worker.table().named(&service) {
                    service.gate.hold_for(timeout);
                }
            }
            Order::Cut { service, generation, done } => {
                let cut = worker.table().named(&service).map_or(0, |of| of.gate.cut(generation));
                let _ = done.send(cut);
            }
            Order::Blockers { service, generation, found } => {
                let blockers = worker
                    .table()
                    .named(&service)
                    .map(|of| of.gate.blockers(generation, Instant::now(), report::BLOCKERS));
                let _ = found.send(blockers.unwrap_or_default());
            }
            Order::Tee { service, tee } => {
                if let Some(service) = worker.table().named(&service) {
                    *service.tee.borrow_mut() = tee;
                }
            }
            Order::Report(reply) => {
                worker.lane.flush();
                let _ = reply.send(report::of(&worker));
            }
            Order::Gather(reply) => {
                let _ = reply.send(report::gather(&worker));
            }
            Order::Close { stagger } => worker.close(stagger),
            Order::Leave { stagger } => worker.leave_callers(stagger),
            Order::CutAll => worker.cut_all(),
            Order::Stop => {
                worker.pass_on_what_waits(Instant::now());
                return;
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, entrance: Arc<Entrance>) {
    let listening = match Listening::register(&entrance.socket) {
        Ok(listening) => listening,
        Err(error) => {
            tracing::error!(%error, address = %entrance.address, "a worker cannot accept here");
            return;
        }
    };
    loop {
        match listening.accept().await {
            Ok((stream, peer)) => {
                if worker.loads.total() >= worker.table().plan.callers.max_connections {
                    count_end(&worker, "too_many_connections");
                    connection::refuse(&stream);
                    continue;
                }
                match worker.loads.behind(worker.number).and_then(|other| worker.peers.get(other)) {
                    Some(other) => pass_on(other, stream, peer, &entrance),
                    None => connection::begin(&worker, stream, peer, Arc::clone(&entrance)),
                }
            }
            Err(error) => {
                count_end(&worker, "accept");
                tracing::warn!(%error, "accepting failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn pass_on(
    other: &mpsc::UnboundedSender<Order>,
    stream: Stream,
    peer: Option<SocketAddr>,
    entrance: &Arc<Entrance>,
) {
    // A worker that has stopped takes nothing any more; the process is ending then.
    if let Ok(stream) = stream.detach() {
        let _ = other.send(Order::Take { stream, peer, entrance: Arc::clone(entrance) });
    }
}
