//! An instance that Segue runs itself: `provider`, what it runs, and its `allocation`.

use std::collections::BTreeMap;

use super::document::MAX_SIZE;
use super::reader::{Item, Table};
use super::{
    Allocation, ByteSize, Docker, Ec2, Ec2Access, Endpoint, Millicores, Process, Run, Scheme,
    ServiceProtocol, Volume, Workload, forms,
};

/// Completes "`x` …".
const WITHOUT_EC2: &str =
    "needs a Segue that was built with it; build one with `cargo build --release --features ec2`";

const LEAST_MEMORY: ByteSize = ByteSize::mib(1);

pub(super) fn run(t: &mut Table<'_>) -> Option<Run> {
    let provider = t.require("provider", "\"process\", \"docker\" or \"ec2\", who runs it");
    if let Some(item) = provider.as_ref().filter(|item| item.is("ec2")) {
        only_with_ec2(item);
    }
    let known = [("process", process as Read), ("docker", docker), ("ec2", ec2)];
    let provider = provider.and_then(|item| item.choice(&known));
    let workload = provider.map(|read| read(t));
    let allocation = t.require(
        "allocation",
        "what it is granted, such as { cpu = 2, memory = \"1 GiB\", storage = \"10 GiB\" }",
    );
    let allocation = allocation.and_then(|item| item.table(allocation_of).flatten());
    Some(Run { workload: workload??, allocation: allocation? })
}

type Read = fn(&mut Table<'_>) -> Option<Workload>;

fn process(t: &mut Table<'_>) -> Option<Workload> {
    let command = t.require("command", "the program and its arguments").map(|item| texts(&item));
    if command.as_ref().is_some_and(Vec::is_empty) {
        t.fault("has an empty `command`; write the program and its arguments");
    }
    let egress = t.take("egress").map(|item| texts(&item));
    let keep_egress = t.flag("keep_egress", false);
    match (&egress, keep_egress) {
        (None, true) => t.fault("has `keep_egress`, and no `egress` that it could keep; add `egress = []`"),
        (Some(_), false) => {
            t.fault("has `egress`, which is for shadows only; add `keep_egress = true` to have it restricted for life");
        }
        _ => {}
    }
    Some(Workload::Process(Process {
        environment: environment(t),
        directory: t.take("directory").and_then(|item| item.path()),
        protocol: protocol(t),
        egress,
        keep_egress,
        command: command?,
    }))
}

fn docker(t: &mut Table<'_>) -> Option<Workload> {
    let image = t.require("image", "as in `docker run`").and_then(|item| item.text_as(forms::not_empty));
    let port =
        t.require("port", "that the application listens on").and_then(|item| item.number(&(1..=u16::MAX)));
    let network = t.take("network").and_then(|item| item.text_as(forms::not_empty));
    let keep_egress = t.flag("keep_egress", false);
    if keep_egress && network.is_some() {
        t.fault("has both `network` and `keep_egress`; what is on a network reaches what that leads to, so drop one");
    }
    Some(Workload::Docker(Docker {
        command: t.take("command").map(|item| texts(&item)),
        environment: environment(t),
        protocol: protocol(t),
        volumes: t
            .take("volumes")
            .map(|item| item.list(|item| item.table(volume).flatten()))
            .unwrap_or_default(),
        network,
        keep_egress,
        image: image?,
        port: port?,
    }))
}

fn ec2(t: &mut Table<'_>) -> Option<Workload> {
    let name = |item: Item<'_>| item.text_as(forms::not_empty);
    let image = t.require("image", "the id of an AMI").and_then(name);
    let types =
        several(t, "types", "the instance types that may be used, such as [\"t3.small\", \"t3.large\"]");
    let subnet = t.require("subnet", "its id; Segue has to reach the addresses in it").and_then(name);
    let groups = several(t, "security_groups", "their ids; what they let out is what a shadow reaches");
    let port =
        t.require("port", "that the application listens on").and_then(|item| item.number(&(1..=u16::MAX)));
    Some(Workload::Ec2(Ec2 {
        fence_group: t.take("fence_group").and_then(name),
        protocol: protocol(t),
        user_data: t.take("user_data").and_then(|item| item.text().map(str::to_owned)),
        key: t.take("key").and_then(name),
        instance_profile: t.take("instance_profile").and_then(name),
        usage: t.take("usage").and_then(name),
        image: image?,
        types: types?,
        subnet: subnet?,
        security_groups: groups?,
        port: port?,
    }))
}

/// A list that has to have something in it.
fn several(t: &mut Table<'_>, key: &'static str, why: &str) -> Option<Vec<String>> {
    let item = t.require(key, why)?;
    if item.is_empty_list() {
        item.fault(format!("is empty; name {why}"));
    }
    Some(item.list(|item| item.text_as(forms::not_empty)))
}

/// `[ec2]`: how its API is reached.
pub(super) fn ec2_access(item: Item<'_>) -> Option<Ec2Access> {
    only_with_ec2(&item);
    item.table(|t| Ec2Access {
        region: t.take("region").and_then(|item| item.text_as(forms::not_empty)),
        profile: t.take("profile").and_then(|item| item.text_as(forms::not_empty)),
        endpoint_url: t.take("endpoint_url").and_then(|item| item.text_as(api_endpoint)),
    })
}

/// Everything else is read all the same, so that one run still finds every fault.
fn only_with_ec2(item: &Item<'_>) {
    if !cfg!(feature = "ec2") {
        item.fault(WITHOUT_EC2);
    }
}

fn api_endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint =
        text.strip_suffix('/').unwrap_or(text).parse().map_err(|error| format!("{error}"))?;
    match endpoint.scheme {
        Scheme::Http | Scheme::Https => Ok(endpoint),
        Scheme::H2c => Err(format!("{text:?} is no URL of an API; write https://HOST")),
    }
}

