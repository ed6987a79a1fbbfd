//! What is granted becomes an instance type and a volume.

use std::time::Duration;

use segue::instance::ec2::Patience;
use segue::instance::{Provider, State};

use crate::account::ARM_IMAGE;
use crate::stage::{GRACE, HURRY, Stage, address, allocation, provider, workload};
use crate::support::free_port;

fn kind(stage: &Stage) -> String {
    stage.account.there().remove(0).kind
}

#[test]
fn it_is_made_with_the_smallest_type_and_resized_to_another() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    let running = stage.run(&spec);
    assert_eq!(kind(&stage), "t3.small");
    assert_eq!(stage.account.volumes(), [20]);
    let key = stage.account.there().remove(0).key;

    for _ in 0..2 {
        let grown = stage.wait(stage.provider.resize(&spec.id, allocation(1500, 6, 35))).unwrap();
        assert_eq!(grown.to, allocation(1500, 8, 35), "an m5.large has 8 GiB");
        assert!(!grown.cpu_enforced && grown.memory_enforced && grown.storage_enforced);
        assert_eq!(kind(&stage), "m5.large");
        assert_eq!(stage.account.volumes(), [35]);
        assert_eq!(stage.state(&spec.id), State::Running);
    }
    let shrunk = stage.wait(stage.provider.resize(&spec.id, allocation(2000, 1, 20))).unwrap();
    assert_eq!(shrunk.to, allocation(2000, 2, 35), "no volume becomes smaller");
    assert!(shrunk.cpu_enforced, "it has two CPUs and no more");
    assert_eq!(kind(&stage), "t3.small");
    assert_eq!(stage.account.there().remove(0).key, key, "it is the same machine");
    assert_eq!(stage.wait(stage.provider.start(&spec)).unwrap(), running, "at the same address");

    let error = stage.wait(stage.provider.resize(&spec.id, allocation(5000, 1, 20))).unwrap_err().to_string();
    assert!(error.contains("t3.xlarge") && error.contains("5000m CPU"), "{error}");
    assert_eq!(stage.state(&spec.id), State::Running, "what cannot be had changes nothing");
}

#[test]
fn one_that_is_to_stand_still_is_resized_where_it_stands() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    stage.run(&spec);
    stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap();
    stage.wait(stage.provider.resize(&spec.id, allocation(1500, 6, 20))).unwrap();
    assert_eq!((kind(&stage).as_str(), stage.state(&spec.id)), ("m5.large", State::Made));
}

#[test]
fn a_resize_is_over_when_the_application_takes_connections_again() {
    let Some(stage) = Stage::set() else { return };
    let mut spec = stage.spec();
    let nobody = free_port();
    workload(&mut spec).port = nobody;
    assert_eq!(address(&stage.run(&spec)).port(), nobody);
    let impatient =
        provider("mine", &stage.account.url(), Patience { boot: Duration::from_millis(50), ..HURRY });
    let error = stage.wait(impatient.resize(&spec.id, allocation(1500, 6, 20))).unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("did not come up"), "{error}");
}

#[test]
fn its_architecture_is_the_images() {
    let Some(stage) = Stage::set() else { return };
    let mut spec = stage.spec();
    workload(&mut spec).image = ARM_IMAGE.into();
    stage.run(&spec);
    assert_eq!(kind(&stage), "c6g.large", "a t3.small is smaller and cannot run it");
}
