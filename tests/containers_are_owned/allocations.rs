//! What is granted holds, changes while it runs, and what is used is seen.

use std::fs;
use std::time::Duration;

use segue::instance::{InstanceId, Provider, State};

use crate::stage::{Stage, allocation, container, inspect, pid};
use crate::support::{get, until};

/// The memory limit and the CPU quota, in 1/1000 of a core, that the kernel has for it.
fn in_force(id: &InstanceId) -> (u64, u64) {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid(id))).unwrap();
    let group = |controller: &str| {
        let line = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let found = parts.next()?.split(',').any(|name| name == controller);
            found.then(|| parts.next())?
        });
        line.map(|path| format!("/sys/fs/cgroup/{controller}{path}"))
    };
    let read = |path: String| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    if let (Some(memory), Some(cpu)) = (group("memory"), group("cpu")) {
        let number = |path: String| read(path).trim().parse::<u64>().unwrap();
        let quota = number(format!("{cpu}/cpu.cfs_quota_us"));
        let period = number(format!("{cpu}/cpu.cfs_period_us"));
        return (number(format!("{memory}/memory.limit_in_bytes")), quota * 1000 / period);
    }
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let cpu = read(format!("/sys/fs/cgroup{path}/cpu.max"));
    let (quota, period) = cpu.trim().split_once(' ').unwrap();
    let memory = read(format!("/sys/fs/cgroup{path}/memory.max")).trim().parse().unwrap();
    (memory, quota.parse::<u64>().unwrap() * 1000 / period.parse::<u64>().unwrap())
}

#[test]
fn it_is_resized_while_it_runs_and_never_below_what_it_uses() {
    let Some(stage) = Stage::set() else { return };
    let mut spec = stage.spec(&["--memory", "100MiB"]);
    spec.allocation = allocation(500, 200);
    let address = stage.run(&spec);
    let first = pid(&spec.id);
    assert_eq!(in_force(&spec.id), (200 << 20, 500));

    let grown = stage.wait(stage.provider.resize(&spec.id, allocation(1500, 400))).unwrap();
    assert_eq!(grown.to, allocation(1500, 400));
    assert!(grown.cpu_enforced && grown.memory_enforced && !grown.storage_enforced);
    assert_eq!(in_force(&spec.id), (400 << 20, 1500));
    let limits = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}";
    assert_eq!(inspect(&container(&spec.id), limits), format!("1500000000 {}", 400 << 20));

    for _ in 0..2 {
        let shrunk = stage.wait(stage.provider.resize(&spec.id, allocation(100, 16))).unwrap();
        assert!(shrunk.to.memory.0 > 100 << 20, "{shrunk:?} is less than it holds");
        assert!(shrunk.to.memory.0 < 200 << 20, "{shrunk:?} is not near what it holds");
        assert!(shrunk.memory_enforced);
        // The kernel counts in pages.
        assert_eq!(in_force(&spec.id), (shrunk.to.memory.0 & !4095, 100));
    }
    assert_eq!(get(address, "/").status, 200);
    assert_eq!(pid(&spec.id), first, "it was not restarted");
}

#[test]
fn what_it_uses_grows_with_its_load_and_the_quota_shows() {
    let Some(stage) = Stage::set() else { return };
    let mut spec = stage.spec(&["--cpu-us", "20000", "--memory", "32MiB"]);
    spec.allocation = allocation(200, 128);
    let address = stage.run(&spec);
    let usage = || stage.wait(stage.provider.usage(&spec.id)).unwrap();
    let before = usage();
    for _ in 0..20 {
        assert_eq!(get(address, "/").status, 200);
    }
    let after = usage();
    let spent = after.cpu.unwrap().saturating_sub(before.cpu.unwrap());
    assert!(spent >= Duration::from_millis(200), "{spent:?} for 20 requests of 20 ms");
    let memory = after.memory.unwrap();
    assert!((32 << 20..128 << 20).contains(&memory), "{memory}");
    let throttled = |usage: &segue::instance::Usage| usage.throttling.unwrap().throttled;
    assert!(throttled(&after) > throttled(&before), "{after:?}: a fifth of a core is not enough");
    assert!(after.throttling.unwrap().time > Duration::ZERO);

    assert!(stage.wait(stage.provider.fence(&spec.id)).unwrap());
    assert!(usage().cpu >= after.cpu, "a frozen one can be looked at");
    stage.wait(stage.provider.stop(&spec.id, Duration::ZERO)).unwrap();
    assert_eq!(usage().memory, None, "one that is stopped uses nothing that could be measured");
}

#[test]
fn one_that_needs_more_memory_than_it_has_is_seen_to_have_run_out() {
    let Some(stage) = Stage::set() else { return };
    let mut spec = stage.spec(&["--memory", "256MiB"]);
    spec.allocation = allocation(500, 32);
    stage.wait(stage.provider.create(&spec)).unwrap();
    // It may end before it is seen to run.
    let _ = stage.wait(stage.provider.start(&spec));
    let ended = until("it to end", || match stage.state(&spec.id) {
        State::Running => None,
        state => Some(state),
    });
    assert_eq!(ended, State::Ended { code: Some(137), out_of_memory: true });
}