fn volume(t: &mut Table<'_>) -> Option<Volume> {
    let source = t.require("source", "a volume's name or an absolute path of the host");
    let target = t.require("target", "an absolute path in the container");
    let read_only = t.flag("read_only", false);
    let source = source.and_then(|item| item.text_as(forms::not_empty));
    let target = target.and_then(|item| item.text_as(forms::not_empty));
    Some(Volume { source: source?, target: target?.into(), read_only })
}

fn allocation_of(t: &mut Table<'_>) -> Option<Allocation> {
    let cpu = t.require("cpu", "in cores, such as 0.5 or 2");
    let cpu = cpu.and_then(|item| {
        let cores = item.decimal()?;
        let cpu = Millicores::from_cores(cores);
        if cpu.is_none() {
            item.fault(format!("is {cores}; it must be from 0.01 to 4096 cores"));
        }
        cpu
    });
    let size = |item: Option<Item<'_>>, least| item.and_then(|item| item.size(&(least..=MAX_SIZE)));
    let memory = size(t.require("memory", "such as \"512 MiB\""), LEAST_MEMORY);
    let storage = size(t.require("storage", "such as \"10 GiB\""), ByteSize(0));
    Some(Allocation { cpu: cpu?, memory: memory?, storage: storage? })
}

fn protocol(t: &mut Table<'_>) -> ServiceProtocol {
    let known = [("http", ServiceProtocol::Http), ("h2c", ServiceProtocol::H2c)];
    t.choice("protocol", ServiceProtocol::Http, &known)
}

fn environment(t: &mut Table<'_>) -> BTreeMap<String, String> {
    let named = t.take("environment").and_then(Item::named).unwrap_or_default();
    named.into_iter().filter_map(|(name, _, item)| Some((name.to_owned(), item.text()?.to_owned()))).collect()
}

fn texts(item: &Item<'_>) -> Vec<String> {
    item.list(|item| item.text().map(str::to_owned))
}
