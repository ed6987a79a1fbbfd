//! What a dry run makes of what it has seen. Pure.
//!
//! The items are the same for every provider: what one of them cannot say is said to be not known, and why.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::super::steps::ending;
use crate::config::{Allocation, ByteSize, Endpoint, Requirement, Workload};
use crate::instance::{Finding, Missed, Spec};
use crate::migrate::protocol::{NotTold, Spoken};
use crate::migrate::record::Record;

/// What every report has a word on.
const ITEMS: [&str; 8] =
    ["starts", "architecture", "version", "environment", "dependencies", "protocol", "schema", "resources"];
/// A start that came this close to its memory may be killed the next time.
const TIGHT_PERCENT: u64 = 90;

/// How a start went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub start: Start,
    /// The most bytes that were seen in use.
    pub memory_peak: Option<u64>,
    /// What it started with.
    pub granted: Allocation,
    /// The last lines that it wrote, where it did not come up.
    pub said: String,
}

#[derive(Debug)]
pub(super) enum Start {
    /// It takes connections and passes its checks.
    Ready {
        after: Duration,
        checks: usize,
    },
    Ended {
        code: Option<i32>,
        out_of_memory: bool,
    },
    Late {
        after: Duration,
        why: String,
    },
    /// The provider could not start it, or may not.
    Refused(String),
}

/// Why there may be no word on an item.
#[derive(Clone, Copy, Debug)]
pub(super) enum Silence {
    /// Nothing was to be started.
    Static,
    /// What had been looked at before says that it cannot run.
    NotStarted,
    /// It was started.
    Tried,
}

/// What is required, and whether it was found.
pub(super) type Looked = (Requirement, Result<(), Missed>);

/// What the source says, and the new instance; or why not.
pub(super) type Compared = [Result<String, String>; 2];

pub(super) fn unseen() -> Missed {
    Missed::Unknown("the network and the files of the instance cannot be looked at from here".to_owned())
}

/// Why nothing is known of an instance.
const NOT_OURS: &str = "Segue does not run it";

/// In whole MiB, upwards.
fn mebibytes(bytes: u64) -> ByteSize {
    ByteSize::mib(bytes.div_ceil(1 << 20))
}

