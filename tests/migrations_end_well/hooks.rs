//! What a service's hooks are told of a switch: in order, once it counts, and taken back if it did not happen.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::json;

use crate::stage::{SLOW_SOURCE, Stage};
use crate::support::until;

#[test]
fn hooks_are_told_within_the_pause_and_one_that_refuses_stops_the_switch() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let hook = |last: &str| {
        json!(["/bin/sh", "-c", format!("echo $SEGUE_EVENT $SEGUE_ROLE >> {}; {last}", told.display())])
    };
    let settings = |promote: &str| {
        format!(
            "[services.web.migration]\non_promote = {{ command = {} }}\non_demote = {{ command = {} }}",
            hook(promote),
            hook("true")
        )
    };
    for (promote, phase, active) in [("true", "done", "shadow"), ("exit 7", "failed", "source")] {
        let _ = std::fs::remove_file(&told);
        let stage = Stage::with(&[], &settings(promote), &SLOW_SOURCE);
        let load = stage.load(300.0);
        let id = stage.start(&stage.request(&[]));
        let view = stage.until_phase(id, phase);
        let lines = std::fs::read_to_string(&told).unwrap();
        assert!(lines.starts_with("demote shadow\npromote active\n"), "{lines}");
        if phase == "failed" {
            assert!(view["reason"].as_str().unwrap().contains('7'), "{view:#}");
            assert!(lines.ends_with("demote shadow\npromote active\n"), "taken back: {lines}");
        }
        stage.assert_one_instance_is_left(active);
        assert_eq!(stage.finish(load).failed, 0);
    }
}

/// Hooks that write down what they are told, and whom it is about, after `first`.
fn telling(told: &Path, first: &str, timeout: &str) -> String {
    let hook = json!([
        "/bin/sh",
        "-c",
        format!(
            "{first} case $SEGUE_INSTANCE in *source*) of=source;; *) of=new;; esac; echo $SEGUE_EVENT $of >> {}",
            told.display()
        )
    ]);
    let hook = format!("{{ command = {hook}, timeout = \"{timeout}\" }}");
    format!("[services.web.migration]\non_promote = {hook}\non_demote = {hook}\n")
}

#[test]
fn what_was_told_before_a_crash_is_taken_back_before_it_is_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let crash = [("SEGUE_FAILPOINT", "switchover.handed_over")];
    // Twice the hook's two seconds, and whatever a busy machine adds to what is predicted of the drain.
    let held = "[services.web.switchover]\npark_timeout = \"20s\"\n";
    let mut stage = Stage::with(&crash, &(telling(&told, "", "2s") + held), &SLOW_SOURCE);
    let load = stage.load(300.0);
    let id = stage.start(&stage.request(&[]));
    stage.segue.wait();
    stage.segue.restart();
    stage.until_phase(id, "done");
    let lines = std::fs::read_to_string(&told).unwrap();
    let switch = "demote source\npromote new\n";
    assert_eq!(lines, format!("{switch}demote new\npromote source\n{switch}"));
    stage.assert_one_instance_is_left("shadow");
    stage.finish(load);
}

#[test]
fn callers_are_not_held_for_hooks_that_take_their_time_to_take_back() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    // Only that the source is demoted is heard at once.
    let slow = "case $SEGUE_EVENT-$SEGUE_INSTANCE in demote-*source*) ;; *) sleep 60;; esac;";
    let held = "[services.web.switchover]\npark_timeout = \"3s\"\n";
    let stage = Stage::with(&[], &(telling(&told, slow, "1200ms") + held), &SLOW_SOURCE);
    let load = stage.load(200.0);
    let id = stage.start(&stage.request(&[]));
    let view = stage.until_phase(id, "failed");
    assert!(view["reason"].as_str().unwrap().contains("promote hook"), "{view:#}");
    let lines = std::fs::read_to_string(&told).unwrap();
    assert_eq!(lines, "demote source\n".repeat(3));
    stage.assert_one_instance_is_left("source");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

#[test]
fn neither_a_request_that_does_not_end_nor_a_hook_that_refuses_keeps_a_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let (told, refuse) = (folder.path().join("told"), folder.path().join("refuse"));
    let first = format!("test ! -e {} || test $SEGUE_EVENT = promote || exit 9;", refuse.display());
    let drain = "[services.web.switchover]\npark_timeout = \"4s\"\ndrain_timeout = \"500ms\"\n";
    let stage = Stage::with(&[], &(telling(&told, &first, "1s") + drain), &SLOW_SOURCE);
    let load = stage.load(200.0);
    let mut request = stage.request(&[]);
    request["watch_ms"] = json!(60_000);
    let id = stage.start(&request);
    stage.until_phase(id, "watching");
    std::fs::write(&refuse, "").unwrap();
    let mut stuck = TcpStream::connect(stage.segue.address).unwrap();
    stuck.write_all(b"GET /slow/600000 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let taken = || try_seen(&stage).is_some_and(|in_flight| in_flight > 0);
    until("the request to be in flight", || taken().then_some(()));
    assert_eq!(stage.ask(id, "rollback").0, 200);
    stage.until_phase(id, "rolled_back");
    let mut rest = Vec::new();
    let _ = stuck.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "it was cut");
    assert!(stage.segue.log().contains("a hook was not told"), "{}", stage.segue.log());
    let lines = std::fs::read_to_string(&told).unwrap();
    assert_eq!(lines, "demote source\npromote new\npromote source\n");
    stage.assert_one_instance_is_left("source");
    stage.finish(load);
}

/// How many requests the service has in flight.
fn try_seen(stage: &Stage) -> Option<u64> {
    stage.segue.service()["in_flight"].as_u64()
}

#[test]
fn the_old_side_takes_nothing_any_more_when_the_new_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (port, heard) = (folder.path().join("port"), folder.path().join("heard"));
    let demote = json!(["/bin/sh", "-c", format!("echo ${{SEGUE_ENDPOINT##*:}} > {}", port.display())]);
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/$(cat {}); printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
         if read -t 1 line <&3; then echo answered; else echo silent; fi > {}",
        port.display(),
        heard.display()
    );
    let promote = json!(["/bin/bash", "-c", ask]);
    let hooks = format!(
        "[services.web.migration]\non_promote = {{ command = {promote} }}\non_demote = {{ command = {demote} }}\n"
    );
    let stage = Stage::with(&[], &hooks, &SLOW_SOURCE);
    let load = stage.load(100.0);
    let id = stage.start(&stage.request(&[]));
    stage.until_phase(id, "done");
    assert_eq!(std::fs::read_to_string(&heard).unwrap(), "silent\n");
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
}
