//! Giving one of the two instances up: the source once the new one serves, or the shadow when all is undone.

use std::time::Duration;

use super::{Result, Stop, Work};
use crate::instance::{ProviderError, Spec};
use crate::migrate::record::Record;

/// For an instance to end by itself.
const END_GRACE: Duration = Duration::from_secs(10);

impl Work<'_> {
    pub(super) async fn grace(&self, record: &mut Record) -> Result {
        loop {
            self.follow(record).await;
            let what = match self.is_there(record).await {
                Err(why) => format!("the new instance to answer before the source is given up: {why}"),
                Ok(()) if self.in_step(record) >= record.options.grace => return Ok(()),
                Ok(()) if record.retire || self.control.migrations.is_approved(self.id) => return Ok(()),
                Ok(()) => "the source's grace period to end: `segue migrate retire` ends it now".to_owned(),
            };
            self.look_again(what).await;
        }
    }

    pub(super) async fn vacate(&self, record: &mut Record) -> Result {
        loop {
            self.follow(record).await;
            let emptied = match self.is_there(record).await {
                Ok(()) => self.fill(record, record.slot.other(), &[], None).await.map_err(|Stop(_, why)| why),
                Err(why) => Err(why),
            };
            match emptied {
                Ok(()) => return Ok(()),
                Err(why) => self.look_again(why).await,
            }
        }
    }

    pub(super) async fn detach(&self, record: &mut Record) -> Result {
        loop {
            let store = self.control.store();
            let before = record.slot_before.clone();
            let given_back = store.set_slot(&record.spec.service, record.slot, before).await;
            let refreshed = self.control.refresh().await;
            match (given_back, refreshed) {
                (Ok(()), Ok(())) => return Ok(()),
                (Err(error), _) => self.look_again(error.to_string()).await,
                (_, Err(error)) => self.look_again(error.to_string()).await,
            }
        }
    }

    /// Ends an instance that Segue runs; one that is gone has ended.
    pub(super) async fn end(&self, spec: Option<&Spec>, destroy: bool) -> Result {
        let Some(spec) = spec else { return Ok(()) };
        let Ok(provider) = self.control.providers().of(&spec.workload) else { return Ok(()) };
        loop {
            let ended = if destroy {
                provider.destroy(&spec.id).await
            } else {
                provider.stop(&spec.id, END_GRACE).await
            };
            match ended {
                Ok(()) | Err(ProviderError::Absent(_)) => return Ok(()),
                // Leaving it behind is no way out.
                Err(error) => self.look_again(error.to_string()).await,
            }
        }
    }
}
