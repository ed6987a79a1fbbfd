//! What a container consumes, from one look of the engine at its cgroups.

use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::models::{ContainerBlkioStats, ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt;

use super::{DockerProvider, Found};
use crate::instance::{InstanceId, IoUsage, ProviderError, Throttling, Usage};

impl DockerProvider {
    pub(super) async fn measure(
        &self,
        client: &Client,
        id: &InstanceId,
        found: &Found,
    ) -> Result<Usage, ProviderError> {
        if !found.is_alive() {
            // The engine would answer with zeros.
            return Ok(Usage::default());
        }
        // Without the second look that rates need, which takes a second.
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers = std::pin::pin!(client.stats(&found.key, Some(options)));
        let none = || Err(Error::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
        let stats = self.ask(id, async { answers.next().await.unwrap_or_else(none) }).await?;
        Ok(read(&stats))
    }
}

/// Storage stays unknown: the engine would walk every file of it.
fn read(stats: &ContainerStatsResponse) -> Usage {
    let cpu = stats.cpu_stats.as_ref();
    let memory = stats.memory_stats.as_ref();
    let throttling = cpu.and_then(|cpu| cpu.throttling_data.as_ref());
    Usage {
        cpu: cpu.and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage).map(Duration::from_nanos),
        memory: memory.and_then(in_use),
        // Of cgroup v1 alone.
        memory_peak: memory.and_then(|memory| memory.max_usage),
        io: stats.blkio_stats.as_ref().and_then(io),
        throttling: throttling.and_then(|data| {
            Some(Throttling {
                periods: data.periods?,
                throttled: data.throttled_periods?,
                time: Duration::from_nanos(data.throttled_time?),
            })
        }),
        ..Usage::default()
    }
}

fn in_use(memory: &ContainerMemoryStats) -> Option<u64> {
    let stat = |name| memory.stats.as_ref().and_then(|stats| stats.get(name));
    // cgroup v1 has both, and the short one there leaves children out; v2 has the short one.
    let idle = stat("total_inactive_file").or_else(|| stat("inactive_file")).copied().unwrap_or(0);
    Some(memory.usage?.saturating_sub(idle))
}

/// `None` where the kernel does not count it for this cgroup.
fn io(stats: &ContainerBlkioStats) -> Option<IoUsage> {
    let entries = stats.io_service_bytes_recursive.as_ref()?;
    let sum = |wanted: &str| {
        // `Read` of cgroup v1 is `read` of v2.
        let of_it = |op: &Option<String>| op.as_ref().is_some_and(|op| op.eq_ignore_ascii_case(wanted));
        entries.iter().filter(|entry| of_it(&entry.op)).filter_map(|entry| entry.value).sum()
    };
    Some(IoUsage { read: sum("read"), written: sum("write") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(text: &str) -> Usage {
        read(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let v1 = usage(
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":1500000000},
                "throttling_data":{"periods":9,"throttled_periods":4,"throttled_time":200000000}},
                "memory_stats":{"usage":1000,"max_usage":1200,"limit":4096,
                "stats":{"inactive_file":1,"total_inactive_file":300}},
                "blkio_stats":{"io_service_bytes_recursive":[
                {"major":8,"minor":0,"op":"Read","value":10},{"major":8,"minor":16,"op":"Read","value":5},
                {"major":8,"minor":0,"op":"Write","value":7},{"major":8,"minor":0,"op":"Total","value":22}]}}"#,
        );
        assert_eq!(v1.cpu, Some(Duration::from_millis(1500)));
        assert_eq!((v1.memory, v1.memory_peak), (Some(700), Some(1200)));
        assert_eq!(v1.io, Some(IoUsage { read: 15, written: 7 }));
        let time = Duration::from_millis(200);
        assert_eq!(v1.throttling, Some(Throttling { periods: 9, throttled: 4, time }));

        let v2 = usage(
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":7}},
                "memory_stats":{"usage":1000,"stats":{"inactive_file":400}},
                "blkio_stats":{"io_service_bytes_recursive":[
                {"major":8,"minor":0,"op":"read","value":3},{"major":8,"minor":0,"op":"write","value":4}]}}"#,
        );
        assert_eq!((v2.memory, v2.memory_peak), (Some(600), None));
        assert_eq!(v2.io, Some(IoUsage { read: 3, written: 4 }));
    }

    #[test]
    fn what_is_not_counted_is_not_zero() {
        let little = r#"{"cpu_stats":{"cpu_usage":{}},"memory_stats":{},
                         "blkio_stats":{"io_service_bytes_recursive":null}}"#;
        assert_eq!(usage(little), Usage::default());
        assert_eq!(usage("{}"), Usage::default());
    }
}
