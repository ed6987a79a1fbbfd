//! The task that drives one migration: journal the intent, do the step, journal the outcome, and so on to the end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Asked, Control, Driver, MigrationError, Wish, bypass, unix_millis};
use crate::migrate::failpoint::{self, Failpoint, Moment};
use crate::migrate::phase::{Came, Cause, Progress, Step};
use crate::migrate::record::{Bypass, Record};
use crate::store::{NewEntry, Phase, StoreError};

/// Between two tries of what has to be done and cannot be: a write to the store, a step of the way back.
const AGAIN: Duration = Duration::from_secs(1);

/// Panics that a migration may survive before it is undone.
const PANICS: u32 = 3;

/// One migration under way. The record here is the store's, and nobody else writes it.
pub(super) struct Drive {
    pub control: Arc<Control>,
    pub id: u64,
    pub service: String,
    pub record: Record,
    clock: Clock,
    wishes: mpsc::UnboundedReceiver<Asked>,
}

impl Control {
    /// Goes on with a migration from where its record says, unless it is driven already: one that begins just when this
    /// process takes up the others is in the store before whoever began it comes to this. Nor does it when this process has let
    /// go of them meanwhile.
    pub(super) fn drive(self: &Arc<Self>, id: u64, service: String, record: Record) {
        if !self.may_drive(id) {
            return;
        }
        let (wishes, inbox) = mpsc::unbounded_channel();
        let instance = record.spec.id.clone();
        let mut drive =
            Drive { control: Arc::clone(self), id, service, record, clock: Clock::start(), wishes: inbox };
        let task = tokio::task::spawn_local(async move {
            let mut panics = 0;
            while AssertUnwindSafe(drive.run()).catch_unwind().await.is_err() {
                panics += 1;
                drive.recover(panics).await;
            }
            let migrations = &drive.control.migrations;
            super::lock(&migrations.drivers).remove(&id);
            migrations.forget(id);
            super::lock(&migrations.checked).remove(&id);
            super::lock(&migrations.bypasses).remove(&id);
            migrations.forget_end(&drive.record.spec.id);
            migrations.changed.send_modify(|count| *count += 1);
        });
        self.enter_driver(id, Driver { wishes, task: task.abort_handle(), instance });
    }
}

impl Drive {
    async fn run(&mut self) {
        while let Some(step) = self.record.progress.step() {
            let repeated = self.record.begun;
            if !self.record.begun {
                self.record.begun = true;
                if self.record.progress == Progress::Requested {
                    self.record.progress = Progress::Onward(step);
                }
                self.record.since = unix_millis();
                self.record.spent_in_step = Duration::ZERO;
                self.clock.restart();
                self.write(step.as_str(), Phase::Intent, Value::Null).await;
                failpoint::reach(Failpoint::Step(step, Moment::Intended));
            }
            let (came, done) = self.carry_out(step, repeated).await;
            failpoint::reach(Failpoint::Step(step, Moment::Done));
            let before = self.record.progress;
            self.note(step, came, done).await;
            failpoint::reach(Failpoint::Step(step, Moment::Noted));
            if self.record.progress == before {
                tokio::time::sleep(AGAIN).await;
            }
        }
        let phase = self.record.progress.phase().as_str();
        let reason = self.record.reason.as_deref();
        tracing::info!(migration = self.id, service = self.service, phase, reason, "a migration is over");
    }

