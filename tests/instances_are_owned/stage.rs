//! A provider with a folder and cgroups of its own, and the sample application as what it runs.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use segue::config::{ByteSize, Target};
use segue::instance::process::{Options, ProcessProvider};
use segue::instance::{
    Allocation, Gravity, InstanceId, Millicores, Process, Provider, Role, Running, ServiceProtocol, Spec,
    Workload,
};
use tokio::runtime::Runtime;

use crate::support::{PATIENCE, try_request, until};

pub const SEGUE: &str = env!("CARGO_BIN_EXE_segue");

/// Where instances are made; everything that was is gone when it is dropped.
pub struct Home {
    pub runtime: Runtime,
    pub provider: ProcessProvider,
    pub folder: PathBuf,
    options: Options,
    at: Option<tempfile::TempDir>,
}

impl Home {
    pub fn new() -> Self {
        Self::in_group(Some(format!("segue-test-{:08x}", fastrand::u32(..))))
    }

    pub fn without_cgroups() -> Self {
        Self::in_group(None)
    }

    /// With cgroups where these can be written, and without.
    pub fn of_both_kinds() -> [Self; 2] {
        [Self::new(), Self::without_cgroups()]
    }

    fn in_group(group: Option<String>) -> Self {
        let at = tempfile::tempdir().unwrap();
        let mut home = Self::at(&at.path().join("instances"), group);
        home.at = Some(at);
        home
    }

    pub fn at(folder: &Path, group: Option<String>) -> Self {
        let options = Options { launcher: SEGUE.into(), group, volumes: true };
        let provider = ProcessProvider::with(folder, options.clone()).unwrap();
        Self { runtime: Runtime::new().unwrap(), provider, folder: folder.into(), options, at: None }
    }

    pub fn group(&self) -> Option<&str> {
        self.options.group.as_deref()
    }

    /// As a Segue that starts again.
    pub fn reopen(&mut self) {
        self.provider = ProcessProvider::with(&self.folder, self.options.clone()).unwrap();
    }

    /// Whether the machine can hold an instance to limits; else the test says that it is skipped.
    pub fn has_limits(&self) -> bool {
        let findings = self.wait(self.provider.preflight(&spec("probe", &["sh"])));
        let limits = findings.iter().find(|finding| finding.subject == "limits").unwrap();
        if limits.gravity != Gravity::Fine {
            eprintln!("SKIPPED: needs cgroups: {}", limits.message);
        }
        limits.gravity == Gravity::Fine
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it ends in time") })
    }

    /// Creates and starts it, and waits until it answers.
    pub fn run(&self, spec: &Spec) -> SocketAddr {
        self.wait(self.provider.create(spec)).unwrap();
        let address = address(&self.wait(self.provider.start(spec)).unwrap());
        until("the instance to answer", || answers(address).then_some(()));
        address
    }

    pub fn pid(&self, id: &InstanceId) -> i32 {
        let text = fs::read_to_string(self.folder.join(id.as_str()).join("pid")).unwrap();
        let pid = serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"].as_i64().unwrap();
        i32::try_from(pid).unwrap()
    }

    /// The directories of an instance's cgroups.
    pub fn groups(&self, id: &InstanceId) -> BTreeMap<String, PathBuf> {
        let text = fs::read_to_string(self.folder.join(id.as_str()).join("groups")).unwrap();
        let groups: BTreeMap<String, Option<PathBuf>> = serde_json::from_str(&text).unwrap();
        groups.into_iter().filter_map(|(name, at)| Some((name, at?))).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for id in self.wait(self.provider.list()).unwrap_or_default() {
            if std::thread::panicking() {
                eprintln!("--- log of {id} ---\n{}", self.wait(self.provider.tail(&id)));
            }
            let destroyed = self.wait(self.provider.destroy(&id));
            assert!(destroyed.is_ok() || std::thread::panicking(), "{destroyed:?}");
        }
    }
}

pub fn id(name: &str) -> InstanceId {
    InstanceId::new(name).unwrap()
}

pub fn spec(name: &str, command: &[&str]) -> Spec {
    let process = Process {
        command: command.iter().map(ToString::to_string).collect(),
        environment: BTreeMap::new(),
        directory: None,
        protocol: ServiceProtocol::Http,
        egress: None,
        keep_egress: false,
    };
    Spec {
        id: id(name),
        service: "web".into(),
        role: Role::Shadow,
        allocation: allocation(1000, 256),
        workload: Workload::Process(process),
    }
}

/// The sample application.
pub fn origin(name: &str, arguments: &[&str]) -> Spec {
    let mut command = vec![SEGUE, "origin", "--listen", "127.0.0.1:{port}", "--workers", "1"];
    command.extend(arguments);
    spec(name, &command)
}

/// A script that ends in the sample application.
pub fn script(name: &str, lines: &str) -> Spec {
    let script = format!("{lines}\nexec {SEGUE} origin --listen 127.0.0.1:$PORT --workers 1");
    spec(name, &["sh", "-c", &script])
}

pub fn allocation(cpu: u32, memory_mib: u64) -> Allocation {
    Allocation { cpu: Millicores(cpu), memory: ByteSize::mib(memory_mib), storage: ByteSize::mib(16) }
}

pub fn address(running: &Running) -> SocketAddr {
    let [endpoint] = running.endpoints.as_slice() else { panic!("{running:?}") };
    let Target::Host { name, port } = &endpoint.target else { panic!("{endpoint}") };
    SocketAddr::new(name.parse().unwrap(), *port)
}

pub fn answers(address: SocketAddr) -> bool {
    try_request(address, "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").is_ok()
}

pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Processes that have `word` as an argument.
pub fn with_argument(word: &str) -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let has = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    pids.filter(has).filter(|pid| is_alive(*pid)).collect()
}
