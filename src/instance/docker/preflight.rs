//! What would keep a container from running here, found out by asking only.

use std::path::Path;

use bollard::Docker as Client;
use bollard::models::{ImageInspect, SystemInfo};

use super::body::{self, Limits};
use super::network::DEFAULT;
use super::{DockerProvider, name, workload};
use crate::config::ByteSize;
use crate::instance::Gravity::{Fault, Fine, Warning};
use crate::instance::{Allocation, Docker, Finding, Gravity, Spec, Volume};

/// Of the annotations that the OCI's image specification reserves.
const VERSION_LABEL: &str = "org.opencontainers.image.version";
/// `sha256:` and as many digits as `docker images` shows.
const SHORT_ID: usize = 7 + 12;
/// The engine makes no container with less.
const LEAST_MEMORY: u64 = 6 << 20;

impl DockerProvider {
    pub(super) async fn findings(&self, spec: &Spec) -> Vec<Finding> {
        let docker = match workload(spec) {
            Ok(docker) => docker,
            Err(error) => return vec![Finding::fault("provider", error.to_string())],
        };
        let unreachable = |message: String| vec![Finding::fault("engine", message)];
        let client = match self.engine.client() {
            Ok(client) => client,
            Err(failure) => return unreachable(failure.into_message()),
        };
        let info = match self.engine.ask(client.info()).await {
            Ok(info) => info,
            Err(failure) => return unreachable(failure.into_message()),
        };
        let mut findings = vec![engine(&info)];
        findings.extend(self.image(&client, docker, &info).await);
        findings.extend(self.network(&client, spec, docker).await);
        for volume in &docker.volumes {
            findings.push(self.volume(&client, volume).await);
        }
        findings.extend(self.name_taken(&client, spec).await);
        findings.extend(resources(&spec.allocation, docker, &info));
        findings
    }

    async fn image(&self, client: &Client, docker: &Docker, info: &SystemInfo) -> Vec<Finding> {
        match self.engine.ask(client.inspect_image(&docker.image)).await {
            Ok(image) => about_image(&image, docker, info),
            Err(failure) if failure.is_absence() => vec![Finding::fault(
                "image",
                format!("the engine has no image `{0}`; get it with `docker pull {0}`", docker.image),
            )],
            Err(failure) => vec![Finding::fault("image", failure.into_message())],
        }
    }

    async fn network(&self, client: &Client, spec: &Spec, docker: &Docker) -> Vec<Finding> {
        let own = spec.is_confined().then(|| {
            let message = "a network of its own without a way out; only what listens on every address of this host \
                           stays in reach";
            Finding::fine("network", message)
        });
        let joins = match &docker.network {
            Some(named) => Some(self.joins(client, named).await),
            None if docker.keep_egress => None,
            None => Some(self.joins_default(client).await),
        };
        own.into_iter().chain(joins).collect()
    }

    /// What it joins once it is active.
    async fn joins_default(&self, client: &Client) -> Finding {
        match self.engine.ask(client.inspect_network(DEFAULT, None)).await {
            Ok(_) => Finding::fine("network", format!("once active it is on the network `{DEFAULT}`")),
            Err(failure) if failure.is_absence() => Finding::fault(
                "network",
                format!(
                    "the engine has no network `{DEFAULT}`, by which it would reach the world once active; name a \
                     `network`, or set `keep_egress`"
                ),
            ),
            Err(failure) => Finding::fault("network", failure.into_message()),
        }
    }

    async fn joins(&self, client: &Client, wanted: &str) -> Finding {
        let of = |gravity: Gravity, message: String| Finding::new(gravity, "network", message);
        match self.engine.ask(client.inspect_network(wanted, None)).await {
            Ok(network) if network.internal == Some(true) => {
                of(Fine, format!("the network `{wanted}` has no way out"))
            }
            Ok(_) => of(
                Warning,
                format!(
                    "the network `{wanted}` leads out: whatever the instance does reaches the world; leave out `network` to prevent that"
                ),
            ),
            Err(failure) if failure.is_absence() => of(
                Fault,
                format!(
                    "the engine has no network `{wanted}`; create it with `docker network create {wanted}`"
                ),
            ),
            Err(failure) => of(Fault, failure.into_message()),
        }
    }

