//! After a start: instances that nobody knows are destroyed, migrations go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Control;
use super::steps::specs;
use crate::control::slots::Slots;
use crate::instance::InstanceId;
use crate::migrate::record::Record;
use crate::store::StoreError;

impl Control {
    /// Ends and removes every instance that Segue runs: for whoever leaves nothing behind.
    pub async fn end_instances(&self) {
        self.migrations.let_go();
        for (id, provider) in self.providers().list().await {
            if let Err(error) = provider.destroy(&id).await {
                tracing::error!(%error, instance = %id, "an instance was left behind");
            }
        }
    }

    /// Takes up what the process before this one left off.
    pub async fn resume_migrations(self: &Arc<Self>) -> Result<(), StoreError> {
        let store = self.store();
        self.migrations.take_up();
        // Before anything is read, so that what begins meanwhile is not taken for left behind.
        let made = self.providers().list().await;
        let slots = Slots::load(&store).await?;
        let mut known: BTreeSet<InstanceId> = specs(&slots).map(|spec| spec.id.clone()).collect();
        // This process may have begun some before an upgrade of it came to nothing.
        known.extend(self.migrations.dry_runs.instances());
        let mut all_known = true;
        let mut unfinished = Vec::new();
        for row in store.migrations(0).await?.into_iter().filter(|row| !row.over) {
            match serde_json::from_value::<Record>(row.record) {
                Ok(record) => {
                    known.insert(record.spec.id.clone());
                    known.extend(record.source.iter().map(|spec| spec.id.clone()));
                    unfinished.push((row.id, row.service));
                }
                Err(error) => {
                    // Whatever it has made is not known, so nothing may be taken for an orphan.
                    all_known = false;
                    tracing::error!(%error, migration = row.id, "a migration in the store is not understood");
                }
            }
        }
        if all_known {
            for (id, provider) in made {
                if known.contains(&id) {
                    continue;
                }
                tracing::warn!(instance = %id, "nobody knows this instance any more; it is destroyed");
                if let Err(error) = provider.destroy(&id).await {
                    tracing::error!(%error, instance = %id, "it could not be destroyed");
                }
            }
        }
        let follower = tokio::task::spawn_local(super::usage::follow(Arc::downgrade(self)));
        self.migrations.follow(Some(follower.abort_handle()));
        for (id, service) in unfinished {
            // Destroying takes its time: what began just before is driven by whoever began it, and may be over by now.
            let Some(row) = store.migration(id).await?.filter(|row| !row.over) else { continue };
            let Ok(record) = serde_json::from_value::<Record>(row.record) else { continue };
            if self.may_drive(id) {
                let phase = record.progress.phase().as_str();
                tracing::info!(migration = id, service, phase, "a migration goes on");
                self.drive(id, service, record);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, LocalOptions};

    use super::super::{MigrationRequest, driver, lock};
    use super::*;
    use crate::config::Settings;
    use crate::control::Sockets;
    use crate::store::{NewEntry, Phase, Store};

    #[test]
    fn one_that_begins_just_then_is_driven_by_one_task() {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let endpoint = |port: u16| format!("http://127.0.0.1:{port}").parse().unwrap();
            let settings = Settings::smallest(([127, 0, 0, 1], 0).into(), endpoint(1), Some(endpoint(2)));
            let store = Store::in_memory().unwrap();
            let control = Control::start(settings, store, Sockets::default()).await.unwrap();
            let record = control.prepare_migration(MigrationRequest::of("web")).await.unwrap();
            let (step, at) = ("requested".to_owned(), record.since);
            let entry = NewEntry {
                kind: "migration".to_owned(),
                step,
                phase: Phase::Outcome,
                detail: serde_json::Value::Null,
                at,
            };
            let stored = driver::encode(&record);
            let id = control.store().begin_migration("web", stored, entry).await.unwrap().unwrap();

            control.resume_migrations().await.unwrap();
            let driven_by = || lock(&control.migrations.drivers).get(&id).map(|driver| driver.task.id());
            let task = driven_by().expect("it is taken up");
            // As whoever began it does next.
            control.drive(id, "web".to_owned(), record.clone());
            assert_eq!(driven_by(), Some(task));
            // An upgrade takes them away; whoever was about to drive one comes too late.
            control.migrations.let_go();
            control.drive(id, "web".to_owned(), record);
            assert_eq!(driven_by(), None);
            control.stop().await;
        });
    }
}