pub(super) fn starts(outcome: &Outcome) -> Vec<Finding> {
    let granted = outcome.granted.memory;
    let wrote = if outcome.said.trim().is_empty() {
        "it wrote nothing".to_owned()
    } else {
        format!("it wrote: {}", outcome.said.trim_end())
    };
    let started = match &outcome.start {
        Start::Ready { after, checks } => {
            let checks_pass = match checks {
                1 => "its check passes".to_owned(),
                checks => format!("its {checks} checks pass"),
            };
            let seconds = after.as_secs_f64();
            let memory = outcome.memory_peak.map_or_else(
                || "how much memory that took is not known".to_owned(),
                |peak| format!("that took {} of memory at most", mebibytes(peak)),
            );
            Finding::fine(
                "starts",
                format!("after {seconds:.1} s it takes connections and {checks_pass}; {memory}"),
            )
            .number("ready_ms", u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
            .number("checks", *checks as u64)
        }
        Start::Ended { code, out_of_memory } => {
            let how = ending(*code, *out_of_memory);
            let way_out = if *out_of_memory {
                format!(
                    "; it starts with {granted}, half of what the source or `allocation` has: give that more memory"
                )
            } else {
                String::new()
            };
            let finding = Finding::fault("starts", format!("{how} while it started{way_out}; {wrote}"));
            match code.and_then(|code| u64::try_from(code).ok()) {
                Some(code) => finding.number("exit_code", code),
                None => finding,
            }
        }
        Start::Late { after, why } => Finding::fault(
            "starts",
            format!("it did not come up within {} s: {why}; {wrote}", after.as_secs_f64()),
        ),
        Start::Refused(why) => Finding::fault("starts", format!("it cannot be started: {why}")),
    };
    let started = match outcome.memory_peak {
        Some(peak) => started.number("memory_peak_bytes", peak).number("memory_granted_bytes", granted.0),
        None => started,
    };
    let mut found = vec![started];
    if let (Start::Ready { .. }, Some(peak)) = (&outcome.start, outcome.memory_peak)
        && granted.0 > 0
        && peak.saturating_mul(100) >= granted.0.saturating_mul(TIGHT_PERCENT)
    {
        found.push(Finding::warning(
            "memory",
            format!(
                "starting took {} of the {granted} that it starts with; another start may be killed: give the source or \
                 `allocation` more memory",
                mebibytes(peak)
            ),
        ));
    }
    found
}

/// What has to be there beside the program: what the settings require, and libraries, of whose want its loader speaks.
pub(super) fn dependencies(looked: &[Looked], outcome: &Outcome) -> Vec<Finding> {
    const SUBJECT: &str = "dependencies";
    let mut found = Vec::new();
    for (requirement, there) in looked {
        found.push(match (there, requirement) {
            (Ok(()), Requirement::Path(_)) => Finding::fine(SUBJECT, format!("{requirement} is there")),
            (Ok(()), _) => Finding::fine(SUBJECT, format!("{requirement} takes connections from the new instance")),
            (Err(Missed::Unknown(why)), _) => Finding::not_known(SUBJECT, format!("{requirement}: {why}")),
            (Err(Missed::Absent(why)), Requirement::Path(_)) => Finding::fault(
                SUBJECT,
                format!("{requirement} is not there for the new instance: {why}; put or mount it there"),
            ),
            (Err(Missed::Absent(why)), _) => Finding::fault(
                SUBJECT,
                format!(
                    "{requirement} cannot be reached from the new instance: {why}; start it, or let the instance reach it \
                     (`egress`, `network`)"
                ),
            ),
        });
    }
    let said = match &outcome.start {
        Start::Refused(why) => why,
        _ => &outcome.said,
    };
    if let Some(library) = missing_library(said) {
        found.push(Finding::fault(
            SUBJECT,
            format!("the library {library} is missing; install it where the instance runs"),
        ));
    } else if let Start::Ready { .. } = outcome.start
        && looked.is_empty()
    {
        let message = "it starts, so its libraries are there; `migration.requires` is not set, so nothing else was \
                       looked for";
        found.push(Finding::fine(SUBJECT, message));
    }
    found
}

/// In the words of the loaders of glibc and musl.
fn missing_library(said: &str) -> Option<&str> {
    let after = |words: &str| said.split_once(words).map(|(_, after)| after);
    let named =
        after("error while loading shared libraries: ").or_else(|| after("Error loading shared library "));
    let name = named?.split(':').next()?.trim();
    (!name.is_empty()).then_some(name)
}

pub(super) fn protocol(endpoint: &Endpoint, spoken: &Result<Spoken, NotTold>) -> Finding {
    const SUBJECT: &str = "protocol";
    let wanted = Spoken::wanted(endpoint.scheme);
    match spoken {
        Ok(spoken) if *spoken == wanted => Finding::fine(SUBJECT, format!("{endpoint} speaks {wanted}")),
        Ok(spoken) => Finding::fault(
            SUBJECT,
            format!(
                "{endpoint} is to speak {wanted} and speaks {spoken}; correct `protocol` or the endpoint"
            ),
        ),
        Err(why) => {
            Finding::fault(SUBJECT, format!("{endpoint} is to speak {wanted}, and does not answer: {why}"))
        }
    }
}

pub(super) fn version(said: &Compared) -> Finding {
    const SUBJECT: &str = "version";
    match said {
        [Ok(source), Ok(new)] if source == new => Finding::fine(SUBJECT, format!("both are {new}")),
        [Ok(source), Ok(new)] => {
            Finding::fine(SUBJECT, format!("the source is {source}, the new instance {new}"))
        }
        said => Finding::not_known(SUBJECT, unread(said)),
    }
}

/// Both sides work on the same data, or on a copy of it: nothing converts it.
pub(super) fn schema(said: &Compared) -> Finding {
    const SUBJECT: &str = "schema";
    match said {
        [Ok(source), Ok(new)] if source == new => Finding::fine(SUBJECT, format!("both have version {new}")),
        [Ok(source), Ok(new)] => Finding::fault(
            SUBJECT,
            format!(
                "the source has version {source}, the new instance {new}, and data is not converted; bring both to one \
                 version first"
            ),
        ),
        said => Finding::not_known(SUBJECT, unread(said)),
    }
}

fn unread([source, new]: &Compared) -> String {
    let sides = [("the source", source), ("the new instance", new)];
    let told = sides.map(|(side, said)| match said {
        Ok(said) => format!("{side} says {said}"),
        Err(why) => format!("{side} does not say it: {why}"),
    });
    told.join("; ")
}

/// What can be said by what is asked for and what there is, without a start.
pub(in crate::control::migration) fn before(record: &Record, looked_at: &[Finding]) -> Vec<Finding> {
    let (source, new) = (record.source.as_ref(), &record.spec);
    let mut found = vec![environment(source, new)];
    found.extend(what_runs(source, new));
    found.extend(room(looked_at, record.wanted));
    found
}

/// By name only: values may be secrets.
fn environment(source: Option<&Spec>, new: &Spec) -> Finding {
    const SUBJECT: &str = "environment";
    let variables = |spec: &Spec| match &spec.workload {
        Workload::Process(process) => Ok(process.environment.clone()),
        Workload::Docker(docker) => Ok(docker.environment.clone()),
        Workload::Ec2(_) => Err("its machine sets it"),
        Workload::External(_) => Err(NOT_OURS),
    };
    let before = match source.map_or(Err(NOT_OURS), variables) {
        Ok(before) => before,
        Err(why) => {
            return Finding::not_known(SUBJECT, format!("what the source is given is not known, as {why}"));
        }
    };
    let now = match variables(new) {
        Ok(now) => now,
        Err(why) => {
            return Finding::not_known(
                SUBJECT,
                format!("what the new instance is given is not known, as {why}"),
            );
        }
    };
    let missing: Vec<_> = before.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
    let finding = if missing.is_empty() {
        let message = match before.len() {
            0 => "the source is given no variables".to_owned(),
            1 => "the variable that the source is given is there".to_owned(),
            all => format!("all {all} variables that the source is given are there"),
        };
        Finding::fine(SUBJECT, message)
    } else {
        let message = format!(
            "the source is given {}, and the new instance is not; add what it needs to `environment`",
            missing.join(", ")
        );
        Finding::warning(SUBJECT, message)
    };
    finding.number("missing", missing.len() as u64)
}

/// As the provider knows it; an instance's own word on its version follows once it runs.
fn what_runs(source: Option<&Spec>, new: &Spec) -> Option<Finding> {
    let named = |spec: &Spec| match &spec.workload {
        Workload::Process(process) => Some(format!("`{}`", process.command.first()?)),
        Workload::Docker(docker) => Some(format!("the image `{}`", docker.image)),
        Workload::Ec2(ec2) => Some(format!("the image `{}`", ec2.image)),
        Workload::External(_) => None,
    };
    let new = named(new)?;
    let message = match source.and_then(named) {
        Some(source) if source == new => format!("both run {new}"),
        Some(source) => format!("the source runs {source}, the new instance {new}"),
        None => {
            let message = format!(
                "the new instance runs {new}; what the source runs is not known, as Segue does not run it"
            );
            return Some(Finding::not_known("version", message));
        }
    };
    Some(Finding::fine("version", message))
}

/// Whether what it will serve with is there while the source still runs: a migration starts with less.
fn room(looked_at: &[Finding], wanted: Allocation) -> Vec<Finding> {
    let numbers = looked_at.iter().find(|of| of.subject == "resources").map(|of| &of.numbers);
    let free = |name: &str| numbers.and_then(|numbers| numbers.get(name)).copied();
    let short = |name: &str, what: &str, wanted: u64| {
        let free = free(name).filter(|free| *free < wanted)?;
        let message = format!(
            "it is to serve with {} of {what}, and {} are free while the source still runs; free some, or ask for less",
            mebibytes(wanted),
            mebibytes(free)
        );
        Some(Finding::warning("resources", message).number("wanted_bytes", wanted).number(name, free))
    };
    let memory = short("memory_free_bytes", "memory", wanted.memory.0);
    let storage = short("storage_free_bytes", "storage", wanted.storage.0);
    memory.into_iter().chain(storage).collect()
}

/// Adds the items on which there is no word yet.
pub(super) fn complete(report: &mut Vec<Finding>, silence: Silence) {
    for item in ITEMS {
        if report.iter().any(|finding| finding.subject == item) {
            continue;
        }
        let message = match (silence, item) {
            (Silence::Static, _) => "nothing was started to find out, as the dry run is static",
            (Silence::NotStarted, _) => "nothing was started to find out; put the faults right first",
            (Silence::Tried, "schema") => {
                "not configured, or it did not come up; `migration.schema_version` has both sides compared"
            }
            (Silence::Tried, "protocol") => "it did not come up",
            (Silence::Tried, _) => "nobody here knows",
        };
        report.push(Finding::not_known(item, message));
    }
}