    async fn volume(&self, client: &Client, volume: &Volume) -> Finding {
        let source = &volume.source;
        let of = |gravity: Gravity, message: String| Finding::new(gravity, "volume", message);
        if !volume.target.is_absolute() {
            let target = volume.target.display();
            return of(
                Fault,
                format!("the target `{target}` of volume `{source}` has to be an absolute path"),
            );
        }
        if body::is_path(volume) {
            let path = source.clone();
            // A path may be on a file system that hangs.
            let there = tokio::task::spawn_blocking(move || Path::new(&path).exists()).await;
            return match there {
                Ok(true) => of(Fine, format!("`{source}` is there")),
                _ => of(Fault, format!("there is no `{source}` on this host; create it")),
            };
        }
        match self.engine.ask(client.inspect_volume(source)).await {
            Ok(_) => of(Fine, format!("the volume `{source}` is there, and stays when the instance goes")),
            Err(failure) if failure.is_absence() => {
                of(Fine, format!("the volume `{source}` is made, and goes when the instance goes"))
            }
            Err(failure) => of(Fault, failure.into_message()),
        }
    }

    /// By a container that is not ours.
    async fn name_taken(&self, client: &Client, spec: &Spec) -> Option<Finding> {
        if !matches!(self.look(client, &spec.id).await, Ok(None)) {
            return None;
        }
        let name = name(&spec.id);
        self.engine.ask(client.inspect_container(&name, None)).await.ok()?;
        let message = format!("a container `{name}` is there that is not this Segue's; remove or rename it");
        Some(Finding::fault("name", message))
    }
}

fn engine(info: &SystemInfo) -> Finding {
    let version = info.server_version.as_deref().unwrap_or("of an unknown version");
    if info.os_type.as_deref().is_some_and(|os| os != "linux") {
        return Finding::fault("engine", "the engine does not run Linux containers; switch it to them");
    }
    Finding::fine("engine", format!("Docker {version}"))
}

fn about_image(image: &ImageInspect, docker: &Docker, info: &SystemInfo) -> Vec<Finding> {
    let name = &docker.image;
    let mut findings = vec![Finding::fine("image", format!("`{name}` is there{}", identity(image)))];
    if let (Some(of_image), Some(of_engine)) = (&image.architecture, &info.architecture) {
        let of_engine = architecture(of_engine);
        findings.push(if of_image == of_engine {
            Finding::fine("architecture", format!("both are {of_image}"))
        } else {
            let message = format!(
                "the image is for {of_image}, the engine for {of_engine}; get it with `docker pull --platform linux/{of_engine} {name}`"
            );
            Finding::fault("architecture", message)
        });
    }
    let Some(config) = &image.config else { return findings };
    let port = format!("{}/tcp", docker.port);
    if !config.exposed_ports.iter().flatten().any(|exposed| *exposed == port) {
        let message =
            format!("the image does not say that it listens on {port}; see whether `port` is right");
        findings.push(Finding::warning("port", message));
    }
    let runs = |parts: &Option<Vec<String>>| parts.as_ref().is_some_and(|parts| !parts.is_empty());
    if docker.command.is_none() && !runs(&config.cmd) && !runs(&config.entrypoint) {
        findings.push(Finding::fault("command", "the image has no command; say one in `command`"));
    }
    findings
}

/// What tells an image from others of its name.
fn identity(image: &ImageInspect) -> String {
    let labels = image.config.as_ref().and_then(|config| config.labels.as_ref());
    let version = labels.and_then(|labels| labels.get(VERSION_LABEL));
    let digest = image.id.as_deref().map(|id| id.chars().take(SHORT_ID).collect::<String>());
    let version = version.map(|version| format!("version {version}"));
    let known: Vec<_> = version.into_iter().chain(digest).collect();
    if known.is_empty() { String::new() } else { format!(": {}", known.join(", ")) }
}

/// As images name what the kernel names otherwise.
fn architecture(of_engine: &str) -> &str {
    match of_engine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv6l" | "armv7l" => "arm",
        "i386" | "i686" => "386",
        other => other,
    }
}

