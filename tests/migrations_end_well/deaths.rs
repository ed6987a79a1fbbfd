//! Instances that end, move or were left behind in the middle of a migration.

use std::collections::BTreeMap;
use std::net::TcpListener;

use segue::config::ByteSize;
use segue::instance::process::{Options, ProcessProvider};
use segue::instance::{
    Allocation, InstanceId, Millicores, Process, Provider as _, Role, ServiceProtocol, Spec, Workload,
};
use serde_json::{Value, json};

use crate::stage::{Stage, origin, signal};
use crate::support::until;

#[test]
fn a_source_that_ends_is_started_again_in_each_phase_that_waits() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, f64, &str); 5] = [
        ("provisioning", |request| request["to"]["command"] = json!(["/bin/sleep", "1000"]), 50.0, "cancel"),
        ("shadowing", |_| {}, 0.5, "cancel"),
        ("validating", |request| request["min_pairs"] = json!(1_000_000), 100.0, "cancel"),
        ("ready", |request| request["policy"] = json!("manual"), 200.0, "cancel"),
        ("watching", |request| request["watch_ms"] = json!(600_000), 200.0, "rollback"),
    ];
    for (phase, change, rate, way_out) in cases {
        let stage = Stage::new();
        let load = stage.load(rate);
        let source = stage.processes()[0];
        let mut request = stage.request(&[]);
        change(&mut request);
        let id = stage.start(&request);
        stage.until_phase(id, phase);
        stage.kill_and_see_again(source);
        assert_eq!(stage.migration(id)["phase"], phase, "it goes on: {:#}", stage.migration(id));
        // The source has to take connections before callers can be sent to it.
        let undone = if way_out == "cancel" { "cancelled" } else { "rolled_back" };
        assert_eq!(stage.ask(id, way_out).0, 200, "{phase}");
        stage.until_phase(id, undone);
        stage.assert_one_instance_is_left("source");
        stage.finish(load);
    }
}

#[test]
fn a_new_instance_that_comes_up_elsewhere_before_the_source_is_given_up_is_found_there() {
    let stage = Stage::new();
    let load = stage.load(100.0);
    let source = stage.processes();
    let mut request = stage.request(&[]);
    request["grace_ms"] = json!(600_000);
    let id = stage.start(&request);
    let before = stage.until_phase(id, "retiring");
    let new: Vec<u32> = stage.processes().into_iter().filter(|pid| !source.contains(pid)).collect();
    let address = before["endpoints"][0].as_str().unwrap().trim_start_matches("http://").to_owned();
    signal("-9", new[0]);
    let _taken = until("its port to be taken", || TcpListener::bind(&address).ok());
    let moved = until("the migration to know where it is", || {
        Some(stage.migration(id)).filter(|view| view["endpoints"] != before["endpoints"])
    });
    let at = moved["endpoints"][0].as_str().unwrap().trim_start_matches("http://").to_owned();
    until("the proxy to know it too", || {
        stage.segue.service()["endpoints"].to_string().contains(&at).then_some(())
    });
    assert_eq!(stage.ask(id, "rollback").0, 409, "what the grace period is not for");
    assert_eq!(stage.ask(id, "retire").0, 200);
    stage.until_phase(id, "done");
    assert_eq!(stage.segue.service()["active"], "shadow");
    assert_eq!((stage.processes().len(), stage.made().len()), (1, 1));
    stage.finish(load);
    let writers = stage.writers();
    assert_eq!(
        writers[writers.len() - 1],
        "active",
        "it knows its part since it was started again: {writers:?}"
    );
}

#[test]
fn what_nobody_knows_any_more_is_gone_after_the_next_start() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED for want of: root");
    }
    let mut stage = Stage::new();
    stage.segue.kill();
    let options = Options { launcher: env!("CARGO_BIN_EXE_segue").into(), ..Options::default() };
    let provider = ProcessProvider::with(&stage.instances(), options).unwrap();
    let workload = Workload::Process(Process {
        command: origin(&stage.ledger, &[]),
        environment: BTreeMap::new(),
        directory: None,
        protocol: ServiceProtocol::Http,
        // A network of its own.
        egress: Some(Vec::new()),
        keep_egress: false,
    });
    let allocation =
        Allocation { cpu: Millicores(250), memory: ByteSize::mib(64), storage: ByteSize::mib(32) };
    let id = InstanceId::new("s-web-orphan").unwrap();
    let spec = Spec { id: id.clone(), service: "web".into(), role: Role::Shadow, allocation, workload };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(provider.create(&spec)).unwrap();
    runtime.block_on(provider.start(&spec)).unwrap();
    assert_eq!(stage.processes().len(), 2);
    let folder = stage.instances().join(id.as_str());
    let network = std::fs::read_to_string(folder.join("network")).unwrap();
    let network: Value = serde_json::from_str(&network).unwrap();
    let namespace = std::path::Path::new("/run/netns").join(network["namespace"].as_str().unwrap());
    let mounted = || std::fs::read_to_string("/proc/mounts").unwrap().contains(id.as_str());
    assert!(namespace.exists() && mounted());
    stage.segue.restart();
    until("it to be gone", || (!folder.exists()).then_some(()));
    assert!(!namespace.exists() && !mounted());
    stage.assert_one_instance_is_left("source");
}

#[test]
fn a_cancelled_migration_leaves_the_retired_slot_empty() {
    let mut stage = Stage::new();
    let load = stage.load(300.0);
    let id = stage.start(&stage.request(&[]));
    stage.until_phase(id, "done");
    let endpoints = stage.segue.service()["endpoints"].clone();
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    stage.until_phase(id, "ready");
    assert_ne!(stage.segue.service()["endpoints"], endpoints);
    assert_eq!(stage.ask(id, "cancel").0, 200);
    stage.until_phase(id, "cancelled");
    assert_eq!(stage.segue.service()["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(stage.finish(load).failed, 0);
    // Else the settings would decide, and start the source that was retired.
    stage.segue.kill_and_restart();
    stage.assert_one_instance_is_left("shadow");
}

#[test]
fn the_instance_that_serves_is_no_destination_by_any_of_its_names() {
    let stage = Stage::new();
    let service = stage.segue.service();
    let address = service["endpoints"][0]["address"].as_str().unwrap();
    let to = |endpoint: &str| {
        json!({ "service": "web", "to": { "provider": "external", "endpoints": [endpoint] }, "min_pairs": 20 }).to_string()
    };
    let (status, problem) = stage.segue.call("POST", "/v1/migrations", &to(&format!("http://{address}")));
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("serves already"), "{problem}");
    let port = address.rsplit_once(':').unwrap().1;
    let (status, view) = stage.segue.call("POST", "/v1/migrations", &to(&format!("http://localhost:{port}")));
    assert_eq!(status, 201, "{view}");
    let view = stage.until_phase(view["id"].as_u64().unwrap(), "failed");
    assert!(view["reason"].as_str().unwrap().contains("serves already"), "{view:#}");
    stage.assert_one_instance_is_left("source");
}
