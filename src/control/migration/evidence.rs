//! What is known about both sides since the last mark, and what follows from it.

use std::time::{Duration, Instant};

use super::Control;
use crate::config::{self, Endpoint, InstanceName, Scheme};
use crate::instance::Role;
use crate::migrate::checks::{Patient, Suite};
use crate::migrate::gate::{
    self, Drain, Evidence, GateVerdict, Health, Interval, LEAST_FOR_P99, Observed, Pairs, Pause, Quantiles,
    STORE_SWAP, Sizing, Subject, Thresholds, predict_pause,
};
use crate::migrate::record::{Baseline, Record};
use crate::record::{Clock, Direction, Side};
use crate::tee::compare::{Verdict, Weight};

/// Between two runs of the checks.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Without an answer while requests wait; ten times the source's p99, if that is longer.
const SILENCE: Duration = Duration::from_secs(5);
/// Answers without which nothing is rolled back for its share of failures or its latency.
const LEAST_FAILURES: u64 = 20;
const LEAST_ANSWERS: u64 = 200;
/// Of failures beyond the source's own share.
const WORSE_BY: f64 = 0.02;
/// A quantile of the new side's may be this much of the source's, …
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

/// When the new side last answered somebody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    answers: u64,
    at: Instant,
}

impl Answered {
    pub fn none_yet() -> Self {
        Self { answers: 0, at: Instant::now() }
    }
}

impl Control {
    /// What was measured before is no evidence from here on.
    pub(super) async fn mark(&self, service: &str) {
        // What the workers still hold belongs to the time before.
        self.reports().await;
        let Some(of) = self.services.load().get(service) else { return };
        of.records.lock().mark(Instant::now());
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

    /// Every gate's verdict at this moment, on the instance as it is now.
    pub(super) async fn judge(&self, id: u64, record: &Record) -> Vec<GateVerdict> {
        let Some(of) = self.services.load().get(&record.spec.service) else { return Vec::new() };
        let thresholds = Thresholds { min_pairs: record.options.min_pairs, ..Thresholds::default() };
        let subject =
            Subject { instance: record.spec.id.clone(), resizes: u32::from(record.granted.is_some()) };
        let way = direction(record.slot.other());
        let pause = self.pause(record, &of.settings).await;
        let health = self.check(id, record).await;
        let mut records = of.records.lock();
        let totals = records.totals();
        let time = |side| {
            let count = totals.since_mark(side, way, Clock::LastByte).count;
            Quantiles::of(count, |at| totals.quantile_since_mark(side, way, Clock::LastByte, at))
        };
        let (source, shadow) = (time(Side::Source), time(Side::Shadow));
        let failed =
            [Side::Source, Side::Shadow].map(|side| totals.statuses_since_mark(side, way).server_error);
        let pairs = pairs(records.verdicts_since_mark(), failed);
        let intervals = records.plateau.stretches();
        let intervals =
            intervals.map(|(count, p50)| Interval { count, p50: Duration::from_micros(p50) }).collect();
        drop(records);
        let evidence = Evidence {
            shadow: subject.clone(),
            observed: Observed { of: subject, health, pairs, source, shadow, intervals },
            sizing: Sizing {
                wanted: Some(record.wanted),
                granted: record.granted.map(|resized| resized.to),
                refused: None,
            },
            replication: None,
            pause,
        };
        gate::judge(&evidence, &thresholds)
    }

    /// Runs the service's checks against the new instance, not more often than they are meant to be; `None` where
    /// there are none that could be run.
    pub(super) async fn check(&self, id: u64, record: &Record) -> Option<Health> {
        let known = self.migrations.health_of(id);
        if let Some((at, health)) = known
            && at.elapsed() < CHECK_EVERY
        {
            return Some(health);
        }
        let settings = self.settings();
        let settings = settings.services.get(&record.spec.service)?;
        let endpoints: Vec<Endpoint> = record.endpoints.iter().filter_map(|text| text.parse().ok()).collect();
        let tls = endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https);
        let suite = Suite::new(&record.spec.service, settings, tls)
            .inspect_err(|error| tracing::error!(%error, migration = id, "the checks cannot be run"))
            .ok()?;
        let mut results = Vec::new();
        for endpoint in &endpoints {
            let patient = Patient { instance: &record.spec.id, role: Role::Shadow, endpoint };
            results.extend(suite.run(patient).await);
        }
        Some(self.migrations.checked(id, results))
    }

