//! Connections of the admin API. Each has its bounds, so that slow clients can neither pile up nor keep
//! the others out for longer than a head may take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::events::Streams;
use crate::net::{Listening, Stream};

/// Operators, scrapers and probes are a handful; the next connection waits in the kernel's backlog.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// For a head to arrive; hyper counts the rest between two requests into it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that does not acknowledge its answer for this long is cut by the kernel.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// No head needs more.
const MAX_HEAD: usize = 32 << 10;
/// Out of descriptors, accepting is pointless for a moment.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Of calls that are under way when the API stops; a switchover goes on without its answer.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The API being served. Dropping it is like [`Running::stop`], without waiting.
#[derive(Debug)]
pub struct Running {
    /// Closing it says stop.
    stop: watch::Sender<()>,
    accepting: JoinHandle<()>,
    address: Option<SocketAddr>,
}

impl Running {
    /// Where it listens, with the real port; `None` on a Unix socket.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Accepts nothing more, ends streams, and lets other calls under way end, for a second at most.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "the admin API did not stop in order");
        }
    }
}

pub(super) fn start(app: Router, listening: Listening, address: Option<SocketAddr>) -> Running {
    let (stop, stopped) = watch::channel(());
    let app = app.layer(Extension(Streams::new(stopped.clone())));
    let accepting = tokio::task::spawn_local(accept(app, listening, stopped));
    Running { stop, accepting, address }
}

async fn accept(app: Router, listening: Listening, mut stopped: watch::Receiver<()>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listening.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = stopped.changed() => break,
            next = next => next,
        };
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (app, stopped) = (app.clone(), stopped.clone());
                open.spawn_local(async move {
                    serve(app, stream, stopped).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the admin socket failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listening);
    let rest = async { while open.join_next().await.is_some() {} };
    // What is left is dropped with the set.
    let _ = tokio::time::timeout(STOP_PATIENCE, rest).await;
}

async fn serve(app: Router, stream: Stream, mut stopped: watch::Receiver<()>) {
    if let Stream::Tcp(tcp) = &stream
        && let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(Some(UNREAD_TIMEOUT))
    {
        tracing::debug!(%error, "an admin connection has no limit on unread answers");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection broke");
    }
}
