//! Switchovers since the process began: how they ended and how long they held callers. The journal has
//! the rest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::migrate::switchover::{Ended, Outcome};
use crate::record::{Distribution, Durations};

#[derive(Default)]
pub(super) struct PastSwitchovers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_service: BTreeMap<Arc<str>, SwitchoverCounts>,
    /// Of the completed ones; one that swaps without a pause counts with none.
    pauses: Durations,
}

/// Switchovers and rollbacks that began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SwitchoverCounts {
    pub completed: u64,
    pub aborted: u64,
}

impl PastSwitchovers {
    pub fn count(&self, service: &Arc<str>, ended: &Ended) {
        let mut inner = self.lock();
        let counts = inner.by_service.entry(Arc::clone(service)).or_default();
        match ended.outcome {
            Outcome::Completed => {
                counts.completed += 1;
                let pause = Duration::try_from_secs_f64(ended.pause_ms / 1000.0).unwrap_or_default();
                inner.pauses.record(pause);
            }
            Outcome::Aborted => counts.aborted += 1,
        }
    }

    pub fn counts(&self, service: &str) -> SwitchoverCounts {
        self.lock().by_service.get(service).copied().unwrap_or_default()
    }

    pub fn pauses(&self, bounds: &[Duration]) -> Distribution {
        self.lock().pauses.distribution(bounds)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in here leaves at worst one switchover uncounted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
