//! Up to an instance that has what it will serve with, and is known to the proxy as the shadow.

use std::time::{Duration, Instant};

use super::super::dry_run::before;
use super::{Result, Stop, Work, again, endpoints};
use crate::instance::{Gravity, Spec};
use crate::migrate::record::Record;

/// For the new instance to answer for the first time.
pub(in crate::control::migration) const START_UP: Duration = Duration::from_mins(2);
/// Pairs that show that the shadow works at all: too few to judge it, enough to size it.
const FIRST_PAIRS: u64 = 20;

impl Work<'_> {
    pub(super) async fn check(&self, record: &mut Record) -> Result {
        record.report = self.provider(record)?.preflight(&record.spec).await;
        record.report.extend(before(record, &record.report));
        let faults = record.report.iter().filter(|finding| finding.gravity == Gravity::Fault);
        let faults: Vec<_> = faults.map(|of| format!("{}: {}", of.subject, of.message)).collect();
        if faults.is_empty() { Ok(()) } else { Err(Stop::failed(faults.join("; "))) }
    }

    pub(super) async fn create(&self, record: &mut Record) -> Result {
        let provider = self.provider(record)?;
        Ok(again(|| provider.create(&record.spec)).await?)
    }

    pub(super) async fn start(&self, record: &mut Record) -> Result {
        let provider = self.provider(record)?;
        let running = again(|| provider.start(&record.spec)).await?;
        record.endpoints = running.endpoints.iter().map(ToString::to_string).collect();
        self.is_another(record).await
    }

    pub(super) async fn await_healthy(&self, record: &mut Record) -> Result {
        let began = Instant::now();
        loop {
            self.is_alive(record).await?;
            match self.passes_checks(record).await {
                Ok(()) => return Ok(()),
                Err(why) if began.elapsed() >= START_UP => {
                    let said = self.provider(record)?.tail(&record.spec.id).await;
                    let reason = format!("it did not come up within {START_UP:?}: {why}; it wrote: {said}");
                    return Err(Stop::failed(reason));
                }
                Err(why) => self.wait_for(record, format!("the new instance to come up: {why}")).await?,
            }
        }
    }

    pub(super) async fn attach(&self, record: &mut Record) -> Result {
        let endpoints = endpoints(record);
        self.fill(record, record.slot, &endpoints, Some(record.spec.clone())).await?;
        self.control.mark(&record.spec.service).await;
        Ok(())
    }

    pub(super) async fn observe(&self, record: &mut Record) -> Result {
        let wanted = FIRST_PAIRS.min(record.options.min_pairs);
        loop {
            self.is_alive(record).await?;
            let pairs = self.control.pairs_since_mark(&record.spec.service, record.slot);
            if pairs >= wanted {
                return Ok(());
            }
            let what = format!("{} more pairs, to see that the new instance works at all", wanted - pairs);
            self.wait_for(record, what).await?;
        }
    }

    pub(super) async fn resize(&self, record: &mut Record) -> Result {
        let provider = self.provider(record)?;
        let resized = again(|| provider.resize(&record.spec.id, record.wanted)).await?;
        record.granted = Some(resized);
        // Whoever starts it again, or sizes its successor, goes by what it has now.
        let spec = Spec { allocation: resized.to, ..record.spec.clone() };
        self.fill(record, record.slot, &endpoints(record), Some(spec)).await
    }

    pub(super) async fn forget(&self, record: &mut Record) -> Result {
        self.control.migrations.forget_checks(self.id);
        self.control.mark(&record.spec.service).await;
        record.gates.clear();
        Ok(())
    }
}
