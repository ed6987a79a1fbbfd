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
                    unfinished.push((row.id, row.service, record));
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
        for (id, service, record) in unfinished {
            if !self.has_driver(id) {
                tracing::info!(
                    migration = id,
                    service,
                    phase = record.progress.phase().as_str(),
                    "a migration goes on"
                );
                self.drive(id, service, record);
            }
        }
        Ok(())
    }
}