    async fn pause(&self, record: &Record, settings: &config::Service) -> Pause {
        let service = &record.spec.service;
        let in_flight = self.service(service).await.map_or(0, |status| status.in_flight as u64);
        let blockers = match self.gates.state(service) {
            Some(gate) => self.gates.blockers(&service.as_str().into(), gate.generation).await,
            None => Vec::new(),
        };
        let oldest = blockers.iter().map(|blocker| blocker.age_ms).max().unwrap_or(0);
        let source = self.totals().of(&service.as_str().into()).latency.since_mark(
            Side::Source,
            direction(record.slot.other()),
            Clock::LastByte,
        );
        let drain = Drain {
            source,
            // Twice what one look sees: it may have come at a quiet moment.
            in_flight: in_flight.saturating_mul(2),
            oldest: Duration::from_millis(oldest),
            steps: STORE_SWAP + settings.migration.hook_time(),
        };
        Pause { predicted: predict_pause(&drain), budget: settings.switchover.park_timeout }
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
        let times = all.since_mark(Side::Source, way, Clock::LastByte);
        Baseline { answers: good + failed, failed, p90_us: times.p90, p99_us: times.p99 }
    }

    /// How long callers of `active` have to wait, since the last mark.
    fn waits(&self, service: &str, active: InstanceName) -> Quantiles {
        let mut totals = self.totals();
        let all = &totals.of(&service.into()).latency;
        let way = direction(active);
        let count = all.since_mark(Side::Source, way, Clock::LastByte).count;
        Quantiles::of(count, |at| all.quantile_since_mark(Side::Source, way, Clock::LastByte, at))
    }

    /// Why the new side is worse for its callers than the source was.
    pub(super) async fn regression(&self, record: &Record, progress: &mut Answered) -> Option<String> {
        let before = record.baseline.unwrap_or_default();
        let now = self.baseline(&record.spec.service, record.slot).await;
        if now.failed >= LEAST_FAILURES && now.failed_share() > before.failed_share() + WORSE_BY {
            return Some(format!(
                "{} of {} answers have failed, and {} of {} before the switch",
                now.failed, now.answers, before.failed, before.answers
            ));
        }
        if now.answers > progress.answers {
            *progress = Answered { answers: now.answers, at: Instant::now() };
        }
        let silent = Duration::from_micros(before.p99_us.saturating_mul(10)).max(SILENCE);
        if progress.at.elapsed() >= silent {
            let waiting = self.service(&record.spec.service).await.map_or(0, |status| status.in_flight);
            if waiting > 0 {
                return Some(format!("{waiting} requests wait, and none was answered in {silent:?}"));
            }
            // Nobody asks, so silence says nothing.
            progress.at = Instant::now();
        }
        let waits = self.waits(&record.spec.service, record.slot);
        let comparable = before.answers >= LEAST_ANSWERS;
        let quantiles = [
            ("p90", LEAST_ANSWERS, waits.p90, before.p90_us),
            ("p99", LEAST_FOR_P99, waits.p99, before.p99_us),
        ];
        for (name, least, now, before) in quantiles {
            let most = (before * SLOWER).max(before + SLOWER_US);
            if comparable && waits.count >= least && before > 0 && now.low > Duration::from_micros(most) {
                let (now, before) = (now.seen.as_millis(), before / 1000);
                return Some(format!(
                    "the {name} of callers' answers is {now} ms, and was {before} ms before the switch"
                ));
            }
        }
        None
    }
}

/// `failed` are answers of 5xx, of the source and of the shadow.
fn pairs(verdicts: [u64; Verdict::ALL.len()], failed: [u64; 2]) -> Pairs {
    let counted = || Verdict::ALL.into_iter().zip(verdicts);
    let sum = |which: &dyn Fn(Verdict) -> bool| {
        counted().filter(|(verdict, _)| which(*verdict)).map(|(_, count)| count).sum::<u64>()
    };
    let [source_failed, shadow_failed] = failed;
    Pairs {
        asked: sum(&|_| true),
        compared: sum(&|verdict| matches!(verdict.weight(), Weight::Agrees | Weight::Differs)),
        mismatched: sum(&|verdict| verdict.weight() == Weight::Differs),
        shadow_errors: (shadow_failed + sum(&|verdict| verdict.weight() == Weight::Fails))
            .saturating_sub(source_failed),
        source_errors: (source_failed + sum(&|verdict| verdict == Verdict::SourceError))
            .saturating_sub(shadow_failed),
        aborted: sum(&|verdict| verdict == Verdict::SourceAborted),
    }
}
