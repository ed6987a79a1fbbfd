//! What a dry run makes of what it has seen. Pure.
//!
//! The items are the same for every provider: what one of them cannot say is said to be not known, and why.

use std::time::Duration;

use super::super::steps::ending;
use crate::config::{Allocation, ByteSize, Endpoint, Requirement, Workload};
use crate::instance::{Finding, Gravity, Missed, Spec};
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

fn fine(subject: &str, message: impl Into<String>) -> Finding {
    Finding::new(Gravity::Fine, subject, message)
}

fn warning(subject: &str, message: impl Into<String>) -> Finding {
    Finding::new(Gravity::Warning, subject, message)
}

fn fault(subject: &str, message: impl Into<String>) -> Finding {
    Finding::new(Gravity::Fault, subject, message)
}

fn not_known(subject: &str, message: impl Into<String>) -> Finding {
    Finding::new(Gravity::NotKnown, subject, message)
}

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
            fine("starts", format!("after {seconds:.1} s it takes connections and {checks_pass}; {memory}"))
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
            let finding = fault("starts", format!("{how} while it started{way_out}; {wrote}"));
            match code.and_then(|code| u64::try_from(code).ok()) {
                Some(code) => finding.number("exit_code", code),
                None => finding,
            }
        }
        Start::Late { after, why } => {
            fault("starts", format!("it did not come up within {} s: {why}; {wrote}", after.as_secs_f64()))
        }
        Start::Refused(why) => fault("starts", format!("it cannot be started: {why}")),
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
        found.push(warning(
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
            (Ok(()), Requirement::Path(_)) => fine(SUBJECT, format!("{requirement} is there")),
            (Ok(()), _) => fine(SUBJECT, format!("{requirement} takes connections from the new instance")),
            (Err(Missed::Unknown(why)), _) => not_known(SUBJECT, format!("{requirement}: {why}")),
            (Err(Missed::Absent(why)), Requirement::Path(_)) => fault(
                SUBJECT,
                format!("{requirement} is not there for the new instance: {why}; put or mount it there"),
            ),
            (Err(Missed::Absent(why)), _) => fault(
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
        found.push(fault(
            SUBJECT,
            format!("the library {library} is missing; install it where the instance runs"),
        ));
    } else if let Start::Ready { .. } = outcome.start
        && looked.is_empty()
    {
        let message = "it starts, so its libraries are there; `migration.requires` is not set, so nothing else was \
                       looked for";
        found.push(fine(SUBJECT, message));
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
        Ok(spoken) if *spoken == wanted => fine(SUBJECT, format!("{endpoint} speaks {wanted}")),
        Ok(spoken) => fault(
            SUBJECT,
            format!(
                "{endpoint} is to speak {wanted} and speaks {spoken}; correct `protocol` or the endpoint"
            ),
        ),
        Err(why) => fault(SUBJECT, format!("{endpoint} is to speak {wanted}, and does not answer: {why}")),
    }
}

pub(super) fn version(said: &Compared) -> Finding {
    const SUBJECT: &str = "version";
    match said {
        [Ok(source), Ok(new)] if source == new => fine(SUBJECT, format!("both are {new}")),
        [Ok(source), Ok(new)] => fine(SUBJECT, format!("the source is {source}, the new instance {new}")),
        said => not_known(SUBJECT, unread(said)),
    }
}

/// Both sides work on the same data, or on a copy of it: nothing converts it.
pub(super) fn schema(said: &Compared) -> Finding {
    const SUBJECT: &str = "schema";
    match said {
        [Ok(source), Ok(new)] if source == new => fine(SUBJECT, format!("both have version {new}")),
        [Ok(source), Ok(new)] => fault(
            SUBJECT,
            format!(
                "the source has version {source}, the new instance {new}, and data is not converted; bring both to one \
                 version first"
            ),
        ),
        said => not_known(SUBJECT, unread(said)),
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
pub(super) fn before(record: &Record, looked_at: &[Finding]) -> Vec<Finding> {
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
        Workload::Process(process) => Some(process.environment.clone()),
        Workload::Docker(docker) => Some(docker.environment.clone()),
        Workload::External(_) => None,
    };
    let Some(before) = source.and_then(variables) else {
        return not_known(SUBJECT, "what the source is given is not known, as Segue does not run it");
    };
    let Some(now) = variables(new) else {
        return not_known(SUBJECT, "what the new instance is given is not known, as Segue does not run it");
    };
    let missing: Vec<_> = before.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
    let finding = if missing.is_empty() {
        let message = match before.len() {
            0 => "the source is given no variables".to_owned(),
            1 => "the variable that the source is given is there".to_owned(),
            all => format!("all {all} variables that the source is given are there"),
        };
        fine(SUBJECT, message)
    } else {
        let message = format!(
            "the source is given {}, and the new instance is not; add what it needs to `environment`",
            missing.join(", ")
        );
        warning(SUBJECT, message)
    };
    finding.number("missing", missing.len() as u64)
}

/// As the provider knows it; an instance's own word on its version follows once it runs.
fn what_runs(source: Option<&Spec>, new: &Spec) -> Option<Finding> {
    let named = |spec: &Spec| match &spec.workload {
        Workload::Process(process) => Some(format!("`{}`", process.command.first()?)),
        Workload::Docker(docker) => Some(format!("the image `{}`", docker.image)),
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
            return Some(not_known("version", message));
        }
    };
    Some(fine("version", message))
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
        Some(warning("resources", message).number("wanted_bytes", wanted).number(name, free))
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
        report.push(not_known(item, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Millicores, Process, ServiceProtocol};
    use crate::instance::{InstanceId, Role};

    fn outcome(start: Start, peak: Option<u64>, said: &str) -> Outcome {
        let granted =
            Allocation { cpu: Millicores(250), memory: ByteSize::mib(64), storage: ByteSize::mib(10) };
        Outcome { start, memory_peak: peak, granted, said: said.to_owned() }
    }

    fn ready() -> Start {
        Start::Ready { after: Duration::from_millis(1234), checks: 2 }
    }

    fn told(findings: &[Finding]) -> Vec<(Gravity, &str, &str)> {
        findings.iter().map(|of| (of.gravity, of.subject.as_str(), of.message.as_str())).collect()
    }

    #[test]
    fn a_start_is_told_with_its_numbers() {
        let found = starts(&outcome(ready(), Some((20 << 20) + 1), ""));
        let words =
            "after 1.2 s it takes connections and its 2 checks pass; that took 21 MiB of memory at most";
        assert_eq!(told(&found), [(Gravity::Fine, "starts", words)]);
        let numbers = &found[0].numbers;
        assert_eq!((numbers["ready_ms"], numbers["memory_peak_bytes"]), (1234, (20 << 20) + 1));

        let found = starts(&outcome(ready(), Some(58 << 20), ""));
        assert_eq!((found[1].gravity, found[1].subject.as_str()), (Gravity::Warning, "memory"));
        assert_eq!(starts(&outcome(ready(), Some(57 << 20), "")).len(), 1, "less than 90 % of 64 MiB");
    }

    #[test]
    fn a_failure_is_told_in_the_instances_own_words() {
        for (start, words) in [
            (Start::Ended { code: Some(3), out_of_memory: false }, &["code 3", "it wrote: no licence"][..]),
            (
                Start::Ended { code: Some(137), out_of_memory: true },
                &["want of memory", "64 MiB", "more memory"],
            ),
            (
                Start::Late { after: Duration::from_mins(2), why: "refused".into() },
                &["within 120 s: refused"],
            ),
            (Start::Refused("no such program".into()), &["cannot be started: no such program"]),
        ] {
            let found = starts(&outcome(start, None, "no licence\n"));
            assert_eq!(found[0].gravity, Gravity::Fault);
            for word in words {
                assert!(found[0].message.contains(word), "{word}: {}", found[0].message);
            }
        }
        let silent = starts(&outcome(Start::Ended { code: Some(1), out_of_memory: false }, None, " "));
        assert!(silent[0].message.ends_with("it wrote nothing") && silent[0].numbers["exit_code"] == 1);
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_out() {
        let required = |text: &str, found| (text.parse::<Requirement>().unwrap(), found);
        let absent = || Err(Missed::Absent("Connection refused".into()));
        let looked = [
            required("postgres://db:5432", Ok(())),
            required("redis://cache:6379", absent()),
            required("/etc/licence", absent()),
            required("tcp://x:1", Err(unseen())),
        ];
        let found = dependencies(&looked, &outcome(ready(), None, ""));
        let gravities: Vec<_> = found.iter().map(|of| of.gravity).collect();
        assert_eq!(gravities, [Gravity::Fine, Gravity::Fault, Gravity::Fault, Gravity::NotKnown]);
        assert!(found[1].message.contains("Connection refused") && found[1].message.contains("`egress`"));
        assert!(found[2].message.contains("mount it"));

        let ended = || Start::Ended { code: Some(127), out_of_memory: false };
        for (said, library) in [
            (
                "app: error while loading shared libraries: libpq.so.5: cannot open shared object",
                "libpq.so.5",
            ),
            ("Error loading shared library libssl.so.3: No such file (needed by /app)", "libssl.so.3"),
        ] {
            let found = dependencies(&[], &outcome(ended(), None, said));
            let words = format!("the library {library} is missing; install it where the instance runs");
            assert_eq!(told(&found), [(Gravity::Fault, "dependencies", words.as_str())]);
        }
        assert_eq!(dependencies(&[], &outcome(ended(), None, "no licence")), []);
        assert!(
            dependencies(&[], &outcome(ready(), None, ""))[0]
                .message
                .contains("`migration.requires` is not set")
        );
    }

    #[test]
    fn versions_are_compared_and_only_another_schema_is_a_fault() {
        let said = |source: &str, new: &str| [Ok(source.to_owned()), Ok(new.to_owned())];
        assert_eq!(version(&said("1", "1")).message, "both are 1");
        assert_eq!(version(&said("1", "2")).gravity, Gravity::Fine);
        assert_eq!(schema(&said("41", "41")).gravity, Gravity::Fine);
        let other = schema(&said("41", "42"));
        assert_eq!(other.gravity, Gravity::Fault);
        assert!(other.message.contains("41") && other.message.contains("42"), "{other:?}");
        let half = schema(&[Ok("41".into()), Err("answered 404 Not Found".into())]);
        assert_eq!(
            told(&[half]),
            [(
                Gravity::NotKnown,
                "schema",
                "the source says 41; the new instance does not say it: answered 404 Not Found"
            )]
        );
    }

    #[test]
    fn an_endpoint_that_speaks_something_else_is_a_fault() {
        let endpoint = "h2c://10.0.0.1:80".parse().unwrap();
        assert_eq!(protocol(&endpoint, &Ok(Spoken::Http2)).gravity, Gravity::Fine);
        let found = protocol(&endpoint, &Ok(Spoken::Http1));
        assert_eq!(found.gravity, Gravity::Fault);
        assert!(found.message.contains("is to speak HTTP/2 in clear and speaks HTTP/1.1"), "{found:?}");
        assert_eq!(protocol(&endpoint, &Err(NotTold::Closed)).gravity, Gravity::Fault);
    }

    fn spec(program: &str, environment: &[&str]) -> Spec {
        let secret = |name: &&str| ((*name).to_owned(), "hunter2".to_owned());
        let workload = Workload::Process(Process {
            command: vec![program.to_owned()],
            environment: environment.iter().map(secret).collect(),
            directory: None,
            protocol: ServiceProtocol::Http,
            egress: None,
        });
        let id = InstanceId::new("s-web-1").unwrap();
        let allocation = outcome(ready(), None, "").granted;
        Spec { id, service: "web".into(), role: Role::Shadow, allocation, workload }
    }

    #[test]
    fn variables_that_are_missing_are_named_without_their_values() {
        let source = spec("/v1", &["DATABASE_URL", "LOG", "TOKEN"]);
        let found = environment(Some(&source), &spec("/v2", &["LOG", "NEW"]));
        assert_eq!(found.gravity, Gravity::Warning);
        assert!(found.message.contains("DATABASE_URL, TOKEN,") && !found.message.contains("hunter2"));
        assert_eq!(found.numbers["missing"], 2);
        assert_eq!(environment(Some(&source), &source).gravity, Gravity::Fine);
        assert_eq!(environment(None, &source).gravity, Gravity::NotKnown);
    }

    #[test]
    fn what_runs_on_both_sides_is_named() {
        let (one, other) = (spec("/v1", &[]), spec("/v2", &[]));
        assert_eq!(what_runs(Some(&one), &one).unwrap().message, "both run `/v1`");
        let found = what_runs(Some(&one), &other).unwrap();
        assert_eq!(found.message, "the source runs `/v1`, the new instance `/v2`");
        assert_eq!(what_runs(None, &one).unwrap().gravity, Gravity::NotKnown);
    }

    #[test]
    fn what_it_will_serve_with_has_to_be_free_too() {
        let there =
            fine("resources", "").number("memory_free_bytes", 100 << 20).number("storage_free_bytes", 1);
        let wanted =
            |memory| Allocation { memory: ByteSize::mib(memory), storage: ByteSize(1), cpu: Millicores(1) };
        assert_eq!(room(std::slice::from_ref(&there), wanted(100)), []);
        let found = room(&[there], wanted(101));
        assert_eq!((found.len(), found[0].gravity), (1, Gravity::Warning));
        assert!(found[0].message.contains("101 MiB of memory, and 100 MiB are free"), "{found:?}");
        assert_eq!(room(&[], wanted(101)), []);
    }

    #[test]
    fn every_report_has_a_word_on_every_item() {
        for silence in [Silence::Static, Silence::NotStarted, Silence::Tried] {
            let mut report = vec![fault("starts", "no")];
            complete(&mut report, silence);
            for item in ITEMS {
                assert_eq!(report.iter().filter(|of| of.subject == item).count(), 1, "{item}");
            }
        }
    }
}
