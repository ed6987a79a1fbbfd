//! `segue demo`: the whole main job on embedded parts, in the time it takes to read its report.
//!
//! The sample application as a process that Segue runs, the proxy and its controller in this process, an open-loop
//! load, and under it a whole migration to a second copy. Both copies write into one ledger. Nothing is set
//! differently from what `segue run` does by default but the tee's percentage and the times after the switch, which
//! nobody wants to wait for.

mod instance;
mod report;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::instance::{Folder, Sample, SampleError};
use self::report::Report;
use super::{failed, refused};
use crate::admin::{self, AdminError};
use crate::config::{
    self, Allocation, ByteSize, Endpoint, InstanceName, Millicores, Percent, Process, Run, Scheme,
    ServiceProtocol, Settings, Target, Workload,
};
use crate::control::{Control, Depth, MigrationError, MigrationRequest, Sockets, StartError};
use crate::instance::Provider as _;
use crate::instance::process::ProcessProvider;
use crate::load::{Load, LoadError, LoadSettings, audit};
use crate::logging;
use crate::store::{Store, StoreError};

/// How long the lane may take to finish its last pairs.
const SETTLE: Duration = Duration::from_secs(5);
const SERVICE: &str = "web";
const LOOK: Duration = Duration::from_millis(100);
/// Of the source; the new instance starts with half of it and is resized to all of it.
const ALLOCATION: Allocation =
    Allocation { cpu: Millicores(1000), memory: ByteSize::mib(256), storage: ByteSize::mib(64) };
/// A migration judged by fewer pairs would show nothing.
const LEAST_PAIRS: u64 = 20;
/// Enough writes that a lost one would show, and what a typical site sees at most.
const WRITE_SHARE: f64 = 0.2;

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How long the load runs at least; it ends with the migration
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
    /// Requests per second, due whether or not earlier ones were answered
    #[arg(long, value_name = "RPS", default_value_t = 1000.0)]
    rate: f64,
    /// Per cent of the reads that are teed
    #[arg(long, value_name = "P", default_value_t = 5.0)]
    percent: f64,
    /// Print one JSON object on stdout, and nothing else
    #[arg(long)]
    json: bool,
    /// Stay up afterwards, with the admin API, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error("interrupted")]
    Interrupted,
    #[error("the demo's own proxy has no address")]
    NoAddress,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Exit 0 only if no request failed, no write was lost, doubled or teed, and the shadow is active.
pub fn run(args: &DemoArgs) -> ExitCode {
    let Some(percent) = Percent::new(args.percent) else {
        return refused(&format!("segue: --percent {}: write a number from 0 to 100", args.percent));
    };
    if args.seconds == 0 {
        return refused(&"segue: --seconds 0: give the migration at least a second of load");
    }
    let quiet = config::Log { filter: "warn".into(), ..config::Log::default() };
    if let Err(error) = logging::start(&quiet) {
        return failed(&error);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let shown = match runtime {
        Ok(runtime) => runtime.block_on(show(args, percent)),
        Err(error) => return failed(&error),
    };
    match shown {
        Ok(report) => {
            if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => failed(&error),
    }
}

async fn show(args: &DemoArgs, percent: Percent) -> Result<Report, DemoError> {
    // What was started has to be ended, however this ends.
    let mut terminate = signal(SignalKind::terminate())?;
    let folder = Folder::new()?;
    let settings = settings(args, percent, &folder)?;
    let progress = Progress::new(args.json);
    progress.say("starting the sample application behind the proxy");
    let starting = Control::start(settings, Store::open(&folder.store())?, Sockets::default());
    let started = tokio::select! {
        started = starting => started.map_err(DemoError::from),
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
        _ = terminate.recv() => Err(DemoError::Interrupted),
    };
    let control = match started {
        Ok(control) => control,
        Err(error) => {
            // Its source may run already, and nobody else knows of it.
            end_what_runs(&folder).await?;
            return Err(error);
        }
    };
    let shown = tokio::select! {
        shown = move_it(args, percent, &control, &folder, &progress) => shown,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
        _ = terminate.recv() => Err(DemoError::Interrupted),
    };
    control.drain(Duration::from_secs(1)).await;
    control.end_instances().await;
    control.stop().await;
    shown
}

async fn end_what_runs(folder: &Folder) -> std::io::Result<()> {
    let provider = ProcessProvider::open(&folder.store().join("instances"))?;
    for id in provider.list().await.unwrap_or_default() {
        if let Err(error) = provider.destroy(&id).await {
            tracing::error!(%error, instance = %id, "an instance was left behind");
        }
    }
    Ok(())
}

/// One service, whose source is a process of this same binary.
fn settings(args: &DemoArgs, percent: Percent, folder: &Folder) -> Result<Settings, DemoError> {
    let nowhere =
        Endpoint { scheme: Scheme::Http, target: Target::Host { name: "localhost".to_owned(), port: 1 } };
    let mut settings = Settings::smallest(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), nowhere, None);
    settings.state.store = Some(folder.store());
    if let Some(web) = settings.services.get_mut(SERVICE) {
        let workload = Workload::Process(sample(folder)?);
        web.source =
            config::Instance { endpoints: Vec::new(), run: Some(Run { workload, allocation: ALLOCATION }) };
        web.tee.percent = percent;
        web.migration.watch = (Duration::from_secs(args.seconds) / 5).min(web.migration.watch);
        web.migration.grace = Duration::from_secs(1);
    }
    Ok(settings)
}

async fn move_it(
    args: &DemoArgs,
    percent: Percent,
    control: &Arc<Control>,
    folder: &Folder,
    progress: &Progress,
) -> Result<Report, DemoError> {
    let address = *control.sockets().addresses().first().ok_or(DemoError::NoAddress)?;
    let mut load = LoadSettings::new(http(address), args.rate);
    load.write_share = WRITE_SHARE;
    let mut load = Load::start(load)?;
    let live = Arc::clone(load.live());
    let seconds = Duration::from_secs(args.seconds);
    let source = Sample::of(control, InstanceName::Source).await?;
    let begun = Instant::now();
    progress.say("  0.0 s  dry run");
    let dry_run = control.try_migration(request(args, percent, folder)?, Depth::Full).await?;
    let mut migration = control.start_migration(request(args, percent, folder)?).await?;
    let mut writes_teed = 0;
    let mut phase = "";
    let mut took = Duration::ZERO;
    while !migration.over || begun.elapsed() < seconds {
        tokio::time::sleep(LOOK).await;
        migration =
            control.migration(migration.id).await?.ok_or(MigrationError::NoMigration(migration.id))?;
        if phase != migration.phase {
            phase = migration.phase;
            took = begun.elapsed();
            progress.say(&format!("{:>5.1} s  {phase}", took.as_secs_f64()));
        }
        // Until it is retired.
        let asked = source.clone();
        let seen = tokio::task::spawn_blocking(move || asked.writes_teed()).await;
        writes_teed = seen.ok().and_then(Result::ok).unwrap_or(writes_teed);
        let waits = migration.reason.as_deref().unwrap_or_default();
        progress.update(&format!("{} requests, {} failed; {waits}", live.done(), live.failed()));
    }
    load.stop();
    let load = load.done().await?;
    let status = settled(control).await;
    let latency = control.latency(SERVICE).await;
    let (Some(status), Some(latency)) = (status, latency) else { return Err(DemoError::NoAddress) };
    let now = Sample::of(control, status.active).await?;
    let audit = audit(&load, &now.ledger()?);
    if status.active == InstanceName::Shadow {
        writes_teed += now.writes_teed()?;
    }
    let report = Report::new(&load, &audit, &status, &latency, dry_run, (&migration, took), writes_teed);
    progress.clear();
    if args.json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        print!("{report}");
    }
    if args.keep {
        keep(control, address).await?;
    }
    Ok(report)
}

