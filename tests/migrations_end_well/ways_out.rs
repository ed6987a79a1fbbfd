//! What can go wrong with a migration, and that nobody notices.

use serde_json::{Value, json};

use crate::stage::{SLOW_SOURCE, Stage, signal};
use crate::support::until;

/// Callers are served throughout; what they wrote is there once, and the source serves as if nothing had been.
fn assert_undone(stage: &Stage, load: segue::load::Load) {
    stage.assert_one_instance_is_left("source");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

/// The one process that is not among `others`.
fn newcomer(stage: &Stage, others: &[u32]) -> u32 {
    let new: Vec<u32> = stage.processes().into_iter().filter(|pid| !others.contains(pid)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    new[0]
}

#[test]
fn a_migration_moves_a_service_under_load_and_fails_no_request() {
    let stage = Stage::new();
    let load = stage.load(300.0);
    let source = stage.processes();
    let id = stage.start(&stage.request(&[]));
    let view = stage.until_phase(id, "done");
    assert_eq!(view["allocation"]["granted"]["to"]["cpu"], "750m", "{view:#}");
    assert_eq!(view["allocation"]["started_with"]["cpu"], "250m", "half of the source's");
    assert_eq!(view["switchover"]["outcome"], "completed");
    assert!(view["gates"].as_array().unwrap().iter().all(|gate| gate["verdict"] != "fail"), "{view:#}");
    stage.assert_one_instance_is_left("shadow");
    assert_ne!(stage.processes(), source, "the source was ended");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert_eq!(stage.writers(), ["active", "shadow"]);
}

#[test]
fn a_service_moves_on_and_on_and_knows_it_after_a_restart() {
    let mut stage = Stage::new();
    let load = stage.load(300.0);
    for active in ["shadow", "source", "shadow"] {
        // Without an allocation it is the source's that counts.
        let mut request = stage.request(&[]);
        request["to"].as_object_mut().unwrap().remove("allocation");
        let id = stage.start(&request);
        let view = stage.until_phase(id, "done");
        assert_eq!(view["allocation"]["serves_with"]["cpu"], "500m", "{view:#}");
        assert_eq!(stage.segue.service()["active"], active);
        assert_eq!(stage.processes().len(), 1);
    }
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let running = stage.processes();
    stage.segue.kill_and_restart();
    assert_eq!(stage.processes(), running, "an instance outlives Segue");
    stage.assert_one_instance_is_left("shadow");
}

#[test]
fn a_shadow_that_answers_wrongly_is_refused_with_its_numbers() {
    for fault in ["error=500", "wrong-body"] {
        let stage = Stage::new();
        let load = stage.load(300.0);
        let id = stage.start(&stage.request(&["--fault", fault]));
        let view = stage.until_phase(id, "failed");
        let reason = view["reason"].as_str().unwrap();
        assert!(reason.contains("gate"), "{reason}");
        assert!(view["gates"].as_array().unwrap().iter().any(|gate| gate["verdict"] == "fail"), "{view:#}");
        assert_undone(&stage, load);
    }
}

#[test]
fn a_shadow_that_is_three_times_slower_is_refused() {
    // A source that is held up by a busy machine, or by the limit of its CPU, is no standard: it would take a tenth of
    // a second, for half of its answers, to make this shadow look as good.
    let stage = Stage::with(&[], "", &["--latency", "const:80ms"]);
    let load = stage.load_over(32, 150.0);
    let id = stage.start(&stage.request(&["--latency", "const:240ms"]));
    let view = stage.until_phase(id, "failed");
    assert!(view["reason"].as_str().unwrap().contains("latency"), "{view:#}");
    assert_undone(&stage, load);
}

#[test]
fn a_shadow_that_ends_at_once_says_why() {
    let stage = Stage::new();
    let load = stage.load(100.0);
    let mut request = stage.request(&[]);
    request["to"]["command"] = json!(["/bin/sh", "-c", "echo no licence found; exit 3", "origin {port}"]);
    let id = stage.start(&request);
    let view = stage.until_phase(id, "failed");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("code 3") && reason.contains("no licence found"), "{reason}");
    assert_undone(&stage, load);
}

#[test]
fn a_shadow_that_never_comes_up_ends_with_the_deadline() {
    let stage = Stage::new();
    let load = stage.load(100.0);
    let mut request = stage.request(&[]);
    request["to"]["command"] = json!(["/bin/sleep", "1000"]);
    request["deadline_ms"] = json!(1500);
    let id = stage.start(&request);
    let view = stage.until_phase(id, "failed");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("deadline") && reason.contains("come up"), "{reason}");
    assert_undone(&stage, load);
}

