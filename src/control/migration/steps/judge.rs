//! Whether the switch may begin: the gates, an approval, a maintenance window.

use std::time::Duration;

use serde_json::json;

use super::super::unix_millis;
use super::{Result, Stop, Work};
use crate::config::{Policy, Window};
use crate::migrate::gate::{self, Gate, GateVerdict, Verdict};
use crate::migrate::record::Record;
use crate::migrate::window;

impl Work<'_> {
    pub(super) async fn judge(&self, record: &mut Record) -> Result {
        loop {
            self.is_alive(record).await?;
            self.follow(record).await;
            self.is_attached(record)?;
            self.control.look_for_bypass(self.id, record).await;
            let Some(closed) = self.closed_gates(record).await? else { return Ok(()) };
            self.wait_for(record, closed).await?;
        }
    }

    /// What keeps the gates closed; a gate that has failed for good ends the migration.
    async fn closed_gates(&self, record: &mut Record) -> Result<Option<String>> {
        let verdicts = self.control.judge(self.id, record).await;
        record.gates = verdicts.iter().map(|verdict| json!(verdict)).collect();
        let failed = verdicts
            .iter()
            .find(|judged| judged.verdict == Verdict::Fail && is_final(judged, record.options.min_pairs));
        if let Some(failed) = failed {
            return Err(Stop::failed(format!("the gate `{}` failed: {}", failed.gate, failed.reason)));
        }
        if gate::all_open(&verdicts) {
            return Ok(None);
        }
        let closed = verdicts.iter().filter(|judged| !judged.verdict.is_open());
        let closed: Vec<_> = closed.map(|judged| format!("{} {}", judged.gate, judged.verdict)).collect();
        Ok(Some(format!("its gates: {}", closed.join(", "))))
    }

    pub(super) async fn approve(&self, record: &mut Record) -> Result {
        loop {
            self.is_alive(record).await?;
            // Whoever approves it should know.
            self.control.look_for_bypass(self.id, record).await;
            let approved = record.approved || self.control.migrations.is_approved(self.id);
            record.approved = approved;
            if record.options.policy == Policy::Manual && !approved {
                self.wait_for(record, "an approval: `segue migrate approve`".to_owned()).await?;
                continue;
            }
            if self.control.gates.has_predecessor() {
                // Its callers would have to be held and drained too, across two processes, or be cut.
                let what = "the callers of the Segue before this one to leave";
                self.wait_for(record, what.to_owned()).await?;
                continue;
            }
            let windows = self.windows(&record.spec.service);
            let now = unix_millis() / 1000;
            if window::is_open(&windows, now) {
                // What was so when it became ready may have been long ago.
                self.follow(record).await;
                self.is_attached(record)?;
                if let Some(closed) = self.closed_gates(record).await? {
                    self.wait_for(record, closed).await?;
                    continue;
                }
                // In the journal before the swap, so that a restart after it still knows.
                let service = &record.spec.service;
                record.baseline = Some(self.control.baseline(service, record.slot.other()).await);
                return Ok(());
            }
            let left = Duration::from_secs(window::next_opening(&windows, now).saturating_sub(now));
            self.wait_for(record, format!("a maintenance window, which opens in {left:?}")).await?;
        }
    }

    fn windows(&self, service: &str) -> Vec<Window> {
        let settings = self.control.settings();
        settings.services.get(service).map(|of| of.migration.windows.clone()).unwrap_or_default()
    }
}

/// Of the least number of pairs: what a gate without a stated confidence has to go on failing for.
const STUBBORN: u64 = 4;

/// A busy moment closes the pause's gate and may fail a quantile, checks may fail once; such a gate has to go on failing.
fn is_final(judged: &GateVerdict, min_pairs: u64) -> bool {
    let number = |name| judged.numbers.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    match judged.gate {
        Gate::Pause | Gate::Sizing | Gate::Warm | Gate::Health | Gate::Replication => false,
        Gate::Latency => number("pairs") >= STUBBORN * min_pairs,
        Gate::Comparison | Gate::Errors => true,
    }
}
