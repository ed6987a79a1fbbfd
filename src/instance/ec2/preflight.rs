//! What would keep a machine from running, found out by asking only, and by a request to make one that is told not to.

use super::answer::Part;
use super::call::Call;
use super::client::Failure;
use super::machine::MAX_TAG;
use super::make::{Image, REHEARSAL, no_image, none_fits, tags, user_data};
use super::size::{Kind, smallest, volume_gib};
use super::{Ec2Provider, workload};
use crate::config::ByteSize;
use crate::instance::scrape::Page;
use crate::instance::{Ec2, Finding, Spec};

/// EC2 takes no more.
const MAX_USER_DATA: usize = 16 << 10;
/// What the answer to a request is that was told to do nothing and would have done it.
const WOULD_HAVE: &str = "DryRunOperation";

impl Ec2Provider {
    pub(super) async fn findings(&self, spec: &Spec) -> Vec<Finding> {
        let of = match workload(spec) {
            Ok(of) => of,
            Err(error) => return vec![Finding::fault("provider", error.to_string())],
        };
        if let Some(empty) = empty(of) {
            return vec![empty];
        }
        let image = match self.image(of).await {
            Ok(Some(image)) => image,
            Ok(None) => return vec![Finding::fault("image", no_image(of))],
            Err(failure) => return vec![of_call("image", failure)],
        };
        let mut findings = about_image(&image, of);
        match self.kinds(&of.types).await {
            Ok(kinds) => {
                findings.extend(about_types(&kinds, &image, of, spec));
                if let Some(kind) = smallest(&kinds, &of.types, &image.architecture, &spec.allocation) {
                    findings.push(self.rehearsal(spec, of, &image, kind).await);
                }
            }
            Err(failure) => findings.push(of_call("types", failure)),
        }
        findings.push(self.egress(of).await);
        findings.push(fence(of));
        findings.extend(about_user_data(spec, of));
        findings.extend(about_usage(of));
        let long = tags(&self.owner, spec, of).into_iter().find(|(_, value)| value.chars().count() > MAX_TAG);
        findings.extend(long.map(|(name, _)| {
            let message = format!(
                "the tag `{name}` would have more than {MAX_TAG} characters; name fewer types or groups"
            );
            Finding::fault("tags", message)
        }));
        findings
    }

    async fn rehearsal(&self, spec: &Spec, of: &Ec2, image: &Image, kind: &Kind) -> Finding {
        let call = self.request(spec, of, image, kind, REHEARSAL).with("DryRun", true);
        match self.client.ask(&call, |_| ()).await {
            Err(failure) if failure.is(WOULD_HAVE) => {
                Finding::fine("permission", format!("EC2 would make a {} in {}", kind.name, of.subnet))
            }
            Ok(()) => Finding::fine("permission", "EC2 would make it"),
            Err(failure) => of_call("permission", failure),
        }
    }

    async fn egress(&self, of: &Ec2) -> Finding {
        let call = Call::new("DescribeSecurityGroups").list("GroupId", &of.security_groups);
        let leaky = |answer: Part<'_>| {
            let groups = answer.items("securityGroupInfo");
            let leaky = groups.filter(|group| group.items("ipPermissionsEgress").next().is_some());
            leaky.filter_map(|group| group.owned("groupId")).collect::<Vec<_>>()
        };
        match self.client.ask(&call, leaky).await {
            Ok(leaky) if leaky.is_empty() => {
                Finding::fine("egress", "its security groups let nothing out but answers")
            }
            Ok(leaky) => {
                let message = format!(
                    "what {} let out reaches the world; name security groups without outbound rules, or with those that \
                     a shadow may have",
                    leaky.join(" and ")
                );
                Finding::warning("egress", message)
            }
            Err(failure) => of_call("egress", failure),
        }
    }
}

/// The API takes an empty list for "whatever there is".
fn empty(of: &Ec2) -> Option<Finding> {
    let lists = [("types", &of.types), ("security_groups", &of.security_groups)];
    let (name, _) = lists.into_iter().find(|(_, list)| list.is_empty())?;
    Some(Finding::fault(name, format!("`{name}` is empty; name some")))
}

fn of_call(subject: &str, failure: Failure) -> Finding {
    Finding::fault(subject, failure.into_message())
}

fn about_image(image: &Image, of: &Ec2) -> Vec<Finding> {
    let name = &of.image;
    if image.state != "available" {
        let message = format!("the image `{name}` is {}; wait until it is available", image.state);
        return vec![Finding::fault("image", message)];
    }
    if image.gib == 0 {
        let message =
            format!("the image `{name}` does not boot from a volume of EBS, and could not be resized");
        return vec![Finding::fault("image", message)];
    }
    vec![Finding::fine("image", format!("`{name}` is there"))]
}

