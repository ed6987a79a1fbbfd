//! The main job on a real engine: a service moves from one container to another under load.

use std::collections::BTreeMap;

use segue::load::{Load, LoadSettings, audit};
use serde_json::json;

use crate::stage::{PORT, Stage};
use crate::support::{Segue, until};

#[test]
fn a_migration_moves_a_service_between_containers_and_fails_no_request() {
    let Some(stage) = Stage::set() else { return };
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("0.0.0.0:{PORT}");
    let command =
        ["origin", "--listen", &listen, "--workers", "1", "--name", "{role}", "--ledger", "/shared/ledger"];
    let workload = |volume: &str| {
        json!({
            "provider": "docker", "image": stage.image, "port": PORT, "command": command,
            "volumes": [{ "source": volume, "target": "/shared" }],
        })
    };
    let shared = folder.path().to_str().unwrap();
    let source = format!(
        "{{ provider = \"docker\", image = \"{}\", port = {PORT}, command = {}, \
         volumes = [{{ source = \"{shared}\", target = \"/shared\" }}], \
         allocation = {{ cpu = 0.5, memory = \"64 MiB\", storage = \"1 MiB\" }} }}",
        stage.image,
        json!(command)
    );
    let segue = Segue::from_text(&format!(
        "workers = 2\n[services.web]\nsource = {source}\ntee = {{ percent = 100.0, allow_above_5_percent = true }}\n"
    ));
    let owned = Owned(segue);
    let segue = &owned.0;
    let containers = || {
        let names = docker_names();
        names.into_iter().filter(|name| name.starts_with("segue-s-web-")).collect::<Vec<_>>()
    };
    let before = containers();
    assert_eq!(before.len(), 1, "{before:?}");
    let mut settings = LoadSettings::new(segue.url().parse().unwrap(), 200.0);
    settings.write_share = 0.5;
    let load = Load::start(settings).unwrap();
    let mut to = workload(shared);
    to["allocation"] = json!({ "cpu": 0.75, "memory": "96 MiB", "storage": "1 MiB" });
    let request = json!({ "service": "web", "to": to, "min_pairs": 160, "watch_ms": 300, "grace_ms": 1 });
    let (status, view) = segue.call("POST", "/v1/migrations", &request.to_string());
    assert_eq!(status, 201, "{view:#}");
    let view = until("the migration to be over", || {
        let (_, view) = segue.call("GET", "/v1/migrations/1", "");
        (view["over"] == true).then_some(view)
    });
    assert_eq!(view["phase"], "done", "{view:#}");
    assert_eq!(segue.service()["active"], "shadow");
    let after = containers();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert_eq!(view["allocation"]["granted"]["to"]["memory"], 96 << 20, "{view:#}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let ledger = std::fs::read_to_string(folder.path().join("ledger")).unwrap();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (key, _) in ledger.lines().filter_map(|line| line.split_once(' ')) {
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    let found = audit(&report, &counts);
    assert!(found.is_exact(), "{found:?}");
}

fn docker_names() -> Vec<String> {
    let listed =
        std::process::Command::new("docker").args(["ps", "--format", "{{.Names}}"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}

/// Containers outlive Segue, so they are ended by hand.
struct Owned(Segue);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.kill();
        for name in docker_names().iter().filter(|name| name.starts_with("segue-s-web-")) {
            let _ = std::process::Command::new("docker").args(["rm", "--force", name]).output();
            let _ = std::process::Command::new("docker").args(["network", "rm", name]).output();
        }
    }
}
