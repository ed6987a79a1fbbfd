//! Lanes: each carries one exchange at a time, and takes the next request that is due.
//!
//! There are as many as are needed at once, up to the limit. Over HTTP/1.1 a lane is a connection;
//! over HTTP/2 many lanes share one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::arrivals::Ask;
use super::client::{Connection, Request, SharedConnections};
use super::tally::{Live, LoadReport, Tally};
use super::{LoadSettings, Reads};
use crate::config::Scheme;
use crate::origin::content;

/// Exchanges at once on one HTTP/2 connection: below the 100 that servers usually allow.
const STREAMS: usize = 64;

/// A request that is to go out now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub at: Instant,
    pub ask: Ask,
}

/// What the lanes share.
struct Crew {
    settings: LoadSettings,
    run: u64,
    waiting: RefCell<VecDeque<Due>>,
    wake: Notify,
    idle: Cell<usize>,
    closed: Cell<bool>,
    tally: RefCell<Tally>,
    shared_connections: SharedConnections,
}

pub(super) async fn run(
    settings: LoadSettings,
    start: Instant,
    mut due: mpsc::UnboundedReceiver<Due>,
    live: Arc<Live>,
) -> LoadReport {
    let most = match settings.target.scheme {
        Scheme::H2c => settings.max_connections.saturating_mul(STREAMS),
        Scheme::Http | Scheme::Https => settings.max_connections,
    };
    // Not from the seed: two runs of one seed against one ledger must not share keys.
    let run = fastrand::u64(..);
    let crew = Rc::new(Crew {
        shared_connections: SharedConnections::new(settings.max_connections),
        settings,
        run,
        waiting: RefCell::default(),
        wake: Notify::new(),
        idle: Cell::new(0),
        closed: Cell::new(false),
        tally: RefCell::new(Tally::new(run, start, live)),
    });
    let mut lanes = JoinSet::new();
    while let Some(due) = due.recv().await {
        crew.waiting.borrow_mut().push_back(due);
        if crew.waiting.borrow().len() > crew.idle.get() && lanes.len() < most {
            lanes.spawn_local(lane(Rc::clone(&crew), lanes.len()));
        } else {
            // The one that rested least: its connection is the least likely to have been closed.
            crew.wake.notify_last();
        }
    }
    crew.closed.set(true);
    crew.wake.notify_waiters();
    while lanes.join_next().await.is_some() {}
    let end = Instant::now();
    crew.tally.replace(Tally::new(run, start, Arc::default())).finish(end)
}

async fn lane(crew: Rc<Crew>, index: usize) {
    let mut connection = Connection::new(index);
    while let Some(due) = crew.next().await {
        let request = crew.request(due.ask);
        crew.tally.borrow_mut().begin(&request);
        let outcome = connection.exchange(&crew.settings, &crew.shared_connections, &request).await;
        crew.tally.borrow_mut().end(&due, &request, outcome, Instant::now());
    }
}

impl Crew {
    async fn next(&self) -> Option<Due> {
        loop {
            if let Some(due) = self.waiting.borrow_mut().pop_front() {
                return Some(due);
            }
            if self.closed.get() {
                return None;
            }
            self.idle.set(self.idle.get() + 1);
            self.wake.notified().await;
            self.idle.set(self.idle.get() - 1);
        }
    }

    fn request(&self, ask: Ask) -> Request {
        match (ask, &self.settings.reads) {
            (Ask::Write(number), _) => Request::write(number, super::tally::key(self.run, number)),
            (Ask::Read(pick), Reads::Paths(paths)) => {
                let index = pick as usize % paths.len();
                Request::read(paths.get(index).cloned().unwrap_or_default(), None)
            }
            // Three items to one stretch of bytes of up to 16 KiB.
            (Ask::Read(pick), Reads::Sample) if pick % 4 == 0 => {
                let length = (pick >> 32) % (16 * 1024);
                Request::read(format!("/bytes/{length}"), Some(content::bytes(length)))
            }
            (Ask::Read(pick), Reads::Sample) => {
                let id = ((pick >> 32) % 1000).to_string();
                let body = content::item(&id).into();
                Request::read(format!("/item/{id}"), Some(body))
            }
        }
    }
}