fn about_types(kinds: &[Kind], image: &Image, of: &Ec2, spec: &Spec) -> Vec<Finding> {
    let architecture = &image.architecture;
    if !kinds.iter().any(|kind| kind.runs(architecture)) {
        let message = format!("the image is for {architecture}, and none of `types` is; name some that are");
        return vec![Finding::fault("architecture", message)];
    }
    let mut findings = vec![Finding::fine("architecture", format!("both are {architecture}"))];
    let Some(kind) = smallest(kinds, &of.types, architecture, &spec.allocation) else {
        findings.push(Finding::fault("types", none_fits(spec, architecture)));
        return findings;
    };
    let has = format!("a {} has {} CPU and {} memory", kind.name, kind.cpu(), kind.memory);
    findings.push(if kind.is_burstable {
        let message = format!("{has}, but all of its CPU only for as long as its credits last");
        Finding::warning("cpu", message)
    } else {
        Finding::fine("types", has)
    });
    let gib = volume_gib(spec.allocation.storage, image.gib);
    let given = ByteSize(gib << 30);
    findings.push(if volume_gib(spec.allocation.storage, 0) < gib {
        Finding::warning("storage", format!("{given}, which is what the image needs"))
    } else {
        Finding::fine("storage", format!("a volume of {given}"))
    });
    findings
}

fn fence(of: &Ec2) -> Finding {
    let message = match &of.fence_group {
        Some(group) => format!(
            "in the pause `{group}` refuses new connections, but those that are open to others than Segue go on, and what \
             the application does by itself too"
        ),
        None => "it cannot be fenced: that exactly one instance takes writes holds only for requests that pass Segue; \
                 name a `fence_group` to have new connections refused in the pause"
            .to_owned(),
    };
    Finding::warning("fence", message)
}

fn about_user_data(spec: &Spec, of: &Ec2) -> Option<Finding> {
    let Some(text) = &of.user_data else {
        let message = "without `user_data` the application does not learn its role when it boots; it may read the tag \
                       `segue:role` from the metadata service";
        return Some(Finding::warning("user_data", message));
    };
    let size = user_data(text, spec, of).len();
    (size > MAX_USER_DATA).then(|| {
        let message =
            format!("`user_data` has {size} bytes, and EC2 takes {MAX_USER_DATA}; let it fetch the rest");
        Finding::fault("user_data", message)
    })
}

fn about_usage(of: &Ec2) -> Option<Finding> {
    let text = of.usage.as_ref()?.replace("{address}", "192.0.2.1");
    let error = text.parse::<Page>().err()?;
    Some(Finding::fault("usage", format!("`usage`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::make::samples::{ec2, spec};
    use super::*;
    use crate::config::Millicores;
    use crate::instance::Gravity;
    use crate::instance::Gravity::{Fault, Fine, Warning};

    fn kind(name: &str, architecture: &str, is_burstable: bool) -> Kind {
        let architectures = vec![architecture.to_owned()];
        Kind { name: name.into(), cpus: 2, memory: ByteSize::mib(2048), architectures, is_burstable }
    }

    fn image(gib: u64) -> Image {
        Image { state: "available".into(), architecture: "x86_64".into(), root: "/dev/xvda".into(), gib }
    }

    fn gravities(findings: &[Finding]) -> Vec<(&str, Gravity)> {
        findings.iter().map(|finding| (finding.subject.as_str(), finding.gravity)).collect()
    }

    #[test]
    fn an_image_has_to_fit_a_type_and_a_type_the_allocation() {
        let of = ec2();
        let spec = spec(of.clone());
        let about = |kinds: &[Kind], gib| about_types(kinds, &image(gib), &of, &spec);
        let fits = about(&[kind("t3.small", "x86_64", false)], 8);
        assert_eq!(gravities(&fits), [("architecture", Fine), ("types", Fine), ("storage", Fine)]);
        let weaker = about(&[kind("t3.small", "x86_64", true)], 30);
        assert_eq!(gravities(&weaker), [("architecture", Fine), ("cpu", Warning), ("storage", Warning)]);
        let other = about(&[kind("t3.small", "arm64", false)], 8);
        assert_eq!(gravities(&other), [("architecture", Fault)]);
        let mut large = spec.clone();
        large.allocation.cpu = Millicores(2001);
        let findings = about_types(&[kind("t3.small", "x86_64", false)], &image(8), &of, &large);
        assert_eq!(gravities(&findings), [("architecture", Fine), ("types", Fault)]);
    }

    #[test]
    fn what_cannot_be_booted_or_told_is_a_fault() {
        let pending = Image { state: "pending".into(), ..image(8) };
        assert_eq!(gravities(&about_image(&pending, &ec2())), [("image", Fault)]);
        assert_eq!(gravities(&about_image(&image(0), &ec2())), [("image", Fault)]);
        let fits = Ec2 { user_data: Some("{port}".repeat(4000)), ..ec2() };
        assert_eq!(
            about_user_data(&spec(fits.clone()), &fits),
            None,
            "16 000 bytes once the port stands there"
        );
        let longer = Ec2 { user_data: Some("#".repeat(MAX_USER_DATA + 1)), ..ec2() };
        assert_eq!(about_user_data(&spec(longer.clone()), &longer).map(|of| of.gravity), Some(Fault));
        let page = |text: &str| about_usage(&Ec2 { usage: Some(text.into()), ..ec2() });
        assert_eq!(page("http://{address}:9100/metrics"), None);
        assert_eq!(page("{address}:9100").map(|of| of.gravity), Some(Fault));
    }
}
