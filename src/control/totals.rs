//! What the workers have handed over so far: histograms and holds, merged without loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::proxy::report::Gathered;
use crate::record::{Durations, Totals};

#[derive(Default)]
pub(super) struct SourceTotals(BTreeMap<Arc<str>, ServiceTotals>);

#[derive(Default)]
pub(super) struct ServiceTotals {
    pub latency: Totals,
    /// How long parked requests were held.
    pub held: Durations,
}

impl SourceTotals {
    pub fn absorb(&mut self, gathered: impl IntoIterator<Item = Gathered>) {
        for Gathered { service, interval, held } in gathered {
            let totals = self.of(&service);
            if let Some(interval) = interval {
                totals.latency.absorb(&interval);
            }
            for held in held {
                totals.held.record(held);
            }
        }
    }

    /// Ends the interval of every service.
    pub fn turn(&mut self) {
        self.0.values_mut().for_each(|totals| totals.latency.turn());
    }

    pub fn of(&mut self, service: &Arc<str>) -> &mut ServiceTotals {
        self.0.entry(Arc::clone(service)).or_default()
    }
}
