//! Migrations of this process: what can be asked of them, and the tasks that drive them.
//!
//! ```text
//!  admin API ── wishes ──► driver, a task for each migration under way ── steps ──► providers, gates, slots
//!      ▲                      │ journals every step in the store
//!      └──── views ◄──────────┘
//! ```

mod bypass;
mod driver;
mod dry_run;
mod error;
mod evidence;
mod handover;
mod request;
mod resume;
mod sources;
mod steps;
mod usage;
mod view;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

pub use self::dry_run::{Depth, DryRun};
pub use self::error::MigrationError;
pub use self::request::MigrationRequest;
pub use self::sources::SourceError;
pub(super) use self::sources::{start_again, start_sources};
pub use self::view::{MigrationEvent, MigrationView};
use super::Control;
use crate::instance::{InstanceId, Providers};
use crate::migrate::checks::{CheckResult, History};
use crate::migrate::gate::Health;
use crate::migrate::phase::Cause;
use crate::migrate::record::Bypass;

/// Migrations that are listed: those under way, and the newest of the others.
const LISTED: usize = 100;
/// For a process that has just begun to take up the migrations of the one before it.
const TAKEN_UP: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// Runs of the checks that are remembered.
const RUNS: usize = 120;

pub(super) struct Migrations {
    providers: Providers,
    drivers: Mutex<HashMap<u64, Driver>>,
    /// What a waiting step sees, which nobody needs after a restart.
    live: Mutex<HashMap<u64, Live>>,
    /// Of the new instances: the runs of their checks.
    checked: Mutex<HashMap<u64, (Instant, History)>>,
    /// Of the sources: who reaches them otherwise.
    bypasses: Mutex<HashMap<u64, bypass::Seen>>,
    /// How new instances ended that were started again: their driver may not have looked in between.
    ends: Mutex<HashMap<InstanceId, String>>,
    dry_runs: dry_run::DryRuns,
    /// Looks at what runs; there is one at a time.
    follower: Mutex<Option<AbortHandle>>,
    /// Another process may drive them.
    gone: AtomicBool,
    /// Grows with everything that happens to any migration.
    changed: watch::Sender<u64>,
}

struct Driver {
    wishes: mpsc::UnboundedSender<Asked>,
    task: AbortHandle,
    instance: InstanceId,
}

/// What a step that waits has seen last.
#[derive(Clone, Debug, Default)]
struct Live {
    waits_for: Option<String>,
    gates: Vec<serde_json::Value>,
    /// Somebody said yes to what it waits for: the switch, or the source's end.
    approved: bool,
}

/// What somebody wants of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Approve,
    /// The source's grace period ends now.
    Retire,
    TurnBack(Cause),
    /// Of a step: this belongs into the journal.
    Note(Bypass),
}

/// A wish, and who waits to hear that it is in the journal.
struct Asked {
    wish: Wish,
    heard: oneshot::Sender<Result<(), MigrationError>>,
}

impl Migrations {
    pub fn new(providers: Providers) -> Self {
        Self {
            providers,
            drivers: Mutex::default(),
            live: Mutex::default(),
            checked: Mutex::default(),
            bypasses: Mutex::default(),
            ends: Mutex::default(),
            dry_runs: dry_run::DryRuns::default(),
            follower: Mutex::default(),
            gone: AtomicBool::new(false),
            changed: watch::channel(0).0,
        }
    }

    /// Leaves everything as it is: whoever opens the store next goes on from there.
    pub fn let_go(&self) {
        self.gone.store(true, Ordering::Relaxed);
        for (_, driver) in lock(&self.drivers).drain() {
            driver.task.abort();
        }
        self.follow(None);
    }

    /// They are this process's, from now on or again.
    fn take_up(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }

    /// In the place of the one before it.
    fn follow(&self, follower: Option<AbortHandle>) {
        if let Some(before) = std::mem::replace(&mut *lock(&self.follower), follower) {
            before.abort();
        }
    }

    fn see(&self, id: u64, live: Live) {
        let mut all = lock(&self.live);
        let approved = all.get(&id).is_some_and(|before| before.approved);
        all.insert(id, Live { approved, ..live });
        drop(all);
        self.changed.send_modify(|count| *count += 1);
    }

