//! A migration as the API shows it.

use serde::Serialize;
use serde_json::Value;

use super::{Control, LISTED, MigrationError, bypass};
use crate::config::{InstanceName, Policy};
use crate::control::slots::Slots;
use crate::instance::{Allocation, Finding, InstanceId, Resized};
use crate::migrate::phase::{Phase, Progress, Step};
use crate::migrate::record::Record;
use crate::migrate::warm::Warmed;
use crate::store::{self, MigrationRow};

#[derive(Clone, Debug, Serialize)]
pub struct MigrationView {
    pub id: u64,
    pub service: String,
    pub phase: &'static str,
    pub step: Option<&'static str>,
    pub over: bool,
    /// What it waits for, or why it is being undone.
    pub reason: Option<String>,
    pub instance: InstanceId,
    pub provider: &'static str,
    /// The name that the new instance has within its service.
    pub slot: InstanceName,
    pub endpoints: Vec<String>,
    pub policy: Policy,
    pub approved: bool,
    pub allocation: AllocationView,
    pub report: Vec<Finding>,
    /// Connections that reach the source without passing Segue; `None` where it cannot be seen, or is not looked for.
    pub bypass: Option<u64>,
    /// Requests that the source has counted in ten seconds and Segue has not sent it; `None` likewise, or where nobody has
    /// said where it counts.
    pub bypass_requests: Option<u64>,
    /// What came of warming the new instance, where that is configured.
    pub warmed: Option<Warmed>,
    pub gates: Vec<Value>,
    pub switchover: Option<Value>,
    pub may: May,
    /// Unix time in milliseconds.
    pub created_at: u64,
    pub since: u64,
    /// Of its deadline, in milliseconds.
    pub spent_ms: u64,
    pub deadline_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct AllocationView {
    pub started_with: Allocation,
    pub serves_with: Allocation,
    pub granted: Option<Resized>,
}

/// What can be asked of it at this moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct May {
    pub approve: bool,
    pub cancel: bool,
    pub rollback: bool,
    /// The source's grace period may be ended.
    pub retire: bool,
}

/// A line of a migration's journal.
#[derive(Clone, Debug, Serialize)]
pub struct MigrationEvent {
    pub id: u64,
    pub step: String,
    /// `intent` before a step, `outcome` after it.
    pub phase: &'static str,
    pub detail: Value,
    /// Unix time in milliseconds.
    pub at: u64,
}

impl Control {
    /// Those under way and the newest of the others, the newest first.
    pub async fn migrations(&self) -> Result<Vec<MigrationView>, MigrationError> {
        let rows = self.store().migrations(LISTED).await?;
        let slots = Slots::load(&self.store()).await?;
        Ok(rows.into_iter().filter_map(|row| self.view(row, &slots)).collect())
    }

    pub async fn migration(&self, id: u64) -> Result<Option<MigrationView>, MigrationError> {
        let Some(row) = self.store().migration(id).await? else { return Ok(None) };
        Ok(self.view(row, &Slots::load(&self.store()).await?))
    }

    /// What was journalled after the event `after`; 0: from the start.
    pub async fn migration_events(&self, id: u64, after: u64) -> Result<Vec<MigrationEvent>, MigrationError> {
        let entries = self.store().journal_of(id, after).await?;
        let shown = |store::Entry { id, entry }| MigrationEvent {
            id,
            step: entry.step,
            phase: entry.phase.as_str(),
            detail: entry.detail,
            at: entry.at,
        };
        Ok(entries.into_iter().map(shown).collect())
    }

    fn view(&self, row: MigrationRow, slots: &Slots) -> Option<MigrationView> {
        let decoded = serde_json::from_value::<Record>(row.record);
        let record = decoded
            .inspect_err(|error| {
                tracing::error!(%error, migration = row.id, "a migration in the store is not understood");
            })
            .ok()?;
        let live = self.migrations.live(row.id);
        let phase = record.progress.phase();
        let back = record.progress.may_turn_back() && !record.no_way_back;
        let switched = phase >= Phase::Switching;
        // The last look was before the switch.
        let seen = self.migrations.bypass(row.id).filter(|_| !switched);
        let mut report = record.report;
        match &seen {
            Some(seen) => report.extend(seen.findings()),
            None => report.extend(bypass::noted(record.bypass)),
        }
        // Where it is now, if it was started again since the record was written.
        let slot = slots.get(&row.service, record.slot).filter(|slot| slot.holds(&record.spec.id));
        let endpoints = slot.map_or(record.endpoints, |slot| slot.endpoints.clone());
        Some(MigrationView {
            id: row.id,
            service: row.service,
            phase: phase.as_str(),
            step: record.progress.step().map(Step::as_str),
            over: row.over,
            reason: live.waits_for.map(|what| format!("waits for {what}")).or(record.reason),
            instance: record.spec.id,
            provider: record.spec.workload.provider(),
            slot: record.slot,
            endpoints,
            policy: record.options.policy,
            approved: record.approved,
            allocation: AllocationView {
                started_with: record.spec.allocation,
                serves_with: record.wanted,
                granted: record.granted,
            },
            report,
            bypass: seen.as_ref().and_then(|seen| seen.connections),
            bypass_requests: seen.and_then(|seen| seen.requests),
            warmed: record.warmed,
            gates: if live.gates.is_empty() { record.gates } else { live.gates },
            switchover: record.switchover,
            may: May {
                approve: back && !switched,
                cancel: back && !switched,
                rollback: back && switched,
                retire: record.progress == Progress::Onward(Step::Grace) && !record.retire,
            },
            created_at: row.created_at,
            since: record.since,
            spent_ms: record.spent.as_millis() as u64,
            deadline_ms: record.options.deadline.as_millis() as u64,
        })
    }
}
