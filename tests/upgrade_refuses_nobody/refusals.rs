//! Upgrades that do not happen, and leave everything as it was.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use crate::stage::{Caller, Instance, Stage};
use crate::support::{Process, Segue, get, until};

/// The running process's configuration with this in the place of that, or at its beginning.
fn changed(stage: &Stage, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(&stage.segue.config).unwrap();
    assert!(text.contains(from));
    // Beside the watched one, not in its place.
    let path = stage.segue.folder.path().join("other.toml");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    path
}

fn assert_untouched(stage: &Stage) {
    assert_eq!(stage.segue.call("GET", "/readyz", "").0, 200);
    assert_eq!(get(stage.segue.address, "/").text(), "source");
    assert_eq!(stage.segue.switchover("{}")["outcome"], "completed", "the store is its own again");
    assert_eq!(get(stage.segue.address, "/").text(), "shadow");
}

fn fails(process: &mut Process, code: i32, says: &str) {
    assert_eq!(process.wait().code(), Some(code));
    until(says, || process.log().contains(says).then_some(()));
}

#[test]
fn while_switching() {
    let stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/slow");
    stage.source.await_write("/slow");
    let switching = stage.begin_switchover("{}");
    stage.await_gate("draining");
    let mut successor = Segue::beside(&stage.segue.config, &["--upgrade"]);
    fails(&mut successor, 1, "a switchover is under way");
    stage.source.release();
    assert_eq!(switching.join().unwrap().status, 200);
    assert_eq!(get(stage.segue.address, "/").text(), "shadow");
}

#[test]
fn with_a_file_that_is_wrong() {
    let stage = Stage::new();
    let config = changed(&stage, "workers = 2", "workres = 2");
    fails(&mut Segue::beside(&config, &["--upgrade"]), 2, "did you mean");
    assert_untouched(&stage);
}

/// This one is found out only when the successor has the store.
#[test]
fn with_settings_that_cannot_be_carried_out() {
    let stage = Stage::new();
    let config = changed(&stage, "workers = 2", "workers = 2\nlog = { access = \"/nowhere/access.log\" }");
    fails(&mut Segue::beside(&config, &["--upgrade"]), 2, "/nowhere/access.log");
    assert_untouched(&stage);
    assert!(stage.segue.log().contains("the upgrade did not happen"));
}

#[test]
fn with_other_endpoints() {
    let stage = Stage::new();
    let other = Instance::start("other");
    let config = changed(&stage, &stage.source.address.to_string(), &other.address.to_string());
    fails(&mut Segue::beside(&config, &["--upgrade"]), 2, "other endpoints");
    assert_untouched(&stage);
}

#[test]
fn with_a_successor_that_is_killed_before_it_is_ready() {
    let mut stage = Stage::new();
    // Opening it for writing waits for a reader, who never comes.
    let pipe = stage.segue.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let config = changed(&stage, "workers = 2", &format!("workers = 2\nlog = {{ access = {pipe:?} }}"));
    let mut successor = Segue::beside(&config, &["--upgrade"]);
    let lock = stage.segue.folder.path().join("state/segue.lock");
    let holder = || std::fs::read_to_string(&lock).unwrap().trim().parse().ok();
    until("the successor to have the store", || (holder() == Some(successor.pid())).then_some(()));
    assert_eq!(get(stage.segue.address, "/").text(), "source", "callers are served all the time");
    let mut another = Segue::beside(&stage.segue.config, &["--upgrade"]);
    fails(&mut another, 1, "another upgrade is under way");
    successor.kill();
    until("the store to be taken back", || (holder() == Some(stage.segue.pid())).then_some(()));
    assert_untouched(&stage);
    assert!(stage.segue.upgrade().wait().success());
}

#[test]
fn with_one_that_speaks_another_protocol() {
    let stage = Stage::new();
    let path = stage.segue.folder.path().join("state/upgrade.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut line = UnixStream::connect(path).unwrap();
    line.write_all(b"{\"say\":\"hello\",\"protocol\":4711,\"version\":\"99\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&line).read_line(&mut answer).unwrap();
    assert!(answer.contains("refused") && answer.contains("4711"), "{answer}");
    assert_untouched(&stage);
}

#[test]
fn without_being_asked_for() {
    let stage = Stage::new();
    fails(&mut Segue::beside(&stage.segue.config, &[]), 1, "--upgrade");
    assert_untouched(&stage);
}

#[test]
fn before_the_last_one_is_over() {
    let mut stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/slow");
    stage.source.await_write("/slow");
    let mut first = stage.segue.upgrade();
    fails(&mut Segue::beside(&stage.segue.config, &["--upgrade"]), 1, "another upgrade is under way");
    stage.source.release();
    assert_eq!(writer.answer().status, 200);
    assert!(first.wait().success());
    until("the predecessor to be forgotten", || stage.segue.log().contains("has gone").then_some(()));
    assert!(stage.segue.upgrade().wait().success());
    assert_eq!(get(stage.segue.address, "/").text(), "source");
}
