//! `segue run`: the proxy and its controller, from start to SIGTERM.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{failed, refused};
use crate::admin::AdminError;
use crate::config::{self, Settings};
use crate::control::upgrade::{Door, Given, Predecessor};
use crate::control::{Control, SocketError, Sockets};
use crate::store::Store;
use crate::{admin, logging, service_manager, watch};

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Take the place of the Segue that runs on the same store, without refusing or cutting a caller.
    /// Where none runs, this starts as usual
    #[arg(long)]
    upgrade: bool,
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
        Ok(runtime) => runtime.block_on(serve(settings, args, &log, inherited)),
        Err(error) => failed(&error),
    }
}

async fn serve(
    settings: Settings,
    args: &RunArgs,
    log: &logging::Log,
    mut inherited: Vec<OwnedFd>,
) -> ExitCode {
    let file = args.config.as_path();
    let signals = Signals::new();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let mut predecessor = match predecessor(&settings, args).await {
        Ok(predecessor) => predecessor,
        Err(code) => return code,
    };
    inherited.extend(predecessor.iter_mut().flat_map(Predecessor::take_sockets));
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
    let sockets = Sockets::inherited(inherited);
    let control = match Control::prepare(settings, store, sockets, predecessor.as_mut()).await {
        Ok(control) => control,
        // A port in use or a broken certificate is the configuration's fault, and named as such.
        Err(error) => return refused(&format!("{}: {error}", file.display())),
    };
    let mut admin = match open_admin(&control) {
        Ok(admin) => admin,
        Err(error) => {
            control.stop().await;
            return refused(&format!("{}: {error}", file.display()));
        }
    };
    if let Some(predecessor) = predecessor {
        if let Err(error) = control.take_over(predecessor).await {
            control.stop().await;
            return failed(&error);
        }
        service_manager::notify(&format!("MAINPID={}", std::process::id()));
    }
    control.accept();
    let mut door = control.open_door();
    let mut changes = watch::file(file);
    let resuming = Arc::clone(&control);
    // Beside everything else: whoever runs instances may take its time to answer.
    tokio::task::spawn_local(async move {
        if let Err(error) = resuming.resume_migrations().await {
            tracing::error!(%error, "migrations do not go on; start Segue again");
        }
    });
    for entrance in control.sockets().entrances() {
        tracing::info!(address = %entrance.address, tls = entrance.tls.is_some(), "listening");
    }
    service_manager::notify("READY=1");
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => reload(&control, file, log).await,
            Some(()) = changes.recv() => reload(&control, file, log).await,
            successor = Door::successor(&mut door) => {
                // Its socket goes over; who calls meanwhile waits there.
                if let Some(admin) = admin.take() {
                    admin.stop().await;
                }
                match control.hand_over(successor).await {
                    Ok(given) => return leave(control, given, &mut signals, grace).await,
                    Err(error) => tracing::error!("the upgrade did not happen: {error}"),
                }
                admin = open_admin(&control).unwrap_or_else(|error| {
                    tracing::error!(%error, "the admin API is gone");
                    None
                });
            }
            () = signals.end.asked() => break,
        }
    }
    service_manager::notify("STOPPING=1");
    tracing::info!(?grace, "draining");
    let cut = tokio::select! {
        cut = control.drain(grace) => cut,
        // Asked a second time, in earnest.
        () = signals.end.asked() => 0,
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

/// The process to take over from, if that is asked for and there is one.
async fn predecessor(settings: &Settings, args: &RunArgs) -> Result<Option<Predecessor>, ExitCode> {
    if !args.upgrade {
        return Ok(None);
    }
    let bad = |error: &dyn Display| refused(&format!("{}: {error}", args.config.display()));
    let Some(store) = &settings.state.store else {
        return Err(bad(&"an upgrade needs the store that both processes share; set `state.store`"));
    };
    let predecessor = Predecessor::ask(store).await.map_err(|error| failed(&error))?;
    if let Some(predecessor) = &predecessor {
        predecessor.check(settings).map_err(|error| bad(&error))?;
    }
    Ok(predecessor)
}

/// A successor serves; what is still here comes to its end.
async fn leave(control: Arc<Control>, given: Given, signals: &mut Signals, grace: Duration) -> ExitCode {
    if let Some(pid) = given.pid() {
        service_manager::notify(&format!("MAINPID={pid}"));
    }
    tracing::info!(?grace, "handed over; seeing callers out");
    let in_earnest = async {
        // The first one may be meant for the service as a whole, and this is ending already.
        signals.end.asked().await;
        signals.end.asked().await;
    };
    let cut = tokio::select! {
        cut = control.leave(given, grace) => cut,
        () = in_earnest => 0,
    };
    if cut > 0 {
        tracing::warn!(connections = cut, "cut at the end of the grace period");
    }
    control.stop().await;
    ExitCode::SUCCESS
}

/// On the socket that a predecessor passed on, or on a new one.
fn open_admin(control: &Arc<Control>) -> Result<Option<admin::Running>, OpenError> {
    let settings = control.settings();
    let Some(address) = &settings.admin.listen else { return Ok(None) };
    let socket = control.sockets().admin(address)?;
    Ok(Some(admin::serve(Arc::clone(control), socket, settings.admin.token.as_deref())?))
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the admin API {0}")]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Admin(#[from] AdminError),
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
    end: End,
}

/// What asks for the end.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            end: End {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }
}

impl End {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