    fn checked(&self, id: u64, results: Vec<CheckResult>) -> Health {
        let mut all = lock(&self.checked);
        let (at, history) = all.entry(id).or_insert_with(|| (Instant::now(), History::new(RUNS)));
        *at = Instant::now();
        history.push(results);
        history.health()
    }

    fn health_of(&self, id: u64) -> Option<(Instant, Health)> {
        lock(&self.checked).get(&id).map(|(at, history)| (*at, history.health()))
    }

    fn bypass(&self, id: u64) -> Option<bypass::Seen> {
        lock(&self.bypasses).get(&id).cloned()
    }

    /// What was seen at another allocation is no evidence.
    fn forget_checks(&self, id: u64) {
        lock(&self.checked).remove(&id);
    }

    fn end_of(&self, id: &InstanceId) -> Option<String> {
        lock(&self.ends).get(id).cloned()
    }

    fn forget_end(&self, id: &InstanceId) {
        lock(&self.ends).remove(id);
    }

    fn forget(&self, id: u64) {
        lock(&self.live).remove(&id);
    }

    fn approved(&self, id: u64) {
        lock(&self.live).entry(id).or_default().approved = true;
    }

    /// Since the step began; what was approved before is in the record.
    fn is_approved(&self, id: u64) -> bool {
        self.live(id).approved
    }

    fn live(&self, id: u64) -> Live {
        lock(&self.live).get(&id).cloned().unwrap_or_default()
    }
}

impl Control {
    /// Says yes to the switch of a migration whose policy is `manual`, beforehand or when it waits.
    pub async fn approve_migration(&self, id: u64) -> Result<MigrationView, MigrationError> {
        self.wish(id, Wish::Approve).await
    }

    /// Ends the grace period in which the source is left in peace.
    pub async fn retire_source(&self, id: u64) -> Result<MigrationView, MigrationError> {
        self.wish(id, Wish::Retire).await
    }

    /// Undoes a migration that has not switched yet.
    pub async fn cancel_migration(&self, id: u64) -> Result<MigrationView, MigrationError> {
        self.wish(id, Wish::TurnBack(Cause::Cancelled)).await
    }

    /// Back to the source, as long as that has not been retired.
    pub async fn roll_back_migration(&self, id: u64) -> Result<MigrationView, MigrationError> {
        self.wish(id, Wish::TurnBack(Cause::RolledBack)).await
    }

    async fn wish(&self, id: u64, wish: Wish) -> Result<MigrationView, MigrationError> {
        let began = Instant::now();
        let wishes = loop {
            let wishes = lock(&self.migrations.drivers).get(&id).map(|driver| driver.wishes.clone());
            let under_way = self.store().migration(id).await?.is_some_and(|row| !row.over);
            if wishes.is_some() || !under_way || began.elapsed() > TAKEN_UP {
                break wishes;
            }
            // This process has only just begun, and takes it up next.
            tokio::time::sleep(LOOK).await;
        };
        let Some(wishes) = wishes else {
            let view = self.migration(id).await?.ok_or(MigrationError::NoMigration(id))?;
            return Err(MigrationError::NotNow(format!("migration {id} is over: {}", view.phase)));
        };
        let (heard, answer) = oneshot::channel();
        let gone = || MigrationError::NotNow(format!("migration {id} has just ended"));
        wishes.send(Asked { wish, heard }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        self.migration(id).await?.ok_or(MigrationError::NoMigration(id))
    }

    /// Wakes whoever watches a migration.
    pub fn migrations_changed(&self) -> watch::Receiver<u64> {
        self.migrations.changed.subscribe()
    }
}

/// Each change is one step, so a panic elsewhere leaves the map whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Control {
    /// Whether nobody drives it, and this process may.
    fn may_drive(&self, id: u64) -> bool {
        !self.migrations.gone.load(Ordering::Relaxed) && !lock(&self.migrations.drivers).contains_key(&id)
    }

    fn providers(&self) -> &Providers {
        &self.migrations.providers
    }

    /// A new instance that does not serve yet is its migration's business.
    fn is_migrating(&self, id: &InstanceId) -> bool {
        lock(&self.migrations.drivers).values().any(|driver| driver.instance == *id)
    }

    fn enter_driver(self: &Arc<Self>, id: u64, driver: Driver) {
        lock(&self.migrations.drivers).insert(id, driver);
    }
}