/// The same application again, with as much as the source has.
fn request(args: &DemoArgs, percent: Percent, folder: &Folder) -> Result<MigrationRequest, DemoError> {
    let to = serde_json::to_value(Workload::Process(sample(folder)?)).unwrap_or_default();
    let reads = args.rate * (1.0 - WRITE_SHARE) * percent.as_f64() / 100.0;
    let expected = (reads * args.seconds as f64 / 3.0) as u64;
    Ok(MigrationRequest {
        to: Some(to),
        // A load that is too thin for the usual sample is judged by what it can show; the report says by how much.
        min_pairs: Some(config::Migration::default().min_pairs.min(expected).max(LEAST_PAIRS)),
        ..MigrationRequest::of(SERVICE)
    })
}

fn sample(folder: &Folder) -> Result<Process, DemoError> {
    let binary = std::env::current_exe()?.display().to_string();
    let arguments =
        ["origin", "--listen", "127.0.0.1:{port}", "--workers", "1", "--name", "{role}", "--ledger"];
    let mut command = vec![binary];
    command.extend(arguments.map(str::to_owned));
    command.push(folder.ledger().display().to_string());
    Ok(Process {
        command,
        environment: BTreeMap::new(),
        directory: None,
        protocol: ServiceProtocol::Http,
        egress: None,
        keep_egress: false,
    })
}

/// The status once every sampled read has become a pair or a counted skip.
async fn settled(control: &Control) -> Option<crate::control::ServiceStatus> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let status = control.service(SERVICE).await?;
        let counts = &status.tee.counts;
        let done = counts.teed + counts.skipped.at(crate::tee::skip::Stage::Sampled);
        if done >= counts.sampled || Instant::now() >= deadline {
            return Some(status);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn keep(control: &Arc<Control>, address: SocketAddr) -> Result<(), DemoError> {
    let admin = admin::open(control)?;
    eprintln!("\nserving on http://{address}");
    if let Some(admin) = admin.as_ref().and_then(admin::Running::address) {
        eprintln!("admin API on http://{admin}, such as http://{admin}/v1/status");
    }
    eprintln!("Ctrl-C ends it");
    Ok(tokio::signal::ctrl_c().await?)
}

fn http(address: SocketAddr) -> Endpoint {
    let target = Target::Host { name: address.ip().to_string(), port: address.port() };
    Endpoint { scheme: Scheme::Http, target }
}

/// Progress on stderr: lines that overwrite each other on a terminal, nothing with `--json`.
struct Progress {
    shown: bool,
    terminal: bool,
}

impl Progress {
    fn new(json: bool) -> Self {
        Self { shown: !json, terminal: std::io::stderr().is_terminal() }
    }

    fn say(&self, text: &str) {
        if self.shown {
            self.clear();
            eprintln!("{text}");
        }
    }

    fn update(&self, text: &str) {
        if self.shown && self.terminal {
            eprint!("\r\x1b[2K{text}");
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.shown && self.terminal {
            eprint!("\r\x1b[2K");
        }
    }
}
