//! What a container is made from. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, RestartPolicy,
    RestartPolicyNameEnum, SystemInfo,
};

use crate::instance::stand_in::StandIns;
use crate::instance::{Allocation, Docker, Millicores, Role, Spec, Volume};

/// The engine's own log of a container, when it keeps one: a chatty shadow must not fill the host's disk.
const LOG_SIZE: &str = "10m";
const LOG_FILES: &str = "3";

/// What the engine can hold a container to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub cpu: bool,
    pub memory: bool,
    /// May be: with overlay2 only a try can tell.
    pub storage: bool,
}

// === impl Limits ===

impl Limits {
    pub fn of(info: &SystemInfo) -> Self {
        let status = |name: &str| {
            let pairs = info.driver_status.iter().flatten();
            pairs
                .filter_map(|pair| pair.first().zip(pair.get(1)))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.as_str())
        };
        let storage = match info.driver.as_deref() {
            Some("btrfs" | "zfs" | "devicemapper") => true,
            // With project quotas, which the engine does not speak of.
            Some("overlay2") => status("Backing Filesystem") == Some("xfs"),
            _ => false,
        };
        let unless_denied = |able: Option<bool>| able != Some(false);
        Self {
            cpu: unless_denied(info.cpu_cfs_quota) && unless_denied(info.cpu_cfs_period),
            memory: unless_denied(info.memory_limit),
            storage,
        }
    }
}

pub(super) fn nanos(cpu: Millicores) -> i64 {
    i64::from(cpu.0) * 1_000_000
}

pub(super) fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// `network` is a name or an id.
pub(super) fn of(
    spec: &Spec,
    docker: &Docker,
    network: &str,
    labels: HashMap<String, String>,
    info: &SystemInfo,
    limits: Limits,
) -> ContainerCreateBody {
    let stand_ins = StandIns { port: docker.port, data: data(docker), role: spec.role };
    ContainerCreateBody {
        image: Some(docker.image.clone()),
        cmd: docker
            .command
            .as_ref()
            .map(|command| command.iter().map(|part| stand_ins.apply(part)).collect()),
        env: Some(environment(spec, docker, &stand_ins)),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            mounts: Some(docker.volumes.iter().map(mount).collect()),
            restart_policy: Some(restart(spec.role == Role::Active)),
            log_config: log(info),
            ..granted(&spec.allocation, limits)
        }),
        ..ContainerCreateBody::default()
    }
}

fn granted(allocation: &Allocation, limits: Limits) -> HostConfig {
    let memory = limits.memory.then(|| bytes(allocation.memory.0));
    HostConfig {
        nano_cpus: limits.cpu.then(|| nanos(allocation.cpu)),
        memory,
        // Together with swap: an instance that swaps would look as if it fitted.
        memory_swap: memory,
        storage_opt: limits
            .storage
            .then(|| HashMap::from([("size".to_owned(), allocation.storage.0.to_string())])),
        ..HostConfig::default()
    }
}

pub(super) fn restart(by_engine: bool) -> RestartPolicy {
    let name = if by_engine { RestartPolicyNameEnum::UNLESS_STOPPED } else { RestartPolicyNameEnum::NO };
    RestartPolicy { name: Some(name), maximum_retry_count: None }
}

