//! How a migration begins: a request becomes a record, or is refused with the reason.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::dry_run::Depth;
use super::{Control, MigrationError, MigrationView, unix_millis};
use crate::config::{self, ByteSize, Policy};
use crate::control::slots::Slots;
use crate::control::turns::NotNow;
use crate::instance::{Allocation, External, InstanceId, Millicores, Role, Spec, Workload, starting};
use crate::migrate::phase::Progress;
use crate::migrate::record::{Options, Record};
use crate::store::{NewEntry, Phase, StoreError};

/// What is asked for; what is absent comes from the service's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationRequest {
    pub service: String,
    /// Provider, what it runs, and `allocation`. Absent: the shadow of the settings.
    pub to: Option<Value>,
    pub policy: Option<Policy>,
    pub watch_ms: Option<u64>,
    pub grace_ms: Option<u64>,
    pub deadline_ms: Option<u64>,
    pub min_pairs: Option<u64>,
    /// The compatibility report, and nothing else: `true`, `"full"` or `"static"`.
    #[serde(default, deserialize_with = "super::dry_run::depth")]
    pub dry_run: Option<Depth>,
}

impl MigrationRequest {
    /// Everything as the settings say.
    pub fn of(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            to: None,
            policy: None,
            watch_ms: None,
            grace_ms: None,
            deadline_ms: None,
            min_pairs: None,
            dry_run: None,
        }
    }
}

/// A sample that would let almost anything pass.
const LEAST_PAIRS: u64 = 20;

/// What an instance has that nobody grants anything.
const UNKNOWN: Allocation = Allocation { cpu: Millicores(0), memory: ByteSize(0), storage: ByteSize(0) };

impl Control {
    /// Begins a migration. It goes on by itself, and through restarts, to its end.
    pub async fn start_migration(
        self: &Arc<Self>,
        request: MigrationRequest,
    ) -> Result<MigrationView, MigrationError> {
        // Until it is driven: an upgrade would let go of all drivers but this one.
        let _turn = self.turns.switchover().map_err(|NotNow| MigrationError::Ending)?;
        let service = request.service.clone();
        let record = self.prepare_migration(request).await?;
        let detail =
            serde_json::json!({ "instance": record.spec.id, "provider": record.spec.workload.provider() });
        let entry = NewEntry {
            kind: "migration".to_owned(),
            step: "requested".to_owned(),
            phase: Phase::Outcome,
            detail,
            at: record.since,
        };
        let stored = super::driver::encode(&record);
        let Some(id) = self.store().begin_migration(&service, stored, entry).await? else {
            // Somebody else was faster.
            return Err(MigrationError::UnderWay(self.under_way(&service).await?.unwrap_or_default()));
        };
        tracing::info!(migration = id, %service, instance = %record.spec.id, "a migration begins");
        self.drive(id, service, record);
        self.migration(id).await?.ok_or(MigrationError::NoMigration(id))
    }

    pub(super) async fn under_way(&self, service: &str) -> Result<Option<u64>, StoreError> {
        let rows = self.store().migrations(0).await?;
        Ok(rows.iter().find(|row| row.service == service && !row.over).map(|row| row.id))
    }