    /// After a panic the record here may be half of a change; the store's is whole. The step is done again, as after a
    /// restart; if that does not help, the migration is undone.
    async fn recover(&mut self, panics: u32) {
        tracing::error!(migration = self.id, panics, "the driver of a migration panicked");
        tokio::time::sleep(AGAIN).await;
        while let Err(error) = self.read_again().await {
            if matches!(error, StoreError::Closed) {
                return std::future::pending().await;
            }
            tracing::error!(%error, migration = self.id, "the journal cannot be read; trying again");
            tokio::time::sleep(AGAIN).await;
        }
        self.clock.restart();
        let progress = self.record.progress;
        if let Some(step) = progress.step()
            && panics >= PANICS
            && progress.may_turn_back()
            && !self.record.no_way_back
        {
            let step = step.as_str();
            self.record.reason =
                Some(format!("the step `{step}` panicked {panics} times; see the log of Segue"));
            self.record.progress = progress.next(Came::Undone(Cause::Failed));
            self.record.begun = false;
            self.write(step, Phase::Outcome, json!({ "came": "panicked", "reason": self.record.reason }))
                .await;
        }
    }

    async fn read_again(&mut self) -> Result<(), StoreError> {
        if let Some(row) = self.control.store().migration(self.id).await?
            && let Ok(record) = serde_json::from_value(row.record)
        {
            self.record = record;
        }
        Ok(())
    }

    /// Does the step and listens to wishes meanwhile. A step that only waits ends at once when its migration is to
    /// turn back; others are whole before anything is undone.
    async fn carry_out(&mut self, step: Step, repeated: bool) -> (Came, Record) {
        let mut working = self.record.clone();
        let (control, id) = (Arc::clone(&self.control), self.id);
        let clock = self.clock;
        let doing = control.perform(id, &mut working, step, (clock, repeated));
        let mut doing = Box::pin(doing);
        let came = loop {
            if let Some(cause) = self.record.wish
                && waits(step)
                && self.record.progress.may_turn_back()
            {
                break Came::Undone(cause);
            }
            tokio::select! {
                came = &mut doing => break came,
                Some(asked) = self.wishes.recv() => {
                    let answer = self.take(asked.wish).await;
                    // Whoever asked may be gone.
                    let _ = asked.heard.send(answer);
                }
            }
        };
        drop(doing);
        (came, working)
    }

    /// Puts a wish into the journal, or says why it cannot be.
    async fn take(&mut self, wish: Wish) -> Result<(), MigrationError> {
        let progress = self.record.progress;
        let phase = progress.phase().as_str();
        match wish {
            Wish::Approve if !progress.may_turn_back() || progress > Progress::Onward(Step::Approve) => {
                return Err(MigrationError::NotNow(format!(
                    "there is nothing to approve any more: it is {phase}"
                )));
            }
            Wish::Approve => {
                self.record.approved = true;
                self.control.migrations.approved(self.id);
            }
            Wish::Retire if progress != Progress::Onward(Step::Grace) => {
                return Err(MigrationError::NotNow(format!(
                    "there is no grace period to end: the migration is {phase}; it begins once the new instance has been \
                     watched"
                )));
            }
            Wish::Retire => {
                self.record.retire = true;
                self.control.migrations.approved(self.id);
            }
            Wish::TurnBack(_) if !progress.may_turn_back() || self.record.no_way_back => {
                return Err(MigrationError::NotNow(format!(
                    "it is too late: the migration is {phase}, and the source is being given up"
                )));
            }
            Wish::TurnBack(Cause::Cancelled) if progress >= Progress::Onward(Step::Switch) => {
                return Err(MigrationError::NotNow(format!(
                    "it is too late to cancel: the migration is {phase}; roll it back instead"
                )));
            }
            Wish::TurnBack(Cause::RolledBack) if progress < Progress::Onward(Step::Switch) => {
                return Err(MigrationError::NotNow(format!(
                    "there is nothing to roll back: the source still serves ({phase}); cancel the migration instead"
                )));
            }
            Wish::TurnBack(cause) => self.record.wish = Some(cause),
            Wish::Note(bypass) => {
                self.record.bypass = Some(self.record.bypass.unwrap_or_default().most(bypass));
            }
        }
        let (step, detail) = match wish {
            Wish::Approve => ("approved", Value::Null),
            Wish::Retire => ("retire_requested", Value::Null),
            Wish::TurnBack(Cause::RolledBack) => ("rollback_requested", Value::Null),
            Wish::TurnBack(_) => ("cancel_requested", Value::Null),
            Wish::Note(seen) => {
                let Bypass { connections, requests } = seen;
                let reason = bypass::message(seen);
                ("bypass_seen", json!({ "connections": connections, "requests": requests, "reason": reason }))
            }
        };
        self.write(step, Phase::Outcome, detail).await;
        Ok(())
    }

