//! A provider of its own on the engine, and the sample application as an image that holds nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use segue::config::{ByteSize, Target};
use segue::instance::docker::DockerProvider;
use segue::instance::{
    Allocation, Docker, InstanceId, Millicores, Provider, Role, Running, ServiceProtocol, Spec, State,
    Workload,
};
use tokio::runtime::Runtime;

use crate::support::{get, tools, try_request, until};

pub const PORT: u16 = 8080;
pub const GRACE: Duration = Duration::from_secs(10);

/// What a test leaves on the engine is gone when it is dropped.
pub struct Stage {
    pub runtime: Runtime,
    pub provider: DockerProvider,
    pub owner: String,
    pub image: String,
}

impl Stage {
    /// `None`, having said so, where there is no engine.
    pub fn set() -> Option<Self> {
        if !tools::has("docker") || !tools::has("dockerd") {
            return None;
        }
        let owner = format!("test-{:08x}", fastrand::u32(..));
        let image = format!("segue-{owner}");
        import(&image);
        let provider = DockerProvider::connect(&owner);
        Some(Self { runtime: Runtime::new().unwrap(), provider, owner, image })
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Half a core and 64 MiB for the sample application.
    pub fn spec(&self, arguments: &[&str]) -> Spec {
        let id = InstanceId::new(format!("{}-{:08x}", self.owner, fastrand::u32(..))).unwrap();
        let command = ["origin", "--listen", "0.0.0.0:{port}", "--name", "{role}"];
        let command = command.iter().chain(arguments).map(ToString::to_string).collect();
        Spec {
            id,
            service: "web".into(),
            role: Role::Shadow,
            allocation: allocation(500, 64),
            workload: Workload::Docker(Docker {
                image: self.image.clone(),
                command: Some(command),
                environment: BTreeMap::new(),
                port: PORT,
                protocol: ServiceProtocol::Http,
                volumes: Vec::new(),
                network: None,
                keep_egress: false,
            }),
        }
    }

    /// Creates and starts it, and waits until it answers.
    pub fn run(&self, spec: &Spec) -> SocketAddr {
        self.wait(self.provider.create(spec)).unwrap();
        let address = address(&self.wait(self.provider.start(spec)).unwrap());
        until("the instance to answer", || answers(address).then_some(()));
        address
    }

    pub fn state(&self, id: &InstanceId) -> State {
        self.wait(self.provider.state(id)).unwrap()
    }

    /// What there is on the engine with this label: containers, networks, volumes.
    pub fn traces(label: &str) -> [Vec<String>; 3] {
        let filter = format!("label={label}");
        let lines = |arguments: &[&str]| {
            docker(&[arguments, &["--filter", &filter]].concat()).lines().map(str::to_owned).collect()
        };
        [
            lines(&["ps", "--all", "--format", "{{.Names}}"]),
            lines(&["network", "ls", "--format", "{{.Name}}"]),
            lines(&["volume", "ls", "--format", "{{.Name}}"]),
        ]
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for id in self.wait(self.provider.list()).unwrap_or_default() {
            if std::thread::panicking() {
                eprintln!("--- log of {id} ---\n{}", self.wait(self.provider.tail(&id)));
            }
            let destroyed = self.wait(self.provider.destroy(&id));
            assert!(destroyed.is_ok() || std::thread::panicking(), "{destroyed:?}");
        }
        let _ = Command::new("docker").args(["image", "rm", "--force", &self.image]).output();
    }
}

pub fn allocation(cpu: u32, memory: u64) -> Allocation {
    Allocation { cpu: Millicores(cpu), memory: ByteSize::mib(memory), storage: ByteSize::mib(100) }
}

pub fn workload(spec: &mut Spec) -> &mut Docker {
    match &mut spec.workload {
        Workload::Docker(docker) => docker,
        other => panic!("{other:?}"),
    }
}

pub fn docker(arguments: &[&str]) -> String {
    let done = Command::new("docker").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "docker {arguments:?}: {error}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub fn container(id: &InstanceId) -> String {
    format!("segue-{id}")
}

pub fn inspect(container: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, container]).trim().to_owned()
}

pub fn pid(id: &InstanceId) -> String {
    inspect(&container(id), "{{.State.Pid}}")
}

pub fn address(running: &Running) -> SocketAddr {
    match &running.endpoints[0].target {
        Target::Host { name, port } => SocketAddr::new(name.parse::<IpAddr>().unwrap(), *port),
        other @ Target::Unix(_) => panic!("{other:?}"),
    }
}

pub fn answers(address: SocketAddr) -> bool {
    try_request(address, "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .is_ok_and(|answer| answer.status == 200)
}

pub fn name_of(address: SocketAddr) -> String {
    get(address, "/").header("x-instance").unwrap().to_owned()
}

/// An image of one file, without a builder.
fn import(image: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image");
    assert!(folder.join("segue").exists(), "scripts/build-static builds what the image holds");
    let mut tar = Command::new("tar")
        .args(["--create", "--directory"])
        .arg(folder)
        .arg("segue")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let changes = ["--change", r#"ENTRYPOINT ["/segue"]"#, "--change", "EXPOSE 8080"];
    let done = Command::new("docker")
        .arg("import")
        .args(changes)
        .args(["-", image])
        .stdin(tar.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(tar.wait().unwrap().success());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
