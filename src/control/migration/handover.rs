//! What changes hands in a migration's pause: the old side is frozen, so that a write that bypasses Segue or was given
//! up by its caller cannot land on it any more, and thawed once the swap is over.
//!
//! It does not stay frozen after the swap: copies of reads go to it for as long as the new side is watched, and it has
//! to be able to take over again at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Control;
use crate::instance::{Providers, Spec};
use crate::migrate::record::Record;
use crate::migrate::switchover::HandOver;

#[derive(Clone)]
pub(super) struct Hands {
    providers: Providers,
    /// Where Segue runs them.
    old: Option<Spec>,
    new: Option<Spec>,
}

impl Hands {
    pub fn of(control: &Arc<Control>, record: &Record) -> Self {
        let providers = control.providers().clone();
        Self { providers, old: record.source.clone(), new: Some(record.spec.clone()) }
    }

    /// For the way back.
    pub fn reversed(self) -> Self {
        Self { old: self.new, new: self.old, ..self }
    }

    /// A process that was killed in a pause may have left either side frozen.
    pub async fn clear_up(&self) {
        for spec in [&self.old, &self.new].into_iter().flatten() {
            self.thaw(spec).await;
        }
    }

    async fn thaw(&self, spec: &Spec) {
        let Ok(provider) = self.providers.of(&spec.workload) else { return };
        if let Err(error) = provider.unfence(&spec.id).await {
            tracing::warn!(%error, "an instance could not be thawed");
        }
    }
}

impl HandOver for Hands {
    fn hand_over(&self, _: Duration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let Some(old) = &self.old else { return Ok(()) };
            let provider = self.providers.of(&old.workload).map_err(|error| error.to_string())?;
            match provider.fence(&old.id).await {
                Ok(true) => Ok(()),
                Ok(false) => {
                    tracing::info!(instance = %old.id, "it cannot be fenced; writes that bypass Segue still reach it");
                    Ok(())
                }
                Err(error) => Err(format!("the old side could not be fenced: {error}")),
            }
        })
    }

    fn take_back(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.clear_up())
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.clear_up())
    }
}
