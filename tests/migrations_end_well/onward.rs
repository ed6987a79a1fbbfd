//! Once the new instance has been watched there is only onward: what cannot be done is done again, and nothing is undone.

use serde_json::json;

use crate::stage::Stage;
use crate::support::{try_request, until};

#[test]
fn a_source_that_cannot_be_removed_is_tried_again_and_nothing_is_undone() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED for want of: root");
    }
    let mut stage = Stage::new();
    let load = stage.load(200.0);
    // Nothing removes what something is mounted on.
    let held = stage.instances().join(&stage.made()[0]).join("held");
    std::fs::create_dir(&held).unwrap();
    let mount = Mount::on(&held);
    let id = stage.start(&stage.request(&[]));
    let stuck = |stage: &Stage| {
        until("the source's end to be tried", || {
            let view = stage.migration(id);
            assert_eq!(view["over"], false, "{view:#}");
            let reason = view["reason"].as_str().unwrap_or_default();
            (view["step"] == "destroy_source" && reason.contains("remove the folder")).then_some(view)
        })
    };
    let view = stuck(&stage);
    assert_eq!(view["may"], json!({ "approve": false, "cancel": false, "rollback": false, "retire": false }));
    for wish in ["cancel", "rollback", "approve"] {
        assert_eq!(stage.ask(id, wish).0, 409, "{wish}");
    }
    stage.segue.kill_and_restart();
    stuck(&stage);
    assert_eq!(stage.segue.service()["active"], "shadow");
    drop(mount);
    stage.until_phase(id, "done");
    stage.assert_one_instance_is_left("shadow");
    stage.finish(load);
}

#[test]
fn the_grace_period_of_the_source_lasts_until_somebody_ends_it() {
    let stage = Stage::new();
    let load = stage.load(200.0);
    let mut request = stage.request(&[]);
    request["grace_ms"] = json!(600_000);
    let id = stage.start(&request);
    assert_eq!(stage.ask(id, "retire").0, 409, "it has not begun");
    let view = stage.until_phase(id, "retiring");
    assert_eq!(view["may"]["retire"], true, "{view:#}");
    assert_eq!(stage.processes().len(), 2, "the source is there");
    let reason = || stage.migration(id)["reason"].as_str().unwrap_or_default().to_owned();
    until("it to say what it waits for", || reason().contains("segue migrate retire").then_some(()));
    let (status, view) = stage.ask(id, "retire");
    assert_eq!(status, 200, "{view}");
    stage.until_phase(id, "done");
    assert_eq!(stage.ask(id, "retire").0, 409, "it is over");
    stage.assert_one_instance_is_left("shadow");
    assert_eq!(stage.finish(load).failed, 0);
}

#[test]
fn a_new_instance_that_slows_down_once_it_serves_is_rolled_back_with_the_numbers() {
    let stage = Stage::new();
    // Enough of them for many slow answers within the test's patience.
    let load = stage.load_over(64, 200.0);
    let mut request = stage.request(&[]);
    request["watch_ms"] = json!(600_000);
    let id = stage.start(&request);
    let view = stage.until_phase(id, "watching");
    let new = view["endpoints"][0].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
    // Three times what the source took is let pass, and a moment in which the machine stands still is in that, too.
    let fault = "extra-latency=1200ms";
    let length = fault.len();
    let set = format!("PUT /__fault HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{fault}");
    assert_eq!(try_request(new, set).unwrap().status, 200);
    let view = stage.until_phase(id, "rolled_back");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("the p90 of callers' answers is"), "{reason}");
    stage.assert_one_instance_is_left("source");
    assert_eq!(stage.finish(load).failed, 0);
}

/// Something that keeps a folder from being removed, until dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    fn on(folder: &std::path::Path) -> Self {
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "segue-test"]).arg(folder).status();
        assert!(mounted.unwrap().success());
        Self(folder.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
