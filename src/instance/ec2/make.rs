//! Making a machine: one request that makes everything, tags included, or nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::answer::Part;
use super::call::Call;
use super::client::Failure;
use super::machine::{
    FENCE_GROUP, GROUPS, INSTANCE, Machine, PORT, ROLE, RUNNING, SEPARATOR, SERVICE, STORE, Status, TYPES,
    WANTED,
};
use super::size::{Kind, kinds, smallest, volume_gib};
use super::{EVER, Ec2Provider, gone, workload};
use crate::instance::{Ec2, InstanceId, ProviderError, Spec};

/// A name may be used again once its machine is gone, and each time needs another token for as long as EC2 remembers
/// the ones before: for a day or two.
const TOKENS: u32 = 16;

/// Stands for an attempt that is none, and must not take a token from those that are.
pub(super) const REHEARSAL: u32 = TOKENS;

/// What is to be booted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub state: String,
    pub architecture: String,
    /// The name of the device that it boots from, and its size.
    pub root: String,
    pub gib: u64,
}

impl Image {
    fn read(part: Part<'_>) -> Self {
        let root = part.owned("rootDeviceName").unwrap_or_default();
        let mut devices = part.items("blockDeviceMapping");
        let device = devices.find(|device| device.text("deviceName") == Some(&root));
        let gib = device.and_then(|device| device.child("ebs")?.text("volumeSize")?.parse().ok());
        Self {
            state: part.owned("imageState").unwrap_or_default(),
            architecture: part.owned("architecture").unwrap_or_default(),
            gib: gib.unwrap_or_default(),
            root,
        }
    }
}

impl Ec2Provider {
    pub(super) async fn image(&self, of: &Ec2) -> Result<Option<Image>, Failure> {
        let call = Call::new("DescribeImages").list("ImageId", [&of.image]);
        self.client.ask(&call, |answer| answer.items("imagesSet").next().map(Image::read)).await
    }

    pub(super) async fn kinds(&self, names: &[impl AsRef<str>]) -> Result<Vec<Kind>, Failure> {
        let call = Call::new("DescribeInstanceTypes").list("InstanceType", names.iter().map(AsRef::as_ref));
        self.client.ask(&call, kinds).await
    }

    pub(super) async fn make(&self, spec: &Spec) -> Result<(), ProviderError> {
        let of = workload(spec)?;
        if self.look(&spec.id).await?.is_some() {
            return Ok(());
        }
        let about = |failure: Failure| failure.about(&spec.id);
        let image = self.image(of).await.map_err(about)?;
        let image = image.ok_or_else(|| refused(&spec.id, no_image(of)))?;
        let kinds = self.kinds(&of.types).await.map_err(about)?;
        let kind = smallest(&kinds, &of.types, &image.architecture, &spec.allocation)
            .ok_or_else(|| refused(&spec.id, none_fits(spec, &image.architecture)))?;
        for attempt in 0..TOKENS {
            match self.client.ask(&self.request(spec, of, &image, kind, attempt), made).await {
                Ok(Some(machine)) if machine.status != Status::Gone => {
                    return self.await_sight(&spec.id, &machine.key).await;
                }
                // The token was that of a machine which is gone.
                Ok(_) => {}
                Err(failure) if failure.is("IdempotentInstanceTerminated") => {}
                Err(failure) => return Err(failure.about(&spec.id)),
            }
        }
        let message =
            format!("this name was used {TOKENS} times within a day; wait, or use another service name");
        Err(refused(&spec.id, message))
    }

    /// What was made is shown to those who ask only a little later; and it may have come to nothing by then.
    async fn await_sight(&self, id: &InstanceId, key: &str) -> Result<(), ProviderError> {
        self.until(id, &EVER, "show up after it was made", self.client.patience.change, |seen| {
            let machine = seen.into_iter().find(|machine| machine.key == key)?;
            Some(if machine.status == Status::Gone { Err(gone(id, &machine)) } else { Ok(()) })
        })
        .await
    }

    pub(super) fn request(&self, spec: &Spec, of: &Ec2, image: &Image, kind: &Kind, attempt: u32) -> Call {
        let user_data = of.user_data.as_ref().map(|text| BASE64.encode(user_data(text, spec, of)));
        let tags = tags(&self.owner, spec, of);
        Call::new("RunInstances")
            .with("ClientToken", token(&self.owner, &spec.id, attempt))
            .with("MinCount", 1)
            .with("MaxCount", 1)
            .with("ImageId", &of.image)
            .with("InstanceType", &kind.name)
            .with("SubnetId", &of.subnet)
            .list("SecurityGroupId", &of.security_groups)
            .with_some("KeyName", of.key.as_ref())
            .with_some("IamInstanceProfile.Name", of.instance_profile.as_ref())
            .with_some("UserData", user_data)
            // Who shuts it down from within has ended it, and not thrown its disk away.
            .with("InstanceInitiatedShutdownBehavior", "stop")
            // So that the application can read its role, also when that changes.
            .with("MetadataOptions.InstanceMetadataTags", "enabled")
            .with("BlockDeviceMapping.1.DeviceName", &image.root)
            .with("BlockDeviceMapping.1.Ebs.VolumeSize", volume_gib(spec.allocation.storage, image.gib))
            .with("BlockDeviceMapping.1.Ebs.DeleteOnTermination", true)
            .with("TagSpecification.1.ResourceType", "instance")
            .tags("TagSpecification.1.Tag", &tags)
            .with("TagSpecification.2.ResourceType", "volume")
            .tags("TagSpecification.2.Tag", &tags)
    }
}

