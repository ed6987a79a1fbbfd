//! Segue itself is upgraded in the middle of a migration: whoever has the store drives it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::watching;
use crate::stage::{SLOW_SOURCE, Stage};
use crate::support::{Segue, until};

/// One that is ready, and waits for somebody to say yes.
fn ready(stage: &Stage) -> u64 {
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    stage.until_phase(id, "ready");
    id
}

#[test]
fn the_successor_goes_on_with_it_and_whoever_watches_notices_nothing() {
    let mut stage = Stage::with(&[], "", &SLOW_SOURCE);
    let load = stage.load(200.0);
    let id = ready(&stage);
    let mut watcher = watching(&stage, "web");
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines().map_while(Result::ok);
    let approval = lines.find(|line| line.contains("approve") && line.ends_with("begins"));
    assert!(approval.is_some(), "it is connected, and has seen everything so far");
    let mut before = stage.segue.upgrade();
    assert_eq!(stage.ask(id, "approve").0, 200);
    stage.until_phase(id, "done");
    let rest: Vec<_> = lines.collect();
    let watched = watcher.wait_with_output().unwrap();
    assert!(watched.status.success(), "{}", String::from_utf8_lossy(&watched.stderr));
    assert!(rest.last().unwrap().contains("destroy_source"), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("requested")), "nothing is told twice: {rest:?}");
    stage.assert_one_instance_is_left("shadow");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(before.wait().success());

    // What serves now is not what the settings say, and they are the same on both sides.
    assert!(stage.segue.upgrade().wait().success());
    stage.assert_one_instance_is_left("shadow");
}

#[test]
fn an_upgrade_that_does_not_happen_leaves_it_where_it_was() {
    let stage = Stage::with(&[], "", &SLOW_SOURCE);
    let load = stage.load(200.0);
    let id = ready(&stage);
    let mut successor = Segue::beside(&broken(&stage), &["--upgrade"]);
    assert_eq!(successor.wait().code(), Some(2));
    until("the store to be taken back", || stage.segue.log().contains("a migration goes on").then_some(()));
    until("the migration to hear again", || (stage.ask(id, "approve").0 == 200).then_some(()));
    stage.until_phase(id, "done");
    stage.assert_one_instance_is_left("shadow");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

#[test]
fn it_does_not_switch_while_callers_of_the_process_before_it_are_still_there() {
    let mut stage = Stage::with(&[], "", &SLOW_SOURCE);
    let load = stage.load(200.0);
    let id = ready(&stage);
    // An answer that goes on for longer than the upgrade takes.
    let mut caller = TcpStream::connect(stage.segue.address).unwrap();
    caller.write_all(b"GET /stream/100000/20 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    caller.read_exact(&mut [0; 16]).unwrap();
    let mut before = stage.segue.upgrade();
    until("the migration to hear", || (stage.ask(id, "approve").0 == 200).then_some(()));
    until("it to wait", || {
        let view = stage.migration(id);
        assert_eq!(
            (&view["phase"], stage.segue.service()["active"].as_str()),
            (&json!("ready"), Some("source"))
        );
        view["reason"].as_str().unwrap_or_default().contains("the Segue before this one").then_some(())
    });
    assert!(before.is_running());
    drop(caller);
    stage.until_phase(id, "done");
    assert!(before.wait().success());
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
}

/// Settings that are found out only when the successor has the store.
fn broken(stage: &Stage) -> PathBuf {
    let text = std::fs::read_to_string(&stage.segue.config).unwrap();
    let path = stage.segue.folder.path().join("other.toml");
    let text = text.replacen("workers = 2", "workers = 2\nlog = { access = \"/nowhere/access.log\" }", 1);
    std::fs::write(&path, text).unwrap();
    path
}