    async fn note(&mut self, step: Step, came: Came, working: Record) {
        let before = &self.record;
        let mut next = Record {
            wish: before.wish,
            approved: before.approved,
            bypass: before.bypass,
            retire: before.retire,
            spent: before.spent,
            spent_in_step: before.spent_in_step,
            ..working
        };
        let turned = match (came, next.wish) {
            // Asked for while something was being done that had to be whole first.
            (Came::Done | Came::Aborted, Some(cause))
                if next.progress.next(came).may_turn_back() && next.progress.may_turn_back() =>
            {
                Came::Undone(cause)
            }
            (came, _) => came,
        };
        if let (Came::Undone(cause), None) = (turned, &next.reason) {
            next.reason = Some(match cause {
                Cause::Cancelled => "it was cancelled".to_owned(),
                Cause::RolledBack => "it was rolled back".to_owned(),
                Cause::Failed => format!("the step `{}` failed", step.as_str()),
            });
        }
        if came == Came::NoWayBack {
            next.no_way_back = true;
            next.wish = None;
        }
        next.progress = next.progress.next(turned);
        next.begun = false;
        next.since = unix_millis();
        self.record = next;
        self.control.migrations.forget(self.id);
        let came = match turned {
            Came::Done => "done",
            Came::Undone(_) => "turned_back",
            Came::Aborted => "aborted",
            Came::NoWayBack => "no_way_back",
        };
        let detail =
            json!({ "came": came, "next": self.record.progress.phase(), "reason": self.record.reason });
        self.write(step.as_str(), Phase::Outcome, detail).await;
    }

    /// Nothing goes on until the journal has it: a disk that is full now may have room later.
    async fn write(&mut self, step: &str, phase: Phase, detail: Value) {
        let passed = self.clock.lap();
        self.record.spent += passed;
        self.record.spent_in_step += passed;
        loop {
            let entry = NewEntry {
                kind: "migration".to_owned(),
                step: step.to_owned(),
                phase,
                detail: detail.clone(),
                at: unix_millis(),
            };
            let over = self.record.progress.is_over();
            let stored = encode(&self.record);
            match self.control.store().advance_migration(self.id, stored, over, entry).await {
                Ok(()) => break,
                // An upgrade took the store, and with it this migration.
                Err(StoreError::Closed) => std::future::pending().await,
                Err(error) => {
                    tracing::error!(%error, migration = self.id, "the journal cannot be written; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        self.control.migrations.changed.send_modify(|count| *count += 1);
    }
}

/// Counts the time that a migration takes, whatever is done to the machine's clock meanwhile. What passes between
/// two entries of the journal is lost with the process, so that a restart gives time rather than takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    lap: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { lap: Instant::now() }
    }

    fn restart(&mut self) {
        *self = Self::start();
    }

    fn lap(&mut self) -> Duration {
        let passed = self.lap.elapsed();
        self.restart();
        passed
    }

    /// What is not in the record yet.
    pub fn since_lap(self) -> Duration {
        self.lap.elapsed()
    }
}

/// Steps that change nothing themselves.
const fn waits(step: Step) -> bool {
    matches!(
        step,
        Step::Check
            | Step::AwaitHealthy
            | Step::Observe
            | Step::Warm
            | Step::Judge
            | Step::Approve
            | Step::Watch
    )
}

pub(super) fn encode(record: &Record) -> Value {
    // A record is made of plain values and text keys, which always have a form in JSON.
    serde_json::to_value(record).unwrap_or_default()
}