fn made(answer: Part<'_>) -> Option<Machine> {
    answer.items("instancesSet").next().and_then(Machine::read)
}

/// The same for the same attempt, whoever makes it.
fn token(owner: &str, id: &InstanceId, attempt: u32) -> String {
    let digest = blake3::hash(format!("{owner}/{id}/{attempt}").as_bytes());
    // 64 characters are all that a token may have.
    digest.to_hex().to_string()
}

pub(super) fn tags(owner: &str, spec: &Spec, of: &Ec2) -> Vec<(&'static str, String)> {
    let joined = |list: &[String]| list.join(&SEPARATOR.to_string());
    let mut tags = vec![
        ("Name", format!("segue-{}", spec.id)),
        (STORE, owner.to_owned()),
        (INSTANCE, spec.id.to_string()),
        (SERVICE, spec.service.clone()),
        (ROLE, spec.role.as_str().to_owned()),
        (WANTED, RUNNING.to_owned()),
        (TYPES, joined(&of.types)),
        (PORT, of.port.to_string()),
    ];
    if let Some(fence) = &of.fence_group {
        tags.push((FENCE_GROUP, fence.clone()));
        tags.push((GROUPS, joined(&of.security_groups)));
    }
    tags
}

/// Whatever else is in braces stays as it is: shells have uses of their own for them.
pub(super) fn user_data(text: &str, spec: &Spec, of: &Ec2) -> String {
    text.replace("{port}", &of.port.to_string()).replace("{role}", spec.role.as_str())
}

pub(super) fn no_image(of: &Ec2) -> String {
    format!("there is no image `{}` in this region, or it is not shared with this account", of.image)
}

pub(super) fn none_fits(spec: &Spec, architecture: &str) -> String {
    format!(
        "none of `types` for {architecture} has {} CPU and {} memory; add a larger one",
        spec.allocation.cpu, spec.allocation.memory
    )
}

fn refused(id: &InstanceId, message: String) -> ProviderError {
    ProviderError::Refused { id: id.clone(), message }
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::config::{ByteSize, Millicores};
    use crate::instance::{Allocation, Role, ServiceProtocol, Workload};

    pub fn ec2() -> Ec2 {
        Ec2 {
            image: "ami-1".into(),
            types: vec!["t3.small".into(), "t3.large".into()],
            subnet: "subnet-1".into(),
            security_groups: vec!["sg-1".into(), "sg-2".into()],
            fence_group: None,
            port: 8080,
            protocol: ServiceProtocol::Http,
            user_data: Some("#!/bin/sh\nrun --port {port} --role {role} --home ${HOME}\n".into()),
            key: None,
            instance_profile: None,
            usage: None,
        }
    }

    pub fn spec(of: Ec2) -> Spec {
        Spec {
            id: InstanceId::new("s-web-1").unwrap(),
            service: "web".into(),
            role: Role::Shadow,
            allocation: Allocation {
                cpu: Millicores(500),
                memory: ByteSize::mib(512),
                storage: ByteSize::mib(10 << 10),
            },
            workload: Workload::Ec2(of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{ec2, spec};
    use super::*;

    #[test]
    fn a_token_is_the_same_for_whoever_tries_again_and_no_other_store_has_it() {
        let id = |name: &str| InstanceId::new(name).unwrap();
        let first = token("a", &id("web"), 0);
        assert_eq!(first.len(), 64);
        assert_eq!(token("a", &id("web"), 0), first);
        for other in [token("b", &id("web"), 0), token("a", &id("web-2"), 0), token("a", &id("web"), 1)] {
            assert_ne!(other, first);
        }
    }

    #[test]
    fn a_machine_is_told_its_port_and_its_role_and_nothing_else_is_touched() {
        let of = ec2();
        let told = user_data(of.user_data.as_deref().unwrap(), &spec(of.clone()), &of);
        assert_eq!(told, "#!/bin/sh\nrun --port 8080 --role shadow --home ${HOME}\n");
    }

    #[test]
    fn groups_are_remembered_where_there_is_a_fence() {
        let named = |of: &Ec2| -> Vec<_> {
            tags("o", &spec(of.clone()), of).into_iter().filter(|(name, _)| name.contains("group")).collect()
        };
        assert_eq!(named(&ec2()), []);
        let fenced = Ec2 { fence_group: Some("sg-f".into()), ..ec2() };
        assert_eq!(named(&fenced), [(FENCE_GROUP, "sg-f".into()), (GROUPS, "sg-1 sg-2".into())]);
    }
}
