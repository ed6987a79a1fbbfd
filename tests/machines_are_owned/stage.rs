//! A provider of its own in an account of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use segue::config::{ByteSize, Ec2Access, Target};
use segue::instance::ec2::{Ec2Provider, Environment, Patience};
use segue::instance::{
    Allocation, Ec2, InstanceId, Millicores, Provider, Role, Running, ServiceProtocol, Spec, State, Workload,
};
use tokio::runtime::Runtime;

use crate::account::{Account, IMAGE, REGION};
use crate::support::recorder::Recorder;

pub const GRACE: Duration = Duration::from_secs(10);

/// Of somebody whose cloud is this machine.
pub const HURRY: Patience = Patience {
    attempt: Duration::from_secs(20),
    attempts: 3,
    first_pause: Duration::from_millis(5),
    look: Duration::from_millis(10),
    glance: Duration::ZERO,
    change: Duration::from_secs(20),
    boot: Duration::from_secs(20),
};

pub struct Stage {
    pub runtime: Runtime,
    pub provider: Ec2Provider,
    pub account: Account,
    pub group: String,
    /// It listens on every address, so also on those of the machines.
    pub application: Recorder,
}

impl Stage {
    /// `None`, having said so, where moto could not be had.
    pub fn set() -> Option<Self> {
        let account = Account::open()?;
        let group = account.group("confined", false);
        let provider = provider("mine", &account.url(), HURRY);
        let application = Recorder::everywhere();
        Some(Self { runtime: Runtime::new().unwrap(), provider, account, group, application })
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A quarter of a core and 1 GiB: less than the smallest type has.
    pub fn spec(&self) -> Spec {
        Spec {
            id: InstanceId::new(format!("s-web-{:08x}", fastrand::u32(..))).unwrap(),
            service: "web".into(),
            role: Role::Shadow,
            allocation: allocation(250, 1, 20),
            workload: Workload::Ec2(Ec2 {
                image: IMAGE.into(),
                types: ["t3.xlarge", "t3.small", "m5.large", "c6g.large"].map(str::to_owned).into(),
                subnet: self.account.subnet.clone(),
                security_groups: vec![self.group.clone()],
                fence_group: None,
                port: self.application.address.port(),
                protocol: ServiceProtocol::Http,
                user_data: Some("#!/bin/sh\nexec app --port {port} --role {role}\n".into()),
                key: None,
                instance_profile: None,
                usage: None,
            }),
        }
    }

    pub fn run(&self, spec: &Spec) -> Running {
        self.wait(self.provider.create(spec)).unwrap();
        self.wait(self.provider.start(spec)).unwrap()
    }

    pub fn state(&self, id: &InstanceId) -> State {
        self.wait(self.provider.state(id)).unwrap()
    }
}

pub fn provider(owner: &str, url: &str, patience: Patience) -> Ec2Provider {
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    provider_with(owner, url, patience, &keys)
}

pub fn provider_with(
    owner: &str,
    url: &str,
    patience: Patience,
    environment: &[(&str, &str)],
) -> Ec2Provider {
    let access = Ec2Access {
        region: Some(REGION.into()),
        endpoint_url: Some(url.parse().unwrap()),
        ..Ec2Access::default()
    };
    let of = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment: HashMap<_, _> = environment.iter().map(of).collect();
    let environment: Environment = Arc::new(move |name| environment.get(name).cloned());
    Ec2Provider::connect(owner, &access, environment, patience).unwrap()
}

/// In thousandths of a core, GiB and GiB.
pub fn allocation(cpu: u32, memory: u64, storage: u64) -> Allocation {
    let gib = |of: u64| ByteSize::mib(of << 10);
    Allocation { cpu: Millicores(cpu), memory: gib(memory), storage: gib(storage) }
}

pub fn workload(spec: &mut Spec) -> &mut Ec2 {
    match &mut spec.workload {
        Workload::Ec2(of) => of,
        other => panic!("{other:?}"),
    }
}

pub fn address(running: &Running) -> SocketAddr {
    match &running.endpoints[0].target {
        Target::Host { name, port } => SocketAddr::new(name.parse().unwrap(), *port),
        other @ Target::Unix(_) => panic!("{other:?}"),
    }
}
