//! Which differences a reload cannot bring about; one of them rejects the new file whole.
//!
//! Services come and go and everything else changes live. What is fixed is what was created at the start:
//! sockets, threads and their queues, and the store.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::{Address, Settings};

/// A setting that only a restart changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` cannot change while running ({change}); restart Segue, or put the old value back")]
pub struct Refusal {
    /// Full name of the key.
    pub key: &'static str,
    /// From what to what.
    pub change: String,
}

/// Why `next` cannot replace `running` without a restart; empty = it can.
pub fn refusals(running: &Settings, next: &Settings) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mut fixed = |key, from: String, to: String| {
        if from != to {
            found.push(Refusal { key, change: format!("{from} → {to}") });
        }
    };
    fixed("workers", running.workers.to_string(), next.workers.to_string());
    fixed("lane.threads", running.lane.threads.to_string(), next.lane.threads.to_string());
    fixed("lane.queue", running.lane.queue.to_string(), next.lane.queue.to_string());
    fixed("admin.listen", or(running.admin.listen.as_ref(), "off"), or(next.admin.listen.as_ref(), "off"));
    let store =
        |settings: &Settings| or(settings.state.store.as_ref().map(|path| path.display()), "in memory");
    fixed("state.store", store(running), store(next));
    fixed("ec2", or(running.ec2.as_ref(), "none"), or(next.ec2.as_ref(), "none"));
    fixed("listeners.address", addresses(running), addresses(next));
    for (name, service) in &running.services {
        let Some(next) = next.services.get(name) else { continue };
        if service.source.run != next.source.run {
            let change = format!("of `{name}`; what Segue runs itself is changed by a migration");
            found.push(Refusal { key: "services.source", change });
        }
    }
    found
}

fn or(value: Option<impl Display>, absent: &str) -> String {
    value.map_or_else(|| absent.into(), |value| value.to_string())
}

/// Their order does not matter.
fn addresses(settings: &Settings) -> String {
    let sorted: BTreeSet<&Address> = settings.listeners.iter().map(|listener| &listener.address).collect();
    sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Ec2Access, parse};

    const RUNNING: &str = r#"
        workers = 2
        listeners = [{ address = "0.0.0.0:80" }, { address = "0.0.0.0:81" }]
        services.web.source.endpoints = ["http://127.0.0.1:3000"]
    "#;

    fn refused(next: &str) -> Vec<String> {
        let (running, next) = (parse(RUNNING, "a").unwrap(), parse(next, "b").unwrap());
        refusals(&running, &next).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_limits_and_certificates_change_live() {
        let next = r#"
            workers = 2
            listeners = [
                { address = "0.0.0.0:81", tls = { cert = "c", key = "k" } },
                { address = "0.0.0.0:80", proxy_protocol = true },
            ]
            admin.token = "new"
            callers.max_connections = 5
            lane.max_bytes = "1 MiB"
            shutdown_grace = "1s"
            services.api.source.endpoints = ["http://127.0.0.1:3001"]
        "#;
        assert_eq!(refused(next), [""; 0]);
    }

    #[test]
    fn sockets_threads_and_the_store_do_not() {
        let next = r#"
            workers = 4
            lane = { threads = 2, queue = 7 }
            admin.listen = "off"
            state.store = "/var/lib/segue"
            listeners = [{ address = "0.0.0.0:80" }]
            services.web.source.endpoints = ["http://127.0.0.1:3000"]
        "#;
        let after = "; restart Segue, or put the old value back";
        let expected = [
            "`workers` cannot change while running (2 → 4)",
            "`lane.threads` cannot change while running (1 → 2)",
            "`lane.queue` cannot change while running (1024 → 7)",
            "`admin.listen` cannot change while running (127.0.0.1:9900 → off)",
            "`state.store` cannot change while running (in memory → /var/lib/segue)",
            "`listeners.address` cannot change while running (0.0.0.0:80, 0.0.0.0:81 → 0.0.0.0:80)",
        ];
        assert_eq!(refused(next), expected.map(|line| format!("{line}{after}")));
    }

    #[test]
    fn where_ec2_is_reached_does_not() {
        let running = parse(RUNNING, "a").unwrap();
        let access = Ec2Access { region: Some("eu-central-1".into()), ..Ec2Access::default() };
        let next = Settings { ec2: Some(access), ..running.clone() };
        let refused = refusals(&running, &next);
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].key, refused[0].change.as_str()), ("ec2", "none → region eu-central-1"));
        assert_eq!(refusals(&next, &next), []);
    }
}
