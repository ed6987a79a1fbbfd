//! What is in the account afterwards, what others have there, and what a preflight finds out.

use segue::instance::{Finding, Gravity, Provider, ProviderError, Spec, State};

use crate::account::{ARM_IMAGE, IMAGE};
use crate::stage::{GRACE, HURRY, Stage, allocation, provider, workload};

#[test]
fn what_another_segue_or_a_person_has_is_left_alone() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    stage.run(&spec);
    let subnet = &stage.account.subnet;
    stage.account.call(&format!("RunInstances&ImageId={IMAGE}&MinCount=1&MaxCount=1&SubnetId={subnet}"));
    let before = stage.account.machines();
    assert_eq!(before.len(), 2);

    let stranger = provider("somebody-else", &stage.account.url(), HURRY);
    assert!(stage.wait(stranger.list()).unwrap().is_empty());
    assert_eq!(stage.wait(stranger.state(&spec.id)).unwrap(), State::Absent);
    stage.wait(stranger.destroy(&spec.id)).unwrap();
    let absent = |error| matches!(error, ProviderError::Absent(_));
    assert!(absent(stage.wait(stranger.fence(&spec.id)).unwrap_err()));
    assert!(absent(stage.wait(stranger.stop(&spec.id, GRACE)).unwrap_err()));
    assert_eq!(stage.account.machines(), before, "untouched");

    // The same name in another store is another machine.
    stage.wait(stranger.create(&spec)).unwrap();
    assert_eq!(stage.account.there().len(), 3);
    stage.wait(stranger.destroy(&spec.id)).unwrap();
    assert_eq!(stage.account.there(), before);
    assert_eq!(stage.wait(stage.provider.list()).unwrap(), [spec.id]);
}

#[test]
fn a_name_may_be_used_again() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    stage.run(&spec);
    let first = stage.account.there();
    stage.wait(stage.provider.destroy(&spec.id)).unwrap();
    stage.run(&spec);
    let second = stage.account.there();
    assert_eq!(second.len(), 1);
    assert_ne!(first[0].key, second[0].key);
}

fn faults(findings: &[Finding]) -> Vec<&str> {
    let faults = findings.iter().filter(|finding| finding.gravity == Gravity::Fault);
    faults.map(|finding| finding.subject.as_str()).collect()
}

#[test]
fn a_preflight_says_what_is_missing_and_makes_nothing() {
    let Some(stage) = Stage::set() else { return };
    let found = |change: &dyn Fn(&mut Spec)| {
        let mut spec = stage.spec();
        change(&mut spec);
        stage.wait(stage.provider.preflight(&spec))
    };
    let good = found(&|_| ());
    assert_eq!(faults(&good), [""; 0], "{good:?}");
    let egress = |findings: &[Finding]| {
        findings.iter().find(|finding| finding.subject == "egress").map(|finding| finding.gravity)
    };
    assert_eq!(egress(&good), Some(Gravity::Fine));
    let leaky = stage.account.group("leaky", true);
    let open = found(&|spec| workload(spec).security_groups.push(leaky.clone()));
    assert_eq!(egress(&open), Some(Gravity::Warning));
    assert!(open.iter().any(|finding| finding.message.contains(&leaky)), "{open:?}");

    for (subject, findings) in [
        ("image", found(&|spec| workload(spec).image = "ami-0123456789abcdef0".into())),
        ("permission", found(&|spec| workload(spec).instance_profile = Some("nobody".into()))),
        ("egress", found(&|spec| workload(spec).security_groups = vec!["sg-0123456789abcdef0".into()])),
        ("types", found(&|spec| workload(spec).types.push("t3.nano-nano".into()))),
        ("types", found(&|spec| workload(spec).types.clear())),
        ("security_groups", found(&|spec| workload(spec).security_groups.clear())),
        ("types", found(&|spec| spec.allocation = allocation(9000, 1, 1))),
        ("usage", found(&|spec| workload(spec).usage = Some("{address}".into()))),
    ] {
        assert_eq!(faults(&findings), [subject], "{findings:?}");
    }
    let arm = found(&|spec| {
        workload(spec).image = ARM_IMAGE.into();
        workload(spec).types.retain(|kind| kind != "c6g.large");
    });
    assert_eq!(faults(&arm), ["architecture"], "{arm:?}");
    assert_eq!(stage.account.machines(), []);
    assert_eq!(stage.account.volumes(), [0; 0]);
}
