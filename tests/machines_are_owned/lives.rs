//! From nothing to running, fenced, stopped and gone, each call repeated as after a crash.

use segue::instance::{Provider, ProviderError, State};

use crate::stage::{GRACE, HURRY, Stage, address, provider, workload};
use crate::support::get;

#[test]
fn made_once_it_runs_stops_and_runs_again_at_the_same_address() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    assert_eq!(stage.state(&spec.id), State::Absent);
    for _ in 0..2 {
        stage.wait(stage.provider.create(&spec)).unwrap();
    }
    assert_eq!(stage.account.there().len(), 1);
    let first = stage.wait(stage.provider.start(&spec)).unwrap();
    assert_eq!(get(address(&first), "/").status, 200);
    assert_eq!(stage.wait(stage.provider.start(&spec)).unwrap(), first, "a second start finds what runs");
    assert_eq!(stage.state(&spec.id), State::Running);

    // What a Segue that starts again sees.
    let again = provider("mine", &stage.account.url(), HURRY);
    assert_eq!(stage.wait(again.list()).unwrap(), std::slice::from_ref(&spec.id));
    assert_eq!(stage.wait(again.state(&spec.id)).unwrap(), State::Running);
    for _ in 0..2 {
        stage.wait(again.stop(&spec.id, GRACE)).unwrap();
        assert_eq!(stage.state(&spec.id), State::Made, "stopped, not ended by itself");
    }
    assert_eq!(stage.account.there()[0].state, "stopped");
    assert_eq!(stage.wait(again.start(&spec)).unwrap(), first);
    assert_eq!(stage.account.there()[0].state, "running");

    for _ in 0..2 {
        stage.wait(again.destroy(&spec.id)).unwrap();
        assert_eq!(stage.state(&spec.id), State::Absent);
    }
    assert_eq!(stage.account.there(), []);
    assert_eq!(stage.account.volumes(), [0; 0]);
}

#[test]
fn an_end_that_nobody_asked_for_is_told_from_a_stop() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    stage.run(&spec);
    // Somebody at the console, or the machine itself.
    let key = stage.account.there().remove(0).key;
    stage.account.call(&format!("StopInstances&InstanceId.1={key}"));
    let ended = State::Ended { code: None, out_of_memory: false };
    assert_eq!(stage.state(&spec.id), ended);
    stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap();
    assert_eq!(stage.state(&spec.id), ended, "stopping it afterwards changes nothing");
    stage.wait(stage.provider.start(&spec)).unwrap();
    assert_eq!(stage.state(&spec.id), State::Running);
    assert!(stage.wait(stage.provider.tail(&spec.id)).contains("Linux version"), "its console");

    stage.account.call(&format!("TerminateInstances&InstanceId.1={key}"));
    assert_eq!(stage.state(&spec.id), State::Absent);
}

#[test]
fn fenced_it_is_in_the_group_that_it_was_given_for_that_and_it_is_not_called_a_fence() {
    let Some(stage) = Stage::set() else { return };
    let fence = stage.account.group("fence", false);
    let other = stage.account.group("other", false);
    let mut spec = stage.spec();
    workload(&mut spec).security_groups.push(other.clone());
    workload(&mut spec).fence_group = Some(fence.clone());
    stage.run(&spec);
    let groups = || stage.account.there().remove(0).groups;
    for _ in 0..2 {
        assert!(!stage.wait(stage.provider.fence(&spec.id)).unwrap(), "open connections go on");
        assert_eq!(groups(), std::slice::from_ref(&fence));
        assert_eq!(stage.state(&spec.id), State::Fenced);
    }
    // By a Segue that knows nothing of before.
    let again = provider("mine", &stage.account.url(), HURRY);
    for _ in 0..2 {
        stage.wait(again.unfence(&spec.id)).unwrap();
        assert_eq!(groups(), [stage.group.clone(), other.clone()]);
        assert_eq!(stage.state(&spec.id), State::Running);
    }

    let open = stage.spec();
    stage.run(&open);
    assert!(!stage.wait(stage.provider.fence(&open.id)).unwrap());
    assert_eq!(stage.state(&open.id), State::Running, "it has no group for that");
}

#[test]
fn its_role_can_be_read_from_its_tags() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    stage.run(&spec);
    let tag = |name: &str| stage.account.there().remove(0).tags.remove(name);
    let [id, service] = [spec.id.to_string(), "web".to_owned()].map(Some);
    assert_eq!((tag("segue:instance"), tag("segue:service")), (id, service));
    assert_eq!(tag("segue:store").as_deref(), Some("mine"));
    assert_eq!(tag("segue:role").as_deref(), Some("shadow"));
    for _ in 0..2 {
        stage.wait(stage.provider.promote(&spec.id)).unwrap();
        assert_eq!(tag("segue:role").as_deref(), Some("active"));
    }
}

#[test]
fn what_was_never_made_is_absent() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    stage.wait(stage.provider.destroy(&spec.id)).unwrap();
    let absent = |error| matches!(error, ProviderError::Absent(_));
    assert!(absent(stage.wait(stage.provider.start(&spec)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.fence(&spec.id)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.unfence(&spec.id)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.promote(&spec.id)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.resize(&spec.id, spec.allocation)).unwrap_err()));
}
