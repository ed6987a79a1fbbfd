//! What the demo saw: one JSON object, or a page for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::config::InstanceName;
use crate::control::{DryRun, LatencyView, MigrationView, ServiceStatus};
use crate::load::{Audit, LoadReport};
use crate::record::Summary;

#[derive(Debug, Serialize)]
pub struct Report {
    requests: Requests,
    tee: Tee,
    latency_us: Latency,
    pairs: Pairs,
    switchover: Switchover,
    dry_run: DryRun,
    migration: Migration,
    gates: Vec<Value>,
    active: InstanceName,
}

#[derive(Debug, Serialize)]
struct Requests {
    sent: u64,
    failed: u64,
    writes: u64,
    /// Acknowledged writes that are not in the ledger, or more than once.
    lost: usize,
    doubled: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Tee {
    configured_percent: f64,
    effective_percent: f64,
    eligible: u64,
    teed: u64,
    writes_teed: u64,
    skipped: BTreeMap<&'static str, u64>,
}

/// As the proxy recorded it, to the last byte; `caller` is from the moment a request was due.
#[derive(Debug, Serialize)]
struct Latency {
    source: Summary,
    shadow: Summary,
    after: Summary,
    caller: Summary,
}

#[derive(Debug, Serialize)]
struct Pairs {
    compared: u64,
    mismatched: u64,
    aborted: u64,
}

#[derive(Debug, Serialize)]
struct Migration {
    phase: &'static str,
    seconds: f64,
    started_with: String,
    serves_with: String,
    /// The system holds it to its CPU and memory.
    enforced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Switchover {
    outcome: String,
    pause_ms: f64,
    held_ms: Held,
    drained: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Held {
    count: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Report {
    pub fn new(
        load: &LoadReport,
        audit: &Audit,
        status: &ServiceStatus,
        latency: &LatencyView,
        dry_run: DryRun,
        (migration, took): (&MigrationView, Duration),
        writes_teed: u64,
    ) -> Self {
        let counts = &status.tee.counts;
        let failures = load.failures.iter();
        let allocation = &migration.allocation;
        let nothing = Value::Null;
        let ended = migration.switchover.as_ref().unwrap_or(&nothing);
        Self {
            requests: Requests {
                sent: load.sent,
                failed: load.failed,
                writes: load.writes,
                lost: audit.lost.len(),
                doubled: audit.doubled.len(),
                failures: failures
                    .map(|failure| format!("{}: {}", failure.request, failure.reason))
                    .collect(),
            },
            tee: Tee {
                configured_percent: status.tee.configured_percent,
                effective_percent: counts.effective_percent().unwrap_or_default(),
                eligible: counts.eligible,
                teed: counts.teed,
                writes_teed,
                skipped: counts
                    .skipped
                    .iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(reason, count)| (reason.as_str(), count))
                    .collect(),
            },
            latency_us: Latency {
                source: latency.forward.source,
                shadow: latency.forward.shadow,
                after: latency.reverse.source,
                caller: Summary {
                    count: load.latency.len(),
                    p50: load.latency.value_at_quantile(0.5),
                    p90: load.latency.value_at_quantile(0.9),
                    p99: load.latency.value_at_quantile(0.99),
                    p999: load.latency.value_at_quantile(0.999),
                    max: load.latency.max(),
                    mean: load.latency.mean(),
                },
            },
            pairs: Pairs {
                compared: status.pairs.compared,
                mismatched: status.pairs.mismatched,
                aborted: status.pairs.aborted,
            },
            dry_run,
            switchover: Switchover {
                outcome: ended.get("outcome").and_then(Value::as_str).unwrap_or("never begun").to_owned(),
                pause_ms: ended.get("pause_ms").and_then(Value::as_f64).unwrap_or_default(),
                held_ms: Held {
                    count: status.held_ms.count,
                    p50: status.held_ms.p50,
                    p99: status.held_ms.p99,
                    max: status.held_ms.max,
                },
                drained: ended.get("drained").and_then(Value::as_u64).unwrap_or_default(),
                reason: ended.get("reason").and_then(Value::as_str).map(str::to_owned),
            },
            migration: Migration {
                phase: migration.phase,
                seconds: took.as_secs_f64(),
                started_with: allocation.started_with.to_string(),
                serves_with: allocation.serves_with.to_string(),
                enforced: allocation
                    .granted
                    .is_some_and(|granted| granted.cpu_enforced && granted.memory_enforced),
                reason: migration.reason.clone(),
            },
            gates: migration.gates.clone(),
            active: status.active,
        }
    }

    /// Nothing failed, nothing was lost, and the new instance serves.
    pub fn is_good(&self) -> bool {
        let requests = &self.requests;
        requests.sent > 0
            && requests.failed == 0
            && requests.lost == 0
            && requests.doubled == 0
            && self.tee.writes_teed == 0
            && self.migration.phase == "done"
            && self.active == InstanceName::Shadow
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, tee, latency_us, pairs, switchover, dry_run, migration, gates, active } = self;
        writeln!(f, "requests    {} sent, {} failed", requests.sent, requests.failed)?;
        for failure in &requests.failures {
            writeln!(f, "            {failure}")?;
        }
        writeln!(
            f,
            "writes      {} sent; of the acknowledged ones {} lost, {} doubled",
            requests.writes, requests.lost, requests.doubled
        )?;
        writeln!(
            f,
            "tee         {} of {} reads, {:.3} % (configured {} %); {} writes teed",
            tee.teed, tee.eligible, tee.effective_percent, tee.configured_percent, tee.writes_teed
        )?;
        writeln!(f, "not teed    {}", listed(&tee.skipped))?;
        writeln!(
            f,
            "pairs       {} compared, {} mismatched, {} aborted",
            pairs.compared, pairs.mismatched, pairs.aborted
        )?;
        writeln!(f, "latency µs           p50      p90      p99    p99.9      max")?;
        let rows = [
            ("source", &latency_us.source),
            ("shadow", &latency_us.shadow),
            ("after", &latency_us.after),
            ("caller", &latency_us.caller),
        ];
        for (name, of) in rows {
            writeln!(
                f,
                "  {name:<12} {:>8} {:>8} {:>8} {:>8} {:>8}",
                of.p50, of.p90, of.p99, of.p999, of.max
            )?;
        }
        let enforced = if migration.enforced { "" } else { ", as advice only" };
        writeln!(
            f,
            "dry run     {}",
            if dry_run.compatible { "it could run here" } else { "it could not run here" }
        )?;
        for finding in &dry_run.report {
            writeln!(f, "  {:<9} {:<12} {}", finding.gravity.as_str(), finding.subject, finding.message)?;
        }
        writeln!(f, "migration   {} after {:.1} s", migration.phase, migration.seconds)?;
        if let Some(reason) = &migration.reason {
            writeln!(f, "            {reason}")?;
        }
        writeln!(f, "            started with {}", migration.started_with)?;
        writeln!(f, "            serves with  {}{enforced}", migration.serves_with)?;
        for gate in gates {
            let text = |key: &str| gate.get(key).and_then(Value::as_str).unwrap_or_default();
            writeln!(f, "  gate      {:<12} {:<15} {}", text("gate"), text("verdict"), text("reason"))?;
        }
        writeln!(
            f,
            "switchover  {}: requests were held {:.1} ms (p99 of {} held: {:.1} ms), {} drained",
            switchover.outcome,
            switchover.pause_ms,
            switchover.held_ms.count,
            switchover.held_ms.p99,
            switchover.drained
        )?;
        if let Some(reason) = &switchover.reason {
            writeln!(f, "            {reason}")?;
        }
        writeln!(f, "active      {}", active.as_str())
    }
}

fn listed(skipped: &BTreeMap<&'static str, u64>) -> String {
    if skipped.is_empty() {
        return "nothing".to_owned();
    }
    let items: Vec<String> = skipped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    items.join(", ")
}
