//! The predecessor's side: it is asked, hands everything over, and stays a member of the gates until the
//! last of its callers has gone.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::protocol::{
    FromPredecessor, FromSuccessor, Instances, Offer, OfferedService, PROTOCOL, Receiver, Sender, line,
};
use super::takeover::VERSION;
use crate::config::Park;
use crate::control::Control;
use crate::control::turns::{NoUpgrade, UpgradeTurn};
use crate::proxy::gate::Command;
use crate::proxy::gate::controller::MemberId;
use crate::proxy::gate::member::Generation;
use crate::proxy::gates::Gates;
use crate::proxy::worker::{Order, Told};
use crate::store::{Store, StoreError};

/// Whoever connects says hello at once.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Opening the store, resolving names and starting threads takes a fraction of it, even on a busy machine.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// A successor that is told to go away ends; its store is free then.
const GONE_PATIENCE: Duration = Duration::from_secs(5);
/// How often the store is tried until the successor's end has released it.
const RECLAIM_EVERY: Duration = Duration::from_millis(50);
/// A successor that died releases the store at once; one that hangs may take for ever.
const RECLAIM_PATIENCE: Duration = Duration::from_secs(1);
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Where successors come in.
pub struct Door {
    successors: mpsc::Receiver<Successor>,
    task: JoinHandle<()>,
}

/// A process that asks to take over. Until this is dropped no switchover begins.
pub struct Successor {
    sender: Sender,
    receiver: Receiver,
    pid: Option<u32>,
    version: String,
    turn: UpgradeTurn,
}

/// Everything went over to this successor.
pub struct Given {
    sender: Sender,
    receiver: Receiver,
    pid: Option<u32>,
    told: mpsc::UnboundedReceiver<Told>,
}