    pub(super) async fn prepare_migration(
        &self,
        request: MigrationRequest,
    ) -> Result<Record, MigrationError> {
        let name = &request.service;
        let none = || MigrationError::NoService(name.clone());
        let service = self.services.load().get(name).ok_or_else(none)?;
        let active = self.gates.state(name).ok_or_else(none)?.active;
        let slot = active.other();
        let options = options(&request, &service.settings.migration);
        if let Some(running) = self.under_way(name).await? {
            return Err(MigrationError::UnderWay(running));
        }
        let slots = Slots::load(&self.store()).await?;
        let settings = self.settings();
        let configured = settings.services.get(name).ok_or_else(none)?;
        // A slot that the settings have taken back says nothing about what serves.
        let of = |slot| slots.get(name, slot).filter(|found| found.is_of(configured, slot));
        let source = of(active).and_then(|slot| slot.spec.clone());
        let there = service.instance(slot).is_some();
        let (workload, allocation) = match request.to {
            Some(_) if there => {
                return Err(MigrationError::Bad(format!(
                    "the settings of `{name}` have a {} already; leave out `to` to move there, or remove it from the \
                     settings",
                    slot.as_str()
                )));
            }
            Some(to) => destination(to)?,
            None if there => {
                let endpoints = service.endpoints(slot).unwrap_or_default().to_vec();
                (Workload::External(External { endpoints, isolated: false, usage: None }), Wanted::Size)
            }
            None => {
                return Err(MigrationError::Bad(format!(
                    "`to` is missing, and the settings of `{name}` have no shadow to move to; say where to"
                )));
            }
        };
        if let Workload::External(of) = &workload
            && let Some(serving) = service.endpoints(active)
            && let Some(same) = of.endpoints.iter().find(|endpoint| serving.contains(endpoint))
        {
            return Err(MigrationError::Bad(format!(
                "`to` has {same}, which is the instance that serves already"
            )));
        }
        if options.min_pairs < LEAST_PAIRS {
            return Err(MigrationError::Bad(format!(
                "`min_pairs` is {}; fewer than {LEAST_PAIRS} pairs show nothing",
                options.min_pairs
            )));
        }
        // Making sure that it can be run here at all.
        self.providers().of(&workload)?;
        let used = match &source {
            Some(spec) => self.used(spec).await?,
            None => None,
        };
        let (starts, wanted) = match (&workload, allocation, source.as_ref().map(|of| of.allocation)) {
            (Workload::External(_), ..) => (UNKNOWN, UNKNOWN),
            (_, Wanted::This(wanted), before) => (starting(before.unwrap_or(wanted), used), wanted),
            (_, Wanted::Size, Some(before)) => (starting(before, used), before),
            (_, Wanted::Size, None) => {
                return Err(MigrationError::Bad(
                    "`to.allocation` is missing, and what the source has is not known as Segue does not run it; add \
                     { \"cpu\": 1, \"memory\": \"512 MiB\", \"storage\": \"1 GiB\" }"
                        .to_owned(),
                ));
            }
        };
        Ok(Record {
            progress: Progress::Requested,
            begun: false,
            options,
            spec: Spec {
                id: new_id(name)?,
                service: name.clone(),
                role: Role::Shadow,
                allocation: starts,
                workload,
            },
            slot,
            slot_before: slots.get(name, slot).map(|before| serde_json::json!(before)),
            source,
            wanted,
            granted: None,
            endpoints: Vec::new(),
            report: Vec::new(),
            gates: Vec::new(),
            approved: false,
            retire: false,
            wish: None,
            aborted: 0,
            no_way_back: false,
            baseline: None,
            switchover: None,
            warmed: None,
            bypass: None,
            reason: None,
            since: unix_millis(),
            spent: Duration::ZERO,
            spent_in_step: Duration::ZERO,
        })
    }
}

enum Wanted {
    This(Allocation),
    /// As much as the source has.
    Size,
}

/// `to`: the workload's keys, and beside them its allocation.
fn destination(mut to: Value) -> Result<(Workload, Wanted), MigrationError> {
    let bad = |error: &dyn std::fmt::Display| MigrationError::Bad(format!("`to` is not understood: {error}"));
    let keys = to.as_object_mut().ok_or_else(|| bad(&"it has to be an object"))?;
    let allocation = match keys.remove("allocation") {
        None => Wanted::Size,
        Some(Value::String(word)) if word == "size" => Wanted::Size,
        Some(of) => {
            let wanted: Allocation =
                serde_json::from_value(of).map_err(|error| bad(&format!("`allocation`: {error}")))?;
            if wanted.cpu == UNKNOWN.cpu {
                return Err(bad(&"`allocation`: `cpu` is nothing; write cores such as 0.5"));
            }
            Wanted::This(wanted)
        }
    };
    let workload = serde_json::from_value(to).map_err(|error| bad(&error))?;
    Ok((workload, allocation))
}

fn options(request: &MigrationRequest, settings: &config::Migration) -> Options {
    let millis = |of: Option<u64>, usual| of.map_or(usual, Duration::from_millis);
    Options {
        policy: request.policy.unwrap_or(settings.policy),
        watch: millis(request.watch_ms, settings.watch),
        grace: millis(request.grace_ms, settings.grace),
        deadline: millis(request.deadline_ms, settings.deadline),
        min_pairs: request.min_pairs.unwrap_or(settings.min_pairs),
    }
}

/// The service's name as far as an id can carry it, and enough chance to be the only one.
fn new_id(service: &str) -> Result<InstanceId, MigrationError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = service.chars().take(40).map(plain).collect();
    let id = InstanceId::new(format!("s-{name}-{:08x}", fastrand::u32(..)));
    id.map_err(|error| MigrationError::Bad(error.to_string()))
}
