use super::*;
use crate::config::{Millicores, Process, ServiceProtocol};
use crate::instance::{Gravity, InstanceId, Role};

fn outcome(start: Start, peak: Option<u64>, said: &str) -> Outcome {
    let granted = Allocation { cpu: Millicores(250), memory: ByteSize::mib(64), storage: ByteSize::mib(10) };
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
    let words = "after 1.2 s it takes connections and its 2 checks pass; that took 21 MiB of memory at most";
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
        (Start::Ended { code: Some(137), out_of_memory: true }, &["want of memory", "64 MiB", "more memory"]),
        (Start::Late { after: Duration::from_mins(2), why: "refused".into() }, &["within 120 s: refused"]),
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
        ("app: error while loading shared libraries: libpq.so.5: cannot open shared object", "libpq.so.5"),
        ("Error loading shared library libssl.so.3: No such file (needed by /app)", "libssl.so.3"),
    ] {
        let found = dependencies(&[], &outcome(ended(), None, said));
        let words = format!("the library {library} is missing; install it where the instance runs");
        assert_eq!(told(&found), [(Gravity::Fault, "dependencies", words.as_str())]);
    }
    assert_eq!(dependencies(&[], &outcome(ended(), None, "no licence")), []);
    assert!(
        dependencies(&[], &outcome(ready(), None, ""))[0].message.contains("`migration.requires` is not set")
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
        keep_egress: false,
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
        Finding::fine("resources", "").number("memory_free_bytes", 100 << 20).number("storage_free_bytes", 1);
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
        let mut report = vec![Finding::fault("starts", "no")];
        complete(&mut report, silence);
        for item in ITEMS {
            assert_eq!(report.iter().filter(|of| of.subject == item).count(), 1, "{item}");
        }
    }
}
