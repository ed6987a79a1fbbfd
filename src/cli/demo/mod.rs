//! `segue demo`: the whole main job on embedded parts, in the time it takes to read its report.
//!
//! Two copies of the sample application as child processes with one ledger of writes, the proxy and its
//! controller in this process, an open-loop load, a tee, and in the middle of the load a switchover.
//! Nothing is set differently from what `segue run` does by default, but the tee's percentage.

mod instance;
mod report;

use std::io::{IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use self::instance::{Sample, SampleError};
use self::report::Report;
use super::{failed, refused};
use crate::admin::{self, AdminError};
use crate::config::{self, Endpoint, Percent, Scheme, Settings, Target};
use crate::control::{Control, Sockets, StartError, SwitchoverRequest};
use crate::load::{Load, LoadError, LoadSettings, audit};
use crate::logging;
use crate::migrate::switchover::Refused;
use crate::store::{Store, StoreError};

/// How long the lane may take to finish its last pairs.
const SETTLE: Duration = Duration::from_secs(5);
const SERVICE: &str = "web";
/// Enough writes that a lost one would show, and what a typical site sees at most.
const WRITE_SHARE: f64 = 0.2;

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How long the load runs
    #[arg(long, value_name = "N", default_value_t = 10)]
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
    #[error("the switchover could not start: {0}")]
    Refused(#[from] Refused),
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
        return refused(&"segue: --seconds 0: give the switchover at least a second of load");
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
    let progress = Progress::new(args.json);
    progress.say("starting two sample instances and the proxy");
    let folder = instance::Folder::new()?;
    let source = Sample::start("source", folder.ledger())?;
    let shadow = Sample::start("shadow", folder.ledger())?;
    let mut settings = Settings::smallest(
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        source.endpoint(),
        Some(shadow.endpoint()),
    );
    settings.state.store = Some(folder.store());
    if let Some(web) = settings.services.get_mut(SERVICE) {
        web.tee.percent = percent;
    }
    let control = Control::start(settings, Store::open(&folder.store())?, Sockets::default()).await?;
    let address = *control.sockets().addresses().first().ok_or(DemoError::NoAddress)?;

    let seconds = Duration::from_secs(args.seconds);
    let mut load = LoadSettings::new(http(address), args.rate);
    load.write_share = WRITE_SHARE;
    let mut load = Load::start(load)?;
    let live = Arc::clone(load.live());
    let mut switched = None;
    let begun = std::time::Instant::now();
    while begun.elapsed() < seconds {
        tokio::time::sleep(Duration::from_millis(100).min(seconds)).await;
        if switched.is_none() && begun.elapsed() >= seconds / 2 {
            progress.say("switching over under load");
            switched = Some(control.switchover(SERVICE, SwitchoverRequest::default()).await?);
        }
        progress.update(&format!("{} requests, {} failed", live.done(), live.failed()));
    }
    progress.say("the load ends");
    load.stop();
    let load = load.done().await?;
    let ended = switched.ok_or(Refused::Busy)?;
    let status = settled(&control).await;
    let latency = control.latency(SERVICE).await;
    let (Some(status), Some(latency)) = (status, latency) else { return Err(DemoError::NoAddress) };
    let audit = audit(&load, &source.ledger()?);
    let writes_teed = source.writes_teed()? + shadow.writes_teed()?;
    let report = Report::new(&load, &audit, &status, &latency, &ended, writes_teed);
    progress.clear();
    if args.json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        print!("{report}");
    }
    if args.keep {
        keep(&control, address).await?;
    }
    control.drain(Duration::from_secs(1)).await;
    control.stop().await;
    Ok(report)
}

/// The status once every sampled read has become a pair or a counted skip.
async fn settled(control: &Control) -> Option<crate::control::ServiceStatus> {
    let deadline = std::time::Instant::now() + SETTLE;
    loop {
        let status = control.service(SERVICE).await?;
        let counts = &status.tee.counts;
        let done = counts.teed + counts.skipped.at(crate::tee::skip::Stage::Sampled);
        if done >= counts.sampled || std::time::Instant::now() >= deadline {
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
