//! Two processes, one gate.

use crate::stage::{Caller, Stage};
use crate::support::{get, until};

#[test]
fn a_switchover_waits_for_a_write_in_the_predecessor() {
    let mut stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/in-flight");
    stage.source.await_write("/in-flight");
    // Its next request will be the predecessor's to hold.
    let mut kept = Caller::connect(stage.segue.address);
    kept.send("GET", "/");
    assert_eq!(kept.answer().text(), "source");
    let mut predecessor = stage.segue.upgrade();

    let switching = stage.begin_switchover("{}");
    stage.await_gate("draining");
    kept.send("POST", "/parked-in-the-predecessor");
    let mut caller = Caller::connect(stage.segue.address);
    caller.send("POST", "/parked-in-the-successor");
    until("a request to be parked", || (stage.segue.service()["parked"] == 1).then_some(()));
    assert_eq!(stage.segue.service()["gate"], "draining");
    assert_eq!(stage.shadow.writes(), [""; 0], "one instance takes writes");

    stage.source.release();
    let ended = switching.join().unwrap();
    assert_eq!(ended.status, 200);
    let ended: serde_json::Value = serde_json::from_slice(&ended.body).unwrap();
    assert_eq!(ended["outcome"], "completed", "{ended}");
    assert_eq!(writer.answer().text(), "source");
    assert_eq!(kept.answer().text(), "shadow", "the predecessor sends what it held to the new instance");
    assert_eq!(caller.answer().text(), "shadow");
    assert_eq!(stage.source.writes(), ["/in-flight"]);
    assert!(predecessor.wait().success());
}

#[test]
fn a_write_that_its_caller_has_left_keeps_the_predecessor_and_the_switchover() {
    let mut stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/abandoned");
    stage.source.await_write("/abandoned");
    drop(writer);
    until("the write to be abandoned", || (stage.segue.service()["abandoned"] == 1).then_some(()));

    let mut predecessor = stage.segue.upgrade();
    let switching = stage.begin_switchover("{}");
    stage.await_gate("draining");
    assert!(predecessor.is_running(), "nobody is connected, and it has a write in flight");
    stage.source.release();
    assert_eq!(switching.join().unwrap().status, 200);
    assert_eq!(get(stage.segue.address, "/").text(), "shadow");
    assert!(predecessor.wait().success());
}

/// What it had in flight may still reach the instance, and nobody would know.
#[test]
fn a_predecessor_that_is_killed_in_a_drain_does_not_count_as_drained() {
    let mut stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/lost");
    stage.source.await_write("/lost");
    let mut predecessor = stage.segue.upgrade();
    let switching = stage.begin_switchover("{\"drain_timeout_ms\": 1500}");
    stage.await_gate("draining");
    predecessor.kill();
    let ended = switching.join().unwrap();
    let ended: serde_json::Value = serde_json::from_slice(&ended.body).unwrap();
    assert_eq!(ended["outcome"], "aborted", "{ended}");
    stage.source.release();
    assert_eq!(get(stage.segue.address, "/").text(), "source");
    assert_eq!(stage.segue.switchover("{}")["outcome"], "completed", "it no longer counts afterwards");
}

/// Whoever starts next does not know of it, and may send callers elsewhere.
#[test]
fn a_predecessor_without_its_successor_lets_nothing_through() {
    let mut stage = Stage::with_park_timeout("500ms");
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/in-flight");
    stage.source.await_write("/in-flight");
    let mut kept = Caller::connect(stage.segue.address);
    kept.send("GET", "/");
    assert_eq!(kept.answer().text(), "source");
    let predecessor = stage.segue.upgrade();

    stage.segue.signal("KILL");
    until("the loss to be noticed", || predecessor.log().contains("the successor is gone").then_some(()));
    kept.send("POST", "/late");
    assert_eq!(kept.answer().status, 503);
    stage.source.release();
    assert_eq!(writer.answer().text(), "source", "what was let through is finished");
    assert_eq!(stage.source.writes(), ["/in-flight"]);
}

#[test]
fn what_blocks_a_drain_in_the_predecessor_is_named_and_can_be_cut() {
    let mut stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/stuck");
    stage.source.await_write("/stuck");
    let mut predecessor = stage.segue.upgrade();
    let aborted = stage.segue.switchover("{\"drain_timeout_ms\": 200}");
    assert_eq!(aborted["outcome"], "aborted");
    assert_eq!(aborted["blockers"][0]["path"], "/stuck", "{aborted}");
    let cut = stage.segue.switchover("{\"drain_timeout_ms\": 200, \"on_drain_deadline\": \"cut\"}");
    assert_eq!((&cut["outcome"], &cut["cut"]), (&"completed".into(), &1.into()), "{cut}");
    assert!(predecessor.wait().success());
    stage.source.release();
}

#[test]
fn generations_and_the_active_instance_go_on() {
    let mut stage = Stage::new();
    // Given up: the gate is ahead of the store.
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/slow");
    stage.source.await_write("/slow");
    assert_eq!(stage.segue.switchover("{\"drain_timeout_ms\": 100}")["outcome"], "aborted");
    stage.source.release();
    assert_eq!(writer.answer().status, 200);

    let before = stage.segue.service()["generation"].as_u64().unwrap();
    assert_eq!(before, 2);
    assert!(stage.segue.upgrade().wait().success());
    assert_eq!(stage.segue.service()["generation"], before);
    assert_eq!(stage.segue.switchover("{}")["generation"], before + 1);
    assert!(stage.segue.upgrade().wait().success());
    let service = stage.segue.service();
    assert_eq!((&service["active"], &service["generation"]), (&"shadow".into(), &(before + 1).into()));
    assert_eq!(get(stage.segue.address, "/").text(), "shadow");
    let (status, ended) = stage.segue.call("POST", "/v1/services/web/rollback", "{}");
    assert_eq!((status, &ended["generation"]), (200, &(before + 2).into()), "{ended}");
}