#[test]
fn a_shadow_that_takes_too_much_memory_is_named_as_such() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED for want of: root");
    }
    let stage = Stage::new();
    let load = stage.load(100.0);
    let id = stage.start(&stage.request(&["--memory", "512MiB"]));
    let view = stage.until_phase(id, "failed");
    assert!(view["reason"].as_str().unwrap().contains("want of memory"), "{view:#}");
    assert_undone(&stage, load);
}

#[test]
fn cancel_undoes_a_migration_in_each_phase_that_waits() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, f64); 4] = [
        ("provisioning", |request| request["to"]["command"] = json!(["/bin/sleep", "1000"]), 100.0),
        ("shadowing", |_| {}, 0.5),
        ("validating", |request| request["min_pairs"] = json!(1_000_000), 200.0),
        ("ready", |request| request["policy"] = json!("manual"), 300.0),
    ];
    for (phase, change, rate) in cases {
        let stage = Stage::new();
        let load = stage.load(rate);
        let mut request = stage.request(&[]);
        change(&mut request);
        let id = stage.start(&request);
        stage.until_phase(id, phase);
        let (status, view) = stage.ask(id, "cancel");
        assert_eq!(status, 200, "{phase}: {view}");
        stage.until_phase(id, "cancelled");
        let (status, problem) = stage.ask(id, "cancel");
        assert_eq!(status, 409, "{phase}: {problem}");
        assert_undone(&stage, load);
    }
}

#[test]
fn one_migration_of_a_service_at_a_time_and_no_switchover_beside_it() {
    let stage = Stage::new();
    let load = stage.load(300.0);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    let (status, problem) = stage.segue.call("POST", "/v1/migrations", &request.to_string());
    assert_eq!((status, &problem["reason"]), (409, &json!("under_way")), "{problem}");
    stage.until_phase(id, "ready");
    let (status, problem) = stage.segue.call("POST", "/v1/services/web/switchover", "");
    assert_eq!((status, &problem["reason"]), (409, &json!("migration_under_way")), "{problem}");
    let (status, view) = stage.ask(id, "approve");
    assert_eq!(status, 200, "{view}");
    stage.until_phase(id, "done");
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
}

#[test]
fn a_rollback_during_the_watch_loses_nothing() {
    let stage = Stage::new();
    let load = stage.load(300.0);
    let mut request = stage.request(&[]);
    request["watch_ms"] = json!(60_000);
    let id = stage.start(&request);
    stage.until_phase(id, "watching");
    assert_eq!(stage.segue.service()["active"], "shadow");
    let (status, problem) = stage.ask(id, "cancel");
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("roll"), "{problem}");
    let (status, view) = stage.ask(id, "rollback");
    assert_eq!(status, 200, "{view}");
    stage.until_phase(id, "rolled_back");
    assert_undone(&stage, load);
}

#[test]
fn a_new_instance_that_dies_while_it_is_watched_is_rolled_back() {
    let stage = Stage::new();
    let load = stage.load(200.0);
    let source = stage.processes();
    let mut request = stage.request(&[]);
    request["watch_ms"] = json!(60_000);
    let id = stage.start(&request);
    stage.until_phase(id, "watching");
    signal("-9", newcomer(&stage, &source));
    let view = stage.until_phase(id, "rolled_back");
    assert!(view["reason"].as_str().unwrap().contains("gone"), "{view:#}");
    stage.assert_one_instance_is_left("source");
    // Requests fail while nobody is there; acknowledged writes do not get lost.
    stage.finish(load);
}

