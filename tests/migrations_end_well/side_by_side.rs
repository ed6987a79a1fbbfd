//! Two services of one Segue move at the same time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use segue::load::{Load, LoadSettings, audit};
use serde_json::{Value, json};

use crate::stage::{Owned, origin};
use crate::support::until;

#[test]
fn two_services_migrate_at_once_and_neither_notices_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let services = ["web", "billing"];
    let ledger = |service: &str| folder.path().join(service);
    let mut text = "workers = 2\n".to_owned();
    for (service, hosts) in [("web", ""), ("billing", "hosts = [\"localhost\"]")] {
        let command = json!(origin(&ledger(service), &[]));
        let _ = writeln!(
            text,
            "[services.{service}]\n{hosts}\nsource = {{ provider = \"process\", command = {command}, \
             allocation = {{ cpu = 0.5, memory = \"128 MiB\", storage = \"64 MiB\" }} }}\n\
             tee = {{ percent = 100.0, allow_above_5_percent = true }}"
        );
    }
    let owned = Owned::new(&text);
    let segue = &owned.segue;
    let port = segue.address.port();
    let loads = [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")].map(|url| {
        let mut settings = LoadSettings::new(url.parse().unwrap(), 150.0);
        settings.write_share = 0.5;
        settings.max_connections = 8;
        Load::start(settings).unwrap()
    });
    let ids = services.map(|service| {
        let request = json!({
            "service": service, "min_pairs": 160, "watch_ms": 300, "grace_ms": 1,
            "to": { "provider": "process", "command": origin(&ledger(service), &[]) },
        });
        let (status, view) = segue.call("POST", "/v1/migrations", &request.to_string());
        assert_eq!(status, 201, "{view}");
        view["id"].as_u64().unwrap()
    });
    for id in ids {
        let view = until("both to be over", || {
            let (_, view) = segue.call("GET", &format!("/v1/migrations/{id}"), "");
            (view["over"] == true).then_some(view)
        });
        assert_eq!(view["phase"], "done", "{view:#}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (service, load) in services.into_iter().zip(loads) {
        let (_, view) = segue.call("GET", &format!("/v1/services/{service}"), "");
        assert_eq!(view["active"], "shadow", "{view:#}");
        let report = runtime.block_on(load.finish()).unwrap();
        assert_eq!(report.failed, 0, "{service}: {:?}", report.failures);
        let text = std::fs::read_to_string(ledger(service)).unwrap();
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut writers = Vec::new();
        for (key, writer) in text.lines().filter_map(|line| line.split_once(' ')) {
            *counts.entry(key.to_owned()).or_default() += 1;
            writers.push(writer);
        }
        writers.dedup();
        assert_eq!(writers, ["active", "shadow"], "{service}");
        let found = audit(&report, &counts);
        assert!(found.is_exact(), "{service}: {found:?}");
    }
    let (_, list) = segue.call("GET", "/v1/migrations", "");
    let instances: Vec<&Value> =
        list["migrations"].as_array().unwrap().iter().map(|of| &of["instance"]).collect();
    assert_eq!(instances.len(), 2);
    for service in services {
        assert!(instances.iter().any(|id| id.as_str().unwrap().contains(service)), "{instances:?}");
    }
    assert_eq!(owned.made().len(), 2, "one for each service");
}
