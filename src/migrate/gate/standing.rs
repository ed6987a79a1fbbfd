//! The gates that ask how the shadow stands by itself: health, warmth, size, data, and what the switch would cost.

use std::time::Duration;

use super::evidence::{Evidence, Interval, Pause, Replication, Sizing};
use super::pairs::{micros, millis, missing, of_another};
use super::thresholds::Thresholds;
use super::{Gate, GateVerdict, Verdict, What};
use crate::instance::Allocation;

pub(super) fn health(evidence: &Evidence, thresholds: &Thresholds) -> GateVerdict {
    const GATE: Gate = Gate::Health;
    let Some(health) = &evidence.observed.health else {
        let reason = "the service has no checks, 0 of 0 ran";
        return GateVerdict::new(GATE, Verdict::NotConfigured, reason.to_owned());
    };
    if let Some(unpinned) = of_another(GATE, What::GoodRuns, evidence, thresholds) {
        return unpinned;
    }
    let numbers = format!(
        "{} of the last {} runs failed, the last {} were good",
        health.failed, health.runs, health.good_in_a_row
    );
    let because = health.last_failure.as_ref().map(|text| format!("; last failure: {text}"));
    let because = because.unwrap_or_default();
    let (verdict, reason) = if health.runs > 0 && health.good_in_a_row == 0 {
        (Verdict::Fail, format!("{numbers}{because}"))
    } else if let Some(n) = missing(health.good_in_a_row, thresholds.min_good_runs) {
        let reason = format!("{numbers}; needs {n} more{because}");
        (Verdict::NeedsMore { n, what: What::GoodRuns }, reason)
    } else {
        (Verdict::Pass, numbers)
    };
    GateVerdict::new(GATE, verdict, reason)
        .number("runs", health.runs)
        .number("failed", health.failed)
        .number("good_in_a_row", health.good_in_a_row)
        .number("min_good_runs", thresholds.min_good_runs)
}

/// A cache that fills makes answers faster; once they no longer get faster it is full. Slower ones are for the
/// latency gate.
pub(super) fn warm(evidence: &Evidence, thresholds: &Thresholds) -> GateVerdict {
    const GATE: Gate = Gate::Warm;
    if let Some(unpinned) = of_another(GATE, What::Intervals, evidence, thresholds) {
        return unpinned;
    }
    let wanted = thresholds.warm_intervals.max(2);
    let least = thresholds.min_interval_pairs.max(1);
    let counted: Vec<Interval> =
        evidence.observed.intervals.iter().copied().filter(|interval| interval.count >= least).collect();
    let recent = counted.get(counted.len().saturating_sub(wanted)..).unwrap_or_default();
    let (older, newer) = recent.split_at(recent.len() / 2);
    let (older, newer) = (mean(older), mean(newer));
    let numbers = format!(
        "the shadow's median went from {} to {} over {} intervals of at least {least} pairs",
        millis(older),
        millis(newer),
        recent.len()
    );
    let (verdict, reason) = if let Some(n) = missing(recent.len() as u64, wanted as u64) {
        (Verdict::NeedsMore { n, what: What::Intervals }, format!("{numbers}; needs {n} more"))
    } else if thresholds.warm.is_exceeded(newer, older) {
        let reason = format!(
            "{numbers}; it still falls by more than a factor of {} and {}",
            thresholds.warm.ratio,
            millis(thresholds.warm.floor)
        );
        (Verdict::NeedsMore { n: 1, what: What::Intervals }, reason)
    } else {
        (Verdict::Pass, numbers)
    };
    GateVerdict::new(GATE, verdict, reason)
        .number("intervals", recent.len())
        .number("min_intervals", wanted)
        .number("older_p50_us", micros(older))
        .number("newer_p50_us", micros(newer))
        .number("max_fall_ratio", thresholds.warm.ratio)
}

/// Of medians, by how many pairs each stands for.
fn mean(intervals: &[Interval]) -> Duration {
    let count: u64 = intervals.iter().fold(0, |sum, interval| sum.saturating_add(interval.count));
    let weighted: f64 =
        intervals.iter().map(|interval| interval.p50.as_secs_f64() * interval.count as f64).sum();
    if count == 0 {
        Duration::ZERO
    } else {
        Duration::try_from_secs_f64(weighted / count as f64).unwrap_or_default()
    }
}

