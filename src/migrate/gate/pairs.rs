//! The gates that rest on pairs: fixed thresholds over a minimum sample.
//!
//! A statistical judge replaces this file. Until then a shadow close to a threshold passes by chance, and may fail by it
//! where it errs or differs (a latency fails only where chance is not enough to explain it), and the few per cent of the load that a tee carries hide what saturation would show: latency here can speak
//! against a shadow, its pass is no promise for the full load.

use std::time::Duration;

use super::evidence::{Evidence, Pairs};
use super::thresholds::{LEAST_FOR_P99, Thresholds};
use super::{Gate, GateVerdict, Verdict, What};

pub(super) fn comparison(evidence: &Evidence, thresholds: &Thresholds) -> GateVerdict {
    const GATE: Gate = Gate::Comparison;
    if let Some(unpinned) = of_another(GATE, What::ComparedPairs, evidence, thresholds) {
        return unpinned;
    }
    let Pairs { asked, compared, mismatched, .. } = evidence.observed.pairs;
    let found = share(mismatched, compared);
    let most = thresholds.max_mismatched;
    let numbers = format!(
        "{mismatched} of {compared} compared pairs differ ({}; at most {} may)",
        percent(found),
        percent(most)
    );
    let (verdict, reason) = if found > most && mismatched >= thresholds.hopeless {
        (Verdict::Fail, numbers)
    } else if let Some(n) = missing(compared, thresholds.min_pairs) {
        let reason = format!("{numbers}; needs {n} more; {asked} pairs were asked");
        (Verdict::NeedsMore { n, what: What::ComparedPairs }, reason)
    } else if found > most {
        (Verdict::Fail, numbers)
    } else {
        (Verdict::Pass, numbers)
    };
    GateVerdict::new(GATE, verdict, reason)
        .number("asked", asked)
        .number("compared", compared)
        .number("mismatched", mismatched)
        .number("mismatched_percent", found * 100.0)
        .number("max_mismatched_percent", most * 100.0)
        .number("min_pairs", thresholds.min_pairs)
}

pub(super) fn errors(evidence: &Evidence, thresholds: &Thresholds) -> GateVerdict {
    const GATE: Gate = Gate::Errors;
    if let Some(unpinned) = of_another(GATE, What::Pairs, evidence, thresholds) {
        return unpinned;
    }
    let pairs = &evidence.observed.pairs;
    let Pairs { shadow_errors, source_errors, aborted, .. } = *pairs;
    let telling = pairs.telling();
    // Where both err the pair is in neither count, so this is what the shadow adds.
    let own = shadow_errors.saturating_sub(source_errors);
    let excess = share(own, telling);
    let most = thresholds.max_error_excess;
    let numbers = format!(
        "in {telling} pairs the shadow alone erred {shadow_errors} times and the source alone {source_errors} \
         times (excess {}; at most {} may)",
        percent(excess),
        percent(most)
    );
    let (verdict, reason) = if excess > most && own >= thresholds.hopeless {
        (Verdict::Fail, numbers)
    } else if let Some(n) = missing(telling, thresholds.min_pairs) {
        let reason = format!("{numbers}; needs {n} more; {aborted} were aborted by callers or the source");
        (Verdict::NeedsMore { n, what: What::Pairs }, reason)
    } else if excess > most {
        (Verdict::Fail, numbers)
    } else {
        (Verdict::Pass, numbers)
    };
    GateVerdict::new(GATE, verdict, reason)
        .number("pairs", telling)
        .number("shadow_errors", shadow_errors)
        .number("source_errors", source_errors)
        .number("aborted", aborted)
        .number("excess_percent", excess * 100.0)
        .number("max_excess_percent", most * 100.0)
        .number("min_pairs", thresholds.min_pairs)
}

/// Pairs that have to lie beyond a quantile.
const BEYOND: u64 = 3;

