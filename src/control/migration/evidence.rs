//! What is known about both sides since the last mark, and what follows from it.

use std::sync::Arc;

use serde_json::Value;

use super::Control;
use crate::config::InstanceName;
use crate::migrate::record::{Baseline, Record};
use crate::record::{Clock, Direction, Side};
use crate::tee::compare::Verdict;

/// The gates at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Judged {
    pub gates: Vec<Value>,
    /// A gate has failed for good.
    pub failed: Option<String>,
    /// What has to come yet.
    pub needs: Option<String>,
}

/// Answers without which nothing is rolled back for its share of failures or its latency.
const LEAST_FAILURES: u64 = 20;
const LEAST_ANSWERS: u64 = 200;
/// Of failures beyond the source's own share.
const WORSE_BY: f64 = 0.02;
/// The p99 of the new side may be this much of the source's, …
const SLOWER: u64 = 3;
/// … or this much more, whichever is larger: below it nobody notices.
const SLOWER_US: u64 = 50_000;

/// The way in which copies flow while `active` serves.
const fn direction(active: InstanceName) -> Direction {
    match active {
        InstanceName::Source => Direction::Forward,
        InstanceName::Shadow => Direction::Reverse,
    }
}

impl Control {
    /// What was measured before is no evidence from here on.
    pub(super) async fn mark(&self, service: &str) {
        // What the workers still hold belongs to the time before.
        self.reports().await;
        let Some(of) = self.services.load().get(service) else { return };
        of.records.lock().mark();
        self.totals().of(&of.name).latency.mark();
    }

    /// Pairs that were compared since the last mark, with the instance in `slot` as the shadow.
    pub(super) fn pairs_since_mark(&self, service: &str, slot: InstanceName) -> u64 {
        let Some(of) = self.services.load().get(service) else { return 0 };
        let mut records = of.records.lock();
        let way = direction(slot.other());
        let answered = records.totals().since_mark(Side::Shadow, way, Clock::LastByte).count;
        answered.min(records.verdicts_since_mark().iter().sum())
    }

    #[expect(clippy::unused_async, reason = "health checks are asked here")]
    pub(super) async fn judge(self: &Arc<Self>, record: &Record) -> Judged {
        let Some(of) = self.services.load().get(&record.spec.service) else { return Judged::default() };
        let verdicts = of.records.lock().verdicts_since_mark();
        let pairs: u64 = verdicts.iter().sum();
        let counted = Verdict::ALL.into_iter().zip(verdicts);
        let mismatched: u64 = counted.filter(|(verdict, _)| verdict.is_mismatch()).map(|(_, n)| n).sum();
        let wanted = record.options.min_pairs;
        let mut judged = Judged::default();
        if mismatched * 200 > pairs.max(wanted) {
            judged.failed = Some(format!("{mismatched} of {pairs} pairs differ, where 0.5 % are allowed"));
        } else if pairs < wanted {
            judged.needs = Some(format!("{} more pairs", wanted - pairs));
        }
        judged
    }

    /// How callers are served by `active`, since the last mark.
    pub(super) async fn baseline(&self, service: &str, active: InstanceName) -> Baseline {
        self.reports().await;
        let mut totals = self.totals();
        let all = &totals.of(&service.into()).latency;
        let way = direction(active);
        let statuses = all.statuses_since_mark(Side::Source, way);
        let good = statuses.success + statuses.redirection + statuses.client_error + statuses.other;
        let failed = statuses.server_error + statuses.none;
        let p99_us = all.since_mark(Side::Source, way, Clock::LastByte).p99;
        Baseline { answers: good + failed, failed, p99_us }
    }

    /// Why the new side is worse for its callers than the source was.
    pub(super) async fn regression(&self, record: &Record) -> Option<String> {
        let before = record.baseline.unwrap_or_default();
        let now = self.baseline(&record.spec.service, record.slot).await;
        if now.failed >= LEAST_FAILURES && now.failed_share() > before.failed_share() + WORSE_BY {
            return Some(format!(
                "{} of {} answers have failed, and {} of {} before the switch",
                now.failed, now.answers, before.failed, before.answers
            ));
        }
        let most = (before.p99_us * SLOWER).max(before.p99_us + SLOWER_US);
        if now.answers >= LEAST_ANSWERS && before.answers >= LEAST_ANSWERS && now.p99_us > most {
            let (now, before) = (now.p99_us / 1000, before.p99_us / 1000);
            return Some(format!(
                "the p99 of callers' answers is {now} ms, and was {before} ms before the switch"
            ));
        }
        None
    }
}
