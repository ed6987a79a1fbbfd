//! What the workers have handed over so far: histograms and holds, merged without loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::proxy::report::Report;
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
    /// Takes the intervals out of `reports`.
    pub fn absorb(&mut self, reports: &mut [Report]) {
        for service in reports.iter_mut().flat_map(|report| &mut report.services) {
            let totals = self.of(&service.name);
            if let Some(interval) = service.interval.take() {
                totals.latency.absorb(&interval);
            }
            service.held.drain(..).for_each(|held| totals.held.record(held));
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
