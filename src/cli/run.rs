//! `segue run`: the proxy and its controller, from start to SIGTERM.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{failed, refused};
use crate::config::{self, Settings};
use crate::control::{Control, Sockets};
use crate::store::Store;
use crate::{admin, logging, service_manager, watch};

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: &RunArgs) -> ExitCode {
    let settings = match config::load(&args.config) {
        Ok(settings) => settings,
        Err(faults) => return refused(&faults),
    };
    let log = match logging::start(&settings.log) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    let inherited = match service_manager::sockets() {
        Ok(sockets) => sockets,
        Err(error) => return failed(&error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(serve(settings, &args.config, &log, inherited)),
        Err(error) => failed(&error),
    }
}

async fn serve(settings: Settings, file: &Path, log: &logging::Log, inherited: Vec<OwnedFd>) -> ExitCode {
    let signals = Signals::new();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let store = if let Some(directory) = &settings.state.store {
        Store::open(directory)
    } else {
        tracing::warn!("no `state.store` is set: after a restart the configured source is active again");
        Store::in_memory()
    };
    let store = match store {
        Ok(store) => store,
        Err(error) => return failed(&error),
    };
    let grace = settings.shutdown_grace;
    let control = match Control::start(settings, store, Sockets::inherited(inherited)).await {
        Ok(control) => control,
        // A port in use or a broken certificate is the configuration's fault, and named as such.
        Err(error) => return refused(&format!("{}: {error}", file.display())),
    };
    let admin = match admin::open(&control) {
        Ok(admin) => admin,
        Err(error) => {
            control.stop().await;
            return refused(&format!("{}: {error}", file.display()));
        }
    };
    let mut changes = watch::file(file);
    for entrance in control.sockets().entrances() {
        tracing::info!(address = %entrance.address, tls = entrance.tls.is_some(), "listening");
    }
    service_manager::notify("READY=1");
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => reload(&control, file, log).await,
            Some(()) = changes.recv() => reload(&control, file, log).await,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    service_manager::notify("STOPPING=1");
    tracing::info!(?grace, "draining");
    let cut = tokio::select! {
        cut = control.drain(grace) => cut,
        // Asked a second time, in earnest.
        _ = signals.terminate.recv() => 0,
        _ = signals.interrupt.recv() => 0,
    };
    if cut > 0 {
        tracing::warn!(connections = cut, "cut at the end of the grace period");
    }
    if let Some(admin) = admin {
        admin.stop().await;
    }
    control.stop().await;
    ExitCode::SUCCESS
}

async fn reload(control: &Arc<Control>, file: &Path, log: &logging::Log) {
    service_manager::notify_reloading();
    let settings = match config::load(file) {
        Ok(settings) => settings,
        Err(faults) => {
            tracing::error!("the configuration was not taken over:\n{faults}");
            return service_manager::notify("READY=1");
        }
    };
    if settings == *control.settings() && settings.listeners.iter().all(|listener| listener.tls.is_none()) {
        return service_manager::notify("READY=1");
    }
    let filter = settings.log.filter.clone();
    match control.reload(settings).await {
        Ok(()) => {
            log.set_filter(&filter);
            tracing::info!("the configuration was taken over");
        }
        Err(error) => tracing::error!("the configuration was not taken over: {error}"),
    }
    service_manager::notify("READY=1");
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}