/// Why everything stays where it was.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("the store did not close: {0}")]
    Store(#[from] StoreError),
    #[error("the successor could not be spoken to: {0}")]
    Line(#[from] io::Error),
    #[error("the successor ended before it was ready; its own log says why")]
    Died,
    #[error("the successor was not ready within {0:?}")]
    TooLate(Duration),
    #[error("the successor said something else than that it is ready")]
    Misspoke,
}

impl Given {
    pub const fn pid(&self) -> Option<u32> {
        self.pid
    }
}

// === impl Door ===

impl Door {
    /// Opens it in the store's directory. Whoever holds the store may replace what an earlier process
    /// left there.
    fn open(store: &Path, control: &Arc<Control>) -> io::Result<Self> {
        let path = super::door(store);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        // One at a time: the next one is refused by its turn, before it gets here.
        let (asking, successors) = mpsc::channel(1);
        let task = tokio::task::spawn_local(answer(listener, Arc::downgrade(control), asking));
        Ok(Self { successors, task })
    }

    /// The next process that may take over; waits for ever where none can come.
    pub async fn successor(this: &mut Option<Self>) -> Successor {
        match this {
            Some(door) => match door.successors.recv().await {
                Some(successor) => successor,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(listener: UnixListener, control: std::sync::Weak<Control>, asking: mpsc::Sender<Successor>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a successor could not connect");
                tokio::time::sleep(RECLAIM_EVERY).await;
                continue;
            }
        };
        let Some(control) = control.upgrade() else { return };
        let asked = tokio::time::timeout(HELLO_PATIENCE, hello(&control, stream)).await;
        if let Ok(Some(successor)) = asked
            && asking.send(successor).await.is_err()
        {
            return;
        }
    }
}

/// Hears who is there, and says so when the answer is no.
async fn hello(control: &Control, stream: UnixStream) -> Option<Successor> {
    let peer = stream.peer_cred().ok()?;
    let (sender, mut receiver) = line(stream);
    let reason = match receiver.receive().await {
        _ if peer.uid() != rustix::process::geteuid().as_raw() && peer.uid() != 0 => {
            "it may be upgraded by its own user and by root only".to_owned()
        }
        Ok(Some(FromSuccessor::Hello { protocol: PROTOCOL, version })) => match control.upgrade_turn() {
            Ok(turn) => {
                let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
                return Some(Successor { sender, receiver, pid, version, turn });
            }
            Err(reason) => reason.to_string(),
        },
        Ok(Some(FromSuccessor::Hello { protocol, .. })) => format!(
            "it speaks version {PROTOCOL} of the upgrade protocol and not {protocol}; stop it, then start this one"
        ),
        Ok(_) | Err(_) => return None,
    };
    tracing::warn!(reason, "an upgrade was refused");
    // It may have given up by itself.
    let _ = sender.send(&FromPredecessor::Refused { reason }).await;
    None
}

impl Control {
    /// Where a successor can ask for this process's place: only a process with a store on disk has one.
    pub fn open_door(self: &Arc<Self>) -> Option<Door> {
        let settings = self.settings();
        let store = settings.state.store.as_ref()?;
        let door = Door::open(store, self);
        door.inspect_err(|error| {
            tracing::warn!(%error, "this process cannot be upgraded without an interruption");
        })
        .ok()
    }

    fn upgrade_turn(&self) -> Result<UpgradeTurn, NoUpgrade> {
        if self.gates.has_predecessor() {
            // It obeys this process, which therefore has to stay.
            return Err(NoUpgrade::Upgrading);
        }
        self.turns.upgrade()
    }

    /// Gives everything to `successor`, or says why not and goes on as if nothing had been. Callers are
    /// served all the time. The admin API has to be stopped meanwhile.
    pub async fn hand_over(self: &Arc<Self>, successor: Successor) -> Result<Given, HandoverError> {
        let Successor { sender, mut receiver, pid, version, turn } = successor;
        tracing::info!(pid, version, "handing over");
        match self.offer_to(&sender, &mut receiver).await {
            Ok(told) => Ok(Given { sender, receiver, pid, told }),
            Err(error) => {
                // The end of the line ends the successor.
                drop((sender, receiver));
                let control = Arc::clone(self);
                let taking = tokio::task::spawn_local(async move {
                    control.take_back().await;
                    drop(turn);
                    if let Err(error) = control.resume_migrations().await {
                        tracing::error!(%error, "migrations stand still until this process is started again");
                    }
                });
                let _ = tokio::time::timeout(RECLAIM_PATIENCE, taking).await;
                Err(error)
            }
        }
    }

    async fn offer_to(
        &self,
        sender: &Sender,
        receiver: &mut Receiver,
    ) -> Result<mpsc::UnboundedReceiver<Told>, HandoverError> {
        // Whoever has the store drives migrations; none of them is switching over.
        self.migrations.let_go();
        self.migrations.dry_runs_are_over().await;
        self.store().close().await?;
        let sockets = self.sockets();
        let sockets: Vec<BorrowedFd<'_>> = sockets.all().collect();
        let offer = FromPredecessor::Offer(self.offer(sockets.len()));
        sender.send_with(&offer, &sockets).await?;

        match tokio::time::timeout(READY_PATIENCE, receiver.receive()).await {
            Ok(Ok(Some(FromSuccessor::Ready))) => {}
            Ok(Ok(None)) => return Err(HandoverError::Died),
            Ok(Ok(Some(_))) => return Err(HandoverError::Misspoke),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let reason = format!("it was not ready within {READY_PATIENCE:?}");
                sender.send(&FromPredecessor::Refused { reason }).await?;
                let gone = async { while let Ok(Some(_)) = receiver.receive::<FromSuccessor>().await {} };
                let _ = tokio::time::timeout(GONE_PATIENCE, gone).await;
                return Err(HandoverError::TooLate(READY_PATIENCE));
            }
        }
        let told = self.gates.follow();
        if let Err(error) = sender.send(&FromPredecessor::Yours).await {
            self.gates.lead();
            return Err(error.into());
        }
        self.accept_no_more();
        Ok(told)
    }

    fn offer(&self, sockets: usize) -> Offer {
        let (services, configured) = (self.services.load(), self.settings());
        let services = services.iter().filter_map(|service| {
            let gate = self.gates.state(&service.name)?;
            Some(OfferedService {
                name: Arc::clone(&service.name),
                generation: gate.generation,
                active: gate.active,
                effective: Instances::of(&service.settings),
                configured: configured.services.get(&*service.name).map(Instances::of),
            })
        });
        let (version, workers) = (VERSION.to_owned(), self.crew.len() as MemberId);
        Offer { version, sockets, workers, services: services.collect() }
    }

    /// Opens the store again, as soon as the successor's end has released it.
    async fn take_back(&self) {
        let settings = self.settings();
        let Some(directory) = &settings.state.store else { return };
        let mut said = false;
        loop {
            match Store::open(directory) {
                Ok(store) => return self.store.store(Arc::new(store)),
                Err(StoreError::Held { .. }) if !said => {}
                Err(error) if !said => {
                    said = true;
                    tracing::error!(%error, "the store cannot be taken back; no switchover is possible until it can");
                }
                Err(_) => {}
            }
            tokio::time::sleep(RECLAIM_EVERY).await;
        }
    }

    /// Sees the callers out that are still here, while the gates obey the successor. Returns when all
    /// are gone or `grace` is over, and says how many connections had to be cut.
    pub async fn leave(self: &Arc<Self>, given: Given, grace: Duration) -> usize {
        let services = self.services.load();
        let generation = |name| self.gates.state(name).map(|gate| gate.generation);
        let generations =
            services.iter().filter_map(|of| Some((Arc::clone(&of.name), generation(&of.name)?)));
        let obeying = tokio::task::spawn_local(obey(Arc::clone(&self.gates), given, generations.collect()));
        let cut = self.see_out(grace, |stagger| Order::Leave { stagger }).await;
        // Ends what is left, and with the workers what can be told.
        self.crew.stop();
        if tokio::time::timeout(FLUSH_PATIENCE, obeying).await.is_err() {
            tracing::warn!("the successor does not listen");
        }
        cut
    }
}

/// Obeys the successor until the workers have stopped.
async fn obey(gates: Arc<Gates>, given: Given, mut generations: BTreeMap<Arc<str>, Generation>) {
    let Given { sender, mut receiver, mut told, .. } = given;
    loop {
        let sent = tokio::select! {
            event = told.recv() => match event {
                Some(Told { member, service, event }) => {
                    sender.send(&FromPredecessor::Told { member, service, event }).await
                }
                None => return,
            },
            message = receiver.receive() => match message {
                Ok(Some(FromSuccessor::Gate { service, command })) => {
                    gates.relay(&service, command);
                    if let Command::Resume { generation, .. } = command {
                        generations.insert(service, generation);
                    }
                    Ok(())
                }
                Ok(Some(FromSuccessor::HoldFor { service, timeout })) => {
                    gates.hold_for(&service, timeout);
                    Ok(())
                }
                Ok(Some(FromSuccessor::Cut { number, service, generation })) => {
                    let count = gates.cut(&service, generation).await;
                    sender.send(&FromPredecessor::Cut { number, count }).await
                }
                Ok(Some(FromSuccessor::Blockers { number, service, generation })) => {
                    let blockers = gates.blockers(&service, generation).await;
                    sender.send(&FromPredecessor::Blockers { number, blockers }).await
                }
                Ok(Some(FromSuccessor::Hello { .. } | FromSuccessor::Ready)) => Ok(()),
                Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = sent {
            // Whoever decides next does not know this member, so it must not let anything through.
            tracing::error!(%error, "the successor is gone; no new request is let through here");
            for (service, generation) in generations {
                gates.relay(&service, Command::Close { generation, park: Park::All });
            }
            return;
        }
    }
}
