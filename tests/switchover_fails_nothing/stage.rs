//! The parts that a switchover needs: two instances, Segue in front of them, and their ledger.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Answer, PATIENCE, Segue, get, try_request, until};

/// One running copy of the sample application; killed when dropped.
pub struct Instance {
    child: Child,
    pub address: SocketAddr,
}

impl Instance {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_segue"))
            .args(["origin", "--listen", "127.0.0.1:0", "--workers", "1", "--name", name])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let address = line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        Self { child, address: address.unwrap_or_else(|| panic!("the instance said: {line}")) }
    }

    pub fn url(&self) -> String {
        self.url_over("http")
    }

    pub fn url_over(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Requests that it was asked so far.
    pub fn seen(&self) -> u64 {
        let seen: Value = serde_json::from_slice(&get(self.address, "/__seen").body).unwrap();
        seen["total"].as_u64().unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `a` is the source and `b` the shadow of the service `web`; they share one ledger.
pub struct Stage {
    pub a: Instance,
    pub b: Instance,
    pub segue: Segue,
    pub ledger: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// `switchover`: what stands in `[services.web.switchover]`. `instances`: further arguments of both.
    pub fn new(switchover: &str, instances: &[&str]) -> Self {
        Self::with(&format!("[services.web.switchover]\n{switchover}"), "", instances)
    }

    /// `rest`: further tables of the configuration.
    pub fn with(service: &str, rest: &str, instances: &[&str]) -> Self {
        Self::over("http", service, rest, instances)
    }

    /// `scheme`: of the instances.
    pub fn over(scheme: &str, service: &str, rest: &str, instances: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger");
        let mut arguments = vec!["--ledger", ledger.to_str().unwrap()];
        arguments.extend(instances);
        let (a, b) = (Instance::start("a", &arguments), Instance::start("b", &arguments));
        let segue = Segue::with(
            &a.url_over(scheme),
            Some(&b.url_over(scheme)),
            service,
            &format!("workers = 2\n{rest}"),
        );
        Self { a, b, segue, ledger, _folder: folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.segue.address
    }

    pub fn get(&self, path: &str) -> Answer {
        get(self.segue.address, path)
    }

    pub fn post(&self, path: &str) -> Answer {
        post(self.segue.address, path)
    }

    /// The instance that a new caller's request is answered by.
    pub fn answering(&self) -> String {
        instance_of(&self.get("/item/1"))
    }

    /// How often each key was written, by either instance.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (key, _) in self.writes() {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// Keys and the instances that took them, in the order in which they were taken.
    pub fn writes(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.ledger).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(key, instance)| (key.to_owned(), instance.to_owned())).collect()
    }

    /// The instances that took writes, one after the other. That each took its writes in one piece
    /// between two switchovers is what "exactly one takes writes" means.
    pub fn writers(&self) -> Vec<String> {
        let mut writers: Vec<String> = self.writes().into_iter().map(|(_, instance)| instance).collect();
        writers.dedup();
        writers
    }

    /// Waits until a field of the service has this value.
    pub fn until_service(&self, field: &str, value: impl Into<Value>) -> Value {
        let value = value.into();
        until(&format!("`{field}` to be {value}"), || {
            Some(self.segue.service()).filter(|service| service[field] == value)
        })
    }

    pub fn call_switchover(&self, body: &str) -> (u16, Value) {
        self.segue.call("POST", "/v1/services/web/switchover", body)
    }

    /// Nothing is left of any request or wait, and nothing went wrong inside.
    pub fn assert_quiet(&self) {
        until("the gate to be empty", || {
            let service = self.segue.service();
            (service["in_flight"] == 0 && service["parked"] == 0 && service["gate"] == "open").then_some(())
        });
        let log = self.segue.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

pub fn post(address: SocketAddr, path: &str) -> Answer {
    try_post(address, path).unwrap()
}

pub fn try_post(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    try_request(
        address,
        format!("POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1"),
    )
}

pub fn instance_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.header("x-instance").unwrap().to_owned()
}

/// `shadow` when it is `b`'s turn.
pub fn name_of(instance: &str) -> &'static str {
    if instance == "a" { "source" } else { "shadow" }
}

/// Runs something to its end on a runtime of its own; it may block, what it spawns may not.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it takes too long") })
}

/// What the store on the disk says, while nobody holds it.
pub fn recorded(segue: &Segue) -> Option<(String, u64)> {
    let store = segue::store::Store::open(&segue.folder.path().join("state")).unwrap();
    let record = block_on(store.active("web")).unwrap();
    block_on(store.close()).unwrap();
    record.map(|record| (record.instance.as_str().to_owned(), record.generation))
}

/// A request line and `Host`, for callers that write their own bytes.
pub fn head(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: test\r\n")
}
