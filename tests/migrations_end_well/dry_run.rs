//! A dry run starts the new instance, says what it saw, and leaves nothing: however it ends.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::stage::Stage;
use crate::support::until;

fn asked(stage: &Stage, change: impl FnOnce(&mut Value)) -> Value {
    let mut request = stage.request(&[]);
    request["dry_run"] = json!(true);
    change(&mut request);
    request
}

fn report(stage: &Stage, request: &Value) -> Value {
    let (status, report) = stage.segue.call("POST", "/v1/migrations", &request.to_string());
    assert_eq!(status, 200, "{report:#}");
    report
}

/// What a report says about a subject.
#[track_caller]
fn item<'r>(report: &'r Value, subject: &str) -> &'r Value {
    let mut all = report["report"].as_array().unwrap().iter();
    all.find(|of| of["subject"] == subject).unwrap_or_else(|| panic!("nothing about {subject}: {report:#}"))
}

#[track_caller]
fn says(report: &Value, subject: &str, gravity: &str, words: &str) {
    let all = report["report"].as_array().unwrap().iter().filter(|of| of["subject"] == subject);
    let mut messages = all.filter(|of| of["gravity"] == gravity).map(|of| of["message"].as_str().unwrap());
    assert!(messages.any(|message| message.contains(words)), "{subject} {gravity} {words}: {report:#}");
}

/// One that never listens, and is found by [`Stage::processes`].
fn sleeper(stage: &Stage, says: &str) -> Value {
    let script = format!("echo {says}; sleep 1000; true");
    json!(["/bin/sh", "-c", script, "origin", stage.ledger])
}

fn assert_gone(stage: &Stage) {
    until("the instance to be gone", || {
        (stage.processes().len() == 1 && stage.made().len() == 1).then_some(())
    });
    stage.assert_one_instance_is_left("source");
}

/// Sends it and does not wait for the answer.
fn send(stage: &Stage, request: &Value) -> TcpStream {
    let body = request.to_string();
    let mut caller = TcpStream::connect(stage.segue.admin).unwrap();
    let head = "POST /v1/migrations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    write!(caller, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    caller
}

/// A dry run that is in the middle of starting something, and whoever asked for it.
fn under_way(stage: &Stage) -> TcpStream {
    let caller = send(stage, &asked(stage, |request| request["to"]["command"] = sleeper(stage, "thinking")));
    until("the instance to run", || (stage.processes().len() == 2).then_some(()));
    caller
}

#[test]
fn the_new_instance_is_started_measured_and_destroyed_and_the_source_notices_nothing() {
    let stage = Stage::new();
    let load = stage.load(200.0);
    let source = stage.processes();
    let report = report(&stage, &asked(&stage, |_| {}));
    assert_eq!((&report["compatible"], &report["started"]), (&json!(true), &json!(true)), "{report:#}");
    says(&report, "starts", "fine", "it takes connections and its check passes");
    let numbers = &item(&report, "starts")["numbers"];
    assert!(numbers["ready_ms"].as_u64().is_some_and(|ready| ready < 60_000), "{report:#}");
    let granted = numbers["memory_granted_bytes"].as_u64().unwrap();
    assert_eq!(granted, 64 << 20, "half of the source's");
    assert!(numbers["memory_peak_bytes"].as_u64().is_some_and(|peak| peak > 1 << 20), "{report:#}");
    says(&report, "architecture", "fine", "built for this machine");
    says(&report, "version", "fine", "both run");
    says(&report, "environment", "fine", "no variables");
    says(&report, "dependencies", "fine", "`migration.requires` is not set");
    says(&report, "protocol", "fine", "speaks HTTP/1.1");
    says(&report, "schema", "not_known", "`migration.schema_version`");
    assert!(item(&report, "resources")["numbers"]["memory_free_bytes"].as_u64().unwrap() > 0);

    assert_eq!(stage.processes(), source, "gone by the time that the report is there");
    stage.assert_one_instance_is_left("source");
    let (_, list) = stage.segue.call("GET", "/v1/migrations", "");
    assert_eq!(list["migrations"], json!([]), "{list}");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert_eq!(stage.writers(), ["active"], "a shadow wrote nothing");
}

