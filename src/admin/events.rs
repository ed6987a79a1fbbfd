//! A migration as server-sent events.
//!
//! ```text
//!  event: step        id: 17   data: an entry of the journal
//!  event: migration            data: the migration as it is now, whenever it is not as it was
//! ```
//!
//! Only steps have an id, so that a client that comes back with `Last-Event-ID` misses no step and sees none twice.
//! The stream ends after the last step of a migration, and at once when the API stops: it must not keep the process
//! from ending or from being upgraded.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::problem::Problem;
use crate::control::{Control, MigrationError, MigrationView};

/// Shorter than the minute after which middleboxes take a connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Half of the connections that the API serves: whoever watches must not keep the probes out.
const MOST_STREAMS: usize = super::server::MAX_CONNECTIONS / 2;

/// What all streams of one running API share.
#[derive(Clone)]
pub(super) struct Streams {
    permits: Arc<Semaphore>,
    /// Closed when the API stops.
    stopped: watch::Receiver<()>,
}

impl Streams {
    pub fn new(stopped: watch::Receiver<()>) -> Self {
        Self { permits: Arc::new(Semaphore::new(MOST_STREAMS)), stopped }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Streams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "streams are not served here");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

/// The journal entry that the client has seen last; 0: none.
pub(super) fn last_seen(headers: &HeaderMap) -> Result<u64, Problem> {
    let Some(given) = headers.get("last-event-id") else { return Ok(0) };
    given.to_str().ok().and_then(|id| id.trim().parse().ok()).ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "`Last-Event-ID` has to be the `id` of an event of this stream")
    })
}

pub(super) fn stream(
    control: Arc<Control>,
    id: u64,
    seen: u64,
    streams: Streams,
) -> Result<Response, Problem> {
    let Streams { permits, stopped } = streams;
    let permit = permits.try_acquire_owned().map_err(|_| {
        let detail =
            format!("{MOST_STREAMS} streams are open already; end one of them, or ask again and again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).because("too_many_streams")
    })?;
    let changed = control.migrations_changed();
    let journal = Journal {
        control,
        id,
        seen,
        shown: String::new(),
        over: false,
        changed,
        stopped,
        ready: VecDeque::new(),
        _permit: permit,
    };
    let events = stream::unfold(journal, |mut journal| async move {
        let event = journal.next().await?;
        Some((Ok::<_, Infallible>(event), journal))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// How far a client has come.
struct Journal {
    control: Arc<Control>,
    id: u64,
    /// The last entry that was sent.
    seen: u64,
    /// The migration as it was sent last.
    shown: String,
    /// It has ended, and everything about it is in `ready` or was sent.
    over: bool,
    changed: watch::Receiver<u64>,
    stopped: watch::Receiver<()>,
    ready: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

impl Journal {
    /// `None`: the stream is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // A migration about which there is always something new must not hide the end either.
            if self.over || self.stopped.has_changed().is_err() {
                return None;
            }
            // Whatever happens from here on wakes the wait below.
            self.changed.borrow_and_update();
            if let Err(error) = self.read().await {
                tracing::debug!(%error, migration = self.id, "a stream of events ends early");
                return None;
            }
            if self.ready.is_empty() && !self.over {
                tokio::select! {
                    _ = self.stopped.changed() => return None,
                    changed = self.changed.changed() => changed.ok()?,
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), MigrationError> {
        // First the migration, then its entries: one that is over has all of them by then.
        let view = self.control.migration(self.id).await?.ok_or(MigrationError::NoMigration(self.id))?;
        for entry in self.control.migration_events(self.id, self.seen).await? {
            self.seen = entry.id;
            let event = Event::default().event("step").id(entry.id.to_string()).data(json(&entry));
            self.ready.push_back(event);
        }
        self.show(&view);
        self.over = view.over;
        Ok(())
    }

    fn show(&mut self, view: &MigrationView) {
        let now = json(view);
        if now != self.shown {
            self.ready.push_back(Event::default().event("migration").data(&now));
            self.shown = now;
        }
    }
}

/// On one line, as an event's data has to be.
fn json(value: &impl Serialize) -> String {
    // Plain values and text keys always have a form in JSON.
    serde_json::to_string(value).unwrap_or_default()
}
