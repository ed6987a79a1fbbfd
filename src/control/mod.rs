//! The control plane of one process: it owns the workers, the gates, the store and the running
//! settings, and carries out what the admin API, signals and reloads ask for.

mod build;
mod change;
mod life;
mod measure;
mod migration;
mod past;
mod services;
mod slots;
mod sockets;
mod status;
mod totals;
mod turns;
pub mod upgrade;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use self::build::BuildError;
pub use self::change::{ReloadError, SwitchoverRequest, TeeChange, TeeError};
pub use self::measure::{BySide, Measurements, ServiceMeasurements};
pub use self::migration::{
    Depth, DryRun, MigrationError, MigrationEvent, MigrationRequest, MigrationView, SourceError,
};
use self::migration::{Migrations, start_again, start_sources};
use self::past::PastSwitchovers;
pub use self::past::SwitchoverCounts;
pub use self::services::ServiceControl;
use self::services::Services;
use self::slots::Slots;
pub use self::sockets::{SocketError, Sockets};
pub use self::status::{LatencyView, ProcessStatus, ServiceStatus, Sides, Summaries, TeeStatus};
use self::totals::SourceTotals;
use self::turns::Turns;
use self::upgrade::Predecessor;
use crate::config::Settings;
use crate::instance::Providers;
use crate::instance::docker::DockerProvider;
#[cfg(feature = "ec2")]
use crate::instance::ec2::{self, Ec2Provider};
use crate::instance::process::ProcessProvider;
use crate::proxy::access::{AccessLog, AccessLogError};
use crate::proxy::crew::{Crew, CrewError};
use crate::proxy::gates::Gates;
use crate::proxy::worker::Order;
use crate::store::{Store, StoreError};
use crate::tee::budget::Memory;
use crate::tee::lane::{Lane, LaneError};

/// How often the workers' histograms are collected, and so the length of the interval that is shown
/// beside the totals.
const COLLECT: Duration = Duration::from_secs(10);