#[test]
fn one_that_does_not_come_up_is_told_in_its_own_words_and_destroyed() {
    let stage = Stage::new();
    let ends = json!(["/bin/sh", "-c", "echo no licence found; exit 3", "origin", stage.ledger]);
    let ended = report(&stage, &asked(&stage, |request| request["to"]["command"] = ends));
    assert_eq!((&ended["compatible"], &ended["started"]), (&json!(false), &json!(true)), "{ended:#}");
    says(&ended, "starts", "fault", "it ended with code 3 while it started; it wrote: no licence found");
    assert_eq!(item(&ended, "starts")["numbers"]["exit_code"], 3);
    assert_gone(&stage);

    let late = asked(&stage, |request| {
        request["to"]["command"] = sleeper(&stage, "waiting for the moon");
        request["deadline_ms"] = json!(4000);
    });
    let late = report(&stage, &late);
    says(&late, "starts", "fault", "it did not come up within 4 s");
    says(&late, "starts", "fault", "it wrote: waiting for the moon");
    assert_gone(&stage);

    let lost = json!([
        "/bin/sh",
        "-c",
        "echo app: error while loading shared libraries: libpq.so.5: no such file; exit 127"
    ]);
    let lost = report(&stage, &asked(&stage, |request| request["to"]["command"] = lost));
    says(&lost, "dependencies", "fault", "the library libpq.so.5 is missing");
    assert_gone(&stage);
}

#[test]
fn one_that_needs_more_memory_than_it_starts_with_is_named_as_such() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED for want of: root");
    }
    let stage = Stage::new();
    let mut request = stage.request(&["--memory", "512MiB"]);
    request["dry_run"] = json!(true);
    let report = report(&stage, &request);
    says(&report, "starts", "fault", "want of memory while it started; it starts with 64 MiB");
    assert_gone(&stage);
}

#[test]
fn whoever_asked_and_goes_away_leaves_nothing_behind() {
    let stage = Stage::new();
    let caller = under_way(&stage);
    let (status, problem) = stage.segue.call("POST", "/v1/migrations", &asked(&stage, |_| {}).to_string());
    assert_eq!((status, &problem["reason"]), (409, &json!("not_now")), "one at a time: {problem}");
    drop(caller);
    assert_gone(&stage);
    until("another one to be possible", || {
        let (status, report) = stage.segue.call("POST", "/v1/migrations", &asked(&stage, |_| {}).to_string());
        (status == 200).then_some(report)
    });
    stage.assert_one_instance_is_left("source");
}

#[test]
fn a_segue_that_is_killed_in_the_middle_leaves_nothing_for_long() {
    let mut stage = Stage::new();
    let source = stage.processes();
    let _caller = under_way(&stage);
    stage.segue.kill();
    assert_eq!(stage.processes().len(), 2, "instances outlive Segue");
    stage.segue.restart();
    assert_gone(&stage);
    assert_eq!(stage.processes(), source, "the source is another matter");
}

#[test]
fn a_segue_that_ends_or_is_upgraded_takes_it_along() {
    let mut stage = Stage::new();
    let _caller = under_way(&stage);
    let mut before = stage.segue.upgrade();
    before.wait();
    assert_gone(&stage);
    let _caller = under_way(&stage);
    stage.segue.signal("TERM");
    stage.segue.wait();
    assert_eq!((stage.processes().len(), stage.made().len()), (1, 1));
    stage.segue.restart();
    stage.assert_one_instance_is_left("source");
}