fn resources(wanted: &Allocation, docker: &Docker, info: &SystemInfo) -> Vec<Finding> {
    let limits = Limits::of(info);
    let of = |gravity: Gravity, subject: &str, message: String| Finding::new(gravity, subject, message);
    let cores = info.ncpu.unwrap_or(i64::MAX);
    let there = of(
        Fine,
        "resources",
        format!(
            "the engine has {} and {} of memory in all",
            info.ncpu.map_or("an unknown number of cores".to_owned(), |cores| format!("{cores} cores")),
            info.mem_total.map_or("an unknown amount".to_owned(), |bytes| {
                ByteSize::mib(u64::try_from(bytes).unwrap_or(0) >> 20).to_string()
            }),
        ),
    );
    let cpu = if wanted.cpu.as_cores() > cores as f64 {
        of(Fault, "cpu", format!("{} of CPU are asked for, and the engine has {cores} cores", wanted.cpu))
    } else if limits.cpu {
        of(Fine, "cpu", format!("{} of {cores} cores", wanted.cpu))
    } else {
        let message = "the engine's kernel cannot limit CPU; the allocation is advice".to_owned();
        of(Warning, "cpu", message)
    };
    let total = info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX);
    let memory = if wanted.memory.0 > total {
        of(Fault, "memory", format!("{} are asked for, and the engine has {total} bytes", wanted.memory))
    } else if wanted.memory.0 < LEAST_MEMORY {
        of(Fault, "memory", format!("{} are less than the 6 MiB that the engine demands", wanted.memory))
    } else if limits.memory {
        of(Fine, "memory", format!("{} of {total} bytes", wanted.memory))
    } else {
        of(Warning, "memory", "the engine's kernel cannot limit memory; the allocation is advice".to_owned())
    };
    let writes_elsewhere = docker.volumes.iter().any(|volume| !volume.read_only);
    let driver = info.driver.as_deref().unwrap_or("unknown");
    let storage = if limits.storage && !writes_elsewhere {
        of(Fine, "storage", format!("the storage driver {driver} limits its size, if its disk has quotas"))
    } else {
        let message = if writes_elsewhere {
            "no engine limits the size of a volume; the allocation is advice".to_owned()
        } else {
            format!("the storage driver {driver} cannot limit its size here; the allocation is advice")
        };
        of(Warning, "storage", message)
    };
    vec![there, cpu, memory, storage]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Millicores, ServiceProtocol};

    fn docker() -> Docker {
        Docker {
            image: "app:1".into(),
            command: None,
            environment: std::collections::BTreeMap::new(),
            port: 8080,
            protocol: ServiceProtocol::Http,
            volumes: Vec::new(),
            network: None,
            keep_egress: false,
        }
    }

    fn info(text: &str) -> SystemInfo {
        serde_json::from_str(text).unwrap()
    }

    fn gravity(findings: &[Finding], subject: &str) -> Option<Gravity> {
        findings.iter().find(|finding| finding.subject == subject).map(|finding| finding.gravity)
    }

    #[test]
    fn an_image_of_another_architecture_or_without_a_command_is_a_fault() {
        let image = |text: &str| serde_json::from_str::<ImageInspect>(text).unwrap();
        let engine = info(r#"{"Architecture":"x86_64"}"#);
        let good = image(
            r#"{"Architecture":"amd64","Config":{"Cmd":["/app"],"ExposedPorts":{"8080/tcp":{}},"Volumes":{}}}"#,
        );
        assert!(about_image(&good, &docker(), &engine).iter().all(|finding| finding.gravity == Fine));
        let bad = image(r#"{"Architecture":"arm64","Config":{"ExposedPorts":{"80/tcp":{}},"Volumes":{}}}"#);
        let findings = about_image(&bad, &docker(), &engine);
        assert_eq!(gravity(&findings, "architecture"), Some(Fault));
        assert_eq!(gravity(&findings, "command"), Some(Fault));
        assert_eq!(gravity(&findings, "port"), Some(Warning));
    }

    #[test]
    fn more_than_the_engine_has_is_a_fault_and_what_it_cannot_limit_a_warning() {
        let small = info(r#"{"NCPU":2,"MemTotal":1073741824,"Driver":"overlay2"}"#);
        let granted = |cpu, memory| Allocation {
            cpu: Millicores(cpu),
            memory: ByteSize::mib(memory),
            storage: ByteSize::mib(10),
        };
        let findings = resources(&granted(2000, 512), &docker(), &small);
        assert_eq!(gravity(&findings, "cpu"), Some(Fine));
        assert_eq!(gravity(&findings, "memory"), Some(Fine));
        assert_eq!(gravity(&findings, "storage"), Some(Warning));
        let findings = resources(&granted(2001, 2048), &docker(), &small);
        assert_eq!(gravity(&findings, "cpu"), Some(Fault));
        assert_eq!(gravity(&findings, "memory"), Some(Fault));
        assert_eq!(gravity(&resources(&granted(10, 5), &docker(), &small), "memory"), Some(Fault));

        let weak = info(
            r#"{"NCPU":2,"MemTotal":1073741824,"MemoryLimit":false,"CpuCfsQuota":false,
                "Driver":"overlay2","DriverStatus":[["Backing Filesystem","xfs"]]}"#,
        );
        let findings = resources(&granted(10, 10), &docker(), &weak);
        assert_eq!(gravity(&findings, "cpu"), Some(Warning));
        assert_eq!(gravity(&findings, "memory"), Some(Warning));
        assert_eq!(gravity(&findings, "storage"), Some(Fine));
    }
}