/// Everything that outlives a request.
pub struct Control {
    settings: ArcSwap<Settings>,
    services: ArcSwap<Services>,
    crew: Arc<Crew>,
    gates: Arc<Gates>,
    /// Replaced when an upgrade did not happen and the process takes it back.
    store: ArcSwap<Store>,
    /// Keeps the lane's threads alive.
    _lane: Lane,
    memory: Arc<Memory>,
    /// Empty once a successor has them.
    sockets: ArcSwap<Sockets>,
    access_log: Option<AccessLog>,
    tees_stopped: Arc<AtomicBool>,
    /// Fixed for the process, so that a session that is teed stays teed through reloads.
    seed: u64,
    totals: Arc<Mutex<SourceTotals>>,
    past: PastSwitchovers,
    turns: Turns,
    migrations: Migrations,
    /// Settings are taken over one at a time: building services takes a while.
    reloading: tokio::sync::Mutex<()>,
    started: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Crew(#[from] CrewError),
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the folder of instances, {}, cannot be opened: {error}", folder.display())]
    Instances { folder: PathBuf, error: io::Error },
    #[cfg(feature = "ec2")]
    #[error(transparent)]
    Ec2(#[from] ec2::Ec2Error),
    #[cfg(feature = "ec2")]
    #[error(transparent)]
    Ec2Owner(#[from] ec2::OwnerError),
}

impl Control {
    /// Starts everything but the admin API. Runs on a `LocalRuntime`, which must go on running.
    pub async fn start(
        settings: Settings,
        store: Store,
        inherited: Sockets,
    ) -> Result<Arc<Self>, StartError> {
        let control = Self::prepare(settings, store, inherited, None).await?;
        control.accept();
        Ok(control)
    }

    /// The same without accepting callers yet. Where there is a `predecessor`, its gates go on here.
    pub async fn prepare(
        settings: Settings,
        store: Store,
        inherited: Sockets,
        mut predecessor: Option<&mut Predecessor>,
    ) -> Result<Arc<Self>, StartError> {
        let providers = providers(&settings)?;
        let lane = Lane::start(settings.lane.threads, settings.lane.queue)?;
        let memory = Memory::new(settings.lane.max_bytes);
        let seed = fastrand::u64(..);
        let tees_stopped = Arc::new(AtomicBool::new(false));
        start_sources(&settings, &store, &providers).await?;
        start_again(&store, &providers).await?;
        let mut recorded = store.all_active().await?;
        if let Some(predecessor) = &predecessor {
            predecessor.offer().overlay(&mut recorded);
        }
        let effective = Slots::load(&store).await?.overlay(&settings, &recorded);
        let services = Services::build(&effective, None, &recorded, &memory, seed).await?;
        let sockets = inherited.complete(&settings)?;

        let access_log = settings.log.access.as_deref().map(AccessLog::start).transpose()?;

        let (told, heard) = tokio::sync::mpsc::unbounded_channel();
        let plan = Arc::new(services.plan(&settings, &tees_stopped, access_log.as_ref(), |of| of.start));
        let crew = Arc::new(Crew::start(settings.workers.get(), &plan, &lane, &told)?);
        let gates = Gates::new(Arc::clone(&crew));
        for service in services.iter() {
            gates.add(&service.name, service.start.generation, service.start.active);
        }
        tokio::spawn(Arc::clone(&gates).listen(heard));
        let turns = Turns::default();
        if let (Some(predecessor), Ok(turn)) = (&mut predecessor, turns.upgrade()) {
            predecessor.hold(turn);
        }
        let control = Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            services: ArcSwap::from_pointee(services),
            crew,
            gates,
            store: ArcSwap::from_pointee(store),
            _lane: lane,
            memory,
            sockets: ArcSwap::from_pointee(sockets),
            access_log,
            tees_stopped,
            seed,
            totals: Arc::default(),
            past: PastSwitchovers::default(),
            turns,
            migrations: Migrations::new(providers),
            reloading: tokio::sync::Mutex::default(),
            started: Instant::now(),
        });
        tokio::spawn(collect(Arc::downgrade(&control)));
        Ok(control)
    }

    /// Callers are accepted from now on.
    pub fn accept(&self) {
        for entrance in self.sockets().entrances() {
            self.crew.order(|| Order::Accept(Arc::clone(entrance)));
        }
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub fn sockets(&self) -> Arc<Sockets> {
        self.sockets.load_full()
    }

    fn store(&self) -> Arc<Store> {
        self.store.load_full()
    }

    /// Whether callers may be sent here.
    pub fn is_ready(&self) -> bool {
        !self.turns.is_ending()
    }

    pub fn stop_tees(&self, stopped: bool) {
        self.tees_stopped.store(stopped, Ordering::Relaxed);
    }

    pub fn tees_are_stopped(&self) -> bool {
        self.tees_stopped.load(Ordering::Relaxed)
    }

    fn totals(&self) -> MutexGuard<'_, SourceTotals> {
        lock(&self.totals)
    }
}

/// Whoever runs instances here. What they make is found again by the store's place, so they need one on disk.
fn providers(settings: &Settings) -> Result<Providers, StartError> {
    let Some(store) = &settings.state.store else { return Ok(Providers::none()) };
    let folder = store.join("instances");
    let process = ProcessProvider::open(&folder).map_err(|error| StartError::Instances { folder, error })?;
    // Containers are told from those of another Segue on the same engine by where this one keeps its state.
    let place = store.canonicalize().unwrap_or_else(|_| store.clone());
    let owner = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
    let docker = DockerProvider::connect(&owner.as_str().chars().take(16).collect::<String>());
    let providers = Providers::none().with_process(Arc::new(process)).with_docker(Arc::new(docker));
    #[cfg(feature = "ec2")]
    let providers = match &settings.ec2 {
        Some(access) => {
            let environment: ec2::Environment = Arc::new(|name| std::env::var(name).ok());
            let owner = ec2::owner(store)?;
            let provider = Ec2Provider::connect(&owner, access, environment, ec2::Patience::default())?;
            providers.with_ec2(Arc::new(provider))
        }
        None => providers,
    };
    Ok(providers)
}

/// Totals are whole between any two steps, so a panic elsewhere leaves them usable.
fn lock(totals: &Mutex<SourceTotals>) -> MutexGuard<'_, SourceTotals> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends an interval again and again. What workers have gathered is collected with it even when nobody
/// asks, so that it cannot pile up there.
async fn collect(control: Weak<Control>) {
    loop {
        tokio::time::sleep(COLLECT).await;
        let Some(control) = control.upgrade() else { return };
        control.turn().await;
    }
}
