//! A dry run starts a container, looks from inside it, and leaves nothing on the engine.

use std::process::Command;

use serde_json::{Value, json};

use crate::stage::{PORT, Stage};
use crate::support::Segue;

#[test]
fn a_container_is_started_looked_at_from_inside_and_gone() {
    let Some(stage) = Stage::set() else { return };
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    // Inside, the application has this address to itself.
    let own = format!("tcp://127.0.0.1:{PORT}");
    let segue = Segue::from_text(&format!(
        "workers = 2\n[services.shop]\nsource = {{ endpoints = [\"http://{nobody}\"] }}\n\
         [services.shop.migration]\nrequires = [\"{own}\", \"tcp://{nobody}\", \"/segue\", \"/bin/sh\"]\n"
    ));
    let listen = format!("0.0.0.0:{PORT}");
    let ask = |command: Value| {
        let to = json!({
            "provider": "docker", "image": stage.image, "port": PORT, "command": command,
            "allocation": { "cpu": 1, "memory": "128 MiB", "storage": "1 MiB" },
        });
        let request = json!({ "service": "shop", "to": to, "dry_run": true, "deadline_ms": 20_000 });
        let (status, report) = segue.call("POST", "/v1/migrations", &request.to_string());
        assert_eq!(status, 200, "{report:#}");
        for list in [&["ps", "-a", "--format", "{{.Names}}"][..], &["network", "ls", "--format", "{{.Name}}"]]
        {
            let listed = Command::new("docker").args(list).output().unwrap();
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(!listed.contains("segue-s-shop-"), "{listed}");
        }
        report
    };
    let started = ask(json!(["origin", "--listen", listen, "--workers", "1"]));
    says(&started, "starts", "fine", "it takes connections");
    let starts = started["report"].as_array().unwrap().iter().find(|of| of["subject"] == "starts").unwrap();
    assert!(starts["numbers"]["memory_peak_bytes"].as_u64().is_some_and(|peak| peak > 0), "{starts}");
    says(&started, "protocol", "fine", "speaks HTTP/1.1");
    says(&started, "version", "not_known", &stage.image);
    says(&started, "environment", "not_known", "Segue does not run it");
    if rustix::process::geteuid().is_root() {
        says(&started, "dependencies", "fine", &own);
        says(&started, "dependencies", "fault", &format!("tcp://{nobody} cannot be reached"));
        says(&started, "dependencies", "fine", "/segue is there");
        says(&started, "dependencies", "fault", "/bin/sh is not there");
    }
    let ended = ask(json!(["origin", "--listen", "nowhere"]));
    assert_eq!(ended["compatible"], false, "{ended:#}");
    says(&ended, "starts", "fault", "nowhere");
}

#[track_caller]
fn says(report: &Value, subject: &str, gravity: &str, words: &str) {
    let all = report["report"].as_array().unwrap().iter().filter(|of| of["subject"] == subject);
    let mut messages = all.filter(|of| of["gravity"] == gravity).map(|of| of["message"].as_str().unwrap());
    assert!(messages.any(|message| message.contains(words)), "{subject} {gravity} {words}: {report:#}");
}
