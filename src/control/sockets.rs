//! The process's listening sockets: inherited from the service manager or a predecessor where they
//! match an address, bound otherwise.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustls_pki_types::UnixTime;

use crate::config::{Address, Settings};
use crate::net;
use crate::proxy::listener::tls::{self, TlsError};
use crate::proxy::listener::{Entrance, TlsListener};

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot listen on {address}: {error}; is another process there?")]
    Bind { address: Address, error: io::Error },
    #[error("TLS on {address}: {error}")]
    Tls { address: Address, error: TlsError },
}

/// Listening sockets by address.
#[derive(Default)]
pub struct Sockets {
    inherited: Vec<OwnedFd>,
    entrances: Vec<Arc<Entrance>>,
    /// The admin API's; bound when it is asked for.
    admin: OnceLock<OwnedFd>,
}

impl Sockets {
    pub fn inherited(sockets: Vec<OwnedFd>) -> Self {
        Self { inherited: sockets, ..Self::default() }
    }

    /// Every listener of the settings, bound, or none.
    pub(super) fn complete(self, settings: &Settings) -> Result<Self, SocketError> {
        let mut inherited = self.inherited;
        let mut entrances = Vec::new();
        for listener in &settings.listeners {
            let address = &listener.address;
            let tls = match &listener.tls {
                None => None,
                Some(tls) => {
                    let prepared = tls::prepare(tls, UnixTime::now())
                        .map_err(|error| SocketError::Tls { address: address.clone(), error })?;
                    for warning in &prepared.warnings {
                        tracing::warn!(%address, "{warning}");
                    }
                    Some(TlsListener::new(prepared))
                }
            };
            let socket = match take(&mut inherited, address) {
                Some(socket) => socket,
                None => net::bind(address)
                    .map_err(|error| SocketError::Bind { address: address.clone(), error })?,
            };
            entrances.push(Arc::new(Entrance {
                address: address.clone(),
                socket,
                tls,
                proxy_protocol: listener.proxy_protocol,
            }));
        }
        let admin = settings.admin.listen.as_ref().and_then(|address| take(&mut inherited, address));
        // What was inherited and is not configured any more closes here.
        Ok(Self { inherited: Vec::new(), entrances, admin: admin.map(OnceLock::from).unwrap_or_default() })
    }

    pub fn entrances(&self) -> &[Arc<Entrance>] {
        &self.entrances
    }

    /// The socket of the admin API at `address`: the inherited one or, from the first call on, its own.
    pub fn admin(&self, address: &Address) -> Result<OwnedFd, SocketError> {
        let failed = |error| SocketError::Bind { address: address.clone(), error };
        let socket = if let Some(socket) = self.admin.get() {
            socket
        } else {
            let bound = net::bind(address).map_err(failed)?;
            self.admin.get_or_init(|| bound)
        };
        socket.try_clone().map_err(failed)
    }

    /// Everything that a successor needs.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.entrances.iter().map(|entrance| entrance.socket.as_fd()).chain(self.admin.get().map(AsFd::as_fd))
    }

    /// Where TCP callers come in; a configured port 0 is the real one here.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.entrances
            .iter()
            .filter_map(|entrance| net::local_address(&entrance.socket).ok().flatten())
            .collect()
    }
}

fn take(sockets: &mut Vec<OwnedFd>, address: &Address) -> Option<OwnedFd> {
    let at = sockets.iter().position(|socket| is_bound_to(socket, address))?;
    Some(sockets.swap_remove(at))
}

fn is_bound_to(socket: &OwnedFd, address: &Address) -> bool {
    let Ok(socket) = socket.try_clone().map(socket2::Socket::from) else { return false };
    let Ok(bound) = socket.local_addr() else { return false };
    match address {
        Address::Tcp(address) => bound.as_socket() == Some(*address),
        Address::Unix(path) => bound.as_pathname() == Some(path.as_path()),
    }
}