#[test]
fn an_upgrade_of_segue_in_the_middle_changes_nothing() {
    let mut stage = Stage::new();
    let load = stage.load(300.0);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    stage.until_phase(id, "ready");
    let mut before = stage.segue.upgrade();
    let (status, view) = stage.ask(id, "approve");
    assert_eq!(status, 200, "{view}");
    stage.until_phase(id, "done");
    before.wait();
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
}

#[test]
fn a_dry_run_leaves_nothing() {
    let stage = Stage::new();
    let mut request = stage.request(&[]);
    request["dry_run"] = json!(true);
    let (status, report) = stage.segue.call("POST", "/v1/migrations", &request.to_string());
    assert_eq!((status, &report["compatible"]), (200, &json!(true)), "{report:#}");
    request["to"]["command"] = json!(["/nowhere/app"]);
    let (status, report) = stage.segue.call("POST", "/v1/migrations", &request.to_string());
    assert_eq!((status, &report["compatible"]), (200, &json!(false)), "{report:#}");
    let (_, list) = stage.segue.call("GET", "/v1/migrations", "");
    assert_eq!(list["migrations"], json!([]), "{list}");
    stage.assert_one_instance_is_left("source");
}

#[test]
fn settings_cannot_pull_the_instances_from_under_a_migration_nor_replace_what_serves() {
    let mut stage = Stage::new();
    let load = stage.load(300.0);
    let config = stage.segue.config.clone();
    let before = std::fs::read_to_string(&config).unwrap();
    let shadow = "shadow = { endpoints = [\"http://127.0.0.1:9\"] }\ntee =";
    let named = before.replacen("tee =", shadow, 1);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    stage.until_phase(id, "ready");
    std::fs::write(&config, &named).unwrap();
    until("the reload to be refused", || {
        stage.segue.log().contains("is being moved by migration").then_some(())
    });
    std::fs::write(&config, &before).unwrap();
    let (status, view) = stage.ask(id, "approve");
    assert_eq!(status, 200, "{view}");
    stage.until_phase(id, "done");

    // Whatever the settings call the shadow now, it does not get the callers.
    std::fs::write(&config, &named).unwrap();
    until("the settings to be taken over", || stage.segue.log().contains("is ignored").then_some(()));
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
    stage.segue.kill_and_restart();
    stage.assert_one_instance_is_left("shadow");
}

#[test]
fn a_new_instance_that_hangs_once_it_serves_is_rolled_back() {
    // What it holds is waited for no longer than it takes to see that.
    let drain = "[services.web.switchover]\ndrain_timeout = \"2s\"\n";
    let stage = Stage::with(&[], drain, &SLOW_SOURCE);
    let load = stage.load(100.0);
    let source = stage.processes();
    let mut request = stage.request(&[]);
    request["watch_ms"] = json!(60_000);
    let id = stage.start(&request);
    stage.until_phase(id, "watching");
    signal("-STOP", newcomer(&stage, &source));
    stage.until_phase(id, "unwinding");
    let view = stage.until_over(id);
    assert_eq!(view["phase"], "rolled_back", "{view:#}");
    stage.assert_one_instance_is_left("source");
    stage.finish(load);
}

#[test]
fn a_full_disk_holds_a_migration_up_and_loses_nothing() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED for want of: root");
    }
    let disk = Disk::new();
    let stage = Stage::in_folder(&[], "", &SLOW_SOURCE, Some(disk.0.path()));
    let load = stage.load(300.0);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    stage.until_phase(id, "ready");
    disk.fill();
    let (status, _) = stage.segue.call("POST", "/v1/migrations", &request.to_string());
    assert_eq!(status, 409, "what is known is still known");
    let segue = &stage.segue;
    std::thread::scope(|scope| {
        // It is heard once it can be written down.
        let approved = scope.spawn(|| segue.call("POST", &format!("/v1/migrations/{id}/approve"), ""));
        until("the journal to be held up", || {
            segue.log().contains("journal cannot be written").then_some(())
        });
        assert_eq!(segue.service()["active"], "source");
        disk.free();
        assert_eq!(approved.join().unwrap().0, 200);
    });
    stage.until_phase(id, "done");
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
}

/// A disk of its own, too small for anything but a store.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m", "segue-test"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(folder)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        while std::io::Write::write(&mut file, &vec![1; 1 << 16]).is_ok_and(|written| written > 0) {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