pub(super) fn latency(evidence: &Evidence, thresholds: &Thresholds) -> GateVerdict {
    const GATE: Gate = Gate::Latency;
    if let Some(unpinned) = of_another(GATE, What::Pairs, evidence, thresholds) {
        return unpinned;
    }
    let (source, shadow) = (&evidence.observed.source, &evidence.observed.shadow);
    // The two clocks of a pair may be missing apart: a slow caller makes the source's meaningless.
    let count = source.count.min(shadow.count);
    let compared = [
        ("p50", 2, 0, source.p50, shadow.p50, thresholds.p50),
        ("p90", 10, 0, source.p90, shadow.p90, thresholds.p90),
        ("p99", 100, LEAST_FOR_P99, source.p99, shadow.p99, thresholds.p99),
    ];
    // A quantile is known once a few pairs lie beyond it; before that it is the largest of them, which is chance.
    let compared = compared.into_iter().filter(|(_, one_in, ..)| count >= BEYOND * one_in);
    let compared: Vec<_> = compared
        .map(|(name, _, least, source, shadow, margin)| (name, least, source, shadow, margin))
        .collect();
    let mut judged = Vec::new();
    let (mut seems_slower, mut is_slower) = (false, false);
    for &(name, least, source, shadow, margin) in &compared {
        let exceeded = margin.is_exceeded(source.seen, shadow.seen);
        seems_slower |= exceeded;
        // One stall holds up as many answers as are on their way; the quantile's own bounds know nothing of that.
        is_slower |= count >= least && margin.is_exceeded(source.high, shadow.low);
        judged.push(format!(
            "{name} {} against {} ({} × {} and {} more {})",
            millis(shadow.seen),
            millis(source.seen),
            if exceeded { "beyond" } else { "within" },
            margin.ratio,
            millis(margin.floor),
            if exceeded { "together" } else { "or less" },
        ));
    }
    let judged = judged.join(", ");
    let (verdict, reason) = match missing(count, thresholds.min_pairs) {
        Some(n) => {
            let reason = format!("{count} pairs were timed on both sides; needs {n} more");
            (Verdict::NeedsMore { n, what: What::Pairs }, reason)
        }
        None if is_slower => (Verdict::Fail, format!("slower in {count} pairs: {judged}")),
        // Luck halves, about, with four times as many; twice as many are often enough.
        None if seems_slower => {
            let reason = format!("{judged}; {count} pairs cannot tell that from chance, needs {count} more");
            (Verdict::NeedsMore { n: count, what: What::Pairs }, reason)
        }
        None => (Verdict::Pass, format!("{count} pairs, at the tee's share of the load: {judged}")),
    };
    let mut verdict = GateVerdict::new(GATE, verdict, reason)
        .number("pairs", count)
        .number("min_pairs", thresholds.min_pairs);
    for (name, _, source, shadow, margin) in compared {
        verdict = verdict
            .number(&format!("source_{name}_us"), micros(source.seen))
            .number(&format!("source_{name}_at_most_us"), micros(source.high))
            .number(&format!("shadow_{name}_us"), micros(shadow.seen))
            .number(&format!("shadow_{name}_at_least_us"), micros(shadow.low))
            .number(&format!("max_{name}_ratio"), margin.ratio)
            .number(&format!("{name}_floor_us"), micros(margin.floor));
    }
    verdict
}

/// What was measured of another instance, or at another size, is no evidence at all.
pub(super) fn of_another(
    gate: Gate,
    what: What,
    evidence: &Evidence,
    thresholds: &Thresholds,
) -> Option<GateVerdict> {
    if evidence.is_pinned() {
        return None;
    }
    let (of, shadow) = (&evidence.observed.of, &evidence.shadow);
    let n = match gate {
        Gate::Health => thresholds.min_good_runs,
        Gate::Warm => thresholds.warm_intervals as u64,
        _ => thresholds.min_pairs,
    };
    let reason = format!(
        "what was observed is of `{}` after {} resizes, and `{}` after {} is to be judged; needs {n} {} of it",
        of.instance,
        of.resizes,
        shadow.instance,
        shadow.resizes,
        what.as_str()
    );
    let verdict = GateVerdict::new(gate, Verdict::NeedsMore { n, what }, reason);
    Some(verdict.number("observed_resizes", of.resizes).number("resizes", shadow.resizes))
}

/// How many more are needed; `None` = there are enough.
pub(super) const fn missing(have: u64, need: u64) -> Option<u64> {
    // Without any there is no verdict, whatever the thresholds say.
    let need = if need == 0 { 1 } else { need };
    if have < need { Some(need - have) } else { None }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

pub(super) fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