#[test]
fn it_is_refused_beside_a_migration_and_ended_by_one() {
    let stage = Stage::new();
    let load = stage.load(300.0);
    let caller = under_way(&stage);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    until("the dry run to have made way", || {
        let made = stage.made();
        let instance = stage.migration(id)["instance"].as_str().map(str::to_owned);
        let ours = |of: &&String| Some(*of) != instance.as_ref() && !of.contains("source");
        made.iter().all(|of| !ours(&of)).then_some(())
    });
    let answer = crate::support::read_answer(&mut { caller }).unwrap();
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert!(answer.text().contains("migration 1"), "{}", answer.text());

    let (status, problem) = stage.segue.call("POST", "/v1/migrations", &asked(&stage, |_| {}).to_string());
    assert_eq!((status, &problem["reason"]), (409, &json!("under_way")), "{problem}");
    stage.until_phase(id, "ready");
    assert_eq!(stage.ask(id, "cancel").0, 200);
    stage.until_phase(id, "cancelled");
    stage.assert_one_instance_is_left("source");
    assert_eq!(stage.finish(load).failed, 0);
}

#[test]
fn what_is_missing_and_what_differs_is_in_the_report() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let (there_at, gone_at) = (there.local_addr().unwrap(), gone.local_addr().unwrap());
    drop(gone);
    let settings = format!(
        "[services.web.migration]\n\
         requires = [\"tcp://{there_at}\", \"postgres://{gone_at}\", \"/bin/sh\", \"/nowhere/licence\"]\n\
         version = {{ path = \"/whoami\" }}\n\
         schema_version = {{ command = [\"sh\", \"-c\", \"test $SEGUE_ROLE = active && echo 41 || echo 42\"] }}\n"
    );
    let stage = Stage::with(&[], &settings, &[]);
    let mut request = stage.request(&[]);
    request["dry_run"] = json!(true);
    let report = report(&stage, &request);
    assert_eq!(report["compatible"], false, "{report:#}");
    says(&report, "starts", "fine", "it takes connections");
    says(&report, "dependencies", "fine", &format!("tcp://{there_at} takes connections"));
    says(&report, "dependencies", "fault", &format!("postgres://{gone_at} cannot be reached"));
    says(&report, "dependencies", "fine", "/bin/sh is there");
    says(&report, "dependencies", "fault", "/nowhere/licence is not there");
    says(&report, "schema", "fault", "the source has version 41, the new instance 42");
    assert_gone(&stage);
}

#[test]
fn what_is_required_is_looked_for_from_where_the_instance_is() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED for want of: root");
    }
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let required = there.local_addr().unwrap();
    let settings = format!("[services.web.migration]\nrequires = [\"tcp://{required}\"]\n");
    let stage = Stage::with(&[], &settings, &[]);
    let confined = report(&stage, &asked(&stage, |request| request["to"]["egress"] = json!([])));
    if item(&confined, "egress")["gravity"] == "fault" {
        return eprintln!("SKIPPED for want of: a network namespace");
    }
    says(&confined, "starts", "fine", "it takes connections");
    says(&confined, "dependencies", "fault", "cannot be reached from the new instance");
    assert_gone(&stage);
    let free = report(&stage, &asked(&stage, |_| {}));
    says(&free, "dependencies", "fine", "takes connections from the new instance");
}

#[test]
fn one_that_only_looks_starts_nothing() {
    let stage = Stage::new();
    let marker = stage.segue.folder.path().join("started");
    let command = json!(["/bin/sh", "-c", format!("touch {}", marker.display())]);
    let request = asked(&stage, |request| {
        request["dry_run"] = json!("static");
        request["to"]["command"] = command;
    });
    let report = report(&stage, &request);
    assert_eq!((&report["compatible"], &report["started"]), (&json!(true), &json!(false)), "{report:#}");
    says(&report, "starts", "not_known", "static");
    assert!(!marker.exists());
    stage.assert_one_instance_is_left("source");
}
