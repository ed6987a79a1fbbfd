//! `segue migrate` as an operator and a script see it: what it prints, and how it exits.

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::stage::{SLOW_SOURCE, Stage};
use crate::support::until;

fn migrate(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command.arg("migrate").args(arguments).args(["--admin", &stage.segue.admin.to_string()]);
    command
}

fn run(stage: &Stage, arguments: &[&str]) -> Output {
    migrate(stage, arguments).output().unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(says), "{errors}");
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Follows a migration in a process of its own.
pub fn watching(stage: &Stage, id: &str) -> Child {
    migrate(stage, &["watch", id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// `to` as a file.
fn destination(stage: &Stage) -> String {
    let path = stage.segue.folder.path().join("to.toml");
    std::fs::write(&path, toml::to_string(&stage.request(&[])["to"]).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn one_is_started_followed_to_its_end_and_shown() {
    let stage = Stage::with(&[], "", &SLOW_SOURCE);
    let to = destination(&stage);
    let load = stage.load(200.0);
    let options = ["--min-pairs", "160", "--watch", "300ms", "--grace", "1ms", "--follow"];
    let followed = succeeds(&run(&stage, &[&["start", "web", "--to", &to], &options[..]].concat()));
    let steps: Vec<_> = followed.lines().filter(|line| line.ends_with("begins")).collect();
    let names: Vec<_> = steps.iter().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!((names.first(), names.last()), (Some(&"check"), Some(&"destroy_source")), "{followed}");
    assert_eq!(names.len(), 18, "every step once: {followed}");
    assert!(followed.contains("waits for"), "{followed}");

    let list = succeeds(&run(&stage, &["list"]));
    assert!(list.lines().nth(1).unwrap().starts_with("1   web      done"), "{list}");
    let page = succeeds(&run(&stage, &["status", "1"]));
    assert!(page.starts_with("migration 1 of web: done\n") && page.contains("retiring [done]"), "{page}");
    assert!(page.contains("shadow, serves"), "{page}");
    let view: Value = serde_json::from_str(&succeeds(&run(&stage, &["status", "web", "--json"]))).unwrap();
    assert_eq!((&view["id"], &view["phase"]), (&1.into(), &"done".into()));
    fails(&run(&stage, &["cancel", "web"]), 1, "migration 1 is over: done");
    assert!(succeeds(&run(&stage, &["watch", "1"])).contains("destroy_source"), "there is still its journal");
    stage.finish(load);
}

#[test]
fn one_that_is_manual_is_approved_and_one_that_waits_is_cancelled() {
    let stage = Stage::with(&[], "", &SLOW_SOURCE);
    let to = destination(&stage);
    let start = ["start", "web", "--to", &to, "--min-pairs", "160", "--watch", "300ms", "--grace", "1ms"];
    let begun = succeeds(&run(&stage, &start));
    assert!(begun.contains("`segue migrate watch 1`"), "{begun}");
    fails(&run(&stage, &start), 1, "migration 1 of this service is under way");
    let watcher = watching(&stage, "web");
    // Nobody calls, so it waits for pairs.
    stage.until_phase(1, "shadowing");
    fails(&run(&stage, &["rollback", "1"]), 1, "cancel the migration instead");
    assert!(succeeds(&run(&stage, &["cancel", "web"])).contains("has heard it"));
    fails(&watcher.wait_with_output().unwrap(), 1, "migration 1 ended as cancelled: it was cancelled");

    let load = stage.load(200.0);
    let json = [&start[..], &["--policy", "manual", "--json"]].concat();
    let begun: Value = serde_json::from_str(&succeeds(&run(&stage, &json))).unwrap();
    assert_eq!(begun["id"], 2);
    until("it to wait for an approval", || {
        let page = succeeds(&run(&stage, &["status", "2"]));
        page.contains("[ready]\n  switching").then_some(()).filter(|()| page.contains("an approval"))
    });
    let watcher = watching(&stage, "2");
    assert!(succeeds(&run(&stage, &["switchover", "2"])).contains("has heard it"));
    succeeds(&watcher.wait_with_output().unwrap());
    stage.assert_one_instance_is_left("shadow");
    stage.finish(load);
}

#[test]
fn a_dry_run_is_a_report() {
    let stage = Stage::new();
    let possible = succeeds(&run(&stage, &["start", "web", "--to", &destination(&stage), "--dry-run"]));
    assert!(
        possible.contains("could run here; it was started and destroyed again, and nothing"),
        "{possible}"
    );
    let starts = possible.lines().find(|line| line.starts_with("FINE") && line.contains("  starts  "));
    assert!(
        starts.is_some_and(|line| line.contains("it takes connections and its check passes")),
        "{possible}"
    );
    assert!(possible.contains("\nstarts with 250m CPU"), "{possible}");
    let looked_at =
        succeeds(&run(&stage, &["start", "web", "--to", &destination(&stage), "--dry-run=static"]));
    assert!(looked_at.contains("could run here; nothing was changed"), "{looked_at}");
    assert!(
        looked_at.lines().any(|line| line.starts_with("NOT KNOWN") && line.contains("starts")),
        "{looked_at}"
    );
    let missing = r#"{"provider":"process","command":["/nowhere/app"],"allocation":{"cpu":0.5,"memory":"64 MiB","storage":"8 MiB"}}"#;
    let output = run(&stage, &["start", "web", "--to-json", missing, "--dry-run"]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(
        report.lines().any(|line| line.starts_with("FAULT") && line.contains("/nowhere/app")),
        "{report}"
    );
    assert!(succeeds(&run(&stage, &["list"])).lines().count() == 1);
}

#[test]
fn what_is_wrong_is_said_and_the_exit_code_says_whose_it_is() {
    let stage = Stage::new();
    fails(&run(&stage, &["start", "web", "--to", "/nowhere/to.json"]), 2, "/nowhere/to.json: ");
    fails(&run(&stage, &["start", "web", "--watch", "soon"]), 2, "--watch");
    fails(&run(&stage, &["start", "nope"]), 1, "there is no service `nope`");
    let typo = r#"{"provider":"process","comand":[]}"#;
    fails(&run(&stage, &["start", "web", "--to-json", typo]), 1, "unknown field `comand`");
    fails(&run(&stage, &["status", "7"]), 1, "there is no migration 7");
    fails(&run(&stage, &["watch", "7"]), 1, "there is no migration 7");
    fails(&run(&stage, &["approve", "web"]), 1, "`segue migrate start web` begins one");
    let away = Command::new(env!("CARGO_BIN_EXE_segue"))
        .args(["migrate", "list", "--admin", &format!("127.0.0.1:{}", crate::support::free_port())])
        .output()
        .unwrap();
    fails(&away, 1, "no answer from the admin API on 127.0.0.1:");
    let of_file = Command::new(env!("CARGO_BIN_EXE_segue"))
        .args(["migrate", "list", "--config", stage.segue.config.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(succeeds(&of_file).starts_with("ID  SERVICE"));
}
