//! The successor's side: it asks, gets ready, takes over, and commands what is left of the predecessor.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{
    FromPredecessor, FromSuccessor, Offer, OtherEndpoints, PROTOCOL, Receiver, Sender, line,
};
use crate::config::Settings;
use crate::control::Control;
use crate::control::turns::UpgradeTurn;
use crate::proxy::gate::controller::MemberId;
use crate::proxy::gate::local::Blocker;
use crate::proxy::gates::Gates;
use crate::proxy::worker::{Order, Told};

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A predecessor stops its admin API and closes its store before it answers, and it may have to finish
/// hearing out somebody else first.
const OFFER_PATIENCE: Duration = Duration::from_secs(15);

/// The running process whose place this one takes.
pub struct Predecessor {
    sender: Sender,
    receiver: Receiver,
    offer: Offer,
    sockets: Vec<OwnedFd>,
    pid: Option<u32>,
    /// Keeps switchovers from beginning here before this process is the one that serves.
    turn: Option<UpgradeTurn>,
}

#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("cannot speak to the running process over {path}: {error}")]
    Line { path: String, error: io::Error },
    #[error("the running process refused: {0}")]
    Refused(String),
    #[error("the running process ended in the middle of it; start this one again")]
    Ended,
    #[error("the running process did not answer within {0:?}")]
    Silent(Duration),
    #[error("the running process said something that does not belong here; stop it, then start this one")]
    Misspoke,
    #[error("only {got} of {offered} sockets arrived; raise the limit of open files")]
    SocketsLost { got: usize, offered: usize },
    #[error(transparent)]
    OtherEndpoints(#[from] OtherEndpoints),
}

// === impl Predecessor ===

impl Predecessor {
    /// Asks the process that holds the store in this directory; `None` if there is none. When this is
    /// dropped, that process takes everything back.
    pub async fn ask(store: &Path) -> Result<Option<Self>, TakeoverError> {
        let path = super::door(store);
        let failed = |error| TakeoverError::Line { path: path.display().to_string(), error };
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let peer = stream.peer_cred().map_err(failed)?;
        let (sender, mut receiver) = line(stream);
        let hello = FromSuccessor::Hello { protocol: PROTOCOL, version: VERSION.to_owned() };
        sender.send(&hello).await.map_err(failed)?;
        let answer = tokio::time::timeout(OFFER_PATIENCE, receiver.receive()).await;
        let offer = match answer.map_err(|_| TakeoverError::Silent(OFFER_PATIENCE))?.map_err(failed)? {
            Some(FromPredecessor::Offer(offer)) => offer,
            Some(FromPredecessor::Refused { reason }) => return Err(TakeoverError::Refused(reason)),
            Some(_) => return Err(TakeoverError::Misspoke),
            None => return Err(TakeoverError::Ended),
        };
        let sockets = receiver.take_sockets();
        if sockets.len() != offer.sockets {
            return Err(TakeoverError::SocketsLost { got: sockets.len(), offered: offer.sockets });
        }
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        Ok(Some(Self { sender, receiver, offer, sockets, pid, turn: None }))
    }

    /// Whether these settings can go on where it stops.
    pub fn check(&self, settings: &Settings) -> Result<(), TakeoverError> {
        Ok(self.offer.check(settings)?)
    }

    /// Its listening sockets, once.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    pub const fn pid(&self) -> Option<u32> {
        self.pid
    }

    pub(in crate::control) const fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(in crate::control) fn hold(&mut self, turn: UpgradeTurn) {
        self.turn = Some(turn);
    }
}

impl Control {
    /// Says that everything is prepared, and returns once this process is the one that serves.
    pub async fn take_over(self: &Arc<Self>, predecessor: Predecessor) -> Result<(), TakeoverError> {
        let Predecessor { sender, mut receiver, offer, pid, turn: _turn, .. } = predecessor;
        let services = offer.services.iter().map(|service| Arc::clone(&service.name));
        let (first, orders) = self.gates.join_predecessor(offer.workers, services);
        // If it cannot hear this any more, it says nothing more either.
        let _ = sender.send(&FromSuccessor::Ready).await;
        match receiver.receive().await {
            Ok(Some(FromPredecessor::Yours)) => {}
            Ok(Some(FromPredecessor::Refused { reason })) => return Err(TakeoverError::Refused(reason)),
            Ok(Some(_)) => return Err(TakeoverError::Misspoke),
            // It has died, and callers have nobody else.
            Ok(None) | Err(_) => {
                tracing::warn!(pid, "the predecessor ended in the middle of the handover");
                self.gates.part_from_predecessor();
                return Ok(());
            }
        }
        tracing::info!(pid, version = offer.version, "took over");
        let gates = Arc::clone(&self.gates);
        tokio::task::spawn_local(async move {
            command(&gates, &sender, receiver, first, orders).await;
            gates.part_from_predecessor();
            tracing::info!(pid, "the predecessor has gone");
        });
        Ok(())
    }
}

/// Speaks for the predecessor's workers until it has gone.
async fn command(
    gates: &Gates,
    sender: &Sender,
    mut receiver: Receiver,
    first: MemberId,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut cuts: HashMap<u64, oneshot::Sender<usize>> = HashMap::new();
    let mut searches: HashMap<u64, oneshot::Sender<Vec<Blocker>>> = HashMap::new();
    let mut number = 0;
    loop {
        let message = tokio::select! {
            order = orders.recv() => {
                number += 1;
                match order {
                    Some(Order::Gate { service, command }) => Some(FromSuccessor::Gate { service, command }),
                    Some(Order::HoldFor { service, timeout }) => {
                        Some(FromSuccessor::HoldFor { service, timeout })
                    }
                    Some(Order::Cut { service, generation, done }) => {
                        cuts.insert(number, done);
                        Some(FromSuccessor::Cut { number, service, generation })
                    }
                    Some(Order::Blockers { service, generation, found }) => {
                        searches.insert(number, found);
                        Some(FromSuccessor::Blockers { number, service, generation })
                    }
                    // The gates give no other order.
                    Some(_) => None,
                    None => return,
                }
            }
            received = receiver.receive() => {
                match received {
                    Ok(Some(FromPredecessor::Told { member, service, event })) => {
                        gates.hear(Told { member: first.saturating_add(member), service, event });
                    }
                    // Whoever asked may have stopped waiting.
                    Ok(Some(FromPredecessor::Cut { number, count })) => {
                        let _ = cuts.remove(&number).map(|done| done.send(count));
                    }
                    Ok(Some(FromPredecessor::Blockers { number, blockers })) => {
                        let _ = searches.remove(&number).map(|found| found.send(blockers));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the predecessor broke off");
                        return;
                    }
                }
                None
            }
        };
        if let Some(message) = message
            && sender.send(&message).await.is_err()
        {
            return;
        }
    }
}
