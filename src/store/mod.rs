//! What outlives the process: which instance is active, and the journal of what was done about it.
//!
//! One `SQLite` file in a directory of its own, written by one thread, held by one process. `SQLite` blocks, so
//! nobody calls it from a runtime: callers send closures to the store's thread and await its reply. Every write is
//! one transaction under `synchronous = FULL`; when a call returns, the change survives `kill -9` and power loss.
//!
//! ```text
//!   any runtime ──call──▶ channel ──▶ thread "segue-store" ──▶ segue.db     held by flock on segue.lock
//!               ◀─reply── oneshot ◀──
//! ```
//!
//! A call that is no longer awaited is carried out all the same; ask the store for the truth afterwards.

mod active;
mod error;
mod journal;
mod lock;
mod migrations;
mod schema;
mod usage;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use active::{ActiveRecord, Fingerprint};
pub use error::StoreError;
pub use journal::{Entry, NewEntry, Phase};
use lock::Lock;
pub use migrations::{MigrationRow, SlotRow};
pub use usage::UsageRow;

const DATABASE: &str = "segue.db";

/// Calls waiting for the thread before further callers wait themselves. Callers are the control plane, a handful
/// at a time; the bound is only there so that none is missing.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

enum Message {
    Job(Job),
    /// Finish, release, then reply.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// A handle on the store; clones share it. The last one to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    messages: mpsc::Sender<Message>,
    /// Where errors say the trouble is.
    place: Arc<Path>,
    /// Taken by whoever waits for the thread to end.
    thread: Mutex<Option<JoinHandle<()>>>,
}

// === impl Store ===

impl Store {
    /// Opens the store in `dir`, creating or upgrading it as needed. Blocks; meant for start-up.
    ///
    /// Refused while another process holds it, and when the file is damaged or from a newer version: a store that
    /// cannot be trusted is never replaced by an empty one, since an empty one would make the wrong instance active.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        create_dir(dir).map_err(|source| StoreError::Directory { path: dir.to_owned(), source })?;
        let lock = Lock::acquire(dir)?;
        let path = dir.join(DATABASE);
        let connection = schema::open(&path).map_err(|failure| failure.at(&path))?;
        Self::start(connection, path, Some(lock))
    }

    /// A store that forgets everything when it is closed.
    pub fn in_memory() -> Result<Self, StoreError> {
        let place = PathBuf::from("memory");
        let connection = schema::open_in_memory().map_err(|failure| failure.at(&place))?;
        Self::start(connection, place, None)
    }

    fn start(connection: Connection, place: PathBuf, lock: Option<Lock>) -> Result<Self, StoreError> {
        let place = Arc::<Path>::from(place);
        let (messages, inbox) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("segue-store".to_owned())
            .spawn({
                let place = Arc::clone(&place);
                move || serve(connection, lock, inbox, &place)
            })
            .map_err(StoreError::Thread)?;
        Ok(Self { inner: Arc::new(Inner { messages, place, thread: Mutex::new(Some(thread)) }) })
    }

    /// Finishes the calls made before, closes the file and releases the lock, so that another process may open the
    /// store as soon as this returns. Every later call fails with [`StoreError::Closed`].
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, closed) = oneshot::channel();
        self.inner.messages.send(Message::Close(reply)).await.map_err(|_| StoreError::Closed)?;
        closed.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `work` on the store's thread.
    async fn call<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, error::Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody may be waiting any more; the work is done all the same.
            let _ = reply.send(work(connection));
        });
        self.inner.messages.send(Message::Job(job)).await.map_err(|_| StoreError::Closed)?;
        let outcome = answer.await.map_err(|_| StoreError::Closed)?;
        outcome.map_err(|failure| failure.at(&self.inner.place))
    }
}

// === impl Inner ===

impl Drop for Inner {
    /// Waits until the file is closed and the lock released, so that dropping and opening again cannot race.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.messages, closed));
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// The thread: runs calls in order until it is told to close or every handle is gone.
fn serve(mut connection: Connection, lock: Option<Lock>, mut inbox: mpsc::Receiver<Message>, place: &Path) {
    let mut closing = None;
    while let Some(message) = inbox.blocking_recv() {
        match message {
            Message::Job(job) => job(&mut connection),
            Message::Close(reply) => {
                closing = Some(reply);
                break;
            }
        }
    }
    // From here on callers are told that the store is closed, also those whose calls were still queued.
    drop(inbox);
    let closed = connection.close().map_err(|(_, error)| error::Failure::from(error).at(place));
    drop(lock);
    if let Some(reply) = closing {
        let _ = reply.send(closed);
    }
}

/// Private to the user, and itself durable: a power cut must not take the directory of a synced file with it.
fn create_dir(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.canonicalize()?.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
