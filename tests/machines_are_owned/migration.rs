//! The main job: a service moves to a machine, and on to a larger one, under load.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use segue::load::{Load, LoadSettings, audit};
use serde_json::{Value, json};

use crate::account::{Account, IMAGE, REGION};
use crate::support::{Segue, free_port, try_request, until};

/// An application that answers at every address of its port.
struct Application {
    child: Child,
    port: u16,
}

impl Application {
    fn start(name: &str, ledger: &std::path::Path) -> Self {
        let port = free_port();
        let child = Command::new(env!("CARGO_BIN_EXE_segue"))
            .args(["origin", "--workers", "1", "--listen", &format!("0.0.0.0:{port}"), "--name", name])
            .arg("--ledger")
            .arg(ledger)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let application = Self { child, port };
        let address = ([127, 0, 0, 1], port).into();
        until("the application to answer", || {
            try_request(address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()
        });
        application
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_service_moves_to_a_machine_and_on_to_another_and_fails_no_request() {
    let Some(account) = Account::open() else { return };
    let account = Arc::new(account);
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let source = Application::start("source", &ledger);
    let machines = Application::start("machine", &ledger);
    let group = account.group("confined", false);
    let fence = account.group("fence", false);
    let text = format!(
        "workers = 2\nec2 = {{ region = \"{REGION}\", endpoint_url = \"{}\" }}\n\
         [services.web]\nsource = {{ endpoints = [\"http://127.0.0.1:{}\"] }}\n\
         tee = {{ percent = 100.0, allow_above_5_percent = true }}\n",
        account.url(),
        source.port
    );
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let segue = Segue::from_text_in(&text, &keys, None);
    let mut settings = LoadSettings::new(segue.url().parse().unwrap(), 200.0);
    settings.write_share = 0.5;
    let load = Load::start(settings).unwrap();

    let mut first = None;
    for (id, memory, kind) in [(1, "6 GiB", "m5.large"), (2, "12 GiB", "t3.xlarge")] {
        let to = json!({
            "provider": "ec2", "image": IMAGE, "types": ["t3.small", "t3.medium", "m5.large", "t3.xlarge"],
            "subnet": account.subnet, "security_groups": [group], "fence_group": fence, "port": machines.port,
            "user_data": "#!/bin/sh\nexec app {port} {role}\n",
            "allocation": { "cpu": 1.5, "memory": memory, "storage": "20 GiB" },
        });
        let request = json!({ "service": "web", "to": to, "min_pairs": 160, "watch_ms": 300, "grace_ms": 1 });
        let (status, view) = segue.call("POST", "/v1/migrations", &request.to_string());
        assert_eq!(status, 201, "{view:#}");
        let over = |view: &Value| view["over"] == true;
        let view = until("the migration to be over", || {
            Some(segue.call("GET", &format!("/v1/migrations/{id}"), "").1).filter(over)
        });
        assert_eq!(view["phase"], "done", "{view:#}");
        let there = account.there();
        assert_eq!(there.len(), 1, "{there:?}");
        let machine = &there[0];
        assert_eq!((machine.kind.as_str(), machine.state.as_str()), (kind, "running"));
        assert_eq!(machine.tags["segue:role"], "active");
        assert_eq!(machine.groups, std::slice::from_ref(&group));
        assert_ne!(first.replace(machine.key.clone()), Some(machine.key.clone()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (key, _) in std::fs::read_to_string(&ledger).unwrap().lines().filter_map(|line| line.split_once(' '))
    {
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    let found = audit(&report, &counts);
    assert!(found.is_exact(), "{found:?}");
}
