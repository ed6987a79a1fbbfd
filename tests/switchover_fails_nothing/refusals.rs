//! What cannot start, says so, and touches nothing; and what a restart keeps.

use std::thread;

use segue::load::{Load, LoadSettings};
use serde_json::{Value, json};

use crate::callers::{Upload, sent};
use crate::stage::{Instance, Stage, block_on, instance_of, recorded};
use crate::support::{Segue, get, until};

fn assert_refused((status, problem): (u16, Value), with: u16, why: &str) {
    assert_eq!(status, with, "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(why), "{problem}");
}

#[test]
fn without_a_shadow_there_is_nowhere_to_go() {
    let a = Instance::start("a", &[]);
    let segue = Segue::with(&a.url(), None, "", "");
    assert_refused(segue.call("POST", "/v1/services/web/switchover", "{}"), 409, "no shadow");
    assert_refused(segue.call("POST", "/v1/services/web/rollback", "{}"), 409, "already the active");
    assert_refused(segue.call("POST", "/v1/services/nothing/switchover", "{}"), 404, "nothing");
    assert_eq!(segue.service()["generation"], 1);
    assert_eq!(instance_of(&get(segue.address, "/item/1")), "a");
}

/// Found out before anything is held.
#[test]
fn a_dead_target_holds_nobody() {
    let mut stage = Stage::new("", &[]);
    stage.b.kill();
    let mut settings = LoadSettings::new(stage.segue.url().parse().unwrap(), 200.0);
    settings.max_connections = 16;
    let load = Load::start(settings).unwrap();
    for _ in 0..5 {
        let before = load.live().done();
        assert_refused(stage.call_switchover("{}"), 409, "cannot take over");
        until("the load to go on", || (load.live().done() > before).then_some(()));
    }
    let report = block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let service = stage.segue.service();
    assert_eq!((&service["held_ms"]["count"], &service["generation"]), (&json!(0), &json!(1)));
    assert_eq!(stage.answering(), "a");
    stage.assert_quiet();
}

#[test]
fn one_at_a_time() {
    let stage = Stage::new("", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        assert_refused(stage.call_switchover("{}"), 409, "already under way");
        assert_refused(stage.call_switchover(r#"{"mode":"overlap"}"#), 409, "already under way");
        upload.finish();
        assert_eq!(switchover.join().unwrap()["outcome"], "completed");
    });
    stage.assert_quiet();
}

/// Asked at once, in every mode: whatever is refused or given up, the store and the gate agree.
#[test]
fn the_store_and_the_gate_agree_whoever_asks_at_once() {
    let mut stage = Stage::new("", &[]);
    for round in 0..8 {
        // It makes those that drain give up.
        let upload = Upload::begin(stage.address());
        stage.until_service("in_flight", 1);
        let orders = [r#"{"drain_timeout_ms":40}"#, r#"{"mode":"overlap","drain_timeout_ms":40}"#];
        let answers = thread::scope(|scope| {
            let asked: Vec<_> =
                orders.iter().cycle().take(6).map(|of| scope.spawn(|| stage.call_switchover(of))).collect();
            asked.into_iter().map(|answer| answer.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(answers.iter().all(|(status, _)| [200, 409].contains(status)), "{answers:?}");
        upload.finish();
        stage.assert_quiet();
        let service = stage.segue.service();
        let by_gate = service["active"].as_str().unwrap().to_owned();
        stage.segue.kill();
        let by_store = recorded(&stage.segue).map_or_else(|| "source".to_owned(), |(active, _)| active);
        assert_eq!(by_gate, by_store, "round {round}: {answers:?}");
        stage.segue.restart();
    }
}

/// Whoever asked for it has left; it is carried out all the same.
#[test]
fn it_does_not_depend_on_who_asked() {
    let stage = Stage::new("", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    let request = "POST /v1/services/web/switchover HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    let asking = sent(stage.segue.admin, request);
    stage.until_service("gate", "draining");
    drop(asking);
    upload.finish();
    stage.until_service("active", "shadow");
    assert_eq!(stage.answering(), "b");
    stage.assert_quiet();
}

#[test]
fn a_restart_keeps_the_instance_and_so_does_changing_the_names_round() {
    let mut stage = Stage::new("", &[]);
    assert_eq!(stage.segue.switchover("{}")["outcome"], "completed");
    stage.segue.kill_and_restart();
    let service = stage.segue.service();
    assert_eq!((&service["active"], &service["generation"]), (&json!("shadow"), &json!(2)));
    assert_eq!(stage.answering(), "b");

    // The migration is over: what was the shadow is called the source from now on. The file is watched.
    let text = std::fs::read_to_string(&stage.segue.config).unwrap();
    let (a, b) = (stage.a.url(), stage.b.url());
    let changed = text.replace(&a, "<a>").replace(&b, &a).replace("<a>", &b);
    std::fs::write(&stage.segue.config, changed).unwrap();
    until("the file to be noticed", || stage.segue.log().contains("the configuration was").then_some(()));
    for _ in 0..20 {
        assert_eq!(stage.answering(), "b");
    }
    stage.segue.kill_and_restart();
    assert_eq!(stage.segue.service()["active"], "source");
    assert_eq!(stage.answering(), "b");
    let ended = stage.segue.switchover("{}");
    assert_eq!(
        (&ended["outcome"], &ended["active"], &ended["generation"]),
        (&json!("completed"), &json!("shadow"), &json!(3))
    );
    assert_eq!(stage.answering(), "a");
    stage.assert_quiet();
}

#[test]
fn rollback_leads_back_to_the_source() {
    let stage = Stage::new("", &[]);
    stage.segue.switchover("{}");
    assert_eq!(stage.answering(), "b");
    let (status, ended) = stage.segue.call("POST", "/v1/services/web/rollback", "{}");
    assert_eq!((status, &ended["outcome"], &ended["active"]), (200, &json!("completed"), &json!("source")));
    assert_eq!(stage.answering(), "a");
    assert_eq!(ended["generation"], 3);
}