pub(super) fn sizing(evidence: &Evidence) -> GateVerdict {
    const GATE: Gate = Gate::Sizing;
    let needs_one = Verdict::NeedsMore { n: 1, what: What::Resizes };
    let Sizing { wanted, granted, refused } = &evidence.sizing;
    let resizes = evidence.shadow.resizes;
    let (verdict, reason) = match (wanted, granted) {
        (None, _) => {
            (needs_one, format!("what it will serve with is not known yet, after {resizes} resizes"))
        }
        (Some(wanted), Some(granted)) if fits(wanted, granted) => {
            (Verdict::Pass, format!("it has {granted}; it is to serve with {wanted}"))
        }
        (Some(wanted), granted) => {
            let has =
                granted.map_or_else(|| "an allocation that is not known".to_owned(), |has| has.to_string());
            let reason = format!("it has {has}; it is to serve with {wanted}");
            match refused {
                Some(why) => (Verdict::Fail, format!("{reason}; the resize failed: {why}")),
                None => (needs_one, format!("{reason}; needs 1 more resize")),
            }
        }
    };
    let mut verdict = GateVerdict::new(GATE, verdict, reason).number("resizes", resizes);
    for (whose, allocation) in [("wanted", wanted), ("granted", granted)] {
        let Some(allocation) = allocation else { continue };
        verdict = verdict
            .number(&format!("{whose}_cpu_millicores"), allocation.cpu.0)
            .number(&format!("{whose}_memory_bytes"), allocation.memory.bytes())
            .number(&format!("{whose}_storage_bytes"), allocation.storage.bytes());
    }
    verdict
}

/// More CPU than it will serve with would flatter it. Memory and storage that are in use cannot be taken away, so
/// more of those is not held against it.
fn fits(wanted: &Allocation, granted: &Allocation) -> bool {
    granted.cpu == wanted.cpu && granted.memory >= wanted.memory && granted.storage >= wanted.storage
}

pub(super) fn replication(evidence: &Evidence, thresholds: &Thresholds) -> GateVerdict {
    const GATE: Gate = Gate::Replication;
    let Some(Replication { lag, verified }) = evidence.replication else {
        let reason = "0 kinds of state are replicated by Segue";
        return GateVerdict::new(GATE, Verdict::NotConfigured, reason.to_owned());
    };
    let most = thresholds.max_replication_lag;
    let numbers = format!("{} behind (at most {})", millis(lag), millis(most));
    let (verdict, reason) = if lag > most {
        (Verdict::Fail, numbers)
    } else if verified {
        (Verdict::Pass, format!("{numbers}, and verified"))
    } else {
        let more = Verdict::NeedsMore { n: 1, what: What::Verifications };
        (more, format!("{numbers}; needs 1 verification of what is on the shadow's side"))
    };
    GateVerdict::new(GATE, verdict, reason)
        .number("lag_us", micros(lag))
        .number("max_lag_us", micros(most))
        .number("verified", verified)
}

pub(super) fn pause(evidence: &Evidence) -> GateVerdict {
    const GATE: Gate = Gate::Pause;
    let Pause { predicted, budget } = evidence.pause;
    let budget_text = millis(budget);
    let (verdict, reason) = match predicted {
        // How many more depends on what is in flight; whoever predicts asks again after each.
        None => (
            Verdict::NeedsMore { n: 1, what: What::Answers },
            format!("too few answers of the source to predict a pause; the budget is {budget_text}"),
        ),
        Some(predicted) => {
            let verdict = if predicted <= budget { Verdict::Pass } else { Verdict::Fail };
            (verdict, format!("predicted at most {}; the budget is {budget_text}", millis(predicted)))
        }
    };
    let verdict = GateVerdict::new(GATE, verdict, reason).number("budget_us", micros(budget));
    match predicted {
        Some(predicted) => verdict.number("predicted_us", micros(predicted)),
        None => verdict,
    }
}
