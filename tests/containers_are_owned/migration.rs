//! The main job on a real engine: a service moves from one container to another under load.

use crate::moving::Moving;

#[test]
fn a_migration_moves_a_service_between_containers_and_fails_no_request() {
    let Some(moving) = Moving::set(&[]) else { return };
    let before = moving.containers();
    assert_eq!(before.len(), 1, "{before:?}");
    let load = moving.load(200.0);
    let (status, view) = moving.segue.call("POST", "/v1/migrations", &moving.request().to_string());
    assert_eq!(status, 201, "{view:#}");
    let view = moving.until_over();
    assert_eq!(view["phase"], "done", "{view:#}");
    assert_eq!(moving.active(), "shadow");
    let after = moving.containers();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert_eq!(view["allocation"]["granted"]["to"]["memory"], 96 << 20, "{view:#}");
    let report = moving.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}