/// The operator's variables come last: a setting that says otherwise is meant.
fn environment(spec: &Spec, docker: &Docker, stand_ins: &StandIns<'_>) -> Vec<String> {
    let mut all =
        BTreeMap::from([("PORT", docker.port.to_string()), ("SEGUE_ROLE", spec.role.as_str().to_owned())]);
    all.extend(data(docker).map(|data| ("SEGUE_DATA", data.to_owned())));
    all.extend(docker.environment.iter().map(|(name, value)| (name.as_str(), stand_ins.apply(value))));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The first place that it may write to and that outlives it is its data directory.
fn data(docker: &Docker) -> Option<&str> {
    docker.volumes.iter().find(|volume| !volume.read_only)?.target.to_str()
}

fn mount(volume: &Volume) -> Mount {
    Mount {
        // A bind by this field has to exist; the older field would have the engine make an empty folder, as root.
        typ: Some(if is_path(volume) { MountType::BIND } else { MountType::VOLUME }),
        source: Some(volume.source.clone()),
        target: Some(volume.target.display().to_string()),
        read_only: Some(volume.read_only),
        ..Mount::default()
    }
}

pub(super) fn is_path(volume: &Volume) -> bool {
    volume.source.starts_with('/')
}

/// Other drivers send logs elsewhere, and have options of their own.
fn log(info: &SystemInfo) -> Option<HostConfigLogConfig> {
    let driver = info.logging_driver.as_deref().filter(|driver| matches!(*driver, "json-file" | "local"))?;
    let options = [("max-size", LOG_SIZE), ("max-file", LOG_FILES)];
    Some(HostConfigLogConfig {
        typ: Some(driver.to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;
    use crate::instance::{InstanceId, ServiceProtocol, Workload};

    fn body(role: Role, docker: &Docker, info: &str) -> ContainerCreateBody {
        let allocation =
            Allocation { cpu: Millicores(250), memory: ByteSize::mib(64), storage: ByteSize::mib(100) };
        let id = InstanceId::new("web-1").unwrap();
        let workload = Workload::Docker(docker.clone());
        let spec = Spec { id, service: "web".into(), role, allocation, workload };
        let info = serde_json::from_str(info).unwrap();
        of(&spec, docker, "net", HashMap::new(), &info, Limits::of(&info))
    }

    fn docker() -> Docker {
        let volume = |source: &str, target: &str, read_only| Volume {
            source: source.into(),
            target: target.into(),
            read_only,
        };
        Docker {
            image: "app:1".into(),
            command: Some(vec!["app".into(), "--listen=0.0.0.0:{port}".into(), "{data}/{role}".into()]),
            environment: BTreeMap::from([("MODE".into(), "{role}".into()), ("PORT".into(), "1".into())]),
            port: 8080,
            protocol: ServiceProtocol::Http,
            volumes: vec![volume("/etc/app", "/etc/app", true), volume("data", "/var/lib/app", false)],
            network: None,
            keep_egress: false,
        }
    }

    #[test]
    fn it_is_told_what_it_has_to_know_and_the_operator_has_the_last_word() {
        let made = body(Role::Shadow, &docker(), "{}");
        assert_eq!(made.cmd.unwrap(), ["app", "--listen=0.0.0.0:8080", "/var/lib/app/shadow"]);
        assert_eq!(
            made.env.unwrap(),
            ["MODE=shadow", "PORT=1", "SEGUE_DATA=/var/lib/app", "SEGUE_ROLE=shadow"]
        );
        let mounts = made.host_config.unwrap().mounts.unwrap();
        assert_eq!(
            mounts.iter().map(|mount| mount.typ.unwrap()).collect::<Vec<_>>(),
            [MountType::BIND, MountType::VOLUME]
        );
        assert_eq!(mounts[0].read_only, Some(true));
    }

    #[test]
    fn only_an_active_one_is_restarted_by_the_engine() {
        let policy = |role| body(role, &docker(), "{}").host_config.unwrap().restart_policy.unwrap().name;
        assert_eq!(policy(Role::Shadow), Some(RestartPolicyNameEnum::NO));
        assert_eq!(policy(Role::Active), Some(RestartPolicyNameEnum::UNLESS_STOPPED));
    }

    #[test]
    fn limits_are_asked_for_where_the_engine_has_them() {
        let config = |info: &str| body(Role::Shadow, &docker(), info).host_config.unwrap();
        let able = config(
            r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","xfs"]],"LoggingDriver":"local"}"#,
        );
        assert_eq!(able.nano_cpus, Some(250_000_000));
        assert_eq!((able.memory, able.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!(able.storage_opt.unwrap()["size"], (100u64 << 20).to_string());
        assert_eq!(able.log_config.unwrap().typ.as_deref(), Some("local"));
        let unable = config(
            r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]],
                "CpuCfsQuota":false,"MemoryLimit":false,"LoggingDriver":"journald"}"#,
        );
        assert_eq!((unable.nano_cpus, unable.memory, unable.memory_swap), (None, None, None));
        assert!(unable.storage_opt.is_none() && unable.log_config.is_none());
    }
}
