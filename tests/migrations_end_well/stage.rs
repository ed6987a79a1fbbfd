//! A service whose source Segue runs, callers for it, and what has to be so once a migration is over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use segue::instance::Provider as _;
use segue::instance::process::ProcessProvider;
use segue::load::{Load, LoadReport, LoadSettings, audit};
use serde_json::{Value, json};

use crate::support::{Segue, try_request, until, until_seen};

const ALLOCATION: &str = r#"{ cpu = 0.5, memory = "128 MiB", storage = "64 MiB" }"#;

/// So much slower than the shadow that no busy moment can turn a gate against that.
pub const SLOW_SOURCE: [&str; 2] = ["--latency", "const:40ms"];

/// Segue with the service `web`; every instance of it is gone once this is.
pub struct Stage {
    pub segue: Segue,
    pub ledger: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(&[], "", &SLOW_SOURCE)
    }

    /// `environment` is Segue's, `service` stands in `[services.web]`, `source` are arguments of the source.
    pub fn with(environment: &[(&str, &str)], service: &str, source: &[&str]) -> Self {
        Self::in_folder(environment, service, source, None)
    }

    /// The same with the state of Segue in a folder of the caller's.
    pub fn in_folder(
        environment: &[(&str, &str)],
        service: &str,
        source: &[&str],
        state: Option<&Path>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger");
        let command = json!(origin(&ledger, source));
        let text = format!(
            "workers = 2\n[services.web]\n\
             source = {{ provider = \"process\", command = {command}, allocation = {ALLOCATION} }}\n\
             tee = {{ percent = 100.0, allow_above_5_percent = true }}\n{service}\n"
        );
        let segue = Segue::from_text_in(&text, environment, state);
        Self { segue, ledger, _folder: folder }
    }

    /// Callers, of whom half write.
    pub fn load(&self, rate: f64) -> Load {
        self.load_over(16, rate)
    }

    /// The same over so many connections.
    pub fn load_over(&self, connections: usize, rate: f64) -> Load {
        let mut settings = LoadSettings::new(self.segue.url().parse().unwrap(), rate);
        settings.write_share = 0.5;
        settings.max_connections = connections;
        Load::start(settings).unwrap()
    }

    /// `to` a sample instance with these arguments, at once and with few pairs.
    pub fn request(&self, arguments: &[&str]) -> Value {
        json!({
            "service": "web",
            "to": {
                "provider": "process",
                "command": origin(&self.ledger, arguments),
                "allocation": { "cpu": 0.75, "memory": "128 MiB", "storage": "64 MiB" },
            },
            "min_pairs": 160, "watch_ms": 300, "grace_ms": 1,
        })
    }

    /// Starts it, and gives its number.
    pub fn start(&self, request: &Value) -> u64 {
        let (status, view) = self.segue.call("POST", "/v1/migrations", &request.to_string());
        assert_eq!(status, 201, "{view}");
        view["id"].as_u64().unwrap()
    }

    pub fn migration(&self, id: u64) -> Value {
        let (status, view) = self.segue.call("GET", &format!("/v1/migrations/{id}"), "");
        assert_eq!(status, 200, "{view}");
        view
    }

    pub fn ask(&self, id: u64, what: &str) -> (u16, Value) {
        self.segue.call("POST", &format!("/v1/migrations/{id}/{what}"), "")
    }

    pub fn until_phase(&self, id: u64, phase: &str) -> Value {
        until_seen(&format!("migration {id} to be {phase}"), || {
            let view = self.migration(id);
            assert!(
                view["over"] == false || view["phase"] == phase,
                "it ended as {}, {}: {view:#}",
                view["phase"],
                view["reason"]
            );
            if view["phase"] == phase { Ok(view) } else { Err(format!("{view:#}")) }
        })
    }

    pub fn until_over(&self, id: u64) -> Value {
        until(&format!("migration {id} to be over"), || {
            Some(self.migration(id)).filter(|view| view["over"] == true)
        })
    }

    /// What is left of a migration that has ended: one instance, which serves, and nothing else.
    pub fn assert_one_instance_is_left(&self, active: &str) {
        self.assert_all_is_undone_but(active);
        let log = self.segue.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// The same where a panic was asked for.
    pub fn assert_all_is_undone_but(&self, active: &str) {
        let service = until("the gate to be open", || {
            Some(self.segue.service()).filter(|service| service["gate"] == "open" && service["parked"] == 0)
        });
        assert_eq!(service["active"], active);
        let running = self.processes();
        assert_eq!(running.len(), 1, "{running:?}");
        let made = self.made();
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(cgroups_of(self.segue.folder.path(), &made), made);
        let role = if active == "source" { "active" } else { "shadow" };
        let answer = try_request(
            self.segue.address,
            "POST /ledger/last HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1",
        );
        assert_eq!(answer.unwrap().header("x-instance"), Some(role));
    }

    /// The load's writes that were acknowledged are in the ledger, each once.
    pub fn finish(&self, load: Load) -> LoadReport {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(load.finish()).unwrap();
        let found = audit(&report, &self.counts());
        assert!(found.is_exact(), "{found:?}");
        report
    }

    /// The instances that took writes, one after the other; each once, if never two took them at a time.
    pub fn writers(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.ledger).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let mut writers: Vec<String> = lines.map(|(_, instance)| instance.to_owned()).collect();
        writers.dedup();
        writers
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let text = std::fs::read_to_string(&self.ledger).unwrap_or_default();
        let mut counts = BTreeMap::new();
        for (key, _) in text.lines().filter_map(|line| line.split_once(' ')) {
            *counts.entry(key.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Ends a process of an instance as a crash would, and waits for the one that is started in its place.
    pub fn kill_and_see_again(&self, pid: u32) -> u32 {
        let others = self.processes();
        signal("-9", pid);
        until("it to be started again", || self.processes().into_iter().find(|pid| !others.contains(pid)))
    }

    /// Processes of any instance of this stage.
    pub fn processes(&self) -> Vec<u32> {
        let of_this = |pid: &u32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            command.contains(self.ledger.to_str().unwrap()) && command.contains("origin")
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(of_this).collect()
    }

    /// Ids of what Segue runs.
    pub fn made(&self) -> Vec<String> {
        made(&self.instances())
    }

    /// Where Segue keeps what it runs.
    pub fn instances(&self) -> PathBuf {
        self.segue.folder.path().join("state/instances")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.segue.kill();
        end(&self.instances());
    }
}

/// A Segue of any settings, and the end of what it runs.
pub struct Owned {
    pub segue: Segue,
}

impl Owned {
    pub fn new(text: &str) -> Self {
        Self { segue: Segue::from_text(text) }
    }

    /// Ids of what Segue runs.
    pub fn made(&self) -> Vec<String> {
        made(&self.instances())
    }

    fn instances(&self) -> PathBuf {
        self.segue.folder.path().join("state/instances")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.segue.kill();
        end(&self.instances());
    }
}

fn made(instances: &Path) -> Vec<String> {
    let provider = ProcessProvider::open(instances).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ids = runtime.block_on(provider.list()).unwrap();
    ids.iter().map(ToString::to_string).collect()
}

/// Instances outlive Segue, so they are ended by hand.
fn end(instances: &Path) {
    let Ok(provider) = ProcessProvider::open(instances) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        for id in provider.list().await.unwrap_or_default() {
            let _ = provider.destroy(&id).await;
        }
    });
}

pub fn signal(which: &str, pid: u32) {
    let sent = std::process::Command::new("kill").args([which, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// The sample application with one ledger for all instances, named by the role that it started in.
pub fn origin(ledger: &Path, arguments: &[&str]) -> Vec<String> {
    let command = [env!("CARGO_BIN_EXE_segue"), "origin", "--listen", "127.0.0.1:{port}", "--workers", "1"];
    let named = ["--name", "{role}", "--ledger", ledger.to_str().unwrap()];
    command.iter().chain(&named).chain(arguments).map(|text| (*text).to_owned()).collect()
}

/// Which of these ids still have a control group, in any hierarchy.
fn cgroups_of(_: &Path, ids: &[String]) -> Vec<String> {
    if !rustix::process::geteuid().is_root() {
        return ids.to_vec();
    }
    let text = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path", "*segue*"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    ids.iter().filter(|id| text.contains(id.as_str())).cloned().collect()
}
